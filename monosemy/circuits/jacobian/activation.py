"""The activation functions of MLPs, φ, with their derivatives φ' in closed form; a model's own is recognised by values.

    relu       max(z, 0)                     φ' = [z > 0]
    relu2      max(z, 0)²                    φ' = 2 max(z, 0)
    gelu       z Φ(z)                        φ' = Φ(z) + z n(z),  Φ, n the standard normal's distribution and density
    gelu_tanh  ½ z (1 + t),  t = tanh w,  w = √(2/π) (z + 0.044715 z³)
                                             φ' = ½ (1 + t) + ½ z (1 − t²) w'
    silu       z σ(z)                        φ' = σ (1 + z (1 − σ))
    quick_gelu z σ(1.702 z)                  φ' = σ + 1.702 z σ (1 − σ),  σ at 1.702 z

Both are built from PyTorch operations, so autograd provides φ'' where a gradient has to pass through φ'. At the kink of
relu φ' is 0, as in PyTorch. Limits: an activation function with learned parameters, or one not listed, is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.errors import UserError

CUBIC, QUICK = 0.044715, 1.702
_SAME = 1e-6
"""Largest difference between two functions that count as the same; GELU and its tanh form differ by 5e-4."""


def _relu(z: Tensor) -> tuple[Tensor, Tensor]:
    return z.clamp_min(0), (z > 0).to(z.dtype)


def _relu2(z: Tensor) -> tuple[Tensor, Tensor]:
    positive = z.clamp_min(0)
    return positive.square(), 2 * positive


def _gelu(z: Tensor) -> tuple[Tensor, Tensor]:
    # ndtr keeps its relative accuracy in the lower tail, where ½ (1 + erf) cancels to 0.
    below = torch.special.ndtr(z)
    return z * below, below + z * torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)


def _gelu_tanh(z: Tensor) -> tuple[Tensor, Tensor]:
    squares, factor = z.square(), math.sqrt(2 / math.pi)
    t = torch.tanh(factor * z * (1 + CUBIC * squares))
    half = 0.5 * (1 + t)
    return z * half, half + 0.5 * z * (1 - t.square()) * (factor * (1 + 3 * CUBIC * squares))


def _silu(z: Tensor) -> tuple[Tensor, Tensor]:
    s = torch.sigmoid(z)
    value = z * s
    return value, s + value * (1 - s)  # σ (1 + z (1 − σ)) without another product


def _quick_gelu(z: Tensor) -> tuple[Tensor, Tensor]:
    s = torch.sigmoid(QUICK * z)
    value = z * s
    return value, s + QUICK * value * (1 - s)


ACTIVATIONS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "relu": _relu,
    "relu2": _relu2,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
    "quick_gelu": _quick_gelu,
}


def value_and_slope(name: str, z: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """φ(z) and φ'(z), both of z's shape; gradient to z through both. `name` is a key of `ACTIVATIONS`."""
    return ACTIVATIONS[name](z)


@torch.no_grad()
def recognise(function: Callable[[Tensor], Tensor], owner: str) -> str:
    """The name in `ACTIVATIONS` of an element-wise function, found by its values on [−12, 12].

    Raises UserError, naming the `owner` whose activation function it is, when it is none of them.
    """
    # Values rather than names or classes: libraries give one function many of both, and the reverse.
    # Float64 and a fine grid: GELU and its tanh form are nearly the same function.
    z = torch.linspace(-12, 12, 4801, dtype=torch.float64)
    try:
        values = function(z)
    except (RuntimeError, TypeError, ValueError):
        values = torch.full_like(z, torch.nan)
    if values.shape == z.shape:
        for name, candidate in ACTIVATIONS.items():
            if (values - candidate(z)[0]).abs().max() < _SAME:
                return name
    name_of_function = getattr(function, "__name__", type(function).__name__)
    raise UserError(
        f"{owner} has activation {name_of_function}, whose derivative is not known here; covered: "
        f"{', '.join(ACTIVATIONS)}"
    )
