"""Products of gathered rows, token by token: the k×k slices of an MLP's Jacobian and their gradient.

Token n selects rows of three tables: A of T_in and T_up (input latents), B of T_out (output latents). With its two
diagonals a_n, b_n [h] (b None for a plain MLP):

    R_n = a_n ⊙ T_in[A] + b_n ⊙ T_up[A]   [kx, h]
    J_n = T_out[B] R_nᵀ                   [ky, kx]

and for a given slope S_n = ∂L/∂J_n:  ∂R_n = S_nᵀ T_out[B], ∂T_in[A] += a_n ⊙ ∂R_n, ∂T_up[A] += b_n ⊙ ∂R_n,
∂T_out[B] += S_n R_n, ∂a_n = Σ_j T_in[A_j] ⊙ ∂R_nj, ∂b_n likewise.

J and S are flat: token n's entries are at pair_offsets[n] … pair_offsets[n + 1], output latent by output latent. h
may be a part of the hidden width: `slices` adds to what is there. 2·k²·h operations a token for the slice and twice
that for the gradient. Here is PyTorch's form (any device, padded, `CHUNK` tokens at a time) and the choice of the
backend; on the CPU float32 and float64 run `kernels.cpu.jacobian`. Nothing carries a gradient.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monosemy.kernels import dispatch
from monosemy.kernels.factors import Factors, Gradients
from monosemy.kernels.reference import Pattern, rows_of
from monosemy.shapes import PerEntry

PairOffsets: TypeAlias = Int64[Tensor, " n_plus_1"]
"""Where the entries of each token's J begin among the flat ones, and where the last token's end."""

CHUNK = 64
"""Tokens whose gathered rows PyTorch's form holds at a time."""


def pair_offsets(inputs: Pattern, outputs: Pattern) -> PairOffsets:
    """Where each token's kx·ky entries begin, int64 [N + 1]."""
    offsets = torch.zeros_like(inputs.offsets)
    torch.cumsum(inputs.offsets.diff() * outputs.offsets.diff(), 0, out=offsets[1:])
    return offsets


def slices(factors: Factors, pairs: PairOffsets, out: PerEntry) -> None:
    """Adds J of every token to `out`, flat, at the offsets `pairs`."""
    with torch.no_grad():
        if _compiled(factors.T_out):
            from monosemy.kernels.cpu import jacobian as cpu_jacobian

            cpu_jacobian.slices(factors, pairs, out)
        else:
            slices_in_torch(factors, pairs, out)


def gradients(factors: Factors, pairs: PairOffsets, slope: PerEntry, *, diagonals: bool) -> Gradients:
    """The factors' gradients for a slope ∂L/∂J, flat; those of a and b where `diagonals` asks for them."""
    with torch.no_grad():
        if _compiled(factors.T_out):
            from monosemy.kernels.cpu import jacobian as cpu_jacobian

            return cpu_jacobian.gradients(factors, pairs, slope, diagonals=diagonals)
        return gradients_in_torch(factors, pairs, slope, diagonals=diagonals)


def _compiled(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64)


class _Padded(NamedTuple):
    """The factors of a chunk of tokens, padded so that all tokens have as many active latents as the one with most.

    J of the chunk is Q Rᵀ. R and Q are zero on padding, where the masks are False.
    """

    R: Float[Tensor, "n k_in d_ff"]
    Q: Float[Tensor, "n k_out d_ff"]
    inputs: Int64[Tensor, "n k_in"]
    outputs: Int64[Tensor, "n k_out"]
    in_mask: Bool[Tensor, "n k_in"]
    out_mask: Bool[Tensor, "n k_out"]


def padded(pattern: Pattern, first: int, last: int) -> tuple[Int64[Tensor, "n k"], Bool[Tensor, "n k"]]:
    """Rows `first` to `last` (not included) of a pattern, all padded to the length K of the longest.

    Returns the indices, int64 [n, K] with 0 on padding, and a mask, bool [n, K], that is False on padding.
    """
    part = Pattern(
        pattern.offsets[first : last + 1] - pattern.offsets[first],
        pattern.indices[int(pattern.offsets[first]) : int(pattern.offsets[last])],
    )
    counts = part.offsets.diff()
    width = int(counts.max()) if len(counts) else 0
    mask = torch.arange(width, device=counts.device) < counts[:, None]
    indices = torch.zeros(mask.shape, dtype=torch.int64, device=counts.device)
    indices[mask] = part.indices.long()
    return indices, mask


def _chunk(factors: Factors, first: int, last: int) -> _Padded:
    inputs, in_mask = padded(factors.inputs, first, last)
    outputs, out_mask = padded(factors.outputs, first, last)
    R = factors.T_in[inputs] * factors.a[first:last, None]
    if factors.b is not None and factors.T_up is not None:
        # In place: R is the largest of the temporaries, [CHUNK, kx, h].
        R.addcmul_(factors.T_up[inputs], factors.b[first:last, None])
    Q = factors.T_out[outputs] * out_mask[:, :, None]
    return _Padded(R.mul_(in_mask[:, :, None]), Q, inputs, outputs, in_mask=in_mask, out_mask=out_mask)


def _each(factors: Factors) -> list[tuple[int, int]]:
    n_tokens = len(factors.a)
    return [(first, min(first + CHUNK, n_tokens)) for first in range(0, n_tokens, CHUNK)]


def slices_in_torch(factors: Factors, pairs: PairOffsets, out: PerEntry) -> None:
    for first, last in _each(factors):
        chunk = _chunk(factors, first, last)
        J = chunk.Q @ chunk.R.mT
        # A mask reads row by row: the flat order of J, output latent by output latent.
        out[pairs[first] : pairs[last]] += J[chunk.out_mask[:, :, None] & chunk.in_mask[:, None, :]]


def gradients_in_torch(factors: Factors, pairs: PairOffsets, slope: PerEntry, *, diagonals: bool) -> Gradients:
    gated = factors.b is not None
    d_in, d_out = torch.zeros_like(factors.T_in), torch.zeros_like(factors.T_out)
    d_up = torch.zeros_like(factors.T_up) if factors.T_up is not None else None
    d_a = torch.zeros_like(factors.a) if diagonals else None
    d_b = torch.zeros_like(factors.b) if diagonals and factors.b is not None else None
    for first, last in _each(factors):
        chunk = _chunk(factors, first, last)
        mask = chunk.out_mask[:, :, None] & chunk.in_mask[:, None, :]
        S = torch.zeros(mask.shape, dtype=slope.dtype, device=slope.device)
        S[mask] = slope[pairs[first] : pairs[last]]
        d_R = S.mT @ chunk.Q
        _scatter(d_out, chunk.outputs, chunk.out_mask, S @ chunk.R)
        _scatter(d_in, chunk.inputs, chunk.in_mask, d_R * factors.a[first:last, None])
        if d_a is not None:
            d_a[first:last] = (d_R * factors.T_in[chunk.inputs]).sum(1)
        if gated and d_up is not None and factors.b is not None and factors.T_up is not None:
            _scatter(d_up, chunk.inputs, chunk.in_mask, d_R * factors.b[first:last, None])
            if d_b is not None:
                d_b[first:last] = (d_R * factors.T_up[chunk.inputs]).sum(1)
    return Gradients(d_in, d_up, d_out, d_a, b=d_b)


def _scatter(out: Tensor, indices: Tensor, mask: Tensor, rows: Tensor) -> None:
    """out[indices[n, k]] += rows[n, k], summed in a fixed order (the kernels' own accumulation)."""
    entries = indices[mask].to(torch.int32)
    each = torch.arange(len(entries) + 1, device=entries.device)
    columns = dispatch.transpose(Pattern(each, entries), len(out))
    out += dispatch.accumulate(columns, torch.ones(len(entries), dtype=rows.dtype, device=rows.device), rows[mask])


def rows_subset(
    pattern: Pattern, values: PerEntry, rows: Int64[Tensor, " drawn"]
) -> tuple[Pattern, Float[Tensor, " subset"]]:
    """The pattern and its values [Z] at the token rows `rows` (int64, any order) alone."""
    counts = pattern.offsets.diff()[rows]
    offsets = torch.zeros(len(rows) + 1, dtype=torch.int64, device=rows.device)
    torch.cumsum(counts, 0, out=offsets[1:])
    subset = Pattern(offsets, pattern.indices[:0].new_empty(int(offsets[-1])))
    entry_rows = rows_of(subset)
    entries = (
        pattern.offsets[rows][entry_rows] + torch.arange(len(entry_rows), device=rows.device) - offsets[entry_rows]
    )
    return Pattern(offsets, pattern.indices[entries]), values[entries]
