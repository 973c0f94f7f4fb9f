"""The reconstructions of all prefixes of a dictionary, at the cost of one sparse decoding.

    x̂_nj = b + Σ_{f < w_j} v_nf W[f],   error = Σ_nj ‖x_n − x̂_nj‖² / (N P),   w_1 < … < w_P = F

Level l holds the latents from w_{l−1} to w_l − 1, so x̂_nj is the sum of the parts of the levels up to j. Latents
ascend within a row of a pattern: its entries stand level after level already, and cutting each row into P (row n P + l
holds what row n has at level l) changes the offsets alone. The kernels of `dispatch` then decode [N P, D] parts as they
decode rows.

Backward: with g_nj = 2 (x̂_nj − x_n) / (N P), an entry at level l takes part in x̂_nl … x̂_nP, so what reaches part (n, l)
is Σ_{j ≥ l} g_nj: a running sum from the last level down, and again one pass over the entries.
Gradients flow to: x, values, W_dec, b_dec. Besides the entries, the cost is a few passes over [N, P, D].
"""

# mypy: disable-error-code="override"
from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from monosemy.kernels import ops
from monosemy.kernels.reference import Columns, Pattern
from monosemy.shapes import Activations, DecoderMatrix, PerEntry, PerInput, Scalar


class Levels(NamedTuple):
    """A pattern whose rows are cut by level: row n P + l holds what row n has at level l, of P."""

    pattern: Pattern
    columns: Columns
    n_levels: int


def levels_of(pattern: Pattern, columns: Columns, widths: tuple[int, ...]) -> Levels:
    """Cuts the rows of a pattern by level, and those of its transpose; the last of the widths is the dictionary's."""
    n_levels, device = len(widths), pattern.indices.device
    level = torch.bucketize(pattern.indices, torch.tensor(widths, dtype=torch.int32, device=device), right=True)
    # The entries keep their order, so a row's cut follows from how many entries of it each level has.
    n_rows = pattern.offsets.shape[0] - 1
    rows = torch.repeat_interleave(torch.arange(n_rows, device=device), pattern.offsets.diff(), output_size=len(level))
    offsets = pattern.offsets.new_zeros(n_rows * n_levels + 1)
    torch.cumsum(torch.bincount(rows * n_levels + level, minlength=n_rows * n_levels), 0, out=offsets[1:])
    cut_rows = columns.rows * n_levels + level.to(torch.int32)[columns.order.long()]
    return Levels(Pattern(offsets, pattern.indices), columns._replace(rows=cut_rows), n_levels)


class _NestedError(Function):
    """(error, x̂ of the last level) of the parts [N, P, D]; the gradient of the error alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, parts: Tensor, b_dec: Tensor) -> tuple[Tensor, Tensor]:
        residuals = torch.empty_like(parts)
        torch.add(parts[:, 0], b_dec, out=residuals[:, 0])
        for level in range(1, parts.shape[1]):
            torch.add(residuals[:, level - 1], parts[:, level], out=residuals[:, level])
        reconstruction = residuals[:, -1].clone()
        residuals.sub_(x[:, None])
        ctx.save_for_backward(residuals)
        ctx.mark_non_differentiable(reconstruction)
        wide = torch.promote_types(x.dtype, torch.float32)  # sums of squares, as in `reference.squared_error`
        return residuals.to(wide).square().sum() / (len(x) * parts.shape[1]), reconstruction

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (residuals,) = ctx.saved_tensors
        slopes = residuals * (2 * grad / (residuals.shape[0] * residuals.shape[1])).to(residuals.dtype)
        for level in range(slopes.shape[1] - 2, -1, -1):
            slopes[:, level] += slopes[:, level + 1]
        all_levels = slopes[:, 0]
        return -all_levels if ctx.needs_input_grad[0] else None, slopes, all_levels.sum(0)


def nested_error(
    x: Activations, values: PerEntry, W_dec: DecoderMatrix, b_dec: PerInput, *, levels: Levels
) -> tuple[Scalar, Activations]:
    """(the mean over prefixes of mean_n ‖x_n − x̂_nj‖², with gradient; x̂ [N, D] of the last prefix, without)."""
    nothing = W_dec.new_zeros(W_dec.shape[1])  # the bias belongs to a row once, not to each of its levels
    parts = ops.decode_selected(values, W_dec, nothing, levels.pattern, columns=levels.columns)
    return _NestedError.apply(x, parts.view(len(x), levels.n_levels, -1), b_dec)
