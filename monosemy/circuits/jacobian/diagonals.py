"""The MLP's slopes and output over a whole batch, a few rows at a time, so that temporary arrays do not grow with it.

Place on the path: an MLP's weights (`weights`), rows x → **a, b [N, h]**, **y [N, d]** → the penalty and the slices.

    a, b = slopes(x) (`MlpWeights.slopes`)        ∂x = (∂a/∂x)ᵀ ∂a + (∂b/∂x)ᵀ ∂b, each row by itself

The diagonals are computed `ROWS` rows at a time into two arrays. The backward pass computes them again, part by part,
instead of keeping the dozen arrays that autograd would save: this doubles the products with W_in and W_up, a small
share of a training step.
"""

# mypy: disable-error-code="override"
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from monosemy.circuits.jacobian.weights import MlpWeights, Slopes
from monosemy.shapes import Activations

ROWS = 256
"""Rows that are computed at a time."""
SCRATCH, SCRATCH_BACK = 9, 20
"""How many arrays [rows, h] the diagonals of some rows take while they are computed, results included: in the forward
pass, and in the backward pass with autograd's own."""


class _Diagonals(Function):
    """Autograd's node for x → a, b (b None for a plain MLP); only x is saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: MlpWeights) -> tuple[Tensor, Tensor | None]:
        ctx.save_for_backward(x)
        ctx.weights = weights
        a = x.new_empty(len(x), weights.d_ff)
        b = torch.empty_like(a) if weights.gated else None
        for rows in parts(len(x)):
            first, second = weights.slopes(x[rows])
            a[rows] = first
            if b is not None and second is not None:
                b[rows] = second
        return a, b

    @staticmethod
    def backward(ctx: Any, d_a: Tensor, d_b: Tensor | None) -> tuple[Tensor, None]:
        # Checkpointing by hand: the graph of one part of the rows is built, differentiated and dropped.
        (x,) = ctx.saved_tensors
        d_x = torch.empty_like(x)
        for rows in parts(len(x)):
            with torch.enable_grad():
                part = x[rows].detach().requires_grad_()
                slopes = [slope for slope in ctx.weights.slopes(part) if slope is not None]
            gradients = [gradient[rows] for gradient in (d_a, d_b) if gradient is not None]
            (d_x[rows],) = torch.autograd.grad(slopes, part, gradients)
        return d_x, None


def diagonals(weights: MlpWeights, x: Activations) -> Slopes:
    """a, b [N, d_ff] of every row of x [N, d_in] (`MlpWeights.slopes`; b None for a plain MLP); gradient to x."""
    return _Diagonals.apply(x, weights)


@torch.no_grad()
def outputs(weights: MlpWeights, x: Activations, max_memory: int) -> Float[Tensor, "n d_out"]:
    """The MLP's output y [N, d_out] for x [N, d_in], without gradient.

    Temporary arrays take at most half of max_memory bytes, or what one row needs if that is more.
    """
    y = x.new_empty(len(x), weights.d_out)
    n_rows = max_memory // (2 * SCRATCH * weights.d_ff * x.element_size())
    for rows in parts(len(x), min(ROWS, max(1, n_rows))):
        y[rows] = weights.output(x[rows])
    return y


def parts(n: int, n_rows: int = ROWS) -> Iterator[slice]:
    """Slices of at most n_rows of n rows, in order."""
    return (slice(first, min(n, first + n_rows)) for first in range(0, n, n_rows))
