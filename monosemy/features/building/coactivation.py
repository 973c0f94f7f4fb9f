"""Finds the latents that fire together, and makes a short sketch of each latent's activations.

Sketches let two databases over the same text be compared. Both are over the whole dictionary and all tokens.
Place on the path: `by_latent` → [co-activation neighbours, sketches] → database.

    φ_ij = (n_ij N − n_i n_j) / √(n_i (N − n_i) n_j (N − n_j))

is the Pearson correlation of "i fires" and "j fires" over the N encoded tokens. n_ij is counted exactly: for each
firing of i, the other latents in that token's row are counted (a sparse AᵀA, row by row, so that nothing of size d_sae²
is held). Pairs that fire together on fewer than `MIN_TOGETHER` tokens are left out, since for latents that hardly fire
a single coincidence gives a φ near 1. Cost: Σ_tokens L0² additions.

    sketch_i[b] = Σ_{t: h(t) = b} s(t) (a_i(t) − ā_i) / ‖a_i − ā_i‖        h(t), s(t) = ±1 hashes of the token index

is a count sketch (Charikar et al. 2002). The inner product of two sketches of length k estimates the correlation of
the two latents' activations with a standard error of about 1/√k (0.06 at 256). The latents may come from different SAEs
or sites, as long as both passes read the same tokens.
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from jaxtyping import Bool, Float32, Int, Int8, Int32, Int64
from numpy import ndarray

from monosemy.features.building.by_latent import Firings, next_random
from monosemy.features.building.encode_pass import Codes

MIN_TOGETHER = 3
_parallel = numba.njit(parallel=True, cache=True)


def coactivation(
    firings: Firings, codes: Codes, counts: Int64[ndarray, " d_sae"], n_encoded: int, *, n_neighbours: int
) -> tuple[Int32[ndarray, "m k"], Float32[ndarray, "m k"]]:
    """For each latent of the block, those with the highest φ (−1: none), and φ.

    `counts` are the firings of every latent, `n_encoded` is the number of encoded tokens. Of equal φ, the
    lower latent comes first.
    """
    latents = np.full((firings.n_latents, n_neighbours), -1, np.int32)
    phi = np.zeros((firings.n_latents, n_neighbours), np.float32)
    block = _Block(firings.offsets, firings.token, firings.first)
    _count_together(
        block,
        codes.offsets,
        codes.indices,
        counts,
        n_encoded=n_encoded,
        n_threads=numba.get_num_threads(),
        latents=latents,
        phi=phi,
    )
    return latents, phi


class _Block(NamedTuple):
    """Firings of consecutive latents as a tuple, for compiled functions."""

    offsets: Int64[ndarray, " m_plus_1"]
    token: Int[ndarray, " z"]
    first: int


@_parallel
def _count_together(block, rows, indices, counts, n_encoded, n_threads, latents, phi):
    """Writes the partners with the highest φ of each latent, best first. `rows`, `indices` are the codes by token.

    As in `by_latent`, a thread has one table over the dictionary and clears only the entries that a latent touched.
    Scores start at −2, which is below any correlation and marks pairs that do not count.
    """
    offsets, token, first = block
    n_neighbours = latents.shape[1]
    for thread in numba.prange(n_threads):
        together = np.zeros(len(counts), np.int64)
        met = np.empty(len(counts), np.int64)
        for f in range(thread, len(offsets) - 1, n_threads):
            n_met, own_count = 0, counts[first + f]
            # count every latent in the rows of f's firings (f itself is met too, and skipped below)
            for z in range(offsets[f], offsets[f + 1]):
                for y in range(rows[token[z]], rows[token[z] + 1]):
                    g = indices[y]
                    if together[g] == 0:
                        met[n_met] = g
                        n_met += 1
                    together[g] += 1
            # sorted by number, so that the stable sort by score below puts the lower latent first among equals
            partners = np.sort(met[:n_met])
            scores = np.full(n_met, -2.0)
            for k in range(n_met):
                g = partners[k]
                count = counts[g]
                # in float64: the product of four counts overflows int64
                spread = np.float64(own_count) * (n_encoded - own_count) * np.float64(count) * (n_encoded - count)
                if g != first + f and together[g] >= MIN_TOGETHER and spread > 0:
                    excess = np.float64(together[g]) * n_encoded - np.float64(own_count) * count
                    scores[k] = excess / np.sqrt(spread)
                together[g] = 0
            best = np.argsort(-scores, kind="mergesort")
            for k in range(min(n_neighbours, n_met)):
                if scores[best[k]] > -2:
                    latents[f, k], phi[f, k] = partners[best[k]], scores[best[k]]


def sketches(firings: Firings, encoded: Bool[ndarray, " token"], length: int) -> Int8[ndarray, "m length"]:
    """The sketches of a block times 127; zeros for a latent that never fires.

    `encoded` says which tokens were encoded; they are the sample over which activations are correlated.
    """
    # Σ s(t) per bucket: with it, the mean is subtracted from a whole bucket at once rather than from every token
    bucket, sign = _hashes(len(encoded), length)
    base = np.bincount(bucket[encoded], weights=sign[encoded], minlength=length)
    out = np.zeros((firings.n_latents, length), np.int8)
    _sketch(
        firings.offsets,
        firings.token,
        firings.value,
        bucket,
        sign=sign,
        base=base,
        n_encoded=int(encoded.sum()),
        out=out,
    )
    return out


@numba.njit(cache=True)
def _hashes(n_tokens, length):
    """The bucket and the sign of every token index, [N] each."""
    bucket, sign = np.empty(n_tokens, np.int64), np.empty(n_tokens, np.float64)
    for t in range(n_tokens):
        # one hash of the token index gives both: the lowest bit is the sign, the others choose the bucket
        _, bits = next_random(np.uint64(t) * np.uint64(0x9E3779B97F4A7C15))
        bucket[t] = np.int64((bits >> np.uint64(1)) % np.uint64(length))
        sign[t] = 1.0 if bits & np.uint64(1) else -1.0
    return bucket, sign


@_parallel
def _sketch(offsets, token, value, bucket, sign, base, n_encoded, out):
    """Writes out [m, length]; base [length] is the sum of the signs of all encoded tokens in each bucket."""
    for f in numba.prange(len(offsets) - 1):
        total, squares = 0.0, 0.0
        sums = np.zeros(len(base))
        # sums over firings alone: everywhere else the activation is 0
        for z in range(offsets[f], offsets[f + 1]):
            total += value[z]
            squares += np.float64(value[z]) * value[z]
            sums[bucket[token[z]]] += sign[token[z]] * value[z]
        if n_encoded == 0:
            continue
        # ‖a − ā‖² = Σ a² − N ā²; rounding may take it just below zero
        mean = total / n_encoded
        norm = np.sqrt(max(squares - n_encoded * mean * mean, 0.0))
        if norm > 0:
            for b in range(len(base)):
                out[f, b] = np.int8(min(127.0, max(-127.0, np.round(127 * (sums[b] - mean * base[b]) / norm))))
