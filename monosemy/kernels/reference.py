"""The kernels in plain PyTorch: the definition of truth that every compiled backend is tested against.

Shapes: N token rows, F latents, D inputs, Z stored entries. Patterns are compressed rows (offsets int64 [N+1],
indices int32 [Z]) or, transposed, compressed columns (`Columns`). Nothing here carries a gradient: `ops` does that.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Pattern(NamedTuple):
    """Which latents are selected in each row: offsets int64 [N+1], indices int32 [Z]."""

    offsets: Tensor
    indices: Tensor


class Columns(NamedTuple):
    """The transpose of a pattern, by latent: offsets int64 [F+1]; entry z of latent f has token row `rows[z]` and
    stands at `order[z]` in the row-wise values. Rows ascend within a latent."""

    offsets: Tensor
    rows: Tensor
    order: Tensor


def rows_of(pattern: Pattern) -> Tensor:
    """Row number of every entry, int64 [Z]."""
    n_rows = pattern.offsets.shape[0] - 1
    rows = torch.arange(n_rows, device=pattern.offsets.device)
    return torch.repeat_interleave(rows, pattern.offsets.diff(), output_size=pattern.indices.shape[0])


def _pattern_of_mask(mask: Tensor) -> Pattern:
    offsets = torch.zeros(mask.shape[0] + 1, dtype=torch.int64, device=mask.device)
    torch.cumsum(mask.sum(1), 0, out=offsets[1:])
    return Pattern(offsets, mask.nonzero()[:, 1].to(torch.int32))


def select_topk(scores: Tensor, k: int) -> Pattern:
    """Per row the k largest entries of scores [N, F] that are positive (TopK, then ReLU). Ties at the k-th value:
    the lower index wins. Rows with fewer than k positives keep fewer. Indices ascend within a row."""
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    mask = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)
    return _pattern_of_mask(mask & (scores > 0))


def select_batch_topk(scores: Tensor, n_keep: int) -> tuple[Pattern, float]:
    """The n_keep largest positive entries of the whole batch [N, F] and the smallest value kept (0 if fewer than
    n_keep are positive). Ties at the cut: the earlier entry in row-major order wins."""
    flat = scores.flatten()
    order = flat.argsort(descending=True, stable=True)[:n_keep]
    mask = torch.zeros_like(flat, dtype=torch.bool).scatter_(0, order, True) & (flat > 0)
    n_kept = int(mask.sum())
    cut = float(flat[mask].min()) if n_kept == n_keep and n_kept > 0 else 0.0
    return _pattern_of_mask(mask.view_as(scores)), cut


def select_above(scores: Tensor, threshold: Tensor) -> Pattern:
    """Entries with scores[n, f] > threshold[f] (strict), indices ascending within a row."""
    return _pattern_of_mask(scores > threshold)


def take(scores: Tensor, pattern: Pattern) -> Tensor:
    """scores[n, f] at the pattern's entries, [Z]."""
    return scores[rows_of(pattern), pattern.indices.long()]


def decode(pattern: Pattern, values: Tensor, W_dec: Tensor, b_dec: Tensor) -> Tensor:
    """x̂_n = b_dec + Σ_f values[n, f] W_dec[f], [N, D]."""
    out = b_dec.expand(pattern.offsets.shape[0] - 1, -1).clone()
    return out.index_add_(0, rows_of(pattern), values[:, None] * W_dec[pattern.indices.long()])


def gather_dot(pattern: Pattern, left: Tensor, right: Tensor) -> Tensor:
    """left[n] · right[f] for every entry (n, f); left [N, D], right [F, D] → [Z]."""
    return (left[rows_of(pattern)] * right[pattern.indices.long()]).sum(1)


def transpose(pattern: Pattern, n_latents: int) -> Columns:
    """The pattern by latent, rows ascending within each."""
    latents = pattern.indices.long()
    order = latents.argsort(stable=True)
    offsets = torch.zeros(n_latents + 1, dtype=torch.int64, device=latents.device)
    torch.cumsum(torch.bincount(latents, minlength=n_latents), 0, out=offsets[1:])
    return Columns(offsets, rows_of(pattern)[order].to(torch.int32), order.to(torch.int32))


def accumulate(columns: Columns, values: Tensor, inputs: Tensor) -> Tensor:
    """Codesᵀ × inputs: row f is Σ_n values[n, f] inputs[n]; inputs [N, D] → [F, D]."""
    n_latents = columns.offsets.shape[0] - 1
    latents = torch.repeat_interleave(
        torch.arange(n_latents, device=inputs.device), columns.offsets.diff(), output_size=columns.rows.shape[0]
    )
    out = torch.zeros(n_latents, inputs.shape[1], dtype=inputs.dtype, device=inputs.device)
    return out.index_add_(0, latents, values[columns.order.long()][:, None] * inputs[columns.rows.long()])


def sum_by_latent(columns: Columns, values: Tensor) -> Tensor:
    """Σ over entries of each latent, [F]."""
    n_latents = columns.offsets.shape[0] - 1
    latents = torch.repeat_interleave(
        torch.arange(n_latents, device=values.device), columns.offsets.diff(), output_size=columns.rows.shape[0]
    )
    out = torch.zeros(n_latents, dtype=values.dtype, device=values.device)
    return out.index_add_(0, latents, values[columns.order.long()])


def squared_error(x: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
    """(‖x_n − x̂_n‖² [N], x̂ − x [N, D]): the loss of every row, and its gradient up to a factor.

    The losses are float32 at least.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    residual = reconstruction.to(wide) - x.to(wide)
    return residual.square().sum(1), residual.to(x.dtype)


def adam(
    parameter: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    step: int,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    unit_rows: bool,
) -> None:
    """One Adam step in place (Kingma & Ba 2015, bias-corrected); `step` counts from 1.

    With `unit_rows` the tensors are [F, D] with unit rows: the gradient's component along each row is removed before
    the step and the row is scaled back to unit length after it.
    """
    if unit_rows:
        gradient = gradient - (gradient * parameter).sum(1, keepdim=True) * parameter
    first.mul_(beta1).add_(gradient, alpha=1 - beta1)
    second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    denominator = (second / (1 - beta2**step)).sqrt_().add_(epsilon)
    parameter.addcdiv_(first, denominator, value=-learning_rate / (1 - beta1**step))
    if unit_rows:
        parameter.div_(parameter.norm(dim=1, keepdim=True).clamp_min_(torch.finfo(parameter.dtype).tiny))
