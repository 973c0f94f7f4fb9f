"""Norms with their scale held constant: x → (x − mean x) ⊙ gain + bias, with a gain for every position.

Place on the path: a norm's input and output on a prompt → [gain by position] → the frozen model.

    y_t = s_t g ⊙ (x_t − c · mean x_t) + b,   s_t constant: what the norm divided by at this position

c is 1 for layer norms and 0 for root-mean-square norms; g is the module's weight (or 1 + weight, as Gemma stores it).
Which of these a module is, is found by fitting s_t to the output that it gave, so that it does not matter how a family
spells its norms; the fit must be exact up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosemy.errors import UserError
from monosemy.support.numbers import exponent_text


@dataclass(frozen=True)
class FrozenNorm:
    """A norm at constant scale, on T positions."""

    gain: Float[Tensor, "position d"]
    centred: bool
    bias: Float[Tensor, " d"] | None

    def linear(self, x: Float[Tensor, "row d"], positions: Tensor | slice = slice(None)) -> Float[Tensor, "row d"]:
        """The linear part of the map for rows x that stand at `positions`."""
        if self.centred:
            x = x - x.mean(1, keepdim=True)
        return x * self.gain[positions]

    def transposed(self, gradient: Float[Tensor, "row d"], positions: Tensor | slice) -> Float[Tensor, "row d"]:
        """The gradient with respect to the input, from that with respect to the output."""
        inner = gradient * self.gain[positions]
        return inner - inner.mean(1, keepdim=True) if self.centred else inner


def freeze_norm(
    module: nn.Module, x: Float[Tensor, "position d"], y: Float[Tensor, "position d"], *, tolerance: float
) -> FrozenNorm:
    """The norm that gave y from x. Raises UserError for a module that is neither a layer norm nor an RMS norm."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    unit = torch.ones_like(x[0])
    gains = [unit] if weight is None else [weight, 1 + weight]
    offset = torch.zeros_like(unit) if bias is None else bias
    best, least = None, float("inf")
    for centred in (False, True):
        for gain in gains:
            base = (x - x.mean(1, keepdim=True) if centred else x) * gain
            # The scale that fits each position best; where the form is right, it is the norm's own.
            scale = ((y - offset) * base).sum(1, keepdim=True) / base.square().sum(1, keepdim=True).clamp_min(1e-30)
            gap = float((y - offset - scale * base).norm() / (y - offset).norm().clamp_min(1e-30))
            if gap < least:
                best, least = FrozenNorm(scale * gain, centred, bias), gap
    if best is None or least > tolerance:
        raise UserError(
            f"{type(module).__name__} is neither a layer norm nor a root-mean-square norm (off by "
            f"{exponent_text(least)} of its output), so that its scale cannot be held constant; choose another model"
        )
    return best
