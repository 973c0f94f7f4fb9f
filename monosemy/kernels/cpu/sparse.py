"""The kernels compiled for CPUs by numba: one pass over memory each, rows shared among the threads.

Every output row is summed by one thread in a fixed order, so results do not depend on scheduling (exact resume).
Compiled at first use and cached beside this file, or in numba's user cache where that folder is read-only.
Definitions: `reference`. Deviation: sums run in the inputs' own precision, in another order than PyTorch's.
Limits: contiguous float32 or float64 tensors on the CPU (`dispatch` sees to it).
"""

# mypy: disable-error-code="untyped-decorator,call-arg"
from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from monosemy.kernels.reference import AdamStep, Columns, Pattern

_compile = numba.njit(parallel=True, nogil=True, fastmath={"reassoc", "contract", "arcp", "nsz"}, cache=True)
_compile_strict = numba.njit(parallel=True, nogil=True, cache=True)
_compile_serial = numba.njit(nogil=True, cache=True)


@_compile_strict
def _topk_rows(scores, k, indices, counts):
    # The k-th largest of the maxima of G >= k strided groups bounds the k-th largest entry from below: what survives
    # that bound is little more than k, and only it is sorted.
    n_rows, n_latents = scores.shape
    n_groups = min(n_latents, max(64, 4 * k))
    n_blocks = n_latents // n_groups
    for n in numba.prange(n_rows):
        row = scores[n]
        maxima = np.zeros(n_groups, scores.dtype)
        for block in range(n_blocks):
            start = block * n_groups
            for g in range(n_groups):
                maxima[g] = max(maxima[g], row[start + g])
        bound = scores.dtype.type(0)
        if k <= n_groups:
            bound = np.partition(maxima, n_groups - k)[n_groups - k]
        survivors = np.empty(n_latents, np.int32)
        values = np.empty(n_latents, scores.dtype)
        n_survivors = 0
        for f in range(n_latents):
            if row[f] >= bound and row[f] > 0:
                survivors[n_survivors] = f
                values[n_survivors] = row[f]
                n_survivors += 1
        if n_survivors <= k:
            indices[n, :n_survivors] = survivors[:n_survivors]
            counts[n] = n_survivors
            continue
        cut = np.partition(values[:n_survivors], n_survivors - k)[n_survivors - k]
        n_above = 0
        for s in range(n_survivors):
            if values[s] > cut:
                n_above += 1
        # All above the cut, and of those equal to it the first: survivors ascend, so the lower index wins.
        n_ties = k - n_above
        n_selected = 0
        for s in range(n_survivors):
            if values[s] > cut:
                indices[n, n_selected] = survivors[s]
                n_selected += 1
            elif values[s] == cut and n_ties > 0:
                indices[n, n_selected] = survivors[s]
                n_selected += 1
                n_ties -= 1
        counts[n] = n_selected


@_compile_strict
def _count_above(scores, threshold, counts):
    # A first pass counts and a second one writes (`_fill_above`): every row knows where its entries begin, and threads
    # share no counter.
    n_rows, n_latents = scores.shape
    for n in numba.prange(n_rows):
        row = scores[n]
        count = 0
        for f in range(n_latents):
            count += row[f] > threshold[f]
        counts[n] = count


@_compile_strict
def _fill_above(scores, threshold, offsets, indices):
    n_rows, n_latents = scores.shape
    for n in numba.prange(n_rows):
        row = scores[n]
        at = offsets[n]
        for f in range(n_latents):
            if row[f] > threshold[f]:
                indices[at] = f
                at += 1


@_compile_strict
def _pack_rows(padded, offsets, indices):
    for n in numba.prange(padded.shape[0]):
        count = offsets[n + 1] - offsets[n]
        indices[offsets[n] : offsets[n + 1]] = padded[n, :count]


@_compile_strict
def _keep_cut(values, cut, n_ties_left, offsets, keep):
    # Entries above the cut stay; of those equal to it, as many as the rows before have left.
    for n in numba.prange(offsets.shape[0] - 1):
        ties = n_ties_left[n]
        for z in range(offsets[n], offsets[n + 1]):
            if values[z] > cut:
                keep[z] = True
            elif values[z] == cut:
                keep[z] = ties > 0
                ties -= 1


@_compile_strict
def _take(scores, offsets, indices, out):
    for n in numba.prange(offsets.shape[0] - 1):
        for z in range(offsets[n], offsets[n + 1]):
            out[z] = scores[n, indices[z]]


# Entries of value zero (inside a kernel window, say) add nothing and are left out; four at a time share the loads and
# stores of the row they are summed into.


@_compile
def _decode(offsets, indices, values, W_dec, b_dec, out):
    for n in numba.prange(offsets.shape[0] - 1):
        row = out[n]
        for d in range(row.shape[0]):
            row[d] = b_dec[d]
        first, last = offsets[n], offsets[n + 1]
        entries = np.empty(last - first, np.int64)
        n_entries = 0
        for z in range(first, last):  # without a branch: always written, counted only if not zero
            entries[n_entries] = z
            n_entries += values[z] != 0
        n_fours = n_entries - n_entries % 4
        for s in range(0, n_fours, 4):
            z0, z1, z2, z3 = entries[s], entries[s + 1], entries[s + 2], entries[s + 3]
            v0, v1, v2, v3 = values[z0], values[z1], values[z2], values[z3]
            w0, w1, w2, w3 = W_dec[indices[z0]], W_dec[indices[z1]], W_dec[indices[z2]], W_dec[indices[z3]]
            for d in range(row.shape[0]):
                row[d] += v0 * w0[d] + v1 * w1[d] + v2 * w2[d] + v3 * w3[d]
        for s in range(n_fours, n_entries):
            value, direction = values[entries[s]], W_dec[indices[entries[s]]]
            for d in range(row.shape[0]):
                row[d] += value * direction[d]


@_compile
def _gather_dot(offsets, indices, left, right, out):
    # Four dot products at a time share the loads of the left row, and their four sums do not wait for each other.
    for n in numba.prange(offsets.shape[0] - 1):
        row = left[n]
        first, last = offsets[n], offsets[n + 1]
        fours = last - (last - first) % 4
        for z in range(first, fours, 4):
            w0, w1, w2, w3 = right[indices[z]], right[indices[z + 1]], right[indices[z + 2]], right[indices[z + 3]]
            t0 = t1 = t2 = t3 = left.dtype.type(0)
            for d in range(row.shape[0]):
                t0 += row[d] * w0[d]
                t1 += row[d] * w1[d]
                t2 += row[d] * w2[d]
                t3 += row[d] * w3[d]
            out[z], out[z + 1], out[z + 2], out[z + 3] = t0, t1, t2, t3
        for z in range(fours, last):
            direction = right[indices[z]]
            total = left.dtype.type(0)
            for d in range(row.shape[0]):
                total += row[d] * direction[d]
            out[z] = total


@_compile_serial
def _transpose(offsets, indices, column_offsets, rows, order):
    # A counting sort: count the latents, sum the counts to offsets, then deal the entries out in row order, so that
    # rows ascend within a latent. Serial, since the cursor of a latent moves with every entry of it.
    for z in range(indices.shape[0]):
        column_offsets[indices[z] + 1] += 1
    for f in range(column_offsets.shape[0] - 1):
        column_offsets[f + 1] += column_offsets[f]
    cursor = column_offsets[:-1].copy()
    for n in range(offsets.shape[0] - 1):
        for z in range(offsets[n], offsets[n + 1]):
            at = cursor[indices[z]]
            cursor[indices[z]] = at + 1
            rows[at] = n
            order[at] = z


@_compile
def _accumulate(offsets, rows, order, values, inputs, out):
    # By latent rather than by row: each row of the output is owned by one thread and summed in row order, so there are
    # no atomics and no second buffer, and the sum is the same on any number of threads.
    for f in numba.prange(offsets.shape[0] - 1):
        row = out[f]
        for d in range(row.shape[0]):
            row[d] = 0
        first, last = offsets[f], offsets[f + 1]
        entries = np.empty(last - first, np.int64)
        n_entries = 0
        for z in range(first, last):
            entries[n_entries] = z
            n_entries += values[order[z]] != 0
        n_fours = n_entries - n_entries % 4
        for s in range(0, n_fours, 4):
            z0, z1, z2, z3 = entries[s], entries[s + 1], entries[s + 2], entries[s + 3]
            v0, v1, v2, v3 = values[order[z0]], values[order[z1]], values[order[z2]], values[order[z3]]
            x0, x1, x2, x3 = inputs[rows[z0]], inputs[rows[z1]], inputs[rows[z2]], inputs[rows[z3]]
            for d in range(row.shape[0]):
                row[d] += v0 * x0[d] + v1 * x1[d] + v2 * x2[d] + v3 * x3[d]
        for s in range(n_fours, n_entries):
            value, source = values[order[entries[s]]], inputs[rows[entries[s]]]
            for d in range(row.shape[0]):
                row[d] += value * source[d]


@_compile_strict
def _sum_by_latent(offsets, order, values, out):
    for f in numba.prange(offsets.shape[0] - 1):
        total = values.dtype.type(0)
        for z in range(offsets[f], offsets[f + 1]):
            total += values[order[z]]
        out[f] = total


@_compile
def _squared_error(x, reconstruction, sums, residual):
    for n in numba.prange(x.shape[0]):
        total = x.dtype.type(0)
        for d in range(x.shape[1]):
            difference = reconstruction[n, d] - x[n, d]
            residual[n, d] = difference
            total += difference * difference
        sums[n] = total


@_compile
def _adam(parameter, gradient, first, second, scalars, unit_rows):
    # Moments, projection, step and unit rows in one pass: a row is read from memory once rather than once for each.
    rate, beta1, beta2, scale2, epsilon = scalars
    kind = parameter.dtype.type
    for f in numba.prange(parameter.shape[0]):
        p, g, m, v = parameter[f], gradient[f], first[f], second[f]
        along = kind(0)
        if unit_rows:
            for d in range(p.shape[0]):
                along += g[d] * p[d]
        squares = kind(0)
        for d in range(p.shape[0]):
            slope = g[d] - along * p[d]
            m[d] = beta1 * m[d] + (kind(1) - beta1) * slope
            v[d] = beta2 * v[d] + (kind(1) - beta2) * slope * slope
            p[d] -= rate * m[d] / (np.sqrt(v[d] * scale2) + epsilon)
            squares += p[d] * p[d]
        if unit_rows:
            shrink = kind(1) / max(np.sqrt(squares), kind(1e-30))
            for d in range(p.shape[0]):
                p[d] *= shrink


def _offsets_of(counts: np.ndarray) -> np.ndarray:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _pattern(offsets: np.ndarray, indices: np.ndarray) -> Pattern:
    return Pattern(torch.from_numpy(offsets), torch.from_numpy(indices))


def select_topk(scores: Tensor, k: int) -> Pattern:
    n_rows = scores.shape[0]
    padded = np.empty((n_rows, k), np.int32)
    counts = np.empty(n_rows, np.int64)
    _topk_rows(scores.numpy(), k, padded, counts)
    offsets = _offsets_of(counts)
    if offsets[-1] == n_rows * k:
        return _pattern(offsets, padded.reshape(-1))
    indices = np.empty(offsets[-1], np.int32)
    _pack_rows(padded, offsets, indices)
    return _pattern(offsets, indices)


def select_above(scores: Tensor, threshold: Tensor) -> Pattern:
    counts = np.empty(scores.shape[0], np.int64)
    _count_above(scores.numpy(), threshold.numpy(), counts)
    offsets = _offsets_of(counts)
    indices = np.empty(offsets[-1], np.int32)
    _fill_above(scores.numpy(), threshold.numpy(), offsets, indices)
    return _pattern(offsets, indices)


def select_batch_topk(scores: Tensor, n_keep: int) -> tuple[Pattern, float]:
    # A cut guessed from a strided sample of the batch, loosened until enough entries pass; only those are sorted.
    flat = scores.numpy().reshape(-1)
    sample = flat[:: max(1, flat.size // 65_536) | 1]  # odd: coprime to even row lengths
    share = min(1.0, 1.25 * n_keep / max(1, flat.size) + 8 / sample.size)
    while True:
        rank = min(sample.size - 1, int(share * sample.size))
        guess = max(scores.numpy().dtype.type(0), np.partition(sample, sample.size - 1 - rank)[sample.size - 1 - rank])
        if rank == sample.size - 1:
            guess = scores.numpy().dtype.type(0)
        bound = torch.full((scores.shape[1],), float(np.nextafter(guess, guess.dtype.type(0))), dtype=scores.dtype)
        candidates = select_above(scores, bound)
        if candidates.indices.shape[0] >= n_keep or guess <= 0:
            break
        share *= 2
    pattern, _, cut = cut_batch(candidates, take(scores, candidates), n_keep)
    return pattern, cut


def cut_batch(candidates: Pattern, values: Tensor, n_keep: int) -> tuple[Pattern, Tensor, float]:
    """The n_keep largest of the candidates' values [Z]: their pattern, values, and the smallest (0 if there are fewer).

    Ties at the cut: the earlier entry wins.
    """
    scores = values.numpy()
    n_candidates = len(scores)
    if n_candidates <= n_keep:
        return candidates, values, float(scores.min()) if n_candidates == n_keep and n_keep > 0 else 0.0
    cut = np.partition(scores, n_candidates - n_keep)[n_candidates - n_keep]
    offsets = candidates.offsets.numpy()
    # Ties of every row, and how many places for ties the rows before it have left. (`reduceat` gives an empty row the
    # next row's first entry, hence the zeros.)
    ties = np.add.reduceat(np.append(scores == cut, False), np.minimum(offsets[:-1], n_candidates))
    ties[np.diff(offsets) == 0] = 0
    n_ties_left = n_keep - int((scores > cut).sum()) - (np.cumsum(ties) - ties)
    keep = np.zeros(n_candidates, np.bool_)
    _keep_cut(scores, cut, n_ties_left, offsets, keep)
    n_kept_before = np.zeros(n_candidates + 1, np.int64)
    np.cumsum(keep, out=n_kept_before[1:])
    pattern = _pattern(n_kept_before[offsets], candidates.indices.numpy()[keep])
    return pattern, torch.from_numpy(scores[keep]), float(cut)


def take(scores: Tensor, pattern: Pattern) -> Tensor:
    out = torch.empty(pattern.indices.shape[0], dtype=scores.dtype)
    _take(scores.numpy(), pattern.offsets.numpy(), pattern.indices.numpy(), out.numpy())
    return out


def decode(pattern: Pattern, values: Tensor, W_dec: Tensor, b_dec: Tensor) -> Tensor:
    out = torch.empty(pattern.offsets.shape[0] - 1, W_dec.shape[1], dtype=values.dtype)
    _decode(pattern.offsets.numpy(), pattern.indices.numpy(), values.numpy(), W_dec.numpy(), b_dec.numpy(), out.numpy())
    return out


def gather_dot(pattern: Pattern, left: Tensor, right: Tensor) -> Tensor:
    out = torch.empty(pattern.indices.shape[0], dtype=left.dtype)
    _gather_dot(pattern.offsets.numpy(), pattern.indices.numpy(), left.numpy(), right.numpy(), out.numpy())
    return out


def transpose(pattern: Pattern, n_latents: int) -> Columns:
    n_entries = pattern.indices.shape[0]
    offsets = np.zeros(n_latents + 1, np.int64)
    rows, order = np.empty(n_entries, np.int32), np.empty(n_entries, np.int32)
    _transpose(pattern.offsets.numpy(), pattern.indices.numpy(), offsets, rows, order)
    return Columns(torch.from_numpy(offsets), torch.from_numpy(rows), torch.from_numpy(order))


def accumulate(columns: Columns, values: Tensor, inputs: Tensor) -> Tensor:
    out = torch.empty(columns.offsets.shape[0] - 1, inputs.shape[1], dtype=inputs.dtype)
    _accumulate(
        columns.offsets.numpy(),
        columns.rows.numpy(),
        columns.order.numpy(),
        values.numpy(),
        inputs.numpy(),
        out.numpy(),
    )
    return out


def sum_by_latent(columns: Columns, values: Tensor) -> Tensor:
    out = torch.empty(columns.offsets.shape[0] - 1, dtype=values.dtype)
    _sum_by_latent(columns.offsets.numpy(), columns.order.numpy(), values.numpy(), out.numpy())
    return out


def squared_error(x: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
    sums, residual = torch.empty(len(x), dtype=x.dtype), torch.empty_like(x)
    _squared_error(x.numpy(), reconstruction.numpy(), sums.numpy(), residual.numpy())
    return sums, residual


def adam(
    parameter: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    options: AdamStep,
) -> None:
    shape = (1, -1) if parameter.ndim == 1 else parameter.shape
    arrays = [t.view(shape).numpy() for t in (parameter, gradient, first, second)]
    kind = arrays[0].dtype.type
    scalars = (options.rate, options.beta1, options.beta2, options.second_scale, options.epsilon)
    # Of the tensors' own type: one double would turn the whole loop into double precision.
    _adam(*arrays, tuple(kind(s) for s in scalars), options.unit_rows)
