"""The kernels for CUDA tensors, in Triton: one pass over memory each, sums in float32.

Place: the GPU's side of `reference`, which defines every function here; selections and the fused encoder, which never
holds the pre-activations [N, F], are in `encode` and offered here under the same names.

    decode       x̂_n  = b_dec + Σ_f values[n, f] W_dec[f]       one program per row × block of D
    gather_dot   g_nf = left[n] · right[f]                      one program per row, over its entries
    accumulate   G_f  = Σ_n values[n, f] inputs[n]              one program per latent × block of D, by columns
    squared_error  ‖x̂_n − x_n‖² and x̂ − x                       one program per row
    adam         moments, projection, step and unit rows        one program per row (or block of elements)

Deterministic: every output is summed by one program in a fixed order; there are no atomics, so a run can be resumed
exactly. Deviation: in bfloat16 and float16 the sums are rounded once, at the end.
Limits: float32, bfloat16, float16; fewer than 2³¹ entries; `adam` holds a row of a unit-row matrix in registers; one
program walks all rows of a latent, so a latent that fires on every row sets the time of `accumulate`.
Without a GPU, TRITON_INTERPRET=1 (set before the first import) runs the same code on CPU tensors, slowly.
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

from subprocess import SubprocessError

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.errors import TritonError

from monosemy.kernels.cuda.encode import (
    encode_above,
    encode_batch_topk,
    encode_topk,
    select_above,
    select_batch_topk,
    select_topk,
)
from monosemy.kernels.reference import AdamStep, Columns, Pattern, rows_of

__all__ = [
    "accumulate",
    "adam",
    "decode",
    "encode_above",
    "encode_batch_topk",
    "encode_topk",
    "gather_dot",
    "select_above",
    "select_batch_topk",
    "select_topk",
    "squared_error",
    "sum_by_latent",
    "take",
]

ERRORS = (RuntimeError, TritonError, OSError, SubprocessError)
"""What is raised where a kernel cannot be compiled, also by a compiler that is run, or launched."""
ENTRIES = 16
"""Entries whose rows a program loads at once."""
WIDTH = 256
"""Components of D that a program holds."""
ELEMENTS = 1024
"""Elements per program in `adam` without unit rows."""


@triton.jit
def _take(scores, row_stride, column_stride, offsets, indices, out, BLOCK: tl.constexpr):
    n = tl.program_id(0).to(tl.int64)
    end = tl.load(offsets + n + 1)
    for first in range(tl.load(offsets + n), end, BLOCK):
        z = first + tl.arange(0, BLOCK)
        latent = tl.load(indices + z, mask=z < end, other=0).to(tl.int64)
        score = tl.load(scores + n * row_stride + latent * column_stride, mask=z < end, other=0.0)
        tl.store(out + z, score, mask=z < end)


@triton.jit
def _decode(offsets, indices, values, matrix, bias, out, n_inputs, BLOCK_Z: tl.constexpr, BLOCK_D: tl.constexpr):
    # A program owns BLOCK_D components of one row; BLOCK_Z gathered decoder rows are in flight at once. 64-bit row
    # numbers: n · D passes 2³¹ long before memory ends.
    n = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = d < n_inputs
    end = tl.load(offsets + n + 1)
    total = tl.load(bias + d, mask=inside, other=0.0).to(tl.float32)
    for first in range(tl.load(offsets + n), end, BLOCK_Z):
        z = first + tl.arange(0, BLOCK_Z)
        stored = z < end
        latent = tl.load(indices + z, mask=stored, other=0).to(tl.int64)
        value = tl.load(values + z, mask=stored, other=0.0).to(tl.float32)
        mask = stored[:, None] & inside[None, :]
        rows = tl.load(matrix + latent[:, None] * n_inputs + d[None, :], mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(value[:, None] * rows, 0)
    tl.store(out + n * n_inputs + d, total, mask=inside)


@triton.jit
def _gather_dot(offsets, indices, left, right, out, n_inputs, BLOCK_Z: tl.constexpr, BLOCK_D: tl.constexpr):
    n = tl.program_id(0).to(tl.int64)
    end = tl.load(offsets + n + 1)
    for first in range(tl.load(offsets + n), end, BLOCK_Z):
        z = first + tl.arange(0, BLOCK_Z)
        stored = z < end
        latent = tl.load(indices + z, mask=stored, other=0).to(tl.int64)
        total = tl.zeros([BLOCK_Z], tl.float32)  # BLOCK_Z dot products side by side, one a lane
        for start in range(0, n_inputs, BLOCK_D):
            d = start + tl.arange(0, BLOCK_D)
            inside = d < n_inputs
            row = tl.load(left + n * n_inputs + d, mask=inside, other=0.0).to(tl.float32)
            mask = stored[:, None] & inside[None, :]
            block = tl.load(right + latent[:, None] * n_inputs + d[None, :], mask=mask, other=0.0).to(tl.float32)
            total += tl.sum(row[None, :] * block, 1)
        tl.store(out + z, total, mask=stored)


@triton.jit
def _accumulate(offsets, rows, order, values, inputs, out, n_inputs, BLOCK_Z: tl.constexpr, BLOCK_D: tl.constexpr):
    # By latent: one program sums all rows of a latent in row order, so no atomics and the same sum every time.
    f = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = d < n_inputs
    end = tl.load(offsets + f + 1)
    total = tl.zeros([BLOCK_D], tl.float32)
    for first in range(tl.load(offsets + f), end, BLOCK_Z):
        z = first + tl.arange(0, BLOCK_Z)
        stored = z < end
        row = tl.load(rows + z, mask=stored, other=0).to(tl.int64)
        value = tl.load(values + tl.load(order + z, mask=stored, other=0), mask=stored, other=0.0).to(tl.float32)
        mask = stored[:, None] & inside[None, :]
        block = tl.load(inputs + row[:, None] * n_inputs + d[None, :], mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(value[:, None] * block, 0)
    tl.store(out + f * n_inputs + d, total, mask=inside)


@triton.jit
def _sum_by_latent(offsets, order, values, out, BLOCK: tl.constexpr):
    f = tl.program_id(0).to(tl.int64)
    end = tl.load(offsets + f + 1)
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(tl.load(offsets + f), end, BLOCK):
        z = first + tl.arange(0, BLOCK)
        at = tl.load(order + z, mask=z < end, other=0)
        total += tl.load(values + at, mask=z < end, other=0.0).to(tl.float32)
    tl.store(out + f, tl.sum(total, 0))


@triton.jit
def _adam(
    parameter,
    gradient,
    first,
    second,
    n_elements,
    width,
    rate,
    beta1,
    rest1,
    beta2,
    rest2,
    scale2,
    epsilon,
    UNIT_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # One row a program (or one block of elements where rows need not be of unit length), read and written once.
    column = tl.arange(0, BLOCK)
    at = tl.program_id(0).to(tl.int64) * width + column
    inside = (column < width) & (at < n_elements)
    p = tl.load(parameter + at, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
    if UNIT_ROWS:
        g -= tl.sum(g * p, 0) * p
    m = beta1 * tl.load(first + at, mask=inside, other=0.0).to(tl.float32) + rest1 * g
    v = beta2 * tl.load(second + at, mask=inside, other=0.0).to(tl.float32) + rest2 * g * g
    p -= rate * m / (tl.sqrt(v * scale2) + epsilon)
    if UNIT_ROWS:
        # Elements past the row's end may hold 0/0 where ε is zero.
        p = tl.where(inside, p, 0.0)
        p /= tl.maximum(tl.sqrt(tl.sum(p * p, 0)), 1e-30)
    tl.store(first + at, m, mask=inside)
    tl.store(second + at, v, mask=inside)
    tl.store(parameter + at, p, mask=inside)


@triton.jit
def _squared_error(x, reconstruction, sums, residual, n_inputs, BLOCK_D: tl.constexpr):
    n = tl.program_id(0).to(tl.int64)
    total = tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, n_inputs, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        inside = d < n_inputs
        at = n * n_inputs + d
        target = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        difference = tl.load(reconstruction + at, mask=inside, other=0.0).to(tl.float32) - target
        tl.store(residual + at, difference, mask=inside)
        total += difference * difference
    tl.store(sums + n, tl.sum(total, 0))


def _grid(n_programs: int, n_inputs: int) -> tuple[tuple[int, int], dict[str, int]]:
    """(launch grid, block sizes) of a product whose programs own a block of D."""
    width = min(WIDTH, triton.next_power_of_2(n_inputs))
    return (n_programs, triton.cdiv(n_inputs, width)), {"BLOCK_Z": ENTRIES, "BLOCK_D": width}


def take(scores: Tensor, pattern: Pattern) -> Tensor:
    out = scores.new_empty(pattern.indices.shape[0])
    grid = (scores.shape[0],)
    _take[grid](scores, *scores.stride(), pattern.offsets, pattern.indices, out, BLOCK=128)
    return out


def decode(pattern: Pattern, values: Tensor, W_dec: Tensor, b_dec: Tensor) -> Tensor:
    n_inputs = W_dec.shape[1]
    out = b_dec.new_empty(pattern.offsets.shape[0] - 1, n_inputs)
    grid, blocks = _grid(out.shape[0], n_inputs)
    tensors = (pattern.offsets, pattern.indices, values.contiguous(), W_dec.contiguous(), b_dec.contiguous(), out)
    _decode[grid](*tensors, n_inputs, **blocks)
    return out


def gather_dot(pattern: Pattern, left: Tensor, right: Tensor) -> Tensor:
    out = left.new_empty(pattern.indices.shape[0])
    (n_rows, _), blocks = _grid(left.shape[0], left.shape[1])
    tensors = (pattern.offsets, pattern.indices, left.contiguous(), right.contiguous(), out)
    _gather_dot[(n_rows,)](*tensors, left.shape[1], **blocks)
    return out


def transpose(pattern: Pattern, n_latents: int) -> Columns:
    # A stable sort keeps rows ascending; the offsets are read off it, since counting would need atomics or a sync.
    latents, order = pattern.indices.sort(stable=True)
    bounds = torch.arange(n_latents + 1, dtype=latents.dtype, device=latents.device)
    offsets = torch.searchsorted(latents, bounds)
    return Columns(offsets, rows_of(pattern)[order].to(torch.int32), order.to(torch.int32))


def accumulate(columns: Columns, values: Tensor, inputs: Tensor) -> Tensor:
    n_inputs = inputs.shape[1]
    out = inputs.new_empty(columns.offsets.shape[0] - 1, n_inputs)
    grid, blocks = _grid(out.shape[0], n_inputs)
    _accumulate[grid](*columns, values.contiguous(), inputs.contiguous(), out, n_inputs, **blocks)
    return out


def sum_by_latent(columns: Columns, values: Tensor) -> Tensor:
    out = values.new_empty(columns.offsets.shape[0] - 1)
    grid = (out.shape[0],)
    _sum_by_latent[grid](columns.offsets, columns.order, values.contiguous(), out, BLOCK=128, num_warps=1)
    return out


def squared_error(x: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
    sums = torch.empty(len(x), dtype=torch.float32, device=x.device)
    x, reconstruction = x.contiguous(), reconstruction.contiguous()
    residual = torch.empty_like(x)
    _squared_error[(len(x),)](x, reconstruction, sums, residual, x.shape[1], BLOCK_D=WIDTH)
    return sums, residual


def adam(
    parameter: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    options: AdamStep,
) -> None:
    """In place on contiguous tensors. `1 − β` is taken in double precision: in float32 1 − 0.999 is off by 1e-5."""
    width = parameter.shape[-1] if options.unit_rows else ELEMENTS
    block = triton.next_power_of_2(width)
    beta1, beta2 = options.beta1, options.beta2
    scalars = (options.rate, beta1, 1 - beta1, beta2, 1 - beta2, options.second_scale, options.epsilon)
    tensors = (parameter, gradient.contiguous(), first, second)
    grid = (triton.cdiv(parameter.numel(), width),)
    _adam[grid](
        *tensors,
        parameter.numel(),
        width,
        *(float(s) for s in scalars),
        UNIT_ROWS=options.unit_rows,
        BLOCK=block,
        num_warps=min(32, max(4, block // 256)),
    )
