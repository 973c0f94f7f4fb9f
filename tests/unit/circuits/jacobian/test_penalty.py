"""The penalty of pairs: value and gradient against dense autograd, its random share, and a pair worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mlp_pairs import make_sae, make_weights, rows
from torch import Tensor

from monosemy.circuits.jacobian.batch_code import Code
from monosemy.circuits.jacobian.mlp import jacobian_slices
from monosemy.circuits.jacobian.penalty import SlopesAtInput, mean_magnitude, sampled_rows, training_code
from monosemy.circuits.jacobian.weights import MlpWeights
from monosemy.saes.base import SaeConfig, SparseAutoencoder
from monosemy.saes.registry import build_sae


def trainable(sae: SparseAutoencoder) -> SparseAutoencoder:
    return sae.requires_grad_(True)


def codes(architecture: str, x: Tensor, y: Tensor) -> tuple[Code, Code]:
    sides = []
    for seed, rows_of_site in ((1, x), (2, y)):
        sae = trainable(make_sae(seed, architecture))
        sides.append(Code(sae, rows_of_site, training_code(sae, rows_of_site, 5), 5))
    return sides[0], sides[1]


def dense_penalty(weights: Any, inputs: Code, outputs: Code, at: str, drawn: Tensor | None) -> Tensor:
    """The same by dense operations that autograd goes through; selections held fixed."""
    row_indices = torch.arange(len(inputs.x)) if drawn is None else drawn
    x, sae, other = inputs.x[row_indices], inputs.sae, outputs.sae
    on = (inputs.latents.to_dense()[row_indices] > 0).double()
    s = on * ((x - sae.b_dec) @ sae.W_enc + sae.b_enc)
    middle = x if at == "input" else s @ sae.W_dec + sae.b_dec
    reached = outputs.latents.to_dense()[row_indices]
    if at == "reconstruction":
        whole = inputs.latents.to_dense() @ sae.W_dec + sae.b_dec
        reached = training_code(other, weights.output(whole), 5).to_dense()[row_indices]
    a, b = weights.slopes(middle)
    J = sae.W_dec @ weights.W_in @ (a[:, :, None] * (weights.W_out @ other.W_enc))
    if b is not None:
        J = J + sae.W_dec @ weights.W_up @ (b[:, :, None] * (weights.W_out @ other.W_enc))
    return (J * on[:, :, None] * (reached > 0)[:, None, :]).abs().sum() / (len(x) * 25)


@pytest.mark.parametrize("share", [1.0, 0.4])
@pytest.mark.parametrize("at", ["input", "reconstruction"])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("architecture", ["topk", "batch_topk", "jumprelu"])
def test_gradient_of_every_parameter(architecture: str, gated: bool, at: Any, share: float) -> None:
    weights, x = make_weights("silu" if gated else "gelu_tanh", gated), rows(10)
    inputs, outputs = codes(architecture, x, weights.output(x))
    penalty = mean_magnitude(SlopesAtInput(weights), inputs, outputs, 7, at=at, token_share=share)
    expected = dense_penalty(weights, inputs, outputs, at, drawn=sampled_rows(7, 10, share))
    torch.testing.assert_close(penalty.detach(), expected.detach(), rtol=1e-11, atol=0)
    parameters = [*inputs.sae.named_parameters(), *outputs.sae.named_parameters()]
    tensors = [p for _, p in parameters]
    ours = torch.autograd.grad(penalty, tensors, allow_unused=True)
    theirs = torch.autograd.grad(expected, tensors, allow_unused=True)
    moved = set()
    for place, ((name, _), gradient, expected_gradient) in enumerate(zip(parameters, ours, theirs, strict=True)):
        gradient, expected_gradient = (torch.zeros(1) if g is None else g for g in (gradient, expected_gradient))
        assert (gradient - expected_gradient).abs().max() < 1e-10, name
        if expected_gradient.abs().max() > 0:
            moved.add(("in." if place < len(parameters) // 2 else "out.") + name)
    through = {"in.W_enc", "in.b_enc", "in.b_dec"} if at == "reconstruction" else set()
    assert moved == {"in.W_dec", "out.W_enc"} | through


@pytest.mark.parametrize("architecture", ["topk", "jumprelu"])
@pytest.mark.parametrize("at", ["input", "reconstruction"])
def test_value_is_the_mean_of_the_slices_magnitudes(architecture: str, at: Any) -> None:
    weights, x = make_weights("silu", True), rows(10)
    inputs, outputs = codes(architecture, x, weights.output(x))
    penalty = mean_magnitude(SlopesAtInput(weights), inputs, outputs, 0, at=at)
    slices = jacobian_slices(weights, inputs.sae, outputs.sae, x, at=at)
    torch.testing.assert_close(penalty.detach(), slices.values.abs().sum() / (10 * 25), rtol=1e-11, atol=0)
    in_units = mean_magnitude(SlopesAtInput(weights), inputs, outputs, 0, at=at, unit=0.25)
    torch.testing.assert_close(in_units, 4 * penalty, rtol=1e-12, atol=0)


def test_the_random_share_is_a_mean_over_uniformly_drawn_tokens() -> None:
    """So its expectation is the whole penalty; the draw depends on the step alone."""
    weights, x = make_weights("silu", True), rows(8)
    inputs, outputs = codes("topk", x, weights.output(x))
    by_row = jacobian_slices(weights, inputs.sae, outputs.sae, x).values.abs().sum((1, 2)) / 25
    counts = torch.zeros(8)
    for index in range(2000):
        drawn = sampled_rows(index, 8, 0.25)
        assert drawn is not None
        assert torch.equal(drawn, sampled_rows(index, 8, 0.25))
        assert len(set(drawn.tolist())) == 2
        counts[drawn] += 1
        if index < 20:
            penalty = mean_magnitude(SlopesAtInput(weights), inputs, outputs, index, token_share=0.25)
            torch.testing.assert_close(penalty.detach(), by_row[drawn].mean(), rtol=1e-11, atol=0)
    assert bool(((counts - 500).abs() < 5 * (2000 * 0.25 * 0.75) ** 0.5).all())
    assert sampled_rows(3, 8, 1.0) is None
    assert len(sampled_rows(3, 8, 1e-9)) == 1  # type: ignore[arg-type]


# --- by hand ------------------------------------------------------------------------------------------------------


def coordinates(d: int, k: float) -> SparseAutoencoder:
    """A TopK SAE whose latents are the coordinates."""
    sae = build_sae(SaeConfig("topk", d, d, k)).double()
    with torch.no_grad():
        sae.W_dec.copy_(torch.eye(d))
        sae.W_enc.copy_(torch.eye(d))
    return sae


def coordinate_codes(x: Tensor, y: Tensor, l0_in: float, l0_out: float) -> tuple[Code, Code]:
    sides = []
    for rows_of_site, l0 in ((x, l0_in), (y, l0_out)):
        sae = coordinates(x.shape[1], l0)
        sides.append(Code(sae, rows_of_site, training_code(sae, rows_of_site, l0), l0))
    return sides[0], sides[1]


@pytest.mark.parametrize("share", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("at", ["input", "reconstruction"])
def test_the_penalty_of_squares_of_coordinates(at: Any, share: float) -> None:
    """h = ReLU(z)², so J is diagonal with J_ii = 2 x_i, and P = Σ 2 x_i / (n · k_x · k_y) over the n drawn tokens.

    Row r is r + 1 in its first two coordinates and less than zero in the third, which fires nowhere.
    """
    scale = torch.arange(1.0, 9.0, dtype=torch.float64)
    x = scale[:, None] * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    nothing = torch.zeros(3, dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)
    weights = MlpWeights(eye, None, eye, nothing, b_up=None, b_out=nothing, activation="relu2")
    inputs, outputs = coordinate_codes(x, weights.output(x), 2, 3)
    drawn = sampled_rows(4, 8, share)
    of_drawn = scale if drawn is None else scale[drawn]
    assert len(of_drawn) == round(8 * share)
    penalty = mean_magnitude(SlopesAtInput(weights), inputs, outputs, 4, at=at, token_share=share)
    assert float(penalty.detach()) == pytest.approx(float(4 * of_drawn.sum()) / (len(of_drawn) * 2 * 3), rel=1e-12)


def test_a_share_is_rounded_and_never_empty() -> None:
    for share, expected in ((0.3, 3), (0.36, 4), (0.99, 10), (1e-9, 1)):
        drawn = sampled_rows(0, 10, share)
        assert drawn is not None
        assert len(drawn) == expected
    assert sampled_rows(0, 10, 1.0) is None
    assert not torch.equal(sampled_rows(0, 100, 0.5), sampled_rows(1, 100, 0.5))  # type: ignore[arg-type]
