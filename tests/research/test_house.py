"""The house's measures by hand on a tiny tree, and its limits on this one."""

from __future__ import annotations

from pathlib import Path

import pytest

from research.house.measure import bound_names, circles, is_vague, line_counts, measure, read_modules, vague_counts

ROOT = Path(__file__).parents[2]

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


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    room = tmp_path / "monosemy" / "room"
    room.mkdir(parents=True)
    (room.parent / "__main__.py").touch()
    (room / "first.py").write_text(FIRST)
    (room / "second.py").write_text(SECOND)
    (room / "numbers.json").write_text("[\n1\n]\n")
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
    assert (house.most_parameters_count, house.longest_function_lines, house.tracked_json_lines) == (3, 10, 3)


def test_circles_of_a_graph() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a", "e"}}
    assert circles(graph) == [["b", "c"]]


@pytest.mark.parametrize("name", ["found", "_kept", "ones", "SHOWN", "chosen2", "told_1", "tmp", "things"])
def test_vague(name: str) -> None:
    assert is_vague(name)


@pytest.mark.parametrize("name", ["n_found", "scores", "one_hot", "data", "_", "values", "value2", "bar"])
def test_not_vague(name: str) -> None:
    assert not is_vague(name)


def test_names_of_this_tree_say_what_they_hold() -> None:
    n_names, vague = vague_counts(read_modules(ROOT))
    assert vague.total() / n_names <= 0.001, f"vague names: {dict(vague.most_common())}"
