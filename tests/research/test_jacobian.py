"""What the Jacobian study answers from its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from monosemy.circuits.jacobian.layout import StudyFiles
from monosemy.circuits.jacobian.measures import N_BINS
from monosemy.support.files import write_json
from research.jacobian import collect

ROOT = Path(__file__).parents[2]


def estimate(value: float, half: float = 0.01) -> dict[str, Any]:
    return {"value": value, "interval": [value - half, value + half]}


def row(coef: float, seed: int, shift: float) -> dict[str, Any]:
    """A pair whose every compared number is `shift` away from a common one."""
    record: dict[str, Any] = {"name": f"jsae_{coef:g}-l0_32-s{seed}", "lambda": coef, "seed": seed, "estimates": {}}
    for name in collect.COMPARED:
        (record if "explained" in name or "ce_" in name else record["estimates"])[name] = estimate(0.5 + shift)
    return record


def test_a_share_of_the_tokens_is_held_against_what_two_seeds_differ_by():
    document = {
        "frontier": [row(0, 0, 0.0), row(3, 0, 0.010)],
        "seeds": [row(3, 1, 0.014), row(3, 2, 0.018)],
        "whole": [row(3, 0, 0.005)],
    }
    change = collect.share_against_whole(document)["over_0.01"]
    assert change["change"] == pytest.approx(0.005)
    assert change["difference of two seeds"] == pytest.approx(2**0.5 * 0.004)
    assert change["less than seeds"] is True
    assert (change["seeds"], change["standard error"]) == (1, None)
    document["whole"] = [row(3, 0, 0.018)]
    assert collect.share_against_whole(document)["over_0.01"]["less than seeds"] is False
    assert collect.share_against_whole({**document, "seeds": []})["over_0.01"]["less than seeds"] is None
    document["whole"] = [row(3, 1, 0.011), row(3, 0, 0.005)]  # each against its own seed: .003, .005
    change = collect.share_against_whole(document)["over_0.01"]
    assert (change["change"], change["standard error"], change["seeds"]) == (
        pytest.approx(0.004),
        pytest.approx(0.001),
        2,
    )


@pytest.mark.parametrize(
    ("value", "half", "verdict"),
    [(3.0, 0.5, "no"), (5.0, 0.5, "yes"), (3.9, 0.5, "no, interval holds 4"), (4.1, 0.5, "yes, interval holds 4")],
)
def test_a_limit_within_the_interval_is_said(value, half, verdict):
    assert collect._compared(estimate(value, half), 4, "no", "yes") == verdict


def test_shares_are_compared_at_the_size_that_the_published_share_exceeds_without_penalty(tmp_path):
    rows = [{"name": "a", "lambda": 0}, {"name": "b", "lambda": 3}]
    for name, large in (("a", 58), ("b", 6)):  # of 100 elements so many lie in bin 401 and above
        histogram = [0] * N_BINS
        histogram[300], histogram[401] = 100 - large, large
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "measures.json", {"histogram": histogram})
    start = collect.published_starts(StudyFiles(tmp_path), rows)["pythia-410m"]
    assert start["shares"] == {"0": pytest.approx(0.58), "3": pytest.approx(0.06)}
    assert 10 ** (-10 + 300 / 40) <= start["size"] <= 1.0  # any size between the two bins has these shares


def test_the_linear_share_is_told_apart_from_flat_curves():
    shapes = {"linear": {"value": 0.48}, "flat": {"value": 0.2}}
    shares = collect.shapes({"linearity": shapes})
    assert shares == {
        "linear": 0.48,
        "linear or flat": pytest.approx(0.68),
        "linear of those not flat": pytest.approx(0.6),
    }


def test_labels_of_two_saes_are_compared_site_by_site():
    rows = [
        {"lambda": coef, "site": site, "label_auroc": estimate(value, 0.03), "combined_auroc": estimate(value, 0.04)}
        for coef, site, value in ((0, "in", 0.7), (3, "in", 0.72), (0, "out", 0.6), (3, "out", 0.5))
    ]
    differences = {
        (difference["site"], difference["measure"]): difference["difference"] for difference in collect.labels(rows)
    }
    assert differences["in", "label_auroc"]["value"] == pytest.approx(0.02)
    assert differences["out", "combined_auroc"]["interval"] == pytest.approx(
        [-0.1 - 0.04 * 2**0.5, -0.1 + 0.04 * 2**0.5]
    )
    assert len(differences) == 4
