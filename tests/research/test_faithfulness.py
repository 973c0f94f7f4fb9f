"""Faithfulness by hand; faithfulness and completeness on circuits known exactly."""

from __future__ import annotations

import pytest
import torch
from known_circuits import measured_circuit

from monosemy.errors import UserError
from research.heads.faithfulness import completeness, faithfulness, faithfulness_curve


def numbers(heads, n_heads):
    return sorted(layer * n_heads + head for layer, head in heads)


def test_faithfulness_by_hand():
    """m = 1, 3, 5 of 5 with 0, 1, 2 parts kept: f = 0, ½, 1; areas under straight lines."""
    linear = faithfulness_curve([torch.full((4,), value) for value in (1.0, 3.0, 5.0)], [0, 1, 2])
    assert linear.values == (0.0, 0.5, 1.0)
    assert (linear.cpr, linear.cmd) == (0.5, 0.5)
    assert linear.intervals[1] == (0.5, 0.5)
    over = faithfulness_curve([torch.full((4,), value) for value in (1.0, 9.0, 5.0)], [0, 1, 4])
    assert over.values == (0.0, 2.0, 1.0)
    assert over.cpr == pytest.approx(0.25 * 1.0 + 0.75 * 1.5)
    assert over.cmd == pytest.approx(0.25 * 1.0 + 0.75 * 0.5)
    with pytest.raises(UserError, match="the metric is the same with all heads replaced"):
        faithfulness_curve([torch.ones(4), torch.ones(4)], [0, 1])


def test_the_true_circuit_is_faithful_and_complete():
    circuit, contrast, _, labels = measured_circuit("ioi")
    n, size = len(labels), len(circuit.heads)
    perfect = faithfulness(contrast, torch.tensor(labels).double(), fractions=(size / n, 0.5))
    assert perfect.sizes == (0, size, n // 2, n)
    assert perfect.values == pytest.approx((0.0, 1.0, 1.0, 1.0), abs=1e-4)
    whole = completeness(contrast, numbers(circuit.heads, circuit.model.n_heads))
    assert whole.without == pytest.approx(0.0, abs=1e-4)
    assert whole.incompleteness == pytest.approx(0.0, abs=1e-4)


def test_a_circuit_without_one_of_an_or_pair_is_faithful_but_not_complete():
    circuit, contrast, _, _ = measured_circuit("or_pair")
    n_heads = circuit.model.n_heads
    members = numbers(circuit.heads, n_heads)
    lacking = members[1:]  # one of the two previous-token heads left out
    assert lacking[0] < n_heads
    alone = faithfulness(contrast, torch.isin(torch.arange(18), torch.tensor(lacking)).double(), fractions=(2 / 18,))
    assert alone.values[1] == pytest.approx(1.0, abs=1e-3)
    gaps = [completeness(contrast, subset).incompleteness for subset in (members, lacking)]
    assert gaps[0] < 0.01 < 0.2 < gaps[1]


def test_a_better_ranking_has_the_better_curve():
    _, contrast, patching, _ = measured_circuit("ioi")
    fractions = tuple(i / 10 for i in range(11))
    exact = faithfulness(contrast, patching.importance, fractions=fractions)
    reverse = faithfulness(contrast, -patching.importance, fractions=fractions)
    assert exact.cpr > reverse.cpr + 0.3
    assert exact.cmd < reverse.cmd - 0.3
