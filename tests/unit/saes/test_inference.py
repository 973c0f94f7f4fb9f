"""Codes, margins and running thresholds against the architectures' equations, written out densely in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from monosemy.saes.base import SaeConfig, SparseAutoencoder, StepInfo
from monosemy.saes.registry import ARCHITECTURES, build_sae

D, F, N, L0 = 6, 24, 40, 3.0


def rows(n: int = N) -> Tensor:
    draw = torch.Generator().manual_seed(2)
    return (torch.randn(n, D, generator=draw, dtype=torch.float64) + 0.3) / D**0.5


def make(architecture: str, **options: Any) -> Any:
    """A float64 SAE with every parameter far from where it starts, so that none drops out of an equation."""
    sae = build_sae(SaeConfig(architecture, D, F, L0, seed=4, options=options)).double()
    draw = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
            parameter.add_(0.8 * noise if name == "r_mag" else 0.2 * noise)
        if sae.name == "jumprelu":
            sae.get_parameter("threshold").copy_(torch.linspace(0.05, 0.4, F, dtype=torch.float64))
        if sae.name == "batch_topk":
            sae.get_buffer("threshold").fill_(0.3)
    return sae.requires_grad_(False)


def linear(sae: Any, x: Tensor) -> Tensor:
    return (x - sae.b_dec) @ sae.W_enc


def topk_code(sae: Any, x: Tensor) -> Tensor:
    pre = linear(sae, x) + sae.b_enc
    kth = pre.sort(dim=1, descending=True).values[:, int(L0) - 1, None]
    return torch.where((pre >= kth) & (pre > 0), pre, 0)


def above(pre: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(pre > threshold, pre, 0)


def magnitude(sae: Any, x: Tensor) -> Tensor:
    """Gated's π_mag, the second of the paper's two affine maps, with a matrix of its own."""
    W_mag = sae.W_enc * torch.exp(sae.r_mag)
    return (x - sae.b_dec) @ W_mag + sae.b_mag


CODES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "relu": lambda sae, x: (linear(sae, x) + sae.b_enc).clamp(min=0),
    "topk": topk_code,
    "batch_topk": lambda sae, x: above(linear(sae, x) + sae.b_enc, sae.threshold),
    "gated": lambda sae, x: torch.where(linear(sae, x) + sae.b_gate > 0, magnitude(sae, x).clamp(min=0), 0),
    "jumprelu": lambda sae, x: above(linear(sae, x) + sae.b_enc, sae.threshold),
}
CODES |= {"matryoshka_batch_topk": CODES["batch_topk"], "matryoshka_jumprelu": CODES["jumprelu"]}
"""The code of each architecture at inference, [N, F]; nesting is a matter of training alone."""

MARGINS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "relu": lambda sae, x: linear(sae, x) + sae.b_enc,
    "batch_topk": lambda sae, x: silent_below_zero(linear(sae, x) + sae.b_enc, sae.threshold),
    "gated": lambda sae, x: torch.where(magnitude(sae, x) > 0, linear(sae, x) + sae.b_gate, -torch.inf),
    "jumprelu": lambda sae, x: silent_below_zero(linear(sae, x) + sae.b_enc, sae.threshold),
}
"""How far each latent is above its firing point, [N, F]."""


def silent_below_zero(pre: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(pre > 0, pre - threshold, -torch.inf)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_code_is_the_equations(architecture: str) -> None:
    sae, x = make(architecture), rows()
    expected = CODES[architecture](sae, x)
    assert 0 < int((expected > 0).sum()) < expected.numel()
    torch.testing.assert_close(sae.encode(x).to_dense(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("architecture", MARGINS)
@pytest.mark.parametrize("shift", [0.15, -0.04])
def test_margins_are_the_equations_and_move_by_the_shift(architecture: str, shift: float) -> None:
    sae, x = make(architecture), rows()
    before = MARGINS[architecture](sae, x)
    torch.testing.assert_close(sae.margins(x), before, rtol=1e-12, atol=1e-12)
    sae.shift_margins(shift)
    torch.testing.assert_close(sae.margins(x), before - shift, rtol=1e-12, atol=1e-12)
    # The shifted SAE fires where the shifted margins say, and its values are still those of the equation.
    assert torch.equal(sae.encode(x).to_dense() > 0, before > shift)
    torch.testing.assert_close(sae.encode(x).to_dense(), CODES[architecture](sae, x), rtol=1e-12, atol=1e-12)


def test_latents_that_no_shift_makes_fire_have_no_margin() -> None:
    sae, x = make("gated"), rows()
    assert bool((magnitude(sae, x) <= 0).any())
    assert torch.equal(torch.isinf(sae.margins(x)), magnitude(sae, x) <= 0)
    assert make("topk").margins(x) is None


def test_a_magnitude_of_zero_does_not_fire() -> None:
    """At x = b_dec, π_mag is b_mag: positive, zero and negative here, behind gates that are open."""
    sae = make("gated")
    sae.b_gate.fill_(0.5)
    sae.b_mag.copy_(torch.arange(F).sub(1).clamp(max=1))
    margins = sae.margins(sae.b_dec[None])[0]
    assert margins[:2].tolist() == [-torch.inf, -torch.inf]
    torch.testing.assert_close(margins[2:], torch.full((F - 2,), 0.5, dtype=torch.float64))
    assert sae.encode(sae.b_dec[None]).to_dense()[0].tolist() == [0.0, 0.0, *[1.0] * (F - 2)]


# --- BatchTopK's threshold ----------------------------------------------------------------------------------------


def observe(sae: SparseAutoencoder, cuts: list[float], l0: float) -> None:
    """Steps that asked for `l0` latents and whose smallest kept pre-activations were `cuts`."""
    info = StepInfo(progress=0.5, l0=l0)
    output = sae.losses(rows(), info)
    for cut in cuts:
        sae.observe(dataclasses.replace(output, statistic=cut), info)


def weighted_mean(cuts: list[float], beta: float) -> float:
    """Σ β^age cut / Σ β^age, the newest cut of age 0."""
    weights = [beta**age for age in reversed(range(len(cuts)))]
    return sum(weight * cut for weight, cut in zip(weights, cuts)) / sum(weights)


def test_the_threshold_of_annealing_is_the_last_cut() -> None:
    sae = make("batch_topk")
    observe(sae, [0.1, 0.9, 0.25], l0=2 * L0)
    assert float(sae.threshold) == pytest.approx(0.25, rel=1e-12)


@pytest.mark.parametrize("beta", [0.5, 0.99])
def test_the_threshold_averages_the_cuts_since_annealing_alone(beta: float) -> None:
    sae = make("batch_topk", threshold_beta=beta)
    observe(sae, [5.0, 9.0], l0=L0)
    observe(sae, [7.0, 8.0], l0=2 * L0)
    cuts = [0.5, 0.3, 0.4, 0.35, 0.2, 0.6]
    for n_cuts in range(1, len(cuts) + 1):
        observe(sae, [cuts[n_cuts - 1]], l0=L0)
        # A cut passes through float32.
        assert float(sae.threshold) == pytest.approx(weighted_mean(cuts[:n_cuts], beta), rel=1e-6)
