"""The MLP's unit of derivatives, against autograd."""

from __future__ import annotations

import pytest
import torch
from mlp_pairs import make_weights, rows

from monosemy.circuits.jacobian.derivative_unit import derivative_unit


@pytest.mark.parametrize("gated", [True, False])
def test_the_unit_is_the_root_mean_square_derivative_between_random_directions(gated: bool) -> None:
    weights, x = make_weights("silu", gated), rows(300, seed=8).requires_grad_(True)
    squares = [torch.autograd.grad(weights.output(x)[:, i].sum(), x)[0].square().sum() for i in range(12)]
    expected = float(torch.stack(squares).sum() / (300 * 12 * 12)) ** 0.5
    # A hundred directions a row: the estimate's own spread is then far below 2%.
    assert derivative_unit(weights, x.detach().repeat(100, 1)) == pytest.approx(expected, rel=0.02)
    assert derivative_unit(weights, x.detach()) == derivative_unit(weights, x.detach())


def test_the_unit_changes_as_the_jacobian_does() -> None:
    """So |J| / r is the same for activations that are multiplied by a number."""
    weights, x = make_weights("silu", True), rows(50)
    scaled = weights.between_scaled(3.0, 0.2)
    assert derivative_unit(scaled, x / 3) == pytest.approx(derivative_unit(weights, x) * 3 / 0.2, rel=1e-10)
