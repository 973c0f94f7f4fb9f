"""The input SAE's error seen through the MLP, against dense autograd and finite differences."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from mlp_pairs import make_sae, make_weights, rows
from torch import Tensor

from monosemy.circuits.jacobian.batch_code import Code
from monosemy.circuits.jacobian.downstream import error_through_mlp
from monosemy.circuits.jacobian.penalty import training_code

GB = 10**9


def code(architecture: str, x: Tensor) -> Code:
    sae = make_sae(1, architecture).requires_grad_(True)
    return Code(sae, x, training_code(sae, x, 5), 5)


def dense_reconstruction(side: Code) -> Tensor:
    """x̂ by dense operations that autograd goes through; the selection held fixed."""
    sae, active = side.sae, side.latents.to_dense() > 0
    return (active * ((side.x - sae.b_dec) @ sae.W_enc + sae.b_enc)) @ sae.W_dec + sae.b_dec


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("architecture", ["topk", "batch_topk", "jumprelu"])
def test_value_and_gradient_of_every_parameter(architecture: str, gated: bool) -> None:
    weights, x = make_weights("silu" if gated else "gelu_tanh", gated), rows(10)
    y, inputs = weights.output(x), code(architecture, x)
    ours = error_through_mlp(weights, inputs, y, GB)
    error = y - weights.output(dense_reconstruction(inputs))
    expected = error.square().sum() / (y - y.mean(0)).square().sum()
    torch.testing.assert_close(ours.detach(), expected.detach(), rtol=1e-11, atol=0)
    parameters = dict(inputs.sae.named_parameters())
    gradients = torch.autograd.grad(3 * ours, list(parameters.values()), allow_unused=True)
    expected_gradients = torch.autograd.grad(3 * expected, list(parameters.values()), allow_unused=True)
    moved = set()
    for name, gradient, other in zip(parameters, gradients, expected_gradients, strict=True):
        gradient, other = (torch.zeros(1) if g is None else g for g in (gradient, other))
        assert (gradient - other).abs().max() < 1e-10, name
        if other.abs().max() > 1e-6:
            moved.add(name)
    assert moved == {"W_enc", "W_dec", "b_enc", "b_dec"}


def test_the_gradient_is_that_of_finite_differences() -> None:
    weights, x = make_weights("gelu", False), rows(10)
    y, inputs = weights.output(x), code("topk", x)
    (gradient,) = torch.autograd.grad(error_through_mlp(weights, inputs, y, GB), inputs.sae.W_dec)
    direction, values = rows(len(inputs.sae.W_dec), seed=4), []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            inputs.sae.W_dec.add_(step * direction)
            values.append(float(error_through_mlp(weights, inputs, y, GB)))
            inputs.sae.W_dec.sub_(step * direction)
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(float((gradient * direction).sum()), rel=1e-6)


def test_the_cut_into_rows_changes_nothing(monkeypatch: Any) -> None:
    weights, x = make_weights("silu", True), rows(10)
    inputs, y = code("topk", x), weights.output(x)
    whole = error_through_mlp(weights, inputs, y, GB)
    output, held = type(weights).output, []

    def counted(self: Any, part: Tensor) -> Tensor:
        held.append(len(part))
        return output(self, part)

    monkeypatch.setattr(type(weights), "output", counted)
    row_bytes = 20 * weights.d_ff * 8
    cut = error_through_mlp(weights, inputs, y, 3 * row_bytes)
    assert held == [3, 3, 3, 1]
    torch.testing.assert_close(cut.detach(), whole.detach(), rtol=1e-13, atol=0)
    (a,), (b,) = (torch.autograd.grad(error, inputs.sae.W_enc) for error in (cut, whole))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("factor", [1e-3, 40.0])
def test_the_error_is_free_of_scale(factor: float) -> None:
    weights, x = make_weights("silu", True), rows(10)
    y, inputs = weights.output(x), code("topk", x)
    expected = error_through_mlp(weights, inputs, y, GB)
    scaled = weights.between_scaled(1.0, 1 / factor)
    torch.testing.assert_close(error_through_mlp(scaled, inputs, y * factor, GB), expected, rtol=1e-10, atol=0)
    shifted = dataclasses.replace(weights, b_out=weights.b_out + 3)  # type: ignore[operator]
    torch.testing.assert_close(error_through_mlp(shifted, inputs, y + 3, GB), expected, rtol=1e-10, atol=0)


def test_no_error_where_nothing_is_left_out() -> None:
    """A dictionary of all coordinates, up and down, reconstructs every row; y ≠ MLP(x) would show."""
    weights, x = make_weights("silu", True), rows(10)
    sae = make_sae(1, "topk", m=24, l0=12)
    with torch.no_grad():
        sae.W_dec.copy_(torch.cat([torch.eye(12), -torch.eye(12)]))
        sae.W_enc.copy_(sae.W_dec.T)
        sae.b_enc.zero_(), sae.b_dec.zero_()
    inputs = Code(sae, x, training_code(sae, x, 12), 12)
    assert float(error_through_mlp(weights, inputs, weights.output(x), GB)) < 1e-25
    assert float(error_through_mlp(weights, inputs, weights.output(x) + 1, GB)) > 0.1
