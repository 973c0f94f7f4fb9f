"""The modules of the package and of the studies import each other in one direction only."""

from __future__ import annotations

from pathlib import Path

import pytest
from import_graph import Graph, first_circle, import_graph

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
