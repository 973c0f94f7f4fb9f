"""Frontier tables, the chosen λ, and the comparison at matched variance explained."""

from __future__ import annotations

import math

import pytest

from monosemy.errors import UserError
from monosemy.jacobian.studies import SPARSITY, choose, compare, explained, frontier

SITES = ["layers.1.mlp_in", "layers.1.mlp_out"]


def measured(coef: float, share: float, l0: float = 16.0, seed: int = 0) -> dict:
    estimates = {name: {"value": share, "interval": [share * 0.9, share * 1.1]} for name in SPARSITY}
    estimates |= {name: {"value": 10.0, "interval": [9.0, 11.0]} for name in ("kurtosis", "scaled_kurtosis")}
    return {
        "name": f"jsae_{coef:g}-l0_{l0:g}-s{seed}", "lambda": coef, "l0": l0, "seed": seed, "layer": 1, "at": "input",
        "sites": SITES, "estimates": estimates, "average_over": {}, "linearity": {"shares": {}}, "ablation": {},
        "n_tokens": 100, "n_documents": 5,
    }  # fmt: skip


def evaluated(coef: float, fvu: float, score: float, l0: float = 16.0, seed: int = 0) -> list[dict]:
    name = f"jsae_{coef:g}-l0_{l0:g}-s{seed}"
    both = [(SITES[0], fvu, score), (SITES[1], fvu, score - 0.001)]
    return [
        {"site": site, "name": name, "fvu": f, "fvu_interval": [f - 0.01, f + 0.02], "loss_recovered": s, "l0": l0}
        for site, f, s in both
    ]


@pytest.fixture
def rows() -> list[dict]:
    pairs = [(1.0, 0.5, 0.30, 0.95), (0.0, 0.8, 0.20, 0.96), (0.1, 0.2, 0.21, 0.945), (9.0, 0.0, 0.60, 0.5)]
    return frontier([measured(c, s) for c, s, _, _ in pairs], [r for c, _, f, ce in pairs for r in evaluated(c, f, ce)])


def test_frontier_joins_measures_and_evaluation(rows):
    assert [row["lambda"] for row in rows] == [0, 0.1, 1, 9]
    first, second = rows[:2]
    assert first["variance_explained_in"]["value"] == pytest.approx(0.8)
    assert first["variance_explained_in"]["interval"] == pytest.approx([0.78, 0.81])
    assert second["ce_score_out"]["value"] == pytest.approx(0.944)
    assert second["ce_cost"] == pytest.approx(0.015)
    assert second["reduction"]["over_0.01"] == pytest.approx(4)
    assert first["reduction"]["over_0.01"] == 1
    assert rows[3]["reduction"]["over_0.01"] is None, "nothing is left: no factor"


def test_the_largest_affordable_lambda_is_chosen(rows):
    assert choose(rows)["lambda"] == 1
    assert choose(rows, max_cost=0.012)["lambda"] == 1
    assert choose(rows, max_cost=0.5)["lambda"] == 9
    with pytest.raises(UserError, match="--lambda 0"):
        choose(rows[1:])
    unevaluated = frontier([measured(0, 0.5), measured(1, 0.1)], evaluated(0, 0.2, 0.9))
    with pytest.raises(UserError, match="evaluation"):
        choose(unevaluated)


def random_rows(coef: float, shares: dict[float, tuple[float, float]]) -> list[dict]:
    """L0 → (FVU, share over every threshold)."""
    return frontier(
        [measured(coef, share, l0) for l0, (_, share) in shares.items()],
        [r for l0, (fvu, _) in shares.items() for r in evaluated(coef, fvu, 0.9, l0)],
    )


def test_random_pairs_are_interpolated_to_the_same_variance_explained(rows):
    others = random_rows(0.0, {8: (0.4, 0.4), 16: (0.3, 0.6), 32: (0.1, 0.9)})
    (found,) = compare(rows, {"published": others})
    assert found["matched"]
    assert found["l0_random"] == [16, 32]
    assert found["variance_explained"] == found["variance_explained_random"] == pytest.approx(0.8)
    expected = math.sqrt(0.6 * 0.9)  # half-way between FVU .3 and .1, on a logarithmic scale
    assert found["measures"]["over_0.01"]["random"]["value"] == pytest.approx(expected)
    assert found["measures"]["over_0.01"]["random"]["interval"] == pytest.approx([0.9 * expected, 1.1 * expected])
    assert found["measures"]["over_0.01"]["trained"]["value"] == 0.8


@pytest.mark.parametrize(("fvus", "nearest"), [((0.5, 0.4), 16), ((0.15, 0.1), 8)])
def test_what_cannot_be_matched_is_said(rows, fvus, nearest):
    others = random_rows(0.0, {8: (fvus[0], 0.4), 16: (fvus[1], 0.6)})
    (found,) = compare(rows, {"published": others})
    assert not found["matched"]
    assert found["l0_random"] == [nearest]
    assert found["variance_explained_random"] == pytest.approx(1 - (fvus[1] if nearest == 16 else fvus[0]))
    assert found["measures"]["over_0.01"]["random"]["value"] == (0.6 if nearest == 16 else 0.4)


def test_reductions_of_both_models(rows):
    others = random_rows(0.0, {16: (0.2, 0.9)}) + random_rows(1.0, {16: (0.3, 0.3)})
    found = {row["lambda"]: row for row in compare(rows, {"matched": others})}
    assert set(found) == {0, 1}
    assert all(row["matched"] for row in found.values()), "the same variance explained to the digit"
    assert found[1]["reduction"]["over_0.01"] == {"trained": pytest.approx(1.6), "random": pytest.approx(3)}
    assert explained(others[0]) == pytest.approx(0.8)
