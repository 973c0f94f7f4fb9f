"""`kernels.jacobian` compiled for CPUs by numba: gathered rows stay in the cache, nothing padded, no copies of tables.

`slices` shares the tokens among the threads: a token's rows R_n are made block by block of the hidden width and
multiplied in tiles of 4×4 rows, sixteen sums at a time. `gradients` shares the hidden width among the threads instead:
each task owns `COLUMNS` columns of the tables' gradients and passes over all tokens, so that no two threads add to the
same place and every sum has one order (exact resume). Much narrower tasks are bound by cache misses (64 columns: a half
slower). Definitions: `jacobian`. Limits: contiguous float32 or float64 tensors on the CPU; no more threads than hidden
width / `COLUMNS` are used for the gradient.
"""

# mypy: disable-error-code="untyped-decorator,call-arg"
from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import torch

from monosemy.kernels.factors import Factors, Gradients

BLOCK, COLUMNS = 256, 256
"""Columns of the hidden width at a time: of a token's rows R_n; of a task of the gradient."""
_FAST = {"reassoc", "contract", "arcp", "nsz"}
_parallel = numba.njit(parallel=True, nogil=True, fastmath=_FAST, cache=True)
_inner = numba.njit(nogil=True, fastmath=_FAST, cache=True)


@_inner
def _tile(R, Q, out, i, j, n_columns):
    # out[i..i+3, j..j+3] += Q · R over the block's columns. Sixteen sums in registers: every load of a row serves four
    # products, and no sum waits for the one before it.
    Q0, Q1, Q2, Q3 = Q
    r0, r1, r2, r3 = R[j], R[j + 1], R[j + 2], R[j + 3]
    zero = R.dtype.type(0)
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = c0 = c1 = c2 = c3 = e0 = e1 = e2 = e3 = zero
    for d in range(n_columns):
        q0, q1, q2, q3 = Q0[d], Q1[d], Q2[d], Q3[d]
        x0, x1, x2, x3 = r0[d], r1[d], r2[d], r3[d]
        a0 += q0 * x0
        a1 += q0 * x1
        a2 += q0 * x2
        a3 += q0 * x3
        b0 += q1 * x0
        b1 += q1 * x1
        b2 += q1 * x2
        b3 += q1 * x3
        c0 += q2 * x0
        c1 += q2 * x1
        c2 += q2 * x2
        c3 += q2 * x3
        e0 += q3 * x0
        e1 += q3 * x1
        e2 += q3 * x2
        e3 += q3 * x3
    out[i, j] += a0
    out[i, j + 1] += a1
    out[i, j + 2] += a2
    out[i, j + 3] += a3
    out[i + 1, j] += b0
    out[i + 1, j + 1] += b1
    out[i + 1, j + 2] += b2
    out[i + 1, j + 3] += b3
    out[i + 2, j] += c0
    out[i + 2, j + 1] += c1
    out[i + 2, j + 2] += c2
    out[i + 2, j + 3] += c3
    out[i + 3, j] += e0
    out[i + 3, j + 1] += e1
    out[i + 3, j + 2] += e2
    out[i + 3, j + 3] += e3


@_inner
def _dot(left, right, n_columns):
    total = left.dtype.type(0)
    for d in range(n_columns):
        total += left[d] * right[d]
    return total


@_parallel
def _slices(arrays, pairs, gated, result):
    in_offsets, in_indices, out_offsets, out_indices, a, b, T_in, T_up, T_out = arrays
    width = T_in.shape[1]
    for n in numba.prange(in_offsets.shape[0] - 1):
        inputs = in_indices[in_offsets[n] : in_offsets[n + 1]]
        outputs = out_indices[out_offsets[n] : out_offsets[n + 1]]
        n_in, n_out = inputs.shape[0], outputs.shape[0]
        J = result[pairs[n] : pairs[n + 1]].reshape((n_out, n_in))
        R = np.empty((n_in, BLOCK), T_in.dtype)
        # Tiles cover the multiples of four; the rows and columns left over are single products.
        whole_in, whole_out = n_in - n_in % 4, n_out - n_out % 4
        for start in range(0, width, BLOCK):  # R of a block stays in the cache while all output latents use it
            stop = min(width, start + BLOCK)
            size = stop - start
            first = a[n, start:stop]
            for j in range(n_in):
                row, source = R[j], T_in[inputs[j], start:stop]
                if gated:
                    second, other = b[n, start:stop], T_up[inputs[j], start:stop]
                    for d in range(size):
                        row[d] = first[d] * source[d] + second[d] * other[d]
                else:
                    for d in range(size):
                        row[d] = first[d] * source[d]
            for i in range(0, whole_out, 4):
                Q0, Q1 = T_out[outputs[i], start:stop], T_out[outputs[i + 1], start:stop]
                Q2, Q3 = T_out[outputs[i + 2], start:stop], T_out[outputs[i + 3], start:stop]
                for j in range(0, whole_in, 4):
                    _tile(R, (Q0, Q1, Q2, Q3), J, i, j, size)
                for j in range(whole_in, n_in):
                    J[i, j] += _dot(Q0, R[j], size)
                    J[i + 1, j] += _dot(Q1, R[j], size)
                    J[i + 2, j] += _dot(Q2, R[j], size)
                    J[i + 3, j] += _dot(Q3, R[j], size)
            for i in range(whole_out, n_out):
                Q0 = T_out[outputs[i], start:stop]
                for j in range(n_in):
                    J[i, j] += _dot(Q0, R[j], size)


@_inner
def _combine(weights, at, rows, out, n_out, n_rows):
    # out[i] = Σ_j weights[at + i·n_rows + j] rows[j]: rows of COLUMNS numbers in flat arrays, four into four at a time.
    # Unsigned positions and flat arrays: nothing is checked or wrapped within the loop, and it is vectorised whole.
    unit, four, size = np.uint64(1), np.uint64(4), np.uint64(COLUMNS)
    n_out, n_rows = np.uint64(n_out), np.uint64(n_rows)
    whole_out, whole_rows = n_out - n_out % four, n_rows - n_rows % four
    out[: n_out * size] = 0
    for i in range(np.uint64(0), whole_out, four):
        o0 = i * size
        o1, o2, o3 = o0 + size, o0 + size + size, o0 + size + size + size
        w0 = np.uint64(at) + i * n_rows
        w1, w2, w3 = w0 + n_rows, w0 + n_rows + n_rows, w0 + n_rows + n_rows + n_rows
        for j in range(np.uint64(0), whole_rows, four):
            x0 = j * size
            x1, x2, x3 = x0 + size, x0 + size + size, x0 + size + size + size
            j1, j2, j3 = j + unit, j + unit + unit, j + unit + unit + unit
            p0, p1, p2, p3 = weights[w0 + j], weights[w0 + j1], weights[w0 + j2], weights[w0 + j3]
            q0, q1, q2, q3 = weights[w1 + j], weights[w1 + j1], weights[w1 + j2], weights[w1 + j3]
            s0, s1, s2, s3 = weights[w2 + j], weights[w2 + j1], weights[w2 + j2], weights[w2 + j3]
            t0, t1, t2, t3 = weights[w3 + j], weights[w3 + j1], weights[w3 + j2], weights[w3 + j3]
            for d in range(size):
                y0, y1, y2, y3 = rows[x0 + d], rows[x1 + d], rows[x2 + d], rows[x3 + d]
                out[o0 + d] += p0 * y0 + p1 * y1 + p2 * y2 + p3 * y3
                out[o1 + d] += q0 * y0 + q1 * y1 + q2 * y2 + q3 * y3
                out[o2 + d] += s0 * y0 + s1 * y1 + s2 * y2 + s3 * y3
                out[o3 + d] += t0 * y0 + t1 * y1 + t2 * y2 + t3 * y3
        for j in range(whole_rows, n_rows):
            p0, q0, s0, t0 = weights[w0 + j], weights[w1 + j], weights[w2 + j], weights[w3 + j]
            x0 = j * size
            for d in range(size):
                y0 = rows[x0 + d]
                out[o0 + d] += p0 * y0
                out[o1 + d] += q0 * y0
                out[o2 + d] += s0 * y0
                out[o3 + d] += t0 * y0
    for i in range(whole_out, n_out):
        for j in range(n_rows):
            weight, x0, o0 = weights[np.uint64(at) + i * n_rows + j], j * size, i * size
            for d in range(size):
                out[o0 + d] += weight * rows[x0 + d]


@_inner
def _gather(row, source, other, first, second, gated):
    # row = first ⊙ source (+ second ⊙ other)
    if gated:
        for d in range(first.shape[0]):
            row[d] = first[d] * source[d] + second[d] * other[d]
    else:
        for d in range(first.shape[0]):
            row[d] = first[d] * source[d]


@_inner
def _add(total, row):
    for d in range(total.shape[0]):
        total[d] += row[d]


@_inner
def _add_times(total, row, weights):
    for d in range(total.shape[0]):
        total[d] += weights[d] * row[d]


@_parallel
def _turn(in_offsets, out_offsets, pairs, slope, turned):
    # S_nᵀ of every token, so that `_combine` reads its weights in order for ∂R as it does for ∂T_out.
    for n in numba.prange(in_offsets.shape[0] - 1):
        n_in, n_out = in_offsets[n + 1] - in_offsets[n], out_offsets[n + 1] - out_offsets[n]
        source = slope[pairs[n] : pairs[n + 1]].reshape((n_out, n_in))
        target = turned[pairs[n] : pairs[n + 1]].reshape((n_in, n_out))
        for j in range(n_in):
            for i in range(n_out):
                target[j, i] = source[i, j]


@_parallel
def _gradients(arrays, slopes, sizes, gated, diagonals, gradients):
    in_offsets, in_indices, out_offsets, out_indices, a, b, T_in, T_up, T_out = arrays
    pairs, slope, turned = slopes
    most_in, most_out = sizes
    d_in, d_up, d_out, d_a, d_b = gradients
    width, kind = T_in.shape[1], T_in.dtype
    for task in numba.prange((width + COLUMNS - 1) // COLUMNS):
        start = task * COLUMNS
        stop = min(width, start + COLUMNS)
        size = stop - start
        # A task owns its columns of all gradients and passes over every token: no two tasks add to one place.
        d_in[:, start:stop] = 0
        d_out[:, start:stop] = 0
        if gated:
            d_up[:, start:stop] = 0
        R, d_R = np.zeros(most_in * COLUMNS, kind), np.zeros(most_in * COLUMNS, kind)
        Q, d_Q = np.zeros(most_out * COLUMNS, kind), np.zeros(most_out * COLUMNS, kind)
        for n in range(in_offsets.shape[0] - 1):
            inputs = in_indices[in_offsets[n] : in_offsets[n + 1]]
            outputs = out_indices[out_offsets[n] : out_offsets[n + 1]]
            n_in, n_out = inputs.shape[0], outputs.shape[0]
            # A plain MLP has no b and no T_up: row 0 of their stand-ins is read and not used.
            first, second = a[n, start:stop], b[n if gated else 0, start:stop]
            for j in range(n_in):
                other = T_up[inputs[j] if gated else 0, start:stop]
                _gather(R[j * COLUMNS : j * COLUMNS + size], T_in[inputs[j], start:stop], other, first, second, gated)
            for i in range(n_out):
                Q[i * COLUMNS : i * COLUMNS + size] = T_out[outputs[i], start:stop]
            _combine(slope, pairs[n], R, d_Q, n_out, n_in)
            _combine(turned, pairs[n], Q, d_R, n_in, n_out)
            for i in range(n_out):
                _add(d_out[outputs[i], start:stop], d_Q[i * COLUMNS : i * COLUMNS + size])
            for j in range(n_in):
                row = d_R[j * COLUMNS : j * COLUMNS + size]
                _add_times(d_in[inputs[j], start:stop], row, first)
                if gated:
                    _add_times(d_up[inputs[j], start:stop], row, second)
                if diagonals:
                    _add_times(d_a[n, start:stop], row, T_in[inputs[j], start:stop])
                    if gated:
                        _add_times(d_b[n, start:stop], row, T_up[inputs[j], start:stop])


class _Arrays(NamedTuple):
    """The patterns and factors as the kernels read them."""

    in_offsets: np.ndarray
    in_indices: np.ndarray
    out_offsets: np.ndarray
    out_indices: np.ndarray
    a: np.ndarray
    b: np.ndarray
    T_in: np.ndarray
    T_up: np.ndarray
    T_out: np.ndarray


def _arrays(factors: Factors) -> tuple[_Arrays, bool]:
    """The factors, and whether the MLP is gated; rows of T_in stand in for what a plain MLP lacks."""
    gated = factors.b is not None
    b = factors.b if factors.b is not None else factors.T_in[:1]
    T_up = factors.T_up if factors.T_up is not None else factors.T_in[:1]
    tensors = [factors.a, b, factors.T_in, T_up, factors.T_out]
    patterns = [*factors.inputs, *factors.outputs]
    return _Arrays(*(t.detach().contiguous().numpy() for t in (*patterns, *tensors))), gated


def slices(factors: Factors, pairs: torch.Tensor, out: torch.Tensor) -> None:
    arrays, gated = _arrays(factors)
    _slices(arrays, pairs.numpy(), gated, out.numpy())


def gradients(factors: Factors, pairs: torch.Tensor, slope: torch.Tensor, *, diagonals: bool) -> Gradients:
    arrays, gated = _arrays(factors)
    tables = (arrays.T_in, arrays.T_up, arrays.T_out)
    d_in, d_up, d_out = (torch.empty(table.shape, dtype=slope.dtype) for table in tables)
    d_a = torch.zeros(arrays.a.shape if diagonals else (1, arrays.a.shape[1]), dtype=slope.dtype)
    d_b = torch.zeros(arrays.b.shape, dtype=slope.dtype) if diagonals else d_a
    n_in, n_out = (
        int(pattern.offsets.diff().max()) if len(pattern.offsets) > 1 else 0
        for pattern in (factors.inputs, factors.outputs)
    )
    turned = torch.empty_like(slope)
    _turn(arrays.in_offsets, arrays.out_offsets, pairs.numpy(), slope.numpy(), turned.numpy())
    slopes = (pairs.numpy(), slope.numpy(), turned.numpy())
    outputs = tuple(tensor.numpy() for tensor in (d_in, d_up, d_out, d_a, d_b))
    _gradients(arrays, slopes, (n_in, n_out), gated, diagonals, outputs)
    return Gradients(
        T_in=d_in,
        T_up=d_up if gated else None,
        T_out=d_out,
        a=d_a if diagonals else None,
        b=d_b if diagonals and gated else None,
    )
