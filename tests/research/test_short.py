"""Which statements hold: by rules that a changed number changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from research.frontier import short
from research.frontier.run import NAMES
from research.records import records_of


@pytest.fixture
def site() -> dict[str, Any]:
    """One L0 at which every statement holds."""
    fvu = {
        "relu": 0.3,
        "topk": 0.25,
        "jumprelu": 0.22,
        "gated": 0.22,
        "batch_topk": 0.2,
        "frozen_random": 0.6,
        "pca": 0.5,
    }
    points = [
        {
            "architecture": name,
            "asked": 32.0,
            "fvu": {"mean": value, "interval": [value - 0.01, value + 0.01]},
            "delta_loss": {"mean": value, "interval": [value - 0.01, value + 0.01]},
            "gamma": {"mean": 0.95 if name == "relu" else 1.001},
            "dead_fraction": {"mean": 0.001},
            "over_10pct_fraction": {"mean": 0.001 if name == "jumprelu" else 0.01},
        }
        for name, value in fvu.items()
    ]
    own = [name for name in fvu if name not in NAMES]

    def rows(equal: tuple[str, ...]) -> list[dict[str, Any]]:
        pairs = [(a, b) for i, a in enumerate(own) for b in own[i + 1 :]]
        differences = [0.0 if {*pair} <= {*equal} else fvu[pair[0]] - fvu[pair[1]] for pair in pairs]
        return [
            {"first": a, "second": b, "estimate": d, "low": d - 0.005, "high": d + 0.005}
            for (a, b), d in zip(pairs, differences, strict=True)
        ]

    return {"points": points, "paired": {"32": {short.FVU: rows(()), short.LOSS: rows(short.AHEAD)}}}


def test_all_hold_where_they_should(site):
    assert short.holds(site) == {name: ["32"] for name in short.STATEMENTS}


@pytest.mark.parametrize("name", short.STATEMENTS)
def test_each_statement_can_fail(site, name):
    """Every statement fails on at least one of three broken sites, and each of these breaks some but not all."""
    level, turned, dead = (copy.deepcopy(site) for _ in range(3))
    for measure in (short.FVU, short.LOSS):
        for row in level["paired"]["32"][measure]:
            row |= {"low": -0.5, "high": 0.5}
        for row in turned["paired"]["32"][measure]:
            row |= {"low": -0.2, "high": -0.1}
    for point in dead["points"]:
        point |= {"dead_fraction": {"mean": 0.01}, "gamma": {"mean": 1.0}, "over_10pct_fraction": {"mean": 0.001}}
        point["fvu"] = {"mean": 0.5, "interval": [0.4, 0.6]}
    outcomes = [short.holds(broken) for broken in (level, turned, dead)]
    assert [] in [outcome[name] for outcome in outcomes]
    for outcome in outcomes:
        assert 0 < sum(levels == [] for levels in outcome.values()) < len(outcome)


def test_a_difference_is_read_from_either_side(site):
    assert short.sign(site, "32", short.FVU, ("relu", "topk")) == 1
    assert short.sign(site, "32", short.FVU, ("topk", "relu")) == -1
    assert short.sign(site, "32", short.LOSS, ("jumprelu", "gated")) == 0
    with pytest.raises(KeyError):
        short.sign(site, "32", short.FVU, ("relu", "pca"))


def test_the_longer_runs_bear_out_what_is_said_of_them():
    """The list under table 1 of docs/results.md, with the exceptions that it names."""
    everywhere = ["16", "32", "64"]
    held = short.holds(records_of("frontier")["frontier"]["sites"]["layers.12.resid_post"])
    assert held.pop("BatchTopK has the lowest FVU of these three") == ["32", "64"]
    assert "64" in held.pop("JumpReLU has the fewest latents that fire on over a tenth of the tokens")
    assert all(levels == everywhere for levels in held.values())
