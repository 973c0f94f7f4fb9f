"""Mutants of a module written for the purpose: what is changed, what is left alone, how a live function changes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from research.mutation.mutants import live_function, mutants_of, put_in_place
from research.mutation.run import logged, record_of
from research.mutation.tables import tables

SOURCE = """
import functools
import math

LIMIT = 3

def twice(function):
    @functools.wraps(function)
    def wrapper(*args):
        return 2 * function(*args)
    return wrapper

@twice
def distance(x, y, power=2):
    if x > 5 and not math.isinf(y):
        raise ValueError(f"{x + 1} is above {5 - 0}")
    return abs(x - y) ** power

class Circle:
    radius = 1.5

    @property
    def area(self):
        return max(3.0 * self.radius, 0)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    (tmp_path / "shapes_to_mutate.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shapes_to_mutate", raising=False)
    return tmp_path, "shapes_to_mutate.py"


def test_every_site_of_a_function_is_changed_and_messages_defaults_and_constants_are_not(
    module: tuple[Path, str],
) -> None:
    conditions = [m for m in mutants_of(*module) if m.kind == "condition"]
    changes = {
        (m.function, m.before, m.after) for m in mutants_of(*module) if m.kind != "condition" and m.function != "twice"
    }
    assert [m.after.splitlines()[0] for m in conditions] == ["if not (x > 5 and (not math.isinf(y))):"]
    assert changes == {
        ("distance", "x > 5 and (not math.isinf(y))", "x > 5 or not math.isinf(y)"),
        ("distance", "x > 5", "x >= 5"),
        ("distance", "5", "6"),
        ("distance", "not math.isinf(y)", "math.isinf(y)"),
        ("distance", "abs(x - y) ** power", "abs(x - y) * power"),
        ("distance", "x - y", "x + y"),
        ("Circle.area", "max(3.0 * self.radius, 0)", "min(3.0 * self.radius, 0)"),
        ("Circle.area", "3.0 * self.radius", "3.0 / self.radius"),
        ("Circle.area", "3.0", "6.0"),
        ("Circle.area", "0", "1"),
    }


def test_a_fault_reaches_the_live_function_below_its_decorators(module: tuple[Path, str]) -> None:
    import shapes_to_mutate  # type: ignore[import-not-found]

    root, path = module
    by_after = {mutant.after: mutant for mutant in mutants_of(root, path)}
    assert shapes_to_mutate.distance(5, 2) == 18
    put_in_place(root, by_after["x + y"])
    assert shapes_to_mutate.distance(5, 2) == 98
    assert shapes_to_mutate.Circle().area == 4.5
    put_in_place(root, by_after["3.0 / self.radius"])
    assert shapes_to_mutate.Circle().area == 2
    assert live_function(path, "Circle.area") is shapes_to_mutate.Circle.area.fget


def test_scores_count_what_could_be_put_in_place_before_and_after(tmp_path: Path) -> None:
    common = {"module": "monosemy/saes/gated.py", "function": "f", "kind": "sign", "before": "-x", "after": "x"}
    outcomes = ["killed", "timeout", "crashed", "survived", "unreached", "invalid"]
    tries = [(number, outcome) for number, outcome in enumerate(outcomes)] + [(3, "killed")]
    log = tmp_path / "mutants.jsonl"
    log.write_text("".join(json.dumps({**common, "key": key, "outcome": outcome}) + "\n" for key, outcome in tries))
    record = record_of(logged(log))
    [module] = record["modules"]
    assert (module["drawn"], module["killed"], module["killed_again"]) == (5, 3, 4)
    assert [survivor["again"] for survivor in record["survivors"]] == ["killed", "unreached"]
    assert "| 5 | 3 = 60% [23, 88] | 4 = 80% [38, 96] |" in tables({"mutation": record})["modules"]
