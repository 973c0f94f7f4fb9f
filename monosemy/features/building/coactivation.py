"""Which latents fire together, over the whole dictionary and all tokens; and a short projection of each latent's
activations, by which two databases over one text can be compared.

Place on the path: `by_latent` → [co-activation neighbours, sketches] → database.

    φ_ij = (n_ij N − n_i n_j) / √(n_i (N − n_i) n_j (N − n_j))

the Pearson correlation of "i fires" and "j fires" over the N kept tokens. n_ij is counted exactly: for each firing of
i, the other latents of that token's row (a sparse AᵀA, row by row, nothing of size d_sae² is held). Pairs that meet on
fewer than `MIN_TOGETHER` tokens are left out: for latents that hardly fire, one meeting by chance gives a φ near 1.
Cost: Σ_tokens L0² additions.

    sketch_i[b] = Σ_{t: h(t) = b} s(t) (a_i(t) − ā_i) / ‖a_i − ā_i‖        h(t), s(t) = ±1 hashes of the token index

(count sketch, Charikar et al. 2002): the inner product of two sketches of length k estimates the correlation of two
latents' activations with a standard error of about 1/√k (0.06 at 256), whatever SAE or site they come from, as long as
both passes read the same tokens.
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

import numba
import numpy as np

from monosemy.features.building.by_latent import Firings, _next
from monosemy.features.building.encode_pass import Codes

MIN_TOGETHER = 3
_parallel = numba.njit(parallel=True, cache=True)


def coactivation(
    firings: Firings, codes: Codes, counts: np.ndarray, n_kept: int, n_neighbours: int
) -> tuple[np.ndarray, np.ndarray]:
    """The latents that fire together with each latent of the block most: int32 [m, k] (−1: none), φ float32 [m, k].

    `counts` int64 [d_sae]: firings of every latent; `n_kept`: tokens encoded. Ties go to the lower number.
    """
    latents = np.full((firings.n_latents, n_neighbours), -1, np.int32)
    phi = np.zeros((firings.n_latents, n_neighbours), np.float32)
    _count_together(
        firings.offsets, firings.token, firings.first, codes.offsets, codes.indices, counts, n_kept,
        numba.get_num_threads(), MIN_TOGETHER, latents, phi,
    )  # fmt: skip
    return latents, phi


@_parallel
def _count_together(offsets, token, first, rows, indices, counts, n_kept, n_threads, least, latents, phi):
    n_neighbours = latents.shape[1]
    for thread in numba.prange(n_threads):
        together = np.zeros(len(counts), np.int64)
        met = np.empty(len(counts), np.int64)
        for f in range(thread, len(offsets) - 1, n_threads):
            n_met, own = 0, counts[first + f]
            for z in range(offsets[f], offsets[f + 1]):
                for y in range(rows[token[z]], rows[token[z] + 1]):
                    g = indices[y]
                    if together[g] == 0:
                        met[n_met] = g
                        n_met += 1
                    together[g] += 1
            others = np.sort(met[:n_met])
            scores = np.full(n_met, -2.0)
            for k in range(n_met):
                g = others[k]
                spread = np.float64(own) * (n_kept - own) * np.float64(counts[g]) * (n_kept - counts[g])
                if g != first + f and together[g] >= least and spread > 0:
                    scores[k] = (np.float64(together[g]) * n_kept - np.float64(own) * counts[g]) / np.sqrt(spread)
                together[g] = 0
            best = np.argsort(-scores, kind="mergesort")
            for k in range(min(n_neighbours, n_met)):
                if scores[best[k]] > -2:
                    latents[f, k], phi[f, k] = others[best[k]], scores[best[k]]


def sketches(firings: Firings, kept: np.ndarray, length: int) -> np.ndarray:
    """int8 [m, length]: sketches × 127; zeros for a latent that never fires. `kept` bool [N]: tokens encoded."""
    bucket, sign = _hashes(len(kept), length)
    base = np.bincount(bucket[kept], weights=sign[kept], minlength=length)
    out = np.zeros((firings.n_latents, length), np.int8)
    _sketch(firings.offsets, firings.token, firings.value, bucket, sign, base, int(kept.sum()), out)
    return out


@numba.njit(cache=True)
def _hashes(n_tokens, length):
    bucket, sign = np.empty(n_tokens, np.int64), np.empty(n_tokens, np.float64)
    for t in range(n_tokens):
        _, bits = _next(np.uint64(t) * np.uint64(0x9E3779B97F4A7C15))
        bucket[t] = np.int64((bits >> np.uint64(1)) % np.uint64(length))
        sign[t] = 1.0 if bits & np.uint64(1) else -1.0
    return bucket, sign


@_parallel
def _sketch(offsets, token, value, bucket, sign, base, n_kept, out):
    for f in numba.prange(len(offsets) - 1):
        total, squares = 0.0, 0.0
        sums = np.zeros(len(base))
        for z in range(offsets[f], offsets[f + 1]):
            total += value[z]
            squares += np.float64(value[z]) * value[z]
            sums[bucket[token[z]]] += sign[token[z]] * value[z]
        if n_kept == 0:
            continue
        mean = total / n_kept
        norm = np.sqrt(max(squares - n_kept * mean * mean, 0.0))
        if norm > 0:
            for b in range(len(base)):
                out[f, b] = np.int8(min(127.0, max(-127.0, np.round(127 * (sums[b] - mean * base[b]) / norm))))
