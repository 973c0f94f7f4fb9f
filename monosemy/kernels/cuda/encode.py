"""Selections on the GPU, and the encoder fused with them: the pre-activations [N, F] are never held.

    encode_topk(x, W, b, k)           = select_topk(π, k)            π = x W_enc + b_enc, sums in float32
    encode_above(x, W, b, θ)          = select_above(π, θ)           each with the values of π on the selection,
    encode_batch_topk(x, W, b, n)     = select_batch_topk(π, n)      rounded to x's number format after selecting

π is computed `CHUNK` latents at a time into one float32 buffer, which all chunks share. The matrix product is the
vendor's: it is faster than a hand-written one by more than writing and reading the buffer costs. W_enc is stored column
by column, so that a chunk of latents is a contiguous slice. Each chunk is merged into the selection so far before the
next chunk overwrites it:
- top-k: each row takes the k largest of its selection so far and the chunk. The k-th largest is found by bisection on
  the bits of the floats, which for positive floats are in the same order as the values. Of equal values the lower index
  comes first, and the selection so far has lower indices than the chunk. The order is total, so taking the first k in
  stages is exact. After the first chunk, only entries above a row's k-th value so far are written to a list: about k
  entries while the number of latents seen doubles, after which the lists are merged. A list overflows only where
  pre-activations grow with the index. The product is then repeated, and every chunk is merged whole.
- threshold: entries above θ are appended to a list for each row. A full list takes no more entries, but they are still
  counted. If any list overflowed, the product is repeated and writes the entries to the places that the counts give.
- batch top-k: only entries above a cut are held, which is guessed from a sample of rows. If fewer than n entries pass,
  the guess is lowered and the product repeated. Among the entries that passed, the final cut is exact, with ties in
  row-major order.
Memory: O(N·CHUNK + kept entries + N·list). Everything is deterministic: one program per row, no atomics. The
`select_*` functions are the same code on chunks of a dense matrix.

Limits: no NaN (they are never selected); top-k holds a row of next_power_of_2(k) entries in registers, so k beyond
some thousands is slow; batch top-k holds all entries that tie at the guess. float32 products follow PyTorch's setting
of float32 matmul precision.
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from monosemy.kernels.reference import Pattern, rows_of

CHUNK = 4096
"""Latents whose pre-activations are held at a time."""
BLOCK = 1024
"""Latents a program compares with its thresholds at once."""
LIST_SHARE, LIST_LEAST = 64, 256
"""A row's list has room for 1/64 of the latents, but for at least 256."""
CAPACITY_LEAST = 64
"""Room for a row's top-k candidates between two merges: 4 k, but at least this."""
SAMPLE_ROWS = 128
"""Rows from which batch top-k guesses its cut."""


class _Dense(NamedTuple):
    """Scores that exist: [N, F] in any strides and number format."""

    scores: Tensor
    bias: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.scores.shape

    def chunks(self) -> Iterator[tuple[int, Tensor]]:
        for start in range(0, self.shape[1], CHUNK):
            yield start, self.scores[:, start : start + CHUNK]

    def every(self, step: int) -> _Dense:
        return self._replace(scores=self.scores[::step])


class _Product(NamedTuple):
    """Scores x W_enc, made chunk by chunk into one buffer: a chunk is gone when the next one is asked for."""

    x: Tensor
    W_enc: Tensor
    bias: Tensor

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.x.shape[0], self.W_enc.shape[1]))

    def chunks(self) -> Iterator[tuple[int, Tensor]]:
        n_rows, n_latents = self.shape
        buffer = self.x.new_empty(n_rows * min(CHUNK, n_latents), dtype=torch.float32)
        for start in range(0, n_latents, CHUNK):
            columns = self.W_enc[:, start : start + CHUNK]
            out = buffer[: n_rows * columns.shape[1]].view(n_rows, -1)
            if self.x.dtype == torch.float32:
                torch.mm(self.x, columns, out=out)
            elif self.x.is_cuda:
                torch.mm(self.x, columns, out_dtype=torch.float32, out=out)
            else:  # the interpreter's CPU tensors: PyTorch has no mixed product there
                torch.mm(self.x.float(), columns.float(), out=out)
            yield start, out

    def every(self, step: int) -> _Product:
        return self._replace(x=self.x[::step])


_Scores = _Dense | _Product


@triton.jit
def _merge_topk(
    scores,
    row_stride,
    column_stride,
    bias,
    start,
    n_columns,
    list_indices,
    counts,
    held_values,
    held_indices,
    values,
    indices,
    k,
    FROM_LISTS: tl.constexpr,
    CHUNK: tl.constexpr,
    HELD: tl.constexpr,
):
    # Merges a chunk of scores, or with FROM_LISTS the row's list of candidates, into the row's k largest.
    # A value's bits as an integer are its key; 0 marks what cannot be selected (not positive, or an empty place).
    n = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, CHUNK)
    if FROM_LISTS:
        inside = column < tl.load(counts + n)
        index = tl.load(list_indices + n * row_stride + column, mask=inside, other=0)
    else:
        inside = column < n_columns
        index = start + column
    at = n * row_stride + column.to(tl.int64) * column_stride
    score = tl.load(scores + at, mask=inside, other=0.0).to(tl.float32)
    if not FROM_LISTS:
        score += tl.load(bias + index, mask=inside, other=0.0)
    key = tl.where(inside & (score > 0), score, 0.0).to(tl.int32, bitcast=True)
    place = tl.arange(0, HELD)
    held = tl.load(held_values + n * k + place, mask=place < k, other=0.0)
    held_index = tl.load(held_indices + n * k + place, mask=place < k, other=0)
    held_key = held.to(tl.int32, bitcast=True)

    # Bisection: at least k keys lie above `low`, at most k above `high`; then `high` is the cut.
    n_positive = tl.sum((key > 0).to(tl.int32), 0) + tl.sum((held_key > 0).to(tl.int32), 0)
    least_held = tl.min(tl.where(place < k, held_key, 2147483647), 0)
    crowded = n_positive > k
    low = tl.where(crowded, tl.maximum(least_held - 1, 0), 0)
    high = tl.where(crowded, tl.maximum(tl.max(key, 0), tl.max(held_key, 0)), 0)
    while high - low > 1:
        middle = low + (high - low) // 2
        n_above = tl.sum((key > middle).to(tl.int32), 0) + tl.sum((held_key > middle).to(tl.int32), 0)
        high = tl.where(n_above <= k, middle, high)
        low = tl.where(n_above > k, middle, tl.where(n_above == k, middle - 1, low))
    n_ties = k - tl.sum((key > high).to(tl.int32), 0) - tl.sum((held_key > high).to(tl.int32), 0)

    # Of those equal to the cut, the held ones first (their indices are lower), then the chunk's in their order.
    held_tie = ((held_key == high) & (held_key > 0)).to(tl.int32)
    held_keep = (held_key > high) | ((held_tie > 0) & (tl.cumsum(held_tie, 0) <= n_ties))
    n_ties -= tl.minimum(tl.sum(held_tie, 0), n_ties)
    tie = ((key == high) & (key > 0)).to(tl.int32)
    keep = (key > high) | ((tie > 0) & (tl.cumsum(tie, 0) <= n_ties))

    to_held = n * k + tl.cumsum(held_keep.to(tl.int32), 0) - 1
    to_new = n * k + tl.sum(held_keep.to(tl.int32), 0) + tl.cumsum(keep.to(tl.int32), 0) - 1
    tl.store(values + to_held, held, mask=held_keep)
    tl.store(indices + to_held, held_index, mask=held_keep)
    tl.store(values + to_new, score, mask=keep)
    tl.store(indices + to_new, index, mask=keep)


@triton.jit
def _append_above(
    scores,
    row_stride,
    column_stride,
    bias,
    threshold,
    start,
    n_columns,
    bases,
    counts,
    new_counts,
    capacity,
    values,
    indices,
    BY_ROW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # One program a row, which goes through the chunk block by block: places in the list follow from a running count,
    # so entries ascend and no two programs write to one list. The count goes on past a full list.
    n = tl.program_id(0).to(tl.int64)
    base, count = tl.load(bases + n), tl.load(counts + n)
    for first in range(0, n_columns, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = column < n_columns
        at = n * row_stride + column.to(tl.int64) * column_stride
        score = tl.load(scores + at, mask=inside, other=0.0).to(tl.float32)
        score += tl.load(bias + start + column, mask=inside, other=0.0)
        if BY_ROW:
            bound = tl.load(threshold + n)
        else:
            bound = tl.load(threshold + start + column, mask=inside, other=0.0)
        above = (inside & (score > bound)).to(tl.int32)
        n_above = tl.sum(above, 0)
        if n_above > 0:
            place = count + tl.cumsum(above, 0) - 1
            fits = (above > 0) & (place < capacity)
            tl.store(values + base + place, score, mask=fits)
            tl.store(indices + base + place, start + column, mask=fits)
        count += n_above
    tl.store(new_counts + n, count)


def _offsets_of(counts: Tensor) -> Tensor:
    offsets = counts.new_zeros(counts.shape[0] + 1, dtype=torch.int64)
    torch.cumsum(counts, 0, out=offsets[1:])
    return offsets


def _pack(offsets: Tensor, n_entries: int, values: Tensor, indices: Tensor) -> tuple[Pattern, Tensor]:
    """The first entries of every row of values, indices [N, capacity], put end to end."""
    pattern = Pattern(offsets, indices.new_empty(n_entries))
    rows = rows_of(pattern)
    at = torch.arange(n_entries, device=offsets.device) + rows * values.shape[1] - offsets[rows]
    return Pattern(offsets, indices.view(-1)[at]), values.view(-1)[at]


class _Largest:
    """The k largest positive entries of every row so far: values and indices [N, k], empty places 0."""

    def __init__(self, n_rows: int, k: int, device: torch.device) -> None:
        # Programs read one list and write the other: their threads are not in step.
        self._values = torch.zeros(2, n_rows, k, device=device)
        self._indices = torch.zeros(2, n_rows, k, dtype=torch.int32, device=device)
        self._now = 0

    @property
    def values(self) -> Tensor:
        return self._values[self._now]

    @property
    def indices(self) -> Tensor:
        return self._indices[self._now]

    def merge_chunk(self, block: Tensor, bias: Tensor, start: int) -> None:
        self._merge(block, bias, start, self.indices, counts=self.indices, from_lists=False)  # lists: unused

    def merge_lists(self, values: Tensor, indices: Tensor, counts: Tensor) -> None:
        self._merge(values, values, 0, indices, counts=counts, from_lists=True)

    def _merge(  # lists: the first counts[n] candidates of row n, all of higher index than what is kept
        self, block: Tensor, bias: Tensor, start: int, list_indices: Tensor, *, counts: Tensor, from_lists: bool
    ) -> None:
        n_rows, k = self.values.shape
        width, held = triton.next_power_of_2(block.shape[1]), triton.next_power_of_2(k)
        new = 1 - self._now
        _merge_topk[(n_rows,)](
            block,
            *block.stride(),
            bias,
            start,
            block.shape[1],
            list_indices,
            counts,
            self.values,
            self.indices,
            self._values[new],
            self._indices[new],
            k,
            FROM_LISTS=from_lists,
            CHUNK=width,
            HELD=held,
            num_warps=min(16, max(1, max(width, held) // 512)),
        )
        self._now = new


def _topk(source: _Scores, k: int) -> tuple[Pattern, Tensor]:
    capacity = triton.next_power_of_2(max(4 * k, CAPACITY_LEAST))
    largest = _largest_by_lists(source, k, capacity) if capacity < CHUNK else None
    if largest is None:
        largest = _Largest(source.shape[0], k, source.bias.device)
        for start, block in source.chunks():
            largest.merge_chunk(block, source.bias, start)
    offsets = _offsets_of((largest.values > 0).sum(1))
    n_entries = int(offsets[-1])
    if n_entries == largest.values.numel():
        return Pattern(offsets, largest.indices.view(-1)), largest.values.view(-1)
    return _pack(offsets, n_entries, largest.values, largest.indices)


def _largest_by_lists(source: _Scores, k: int, capacity: int) -> _Largest | None:
    """The k largest of every row; None if a list overflowed."""
    (n_rows, n_latents), device = source.shape, source.bias.device
    largest, values = _Largest(n_rows, k, device), torch.empty(n_rows, capacity, device=device)
    indices = torch.empty_like(values, dtype=torch.int32)
    lists = _Lists(torch.arange(n_rows, device=device) * capacity, capacity, values, indices)
    counts = torch.zeros(n_rows, dtype=torch.int32, device=device)
    most, n_merged = counts, 0
    for start, block in source.chunks():
        end = start + block.shape[1]
        if start == 0:
            largest.merge_chunk(block, source.bias, start)
            bound, n_merged = largest.values.amin(1), end
            continue
        counts = _append(block, start, source.bias, bound, lists=lists, counts=counts, by_row=True)
        if end >= min(2 * n_merged, n_latents):
            largest.merge_lists(lists.values, lists.indices, counts)
            most = torch.maximum(most, counts)
            bound, n_merged = largest.values.amin(1), end
            counts = torch.zeros_like(counts)
    return None if bool((most > capacity).any()) else largest


class _Lists(NamedTuple):
    """A list for every row: row n's entries stand from place bases[n] on in values and indices, at most `capacity`."""

    bases: Tensor
    capacity: int
    values: Tensor
    indices: Tensor


def _append(
    block: Tensor, start: int, bias: Tensor, threshold: Tensor, *, lists: _Lists, counts: Tensor, by_row: bool
) -> Tensor:
    """Appends a chunk's entries above their thresholds to the rows' lists, as far as their capacity allows.

    Returns the new counts, which include entries that found no place. `by_row`: thresholds belong to rows, not latents.
    """
    new_counts = torch.empty_like(counts)
    _append_above[(lists.bases.shape[0],)](
        block,
        *block.stride(),
        bias,
        threshold,
        start,
        block.shape[1],
        lists.bases,
        counts,
        new_counts,
        lists.capacity,
        lists.values,
        lists.indices,
        BY_ROW=by_row,
        BLOCK=min(BLOCK, triton.next_power_of_2(block.shape[1])),
    )
    return new_counts


def _list_above(source: _Scores, threshold: Tensor, lists: _Lists) -> Tensor:
    """Writes every row's entries above their thresholds [F] into its list; returns how many there are."""
    counts = torch.zeros(lists.bases.shape[0], dtype=torch.int32, device=lists.bases.device)
    for start, block in source.chunks():
        counts = _append(block, start, source.bias, threshold, lists=lists, counts=counts, by_row=False)
    return counts


def _above(source: _Scores, threshold: Tensor) -> tuple[Pattern, Tensor]:
    n_rows, n_latents = source.shape
    threshold = threshold.to(torch.float32).contiguous()
    capacity = min(n_latents, max(LIST_LEAST, n_latents // LIST_SHARE))
    values = source.bias.new_empty(n_rows, capacity)
    indices = torch.empty_like(values, dtype=torch.int32)
    bases = torch.arange(n_rows, device=values.device) * capacity
    counts = _list_above(source, threshold, _Lists(bases, capacity, values, indices))
    offsets = _offsets_of(counts)
    n_entries, most = torch.stack([offsets[-1], counts.max().long()]).tolist()
    if most <= capacity:
        return _pack(offsets, n_entries, values, indices)
    values, indices = values.new_empty(n_entries), indices.new_empty(n_entries)
    _list_above(source, threshold, _Lists(offsets[:-1], n_latents, values, indices))
    return Pattern(offsets, indices), values


def _guesses(source: _Scores, n_keep: int) -> Iterator[float]:
    """Falling guesses of the value of the batch's n_keep-th largest entry, the last of them 0."""
    n_rows, n_latents = source.shape
    sampled = source.every(triton.cdiv(n_rows, SAMPLE_ROWS))
    scores = source.bias.new_empty(sampled.shape)
    for start, block in sampled.chunks():
        scores[:, start : start + block.shape[1]] = block
    sample = scores.add_(source.bias).view(-1)
    share = 1.5 * n_keep / (n_rows * n_latents) + 16 / sample.numel()
    while (rank := math.ceil(share * sample.numel())) < sample.numel():
        guess = float(sample.topk(rank, sorted=False).values.min())
        if guess <= 0:
            break
        yield guess
        share *= 2
    yield 0.0


def _batch_topk(source: _Scores, n_keep: int) -> tuple[Pattern, Tensor, float]:
    bias = source.bias
    for guess in _guesses(source, n_keep):
        below = torch.full_like(bias, guess)
        if guess > 0:
            below = torch.nextafter(below, torch.zeros_like(bias))  # the comparison is strict
        pattern, values = _above(source, below)
        if values.shape[0] >= n_keep:
            break
    n_candidates = values.shape[0]
    if n_candidates <= n_keep:
        return pattern, values, float(values.min()) if n_candidates == n_keep and n_keep > 0 else 0.0
    if n_keep == 0:
        return Pattern(torch.zeros_like(pattern.offsets), pattern.indices[:0]), values[:0], 0.0
    cut = values.topk(n_keep, sorted=False).values.min()
    above, ties = values > cut, values == cut
    keep = above | (ties & (ties.cumsum(0) <= n_keep - above.sum()))
    offsets = _offsets_of(keep)[pattern.offsets]
    return Pattern(offsets, pattern.indices[keep]), values[keep], float(cut)


def _dense(scores: Tensor) -> _Dense:
    return _Dense(scores, torch.zeros(scores.shape[1], device=scores.device))


def _product(x: Tensor, W_enc: Tensor, b_enc: Tensor | None) -> _Product:
    if b_enc is None:
        b_enc = torch.zeros(W_enc.shape[1], device=x.device)
    return _Product(x, W_enc, b_enc.to(torch.float32).contiguous())


def select_topk(scores: Tensor, k: int) -> Pattern:
    return _topk(_dense(scores), min(k, scores.shape[1]))[0]


def select_batch_topk(scores: Tensor, n_keep: int) -> tuple[Pattern, float]:
    pattern, _, cut = _batch_topk(_dense(scores), min(n_keep, scores.numel()))
    return pattern, cut


def select_above(scores: Tensor, threshold: Tensor) -> Pattern:
    return _above(_dense(scores), threshold)[0]


@torch.no_grad()
def encode_topk(x: Tensor, W_enc: Tensor, b_enc: Tensor | None, k: int) -> tuple[Pattern, Tensor]:
    """Per row of x [N, D] the k largest positive pre-activations and their values [Z]. Without gradient.

    x is what W_enc multiplies: the caller has taken b_dec off. A `None` bias is left out.
    """
    pattern, values = _topk(_product(x, W_enc, b_enc), min(k, W_enc.shape[1]))
    return pattern, values.to(x.dtype)


@torch.no_grad()
def encode_above(x: Tensor, W_enc: Tensor, b_enc: Tensor | None, threshold: Tensor) -> tuple[Pattern, Tensor]:
    """Pre-activations above threshold[f] (strict) and their values [Z]. Without gradient."""
    pattern, values = _above(_product(x, W_enc, b_enc), threshold)
    return pattern, values.to(x.dtype)


@torch.no_grad()
def encode_batch_topk(x: Tensor, W_enc: Tensor, b_enc: Tensor | None, n_keep: int) -> tuple[Pattern, Tensor, float]:
    """The batch's n_keep largest positive pre-activations, their values [Z], and the smallest one kept (or 0)."""
    pattern, values, cut = _batch_topk(_product(x, W_enc, b_enc), min(n_keep, x.shape[0] * W_enc.shape[1]))
    return pattern, values.to(x.dtype), cut
