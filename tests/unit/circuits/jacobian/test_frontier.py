"""Frontier tables, the chosen λ, and the comparison at matched variance explained."""

from __future__ import annotations

import io
import math
import sys

import numpy as np
import pytest

from monosemy.circuits.jacobian import terminal as jacobian_terminal
from monosemy.circuits.jacobian.frontier import COMPARED, SPARSITY, choose, compare, explained, frontier, verdict
from monosemy.circuits.jacobian.loss_cost import Losses
from monosemy.errors import UserError
from monosemy.evals.documents import DocumentSums

SITES = ["layers.1.mlp_in", "layers.1.mlp_out"]


def measured(coef: float, share: float, l0: float = 16.0, seed: int = 0) -> dict:
    estimates = {name: {"value": share, "interval": [share * 0.9, share * 1.1]} for name in SPARSITY}
    estimates |= {name: {"value": 10.0, "interval": [9.0, 11.0]} for name in ("kurtosis", "scaled_kurtosis")}
    return {
        "name": f"jsae_{coef:g}-l0_{l0:g}-s{seed}",
        "lambda": coef,
        "l0": l0,
        "seed": seed,
        "layer": 1,
        "at": "input",
        "sites": SITES,
        "estimates": estimates,
        "average_over": {},
        "linearity": {"shares": {}},
        "ablation": {},
        "n_tokens": 100,
        "n_documents": 5,
    }


def evaluated(coef: float, fvu: float, score: float, l0: float = 16.0, seed: int = 0) -> list[dict]:
    name = f"jsae_{coef:g}-l0_{l0:g}-s{seed}"
    both = [(SITES[0], fvu, score), (SITES[1], fvu, score - 0.001)]
    return [
        {"site": site, "name": name, "fvu": f, "fvu_interval": [f - 0.01, f + 0.02], "loss_recovered": s, "l0": l0}
        for site, f, s in both
    ]


PAIRS = [(1.0, 0.5, 0.30, 0.95), (0.0, 0.8, 0.20, 0.96), (0.1, 0.2, 0.21, 0.945), (9.0, 0.0, 0.60, 0.5)]
"""λ, share over every threshold, FVU, CE score."""


@pytest.fixture
def rows() -> list[dict]:
    pairs = PAIRS
    return frontier([measured(c, s) for c, s, _, _ in pairs], [r for c, _, f, ce in pairs for r in evaluated(c, f, ce)])


def test_frontier_joins_measures_and_evaluation(rows):
    assert [row["lambda"] for row in rows] == [0, 0.1, 1, 9]
    first, second = rows[:2]
    assert first["variance_explained_in"]["value"] == pytest.approx(0.8)
    assert first["variance_explained_in"]["interval"] == pytest.approx([0.78, 0.81])
    assert second["ce_score_out"]["value"] == pytest.approx(0.944)
    assert second["ce_cost"]["value"] == pytest.approx(0.015)
    assert second["ce_cost"]["interval"] is None, "no losses by document were given"
    assert second["reduction"]["over_0.01"]["value"] == pytest.approx(4)
    assert first["reduction"]["over_0.01"]["value"] == 1
    assert rows[3]["reduction"]["over_0.01"] == {"value": None, "interval": None}, "nothing is left: no factor"


def drawn(share: float, noise: np.ndarray) -> dict[str, np.ndarray]:
    return dict.fromkeys(COMPARED, share * noise)


def test_reductions_and_costs_are_paired_over_documents():
    """Documents that are hard for all make each number uncertain and leave ratios and differences exact."""
    generator = np.random.default_rng(0)
    noise = np.exp(generator.normal(size=500))
    tokens, hard = np.full(50, 20.0), generator.random(50)
    names = {f"jsae_{c:g}-l0_16-s0": c for c, *_ in PAIRS}
    loss = {name: 20 * (0.1 * hard + 0.05 * (c == 1) + 0.06 * (c == 9)) for name, c in names.items()}
    extra = {name: total + 20 * 0.02 * (names[name] > 0) for name, total in loss.items()}
    sums = {SITES[0]: DocumentSums(np.arange(50), tokens, loss), SITES[1]: DocumentSums(np.arange(50), tokens, extra)}
    scores = {site: {name: 1 - total.sum() / 1000 / 2 for name, total in sums[site].sums.items()} for site in SITES}
    records = [
        {"site": site, "name": name, "fvu": 0.2, "fvu_interval": [0.1, 0.3], "loss_recovered": scores[site][name]}
        for site in SITES
        for name in names
    ]
    rows = frontier(
        [measured(c, s) for c, s, *_ in PAIRS],
        records,
        {f"jsae_{c:g}-l0_16-s0": drawn(s, noise) for c, s, *_ in PAIRS},
        Losses(sums, dict.fromkeys(SITES, 2.0)),
    )
    for row, cost, factor in zip(rows, (0, 0.01, 0.035, 0.04), (1, 4, 1.6, None), strict=True):
        assert row["ce_cost"]["value"] == pytest.approx(cost, abs=1e-12), "of the side that loses more"
        assert row["ce_cost"]["interval"] == pytest.approx([cost, cost], abs=1e-9)
        reduction = row["reduction"]["over_0.01"]
        assert reduction["value"] == pytest.approx(factor)
        assert reduction["interval"] == (pytest.approx([factor, factor]) if factor else None)


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
    noise = np.exp(np.random.default_rng(0).normal(size=500))
    draws = {row["name"]: drawn(row["estimates"]["over_0.01"]["value"], noise) for row in others}
    (comparison,) = compare(rows, {"published": others}, {}, {"published": draws})
    assert comparison["matched"]
    assert comparison["l0_random"] == [16, 32]
    assert comparison["variance_explained"] == comparison["variance_explained_random"] == pytest.approx(0.8)
    expected = math.sqrt(0.6 * 0.9)  # half-way between FVU .3 and .1, on a logarithmic scale
    assert comparison["measures"]["over_0.01"]["random"]["value"] == pytest.approx(expected)
    assert comparison["measures"]["over_0.01"]["random"]["interval"] == pytest.approx(
        list(expected * np.quantile(noise, [0.025, 0.975]))
    )
    assert comparison["explained"]["out"] == {"trained": pytest.approx(0.8), "random": pytest.approx(0.8)}
    (bare,) = compare(rows, {"published": others})
    assert bare["measures"]["over_0.01"]["random"]["interval"] is None, "no resamples, no interval"
    assert bare["measures"]["over_0.01"]["verdict"] == "unknown"
    assert comparison["measures"]["over_0.01"]["trained"]["value"] == 0.8


@pytest.mark.parametrize(("fvus", "nearest"), [((0.5, 0.4), 16), ((0.15, 0.1), 8)])
def test_what_cannot_be_matched_is_said(rows, fvus, nearest):
    others = random_rows(0.0, {8: (fvus[0], 0.4), 16: (fvus[1], 0.6)})
    (comparison,) = compare(rows, {"published": others})
    assert not comparison["matched"]
    assert comparison["l0_random"] == [nearest]
    assert comparison["variance_explained_random"] == pytest.approx(1 - (fvus[1] if nearest == 16 else fvus[0]))
    assert comparison["measures"]["over_0.01"]["random"]["value"] == (0.6 if nearest == 16 else 0.4)


def test_reductions_of_both_models(rows):
    others = random_rows(0.0, {16: (0.2, 0.9)}) + random_rows(1.0, {16: (0.3, 0.3)})
    noise = np.exp(np.random.default_rng(0).normal(size=500))
    draws = [
        {row["name"]: drawn(row["estimates"]["over_0.01"]["value"], noise) for row in part} for part in (rows, others)
    ]
    comparisons = {row["lambda"]: row for row in compare(rows, {"matched": others}, draws[0], {"matched": draws[1]})}
    assert set(comparisons) == {0, 1}
    assert all(row["matched"] and row["reduction_matched"] for row in comparisons.values()), "the same to the digit"
    factors = comparisons[1]["reduction"]["over_0.01"]
    for model, factor in (("trained", 1.6), ("random", 3)):
        assert factors[model]["value"] == pytest.approx(factor)
        assert factors[model]["interval"] == pytest.approx([factor, factor]), "paired over documents"
    assert factors["verdict"] == "trained below"
    assert explained(others[0]) == pytest.approx(0.8)
    apart = random_rows(0.0, {16: (0.2, 0.9)}) + random_rows(1.0, {16: (0.5, 0.3)})
    unmatched = {row["lambda"]: row["reduction_matched"] for row in compare(rows, {"matched": apart})}
    assert unmatched == {0: True, 1: False}


def test_verdicts_rest_on_intervals():
    def of(low: float, high: float) -> dict:
        return {"value": (low + high) / 2, "interval": [low, high]}

    assert verdict(of(1, 2), of(3, 4)) == "trained below"
    assert verdict(of(3, 4), of(1, 2)) == "random below"
    assert verdict(of(1, 3), of(2, 4)) == "intervals overlap"
    assert verdict(of(1, 3), {"value": 9, "interval": None}) == "unknown"


@pytest.mark.parametrize("width", [40, 80, 160])
@pytest.mark.parametrize("terminal", [False, True])
def test_tables_are_whole_in_every_width(rows, width, terminal, monkeypatch):
    others = random_rows(0.0, {8: (0.4, 0.4), 32: (0.1, 0.9)}) + random_rows(1.0, {16: (0.5, 0.3)})
    shapes = {key: {"value": 0.25, "interval": [0.2, 0.3]} for key in ("linear", "jumprelu", "flat", "other")}
    estimate = {"value": 0.5, "interval": [0.4, 0.6]}
    for row in rows:
        row |= {"linearity": shapes, "average_over": {"0.01": estimate}}
        row |= {"ablation": {"rank_correlation": estimate, "r_squared": estimate}}
    out = io.StringIO()
    out.isatty = lambda: terminal  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(jacobian_terminal, "_PLAIN_WIDTH", width)
    monkeypatch.setenv("COLUMNS", str(width))
    jacobian_terminal.show(jacobian_terminal.comparison_tables(compare(rows, {"published": others})))
    jacobian_terminal.show(jacobian_terminal.frontier_tables(rows))
    text = out.getvalue()
    assert "…" not in text
    for word in ("published", "its L0", "8 to 32", "no: 0.700, random 0.500", "80 ±8%", "1.6×", "other", "CE cost"):
        assert word in text
