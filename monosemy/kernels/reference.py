"""The kernels in plain PyTorch: the definition of truth that every compiled backend is tested against.

Shapes: N token rows, F latents, D inputs, Z stored entries. Patterns are compressed rows (offsets int64 [N+1],
indices int32 [Z]) or, transposed, compressed columns (`Columns`). Nothing here carries a gradient: `ops` does that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from monosemy.shapes import Activations, DecoderMatrix, EntryNumbers, PerEntry, PerInput, PerLatent, PerToken, PreActs


class Pattern(NamedTuple):
    """Which latents are selected in each row: offsets int64 [N+1], indices int32 [Z]."""

    offsets: Int64[Tensor, " n_plus_1"]
    indices: Int32[Tensor, " z"]


@dataclass(frozen=True)
class AdamStep:
    """One step of Adam: its number, counted from 1, and its settings. `unit_rows`: the tensors are [F, D] with unit
    rows, and stay so."""

    step: int
    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    unit_rows: bool

    @property
    def rate(self) -> float:
        """The learning rate over the first moment's bias correction, 1 − β₁ᵗ."""
        return self.learning_rate / (1 - self.beta1**self.step)

    @property
    def second_scale(self) -> float:
        """The second moment's bias correction, 1 / (1 − β₂ᵗ)."""
        return 1 / (1 - self.beta2**self.step)


class Columns(NamedTuple):
    """The transpose of a pattern, by latent: offsets int64 [F+1]; entry z of latent f has token row `rows[z]` and
    stands at `order[z]` in the row-wise values. Rows ascend within a latent."""

    offsets: Int64[Tensor, " d_sae_plus_1"]
    rows: Int32[Tensor, " z"]
    order: Int32[Tensor, " z"]


def rows_of(pattern: Pattern) -> EntryNumbers:
    """Row number of every entry, int64 [Z]."""
    n_rows = pattern.offsets.shape[0] - 1
    rows = torch.arange(n_rows, device=pattern.offsets.device)
    return torch.repeat_interleave(rows, pattern.offsets.diff(), output_size=pattern.indices.shape[0])


def _pattern_of_mask(mask: Tensor) -> Pattern:
    offsets = torch.zeros(mask.shape[0] + 1, dtype=torch.int64, device=mask.device)
    torch.cumsum(mask.sum(1), 0, out=offsets[1:])
    return Pattern(offsets, mask.nonzero()[:, 1].to(torch.int32))


def select_topk(scores: PreActs, k: int) -> Pattern:
    """Per row the k largest entries of scores [N, F] that are positive (TopK, then ReLU). Ties at the k-th value:
    the lower index wins. Rows with fewer than k positives keep fewer. Indices ascend within a row."""
    # A stable sort is what gives ties to the lower index.
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    mask = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)
    return _pattern_of_mask(mask & (scores > 0))


def select_batch_topk(scores: PreActs, n_keep: int) -> tuple[Pattern, float]:
    """The n_keep largest positive entries of the whole batch [N, F] and the smallest value kept (0 if fewer than
    n_keep are positive). Ties at the cut: the earlier entry in row-major order wins."""
    flat = scores.flatten()
    order = flat.argsort(descending=True, stable=True)[:n_keep]
    # Chosen first, positive second: what is not positive takes a place but is not selected.
    mask = torch.zeros_like(flat, dtype=torch.bool).scatter_(0, order, True) & (flat > 0)
    n_kept = int(mask.sum())
    cut = float(flat[mask].min()) if n_kept == n_keep and n_kept > 0 else 0.0
    return _pattern_of_mask(mask.view_as(scores)), cut


def select_above(scores: PreActs, threshold: PerLatent) -> Pattern:
    """Entries with scores[n, f] > threshold[f] (strict), indices ascending within a row."""
    return _pattern_of_mask(scores > threshold)


def take(scores: PreActs, pattern: Pattern) -> PerEntry:
    """scores[n, f] at the pattern's entries, [Z]."""
    return scores[rows_of(pattern), pattern.indices.long()]


def decode(pattern: Pattern, values: PerEntry, W_dec: DecoderMatrix, b_dec: PerInput) -> Activations:
    """x̂_n = b_dec + Σ_f values[n, f] W_dec[f], [N, D]."""
    out = b_dec.expand(pattern.offsets.shape[0] - 1, -1).clone()
    return out.index_add_(0, rows_of(pattern), values[:, None] * W_dec[pattern.indices.long()])


def gather_dot(pattern: Pattern, left: Activations, right: DecoderMatrix) -> PerEntry:
    """left[n] · right[f] for every entry (n, f); left [N, D], right [F, D] → [Z]."""
    return (left[rows_of(pattern)] * right[pattern.indices.long()]).sum(1)


def transpose(pattern: Pattern, n_latents: int) -> Columns:
    """The pattern by latent, rows ascending within each."""
    latents = pattern.indices.long()
    order = latents.argsort(stable=True)
    offsets = torch.zeros(n_latents + 1, dtype=torch.int64, device=latents.device)
    torch.cumsum(torch.bincount(latents, minlength=n_latents), 0, out=offsets[1:])
    return Columns(offsets, rows_of(pattern)[order].to(torch.int32), order.to(torch.int32))


def accumulate(columns: Columns, values: PerEntry, inputs: Activations) -> DecoderMatrix:
    """Codesᵀ × inputs: row f is Σ_n values[n, f] inputs[n]; inputs [N, D] → [F, D]."""
    n_latents = columns.offsets.shape[0] - 1
    latents = torch.repeat_interleave(
        torch.arange(n_latents, device=inputs.device), columns.offsets.diff(), output_size=columns.rows.shape[0]
    )
    out = torch.zeros(n_latents, inputs.shape[1], dtype=inputs.dtype, device=inputs.device)
    return out.index_add_(0, latents, values[columns.order.long()][:, None] * inputs[columns.rows.long()])


def sum_by_latent(columns: Columns, values: PerEntry) -> PerLatent:
    """Σ over entries of each latent, [F]."""
    n_latents = columns.offsets.shape[0] - 1
    latents = torch.repeat_interleave(
        torch.arange(n_latents, device=values.device), columns.offsets.diff(), output_size=columns.rows.shape[0]
    )
    out = torch.zeros(n_latents, dtype=values.dtype, device=values.device)
    return out.index_add_(0, latents, values[columns.order.long()])


def squared_error(x: Activations, reconstruction: Activations) -> tuple[PerToken, Activations]:
    """(‖x_n − x̂_n‖² [N], x̂ − x [N, D]): the loss of every row, and its gradient up to a factor.

    The losses are float32 at least.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    residual = reconstruction.to(wide) - x.to(wide)
    return residual.square().sum(1), residual.to(x.dtype)


def adam(
    parameter: Float[Tensor, "*shape"],
    gradient: Float[Tensor, "*shape"],
    first: Float[Tensor, "*shape"],
    second: Float[Tensor, "*shape"],
    *,
    options: AdamStep,
) -> None:
    """One Adam step in place (Kingma & Ba 2015, bias-corrected).

    With `options.unit_rows` the gradient's component along each row is removed before the step, and the row is scaled
    back to unit length after it.
    """
    beta1, beta2 = options.beta1, options.beta2
    if options.unit_rows:
        gradient = gradient - (gradient * parameter).sum(1, keepdim=True) * parameter
    first.mul_(beta1).add_(gradient, alpha=1 - beta1)
    second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    denominator = (second / (1 - beta2**options.step)).sqrt_().add_(options.epsilon)
    parameter.addcdiv_(first, denominator, value=-options.rate)
    if options.unit_rows:
        parameter.div_(parameter.norm(dim=1, keepdim=True).clamp_min_(torch.finfo(parameter.dtype).tiny))
