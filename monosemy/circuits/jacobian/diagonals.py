"""The MLP's slopes and output over a whole batch, a few rows at a time: memory that does not grow with what makes them.

Place on the path: an MLP's weights (`weights`), rows x → **a, b [N, h]**, **y [N, d]** → the penalty and the slices.

    a, b = slopes(x) (`MlpWeights.slopes`)        ∂x = Σ over a and b of (∂a/∂x)ᵀ ∂a, rows by themselves

The diagonals are made `ROWS` at a time into two arrays; the backward pass makes them again, part by part, instead of
keeping the dozen arrays that autograd would: twice the products with W_in and W_up, a small share of a step.
"""

# mypy: disable-error-code="override"
from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

if TYPE_CHECKING:
    from monosemy.circuits.jacobian.weights import MlpWeights

ROWS = 256
"""Rows made at a time."""
SCRATCH, SCRATCH_BACK = 9, 20
"""Arrays [rows, h] that making the diagonals of some rows takes, results included; with autograd's, going back."""


class _Diagonals(Function):
    """x → a, b (None for a plain MLP)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: MlpWeights) -> tuple[Tensor, Tensor | None]:
        ctx.save_for_backward(x)
        ctx.weights = weights
        a = x.new_empty(len(x), weights.d_ff)
        b = torch.empty_like(a) if weights.gated else None
        for rows in _parts(len(x)):
            first, second = weights.slopes(x[rows])
            a[rows] = first
            if b is not None and second is not None:
                b[rows] = second
        return a, b

    @staticmethod
    def backward(ctx: Any, d_a: Tensor, d_b: Tensor | None) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        d_x = torch.empty_like(x)
        for rows in _parts(len(x)):
            with torch.enable_grad():
                part = x[rows].detach().requires_grad_()
                slopes = [slope for slope in ctx.weights.slopes(part) if slope is not None]
            gradients = [gradient[rows] for gradient in (d_a, d_b) if gradient is not None]
            (d_x[rows],) = torch.autograd.grad(slopes, part, gradients)
        return d_x, None


def diagonals(weights: MlpWeights, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """a, b of every row (`MlpWeights.slopes`); gradient to x."""
    return _Diagonals.apply(x, weights)


@torch.no_grad()
def outputs(weights: MlpWeights, x: Tensor, max_memory: int) -> Tensor:
    """y [N, d_out], no gradient; temporary arrays take at most half of max_memory bytes, or one row's."""
    y = x.new_empty(len(x), weights.d_out)
    n_rows = max_memory // (2 * SCRATCH * weights.d_ff * x.element_size())
    for rows in _parts(len(x), min(ROWS, max(1, n_rows))):
        y[rows] = weights.output(x[rows])
    return y


def _parts(n: int, n_rows: int = ROWS) -> Iterator[slice]:
    return (slice(first, min(n, first + n_rows)) for first in range(0, n, n_rows))
