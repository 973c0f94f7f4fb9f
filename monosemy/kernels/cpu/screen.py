"""The encoder's selection without its dense product: an 8-bit screen, the few candidates in float32, nothing missed.

Place: CPU float32 under `dispatch.encode_*`, where the processor multiplies 8-bit integers several times faster than
floats (VNNI). With x the centred rows and w a latent's weights, both scaled per input dimension by the same s_d
(x_d/s_d, w_d·s_d, s = √rms(x): outlying dimensions would cost the others their bits) and rounded per row to x̃ + e_x,
w̃ + e_w:

    π = x·w + b,   π̃ = x̃·w̃ + b exactly in integers,   |π − π̃| ≤ B = ‖x̃‖‖e_w‖ + ‖e_x‖‖w‖   (Cauchy–Schwarz)

The norms are measured while rounding, so that B is as tight as the matrix at hand allows. A latent whose π̃ + B does
not reach the threshold cannot be selected. All others are candidates and are computed in float32. The selection is
therefore always that of the float32 pre-activations: nothing is guessed, and nothing can be missed. Float32's own
rounding of the sums is part of B (`SLACK`). A bias much larger than ‖x‖‖w‖ is rounded once more when it is added, here
as in the dense product.

- above: candidates are π̃ + B > θ.
- top-k: float32 values of about the k largest π̃ give a lower bound t of the k-th largest π; candidates are π̃ + B ≥ t.
- batch top-k: candidates above a cut guessed from π̃; if fewer than n of them truly pass it, the guess is lowered.
Where more than `WORTH` of a row is selected the functions return None, and the dense product is taken.

Without such instructions the screen cannot pay: with AVX2 alone, torch's 8-bit product takes 27 times as long as the
float32 one, and no kernel could do much better than the latter (32 products in three instructions, vpmaddubsw, vpmaddwd
and an addition, against 8 in one fused multiply-add). ARM's dot-product instructions have not been measured.

Float32 sums run in another order than the dense product's: values agree to rounding, and so do selections up to ties.
Limits: CPU, float32, both matrices finite and no row so small that its norm underflows (None otherwise).
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from monosemy.kernels.cpu import sparse as cpu
from monosemy.kernels.reference import Pattern

WORTH = 0.10
"""The largest share of selected entries at which the screen still saves time. Two to three times as many entries are
candidates, and each costs a gathered dot product: four times as much as an entry of the dense product."""
SLACK = 2**-23
"""Allowance for float32's own rounding, as a share of ‖x‖‖w‖ for each term of a sum. A sum of d terms is off by at most
d·2⁻²⁴ of ‖x‖‖w‖; the allowance is twice that, because the norms are rounded too."""
BUFFER = 2**25
"""Entries of the integer products held at a time."""
TINY = np.float32(1e-24)
"""A matrix with a row of a smaller squared norm takes the dense product: float32 squares underflow there, and the bound
proves nothing."""
WIDEST = 2**17
"""The largest number of inputs for which a sum of products of two 8-bit numbers fits into 32 bits."""
SAMPLE_ROWS = 32
"""Number of rows whose exact pre-activations are computed first, to estimate how many entries will be selected."""
LEAST = 2**20
"""The screen is tried from this number of entries, N·F, on; below it the dense product is fast enough."""

_compile = numba.njit(parallel=True, nogil=True, fastmath={"reassoc", "contract", "arcp", "nsz"}, cache=True)
_inline = numba.njit(fastmath={"reassoc", "contract", "arcp", "nsz"}, cache=True, inline="always")


class _Rounded(NamedTuple):
    """A matrix in 8 bits, row by row: codes int8 [R, D], scale [R], and the norms [R] of the rounded rows, of
    their rounding errors, and of the rows themselves."""

    codes: Tensor
    scale: np.ndarray
    rounded_norm: np.ndarray
    error_norm: np.ndarray
    norm: np.ndarray


class _Block(NamedTuple):
    """What the kernels read for some rows: the integer products, and what turns them into π̃ and its bound B."""

    products: np.ndarray
    """x̃·w̃ in units of both scales, int32 [n, F]."""
    bias: np.ndarray
    row_scale: np.ndarray
    row_rounded_norm: np.ndarray
    row_error_norm: np.ndarray
    scale: np.ndarray
    error_norm: np.ndarray
    norm: np.ndarray
    """Bias, scale and the last two norms belong to the latents, [F]. The fields `row_…` belong to the rows, [n]."""


class _Screen(NamedTuple):
    """What π̃ and its bound are made of, as the kernels read them."""

    x: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    rows: _Rounded
    latents: _Rounded

    def blocks(self) -> Iterator[tuple[slice, _Block]]:
        """Yields the integer products, a block of rows at a time, with the rows' numbers. Blocks share one buffer."""
        n_rows, n_latents = len(self.x), len(self.weights)
        size = max(32, min(n_rows, BUFFER // n_latents))
        latents = self.latents
        for first in range(0, n_rows, size):
            at = slice(first, min(first + size, n_rows))
            products = _buffer(at.stop - first, n_latents)
            torch._int_mm(self.rows.codes[at], latents.codes.T, out=products)
            yield (
                at,
                _Block(
                    products.numpy(),
                    self.bias,
                    row_scale=self.rows.scale[at],
                    row_rounded_norm=self.rows.rounded_norm[at],
                    row_error_norm=self.rows.error_norm[at],
                    scale=latents.scale,
                    error_norm=latents.error_norm,
                    norm=latents.norm,
                ),
            )


_held = threading.local()


def _buffer(n_rows: int, n_latents: int) -> Tensor:
    """An int32 matrix [n_rows, n_latents] in memory that this thread keeps.

    Memory that is allocated anew for each call would cost as much time as the product itself.
    """
    needed = n_rows * n_latents
    if getattr(_held, "buffer", None) is None or _held.buffer.numel() < needed:
        with torch.inference_mode(False):  # what inference mode makes could not be written to outside of it
            _held.buffer = torch.empty(needed, dtype=torch.int32)
    return _held.buffer[:needed].view(n_rows, n_latents)


@functools.cache
def available() -> bool:
    """Whether this processor multiplies 8-bit integers fast. MONOSEMY_SCREEN=0 or 1 overrides the answer.

    The answer comes from the processor's list of instructions, not from a timing, which could differ from run to run.
    A resumed run must decide as it did before, because its numbers are to be the same bit for bit.
    """
    wish = os.environ.get("MONOSEMY_SCREEN", "")
    vnni = getattr(torch.cpu, "_is_vnni_supported", None) or getattr(torch.cpu, "_is_avx512_vnni_supported", None)
    fast = wish == "1" or (wish != "0" and bool(vnni and vnni()))
    return fast and hasattr(torch, "_int_mm") and exact()


@functools.cache
def exact() -> bool:
    """Whether 8-bit products are exact: where ONEDNN_MAX_CPU_ISA hides VNNI from oneDNN, pairs saturate at 16 bits."""
    largest = torch.full((64, 64), 127, dtype=torch.int8)
    return bool((torch._int_mm(largest, largest) == 64 * 127**2).all())


def worth_trying(x: Tensor, n_latents: int) -> bool:
    large = len(x) >= 32 and len(x) * n_latents >= LEAST
    return x.dtype == torch.float32 and large and x.shape[1] <= WIDEST and available()


@_compile
def _round(matrix, smooth, codes, scale, rounded_norm, error_norm, norm):
    # One scale a row: its largest entry becomes 127. The norms are measured on what was in fact rounded, so that the
    # bound is as tight as this matrix allows.
    for r in numba.prange(matrix.shape[0]):
        row = matrix[r]
        largest = np.float32(0)
        for d in range(row.shape[0]):
            largest = max(largest, abs(row[d] * smooth[d]))
        step = largest / np.float32(127)
        inverse = np.float32(1) / step if step > 0 else np.float32(0)
        rounded_square, error_square, square = np.float32(0), np.float32(0), np.float32(0)
        for d in range(row.shape[0]):
            value = row[d] * smooth[d]
            code = np.rint(value * inverse)
            codes[r, d] = np.int8(code)
            back = code * step
            rounded_square += back * back
            error_square += (value - back) * (value - back)
            square += value * value
        if largest > 0 and square < TINY:
            square = np.float32(np.inf)  # its norms are lost to underflow: no bound
        scale[r], norm[r] = step, np.sqrt(square)
        rounded_norm[r], error_norm[r] = np.sqrt(rounded_square), np.sqrt(error_square)


@_inline
def _dot(a, b):
    total = np.float32(0)
    for d in range(a.shape[0]):
        total += a[d] * b[d]
    return total


@_inline
def _reach_row(n, out, block):
    # The largest that π can be, for all latents of a row: π̃ + B, B = ‖x̃‖‖e_w‖ + ‖e_x‖‖w‖. No branch, no call: the
    # loop is vectorised whole, and it is the one pass over all F latents that the screen pays for.
    products, bias, scale, error_norm, norm = block.products, block.bias, block.scale, block.error_norm, block.norm
    step, rounded, spread = block.row_scale[n], block.row_rounded_norm[n], block.row_error_norm[n]
    row = products[n]
    for f in range(row.shape[0]):
        out[f] = np.float32(row[f]) * (step * scale[f]) + bias[f] + rounded * error_norm[f] + spread * norm[f]


@_compile
def _above_rows(threshold, indices, values, counts, x, weights, block):
    # Candidates by the screen, then their true values. A row's count goes on past its list's capacity (the caller
    # sees that it overflowed and takes the dense product), but nothing is written there.
    n_rows, n_latents = block.products.shape
    bias, capacity = block.bias, indices.shape[1]
    for n in numba.prange(n_rows):
        reach = np.empty(n_latents, np.float32)
        _reach_row(n, reach, block)
        candidates = np.empty(n_latents + 1, np.int32)
        n_candidates = 0
        for f in range(n_latents):  # without a branch: always written, counted only if it passes
            candidates[n_candidates] = f
            n_candidates += reach[f] > threshold[f]
        n_selected = 0
        for s in range(n_candidates):
            f = candidates[s]
            value = _dot(x[n], weights[f]) + bias[f]
            if value > threshold[f]:
                if n_selected < capacity:
                    indices[n, n_selected], values[n, n_selected] = f, value
                n_selected += 1
        counts[n] = n_selected


@_compile
def _topk_rows(k, indices, values, counts, x, weights, block):
    # In two rounds, since the threshold is not known beforehand: the true values of about k strong candidates bound
    # the k-th largest π from below; then everything that can reach that bound is computed too.
    n_rows, n_latents = block.products.shape
    bias = block.bias
    n_groups = min(n_latents, max(64, 4 * k))
    for n in numba.prange(n_rows):
        reach = np.empty(n_latents, np.float32)
        maxima = np.full(n_groups, -np.inf, np.float32)
        _reach_row(n, reach, block)
        # The k-th largest of the maxima of n_groups ≥ k strided groups is reached by at least k entries, and finding it
        # sorts n_groups numbers rather than F.
        for start in range(0, n_latents - n_groups + 1, n_groups):
            for g in range(n_groups):
                value = reach[start + g]  # as a comparison, which becomes one vector instruction
                maxima[g] = value if value > maxima[g] else maxima[g]
        # At least k entries reach this far; the k-th largest of their true values bounds the true k-th from below.
        first = np.partition(maxima, n_groups - k)[n_groups - k] if k <= n_groups else np.float32(-np.inf)
        candidates = np.empty(n_latents + 1, np.int32)
        exact = np.empty(n_latents, np.float32)
        n_candidates = 0
        for f in range(n_latents):  # without a branch: always written, counted only if it passes
            candidates[n_candidates] = f
            n_candidates += reach[f] >= first
        for s in range(n_candidates):
            exact[s] = _dot(x[n], weights[candidates[s]]) + bias[candidates[s]]
        least = np.float32(0)  # what is not positive is never selected
        n_first = n_candidates
        if n_first >= k:
            least = max(least, np.partition(exact[:n_first], n_first - k)[n_first - k])
        for f in range(n_latents):
            candidates[n_candidates] = f
            n_candidates += (reach[f] >= least) & (reach[f] < first)
        for s in range(n_first, n_candidates):
            exact[s] = _dot(x[n], weights[candidates[s]]) + bias[candidates[s]]
        cut = np.float32(0)
        if n_candidates > k:
            cut = max(cut, np.partition(exact[:n_candidates], n_candidates - k)[n_candidates - k])
        counts[n] = _keep_topk(k, cut, n_first, candidates[:n_candidates], exact, indices[n], values[n])


@_inline
def _keep_topk(k, cut, n_first, candidates, exact, indices, values):
    # All above the cut, and of those equal to it the lowest latents. The first n_first candidates ascend, and so do the
    # others: merging the two gives ascending indices, as the reference has them.
    n_candidates = candidates.shape[0]
    n_ties = k
    for s in range(n_candidates):
        n_ties -= exact[s] > cut
    i, j, n_selected = 0, n_first, 0
    for _ in range(n_candidates):
        from_first = j >= n_candidates or (i < n_first and candidates[i] < candidates[j])
        s = i if from_first else j
        if from_first:
            i += 1
        else:
            j += 1
        tie = exact[s] == cut and cut > 0 and n_ties > 0
        if exact[s] > cut or tie:
            n_ties -= tie
            indices[n_selected], values[n_selected] = candidates[s], exact[s]
            n_selected += 1
    return n_selected


@_compile
def _pack(padded, exact, offsets, indices, values):
    for n in numba.prange(padded.shape[0]):
        count = offsets[n + 1] - offsets[n]
        indices[offsets[n] : offsets[n + 1]] = padded[n, :count]
        values[offsets[n] : offsets[n + 1]] = exact[n, :count]


def _rounded(matrix: np.ndarray, smooth: np.ndarray) -> _Rounded:
    n_rows = matrix.shape[0]
    # Inputs are padded to a multiple of four: torch 2.13 multiplies [N, 1] by [1, F] in 8 bits wrongly.
    codes = torch.zeros(n_rows, -(-matrix.shape[1] // 4) * 4, dtype=torch.int8)
    scale, rounded_norm, error_norm, norm = (np.empty(n_rows, np.float32) for _ in range(4))
    _round(matrix, smooth, codes.numpy(), scale, rounded_norm, error_norm, norm)
    return _Rounded(codes, scale, rounded_norm, error_norm, norm=norm)


def _screen(x: Tensor, W_enc: Tensor, b_enc: Tensor | None) -> _Screen | None:
    x = x.detach().contiguous()
    weights = W_enc.detach().T.contiguous()  # no copy: stored column by column
    bias = torch.zeros(len(weights)) if b_enc is None else b_enc.detach().contiguous()
    # s = √rms(x) per input shares an outlying input's size between x/s and w·s: each then costs the others less of
    # their eight bits.
    smooth = x.square().mean(0).sqrt_().sqrt_()
    largest = float(smooth.max())
    smooth = smooth.clamp_min(1e-6 * largest) if largest > 0 else torch.ones_like(smooth)
    rows, latents = _rounded(x.numpy(), (1 / smooth).numpy()), _rounded(weights.numpy(), smooth.numpy())
    if not (np.isfinite(rows.norm).all() and np.isfinite(latents.norm).all() and bool(torch.isfinite(bias).all())):
        return None
    # What float32 itself rounds in a sum of D terms is charged to the rows' rounding error.
    slack = np.float32(SLACK * max(64, x.shape[1]))
    rows = rows._replace(error_norm=rows.error_norm + slack * rows.norm)
    return _Screen(x.numpy(), weights.numpy(), bias.numpy(), rows=rows, latents=latents)


def encode_topk(x: Tensor, W_enc: Tensor, b_enc: Tensor | None, k: int) -> tuple[Pattern, Tensor] | None:
    """`reference.select_topk` of π and its values [Z]; None where the dense product would be quicker."""
    if 3 * k > WORTH * W_enc.shape[1] or (screen := _screen(x, W_enc, b_enc)) is None:
        return None
    n_rows = len(x)
    padded, exact = np.empty((n_rows, k), np.int32), np.empty((n_rows, k), np.float32)
    counts = np.empty(n_rows, np.int64)
    for at, block in screen.blocks():
        _topk_rows(k, padded[at], exact[at], counts[at], screen.x[at], screen.weights, block)
    return _packed(padded, exact, counts)


def encode_above(x: Tensor, W_enc: Tensor, b_enc: Tensor | None, threshold: Tensor) -> tuple[Pattern, Tensor] | None:
    """`reference.select_above` of π and its values [Z]; None where the dense product would be quicker."""
    if not _sparse_enough(x, W_enc, b_enc, threshold) or (screen := _screen(x, W_enc, b_enc)) is None:
        return None
    return _above(screen, np.ascontiguousarray(threshold.detach().numpy()))


def encode_batch_topk(
    x: Tensor, W_enc: Tensor, b_enc: Tensor | None, n_keep: int
) -> tuple[Pattern, Tensor, float] | None:
    """`reference.select_batch_topk` of π, its values [Z] and the cut; None where the dense product would be quicker."""
    n_entries = len(x) * W_enc.shape[1]
    if 3 * n_keep > WORTH * n_entries or n_keep == 0 or (screen := _screen(x, W_enc, b_enc)) is None:
        return None
    sampled = x.detach()[:: max(1, len(x) // SAMPLE_ROWS)]
    sample = _pre_activations(sampled, W_enc, b_enc)
    for factor in (1.15, 1.5, 2.5):
        rank = sample.numel() - min(sample.numel() - 1, int(factor * n_keep / n_entries * sample.numel()))
        guess = max(float(sample.flatten().kthvalue(rank).values), 0.0)
        selected = _above(screen, np.full(W_enc.shape[1], guess, np.float32))
        if selected is None:
            return None
        pattern, values = selected
        if len(values) >= n_keep or guess == 0:
            return cpu.cut_batch(pattern, values, n_keep)
    return None


def _above(screen: _Screen, threshold: np.ndarray) -> tuple[Pattern, Tensor] | None:
    n_rows, n_latents = len(screen.x), len(screen.weights)
    capacity = max(64, int(WORTH * n_latents))
    padded, exact = np.empty((n_rows, capacity), np.int32), np.empty((n_rows, capacity), np.float32)
    counts = np.empty(n_rows, np.int64)
    for at, block in screen.blocks():
        _above_rows(threshold, padded[at], exact[at], counts[at], screen.x[at], screen.weights, block)
    if counts.max() > capacity:
        return None
    return _packed(padded, exact, counts)


def _packed(padded: np.ndarray, exact: np.ndarray, counts: np.ndarray) -> tuple[Pattern, Tensor]:
    """Rows of a padded list, one after the other."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    indices, values = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.float32)
    _pack(padded, exact, offsets, indices, values)
    return Pattern(torch.from_numpy(offsets), torch.from_numpy(indices)), torch.from_numpy(values)


def _pre_activations(x: Tensor, W_enc: Tensor, b_enc: Tensor | None) -> Tensor:
    return x @ W_enc.detach() if b_enc is None else torch.addmm(b_enc.detach(), x, W_enc.detach())


def _sparse_enough(x: Tensor, W_enc: Tensor, b_enc: Tensor | None, threshold: Tensor) -> bool:
    """Whether, on a sample of rows, few enough entries pass for the screen to be worth its while."""
    sample = _pre_activations(x.detach()[:: max(1, len(x) // SAMPLE_ROWS)], W_enc, b_enc)
    return float((sample > threshold).float().mean()) < WORTH / 2
