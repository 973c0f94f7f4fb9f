"""The house's measures by hand on a tiny tree, and its limits on this one."""

from __future__ import annotations

from pathlib import Path

import pytest

from research.house.measure import (
    House,
    Module,
    bound_names,
    circles,
    functions,
    is_vague,
    line_counts,
    measure,
    read_modules,
    tracked_json_lines,
    typescript_names,
    vague_counts,
)

ROOT = Path(__file__).parents[2]

WIDE = {
    "monosemy/evals/model_loss.py:evaluate_model_loss": "a public call: what is read, then settings, all by keyword",
    "monosemy/kernels/cuda/encode.py:_append_above": "a Triton kernel: pointers, sizes and strides come one by one",
    "monosemy/kernels/cuda/encode.py:_merge_topk": "a Triton kernel",
    "monosemy/kernels/cuda/sparse.py:_accumulate": "a Triton kernel",
    "monosemy/kernels/cuda/sparse.py:_adam": "a Triton kernel",
    "monosemy/kernels/cuda/sparse.py:_decode": "a Triton kernel",
    "monosemy/kernels/ops.py:forward": "an autograd function: each tensor that has a gradient is a parameter",
    "monosemy/saes/jumprelu.py:forward": "an autograd function",
}
"""Functions of more than eight parameters, and why."""

LONG = {
    "monosemy/models/adapter.py": "one class, the model as all rooms see it: reading, editing, prefixes, padding",
}
"""Files of the package of more than 500 lines, and why."""

FIRST = '''\
"""A docstring is no code."""
import monosemy.room.second


# Why: a comment of its own.
def first(found, *, kept_1=0, **what):
    """Nor is this."""
    scores = [one for one in found]  # beside code
    with open("x") as stream:  # noqa: SIM115
        pass
    try:
        left, *ones = scores
    except ValueError as error:
        raise error
    return (total := 1)
'''
SECOND = "def second():\n    from monosemy.room.first import first\n\n    return first\n"


PAGE = """\
import { api } from "./api"; // const comment = 1
const [first, { value }] = pair, text = "let quoted = (inside) => 1";
export const list = (title: string, help: Record<string, Found>, note?: string) => title;
function page<T>({ found, shown: rows }: { found: T; shown: Row[] }, n = 1, each: (x: number) => number): void {
  for (const row of rows) found.map((one, i) => one + i).filter(async => async);
}
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    room = tmp_path / "monosemy" / "room"
    room.mkdir(parents=True)
    (room.parent / "__main__.py").touch()
    (room / "first.py").write_text(FIRST)
    (room / "second.py").write_text(SECOND)
    (room / "numbers.json").write_text("[\n1\n]\n")
    results = tmp_path / "research" / "study" / "results"
    results.mkdir(parents=True)
    (results / "study.json").write_text("[\n]\n")
    pages = tmp_path / "monosemy" / "app" / "web" / "src"
    pages.mkdir(parents=True)
    (pages / "page.tsx").write_text(PAGE)
    return tmp_path


def test_names_and_lines_by_hand(tree: Path) -> None:
    _, first, second = read_modules(tree)
    assert sorted(bound_names(first.tree)) == sorted(
        ["found", "kept_1", "what", "scores", "one", "stream", "left", "ones", "error", "total"]
    )
    n_names, vague = vague_counts([first, second])
    assert (n_names, vague) == (10, {"found": 1, "kept_1": 1, "what": 1, "one": 1, "ones": 1})
    assert line_counts(first) == (10, 2)


def test_imports_inside_functions_make_circles(tree: Path) -> None:
    house = measure(tree)
    assert house.circles == [["monosemy.room.first", "monosemy.room.second"]]
    assert (house.most_parameters_count, house.longest_function_lines) == (3, 10)
    assert (house.result_json_lines, house.other_json_lines) == (2, 3)


def test_names_of_typescript_by_hand(tree: Path) -> None:
    """Types, comments, strings and the old name of a renamed part bind nothing."""
    bound = ["list", "title", "help", "note", "found", "rows", "n", "each", "row", "one", "i", "async"]
    assert [name for name in typescript_names(PAGE) if name not in ("first", "value", "text")] == bound
    house = measure(tree)
    assert house.typescript_vague == {"found": 1, "one": 1}


def test_circles_of_a_graph() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a", "e"}}
    assert circles(graph) == [["b", "c"]]


@pytest.mark.parametrize(
    "name", ["found", "_kept", "ones", "SHOWN", "chosen2", "told_1", "tmp", "things", "mine", "every", "listed"]
)
def test_vague(name: str) -> None:
    assert is_vague(name)


@pytest.mark.parametrize("name", ["n_found", "listing", "scores", "one_hot", "data", "_", "values", "value2", "bar"])
def test_not_vague(name: str) -> None:
    assert not is_vague(name)


@pytest.fixture(scope="module")
def modules() -> list[Module]:
    return read_modules(ROOT)


@pytest.fixture(scope="module")
def house() -> House:
    return measure(ROOT)


def test_names_of_this_tree_say_what_they_hold(modules: list[Module]) -> None:
    n_names, vague = vague_counts(modules)
    assert vague.total() / n_names <= 0.001, f"vague names: {dict(vague.most_common())}"


def test_names_of_the_pages_say_what_they_hold(house: House) -> None:
    assert sum(house.typescript_vague.values()) / house.typescript_names <= 0.001, house.typescript_vague


def test_no_module_imports_itself_through_others(house: House) -> None:
    assert house.circles == []


def test_functions_are_short_and_take_few_parameters(modules: list[Module]) -> None:
    definitions = list(functions(modules))
    assert [place for place, n_lines, _ in definitions if n_lines > 80] == []
    assert {place for place, _, n_parameters in definitions if n_parameters > 8} <= set(WIDE)


def test_files_of_the_package_are_short(modules: list[Module]) -> None:
    lines = {module.path.as_posix(): module.text.count("\n") for module in modules}
    long = {path for path, n_lines in lines.items() if path.startswith("monosemy/") and n_lines > 500}
    assert long <= set(LONG)


def test_formatting_is_left_to_the_formatter(house: House) -> None:
    assert house.fmt_skips <= 10


def test_recorded_results_stay_small() -> None:
    assert tracked_json_lines(ROOT, "research/*/results/*.json") <= 2_000
