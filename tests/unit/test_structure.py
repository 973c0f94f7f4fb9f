"""The modules of the package and of the studies import each other in one direction only."""

from __future__ import annotations

from pathlib import Path

import pytest
from import_graph import Graph, first_circle, import_graph
from number_formats import EXEMPT, OWNER, number_formats
from positional_arguments import positional_arguments

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def graph() -> Graph:
    return import_graph(ROOT, ("monosemy", "research"))


def test_no_module_imports_one_that_imports_it(graph: Graph):
    assert "monosemy.errors" in graph["monosemy.config"]
    circle = first_circle(graph)
    assert not circle, (
        "a circle of imports, late ones and those for types alone included; move what both sides need into a module "
        "below them:\n  " + "\n  ".join(circle)
    )


def test_the_package_does_not_need_the_studies(graph: Graph):
    importers = [m for m, imported in graph.items() if m.startswith("monosemy") for i in imported if "research" in i]
    assert importers == []


@pytest.mark.parametrize(
    "back",
    [
        "from package.upper import name",
        "def f():\n    import package.upper",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from package import upper",
        "from ..upper import name",
        "from .. import upper",
    ],
)
def test_a_circle_is_found_however_it_is_closed(tmp_path: Path, back: str):
    room = tmp_path / "package" / "room"
    room.mkdir(parents=True)
    (tmp_path / "package" / "upper.py").write_text("from package.room import lower\nname = 1\n")
    (room / "lower.py").write_text("import json\n")
    assert first_circle(import_graph(tmp_path, ("package",))) == []
    (room / "lower.py").write_text(back)
    line = back.count("\n") + 1
    assert sorted(first_circle(import_graph(tmp_path, ("package",)))) == [
        f"package.room.lower → package.upper (line {line})",
        "package.upper → package.room.lower (line 1)",
    ]


def test_arguments_have_names_from_the_fifth_on():
    """Reading a call must not need the definition: `harvest_rows(model, shards, sites, config, start=8)`."""
    assert positional_arguments(ROOT, ("monosemy", "research")) == []


@pytest.mark.parametrize(
    ("text", "breaches"),
    [
        ("def f(a, b, c, d, e): pass", ["1 f (5)"]),
        ("def f(a, b, c, d, *, e): pass", []),
        ("class C:\n    async def f(self, a, b, c, d, e=0): pass", ["2 f (5)"]),
        ("class C:\n    def f(self, a, b, c, d): pass", []),
        ("room.f(1, 2, 3, 4, 5)", ["1 f (5)"]),
        ("Record(1, 2, 3, 4, *rest)", ["1 Record (5)"]),
        ("f(1, 2, 3, 4, e=5)", []),
        ("table.add_row(1, 2, 3, 4, 5)", []),
        ("compile = numba.njit(cache=True)\n@compile\ndef f(a, b, c, d, e):\n    f(a, b, c, d, e)", []),
        ("@numba.njit\ndef f(a, b, c, d, e): pass\nf(1, 2, 3, 4, 5)", ["3 f (5)"]),
        ("@cache\ndef f(a, b, c, d, e): pass", ["2 f (5)"]),
    ],
)
def test_a_fifth_positional_argument_is_found(tmp_path: Path, text: str, breaches: list[str]):
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "module.py").write_text(text)
    assert positional_arguments(tmp_path, ("room",)) == [f"room/module.py:{breach}" for breach in breaches]


def test_only_kernels_call_compiled_functions_by_position(tmp_path: Path):
    (tmp_path / "room" / "kernels").mkdir(parents=True)
    text = "@triton.jit\ndef f(a, b, c, d, e): pass\nf[grid](1, 2, 3, 4, 5)\ng(1, 2, 3, 4, 5)"
    (tmp_path / "room" / "kernels" / "module.py").write_text(text)
    assert positional_arguments(tmp_path, ("room",)) == ["room/kernels/module.py:4 g (5)"]


def test_numbers_are_formatted_in_one_module():
    """How many digits people see is decided by functions with names, such as `count_text` and `percent_text`."""
    assert number_formats(ROOT, ("monosemy",)) == [], f"use a function of {OWNER}"


def test_files_with_formats_of_their_own_exist():
    assert [place for place in (OWNER, *EXEMPT) if not (ROOT / place).is_file()] == []


@pytest.mark.parametrize(
    ("text", "formats"),
    [
        ('f"{n:,} tokens"', ["1 ,"]),
        ('f"{x:g}"', ["1 g"]),
        ('f"a\\n{x:+.1%}"', ["1 +.1%"]),
        ('f"{x:>10.3f}"', ["1 >10.3f"]),
        ('f"{x:.{digits}f}"', ["1 .0f"]),
        ("f\"{', '.join(f'{x:.2e}' for x in xs)}\"", ["1 .2e"]),
        ('\nformat(x, ".2f")', ["2 .2f"]),
        ('format(n, ",")', ["1 ,"]),
        ('text(x, ".3g")', ["1 .3g"]),
        ('text(x, f".{digits}f")', ["1 .0f"]),
        ('"{} of {:.0%}".format(n, x)', ["1 {:.0%}"]),
        ('"{n:,}".format(n=n)', ["1 {n:,}"]),
        ('"%.2f GB" % x', ["1 %.2f"]),
        ('"""Such as {x:.2f}."""', []),
        ('f"{name:>8} {day:02d} {code:04X} {text!r:.40} {100}%"', []),
        ('"100% sure: {}".format(",")', []),
        ('re.sub(r"%", "%%", text)', []),
    ],
)
def test_a_format_of_a_number_is_found(tmp_path: Path, text: str, formats: list[str]):
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "module.py").write_text(text)
    assert number_formats(tmp_path, ("room",)) == [f"room/module.py:{line}" for line in formats]
