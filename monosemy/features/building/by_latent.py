"""Turns codes by token into firings by latent, and computes statistics over them (exact, in blocks, compiled by numba).

Place on the path: `encode_pass` → [firings of each latent in token order, statistics, chosen windows] → `contexts`.

    firings of latent i        token[offsets[i]:offsets[i+1]], value[...], tokens increasing
    per latent                 count, mean, smallest, largest, quantiles, histogram, firings at the first and last token
                               of a document and by position, entropy of the tokens fired on, its typical tokens
    contexts                   the n_top contexts with the highest peaks; windows drawn from each fifth of the firing
                               windows by peak; a uniform sample of firing windows

Memory is bounded by working on blocks of latents whose firings fit `ENTRIES_AT_ONCE`; each block reads all codes once.
Quantiles are exact: all positive activations of a latent are sorted, not a sample of them. Each latent draws from its
own generator, seeded by (seed, latent), so neither the number of threads nor the blocks change a byte. Of equal peaks,
the earlier token comes first.
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, Int64, Shaped
from numpy import ndarray

from monosemy.features.building.encode_pass import Codes
from monosemy.features.store.settings import LEVELS, N_QUANTILES, FeatureSettings

ENTRIES_AT_ONCE = 1 << 26
"""Firings that one block holds: 8 bytes each (int32 token, float32 value) up to 2^31 tokens."""
_parallel = numba.njit(parallel=True, cache=True)
_serial = numba.njit(cache=True)


@dataclass(frozen=True)
class Firings:
    """Where latents first … first + m − 1 fire, and how strongly; the firings of latent first + f are entries
    offsets[f]:offsets[f+1]."""

    first: int
    offsets: Int64[ndarray, " m_plus_1"]
    """Where each latent's entries begin, and where the last one's end."""
    token: Int[ndarray, " z"]
    """Int32 or int64: sequence · T + position, increasing within a latent."""
    value: Float32[ndarray, " z"]
    """The activation of every firing."""

    @property
    def n_latents(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True)
class Text:
    """The text of the encoding pass, in the form that the aggregation needs."""

    tokens: Int32[ndarray, "sequence position"]
    """The token ids."""
    window: int
    first_of_document: Bool[ndarray, " token"]
    """Which of the S·T tokens are the first encoded ones of their documents."""
    last_of_document: Bool[ndarray, " token"]
    encoded: Bool[ndarray, " token"]
    """Whether the position was encoded."""
    n_vocabulary: int

    @property
    def context_length(self) -> int:
        return self.tokens.shape[1]

    @property
    def n_tokens(self) -> int:
        return self.tokens.size

    @property
    def n_windows(self) -> int:
        return self.tokens.size // self.window


def document_ends(
    documents: Int[ndarray, " token"], encoded: Bool[ndarray, " token"]
) -> tuple[Bool[ndarray, " token"], Bool[ndarray, " token"]]:
    """(first, last): whether a token is the first or the last encoded one of its document.

    `documents` is in the order of the text. A document cut off by the end of the text still gets a last token.
    """
    # neighbours among the encoded positions: dropped ones, such as a separator at the start, are stepped over
    positions = np.flatnonzero(encoded)
    change = np.diff(documents[positions]) != 0
    first, last = np.zeros(len(documents), bool), np.zeros(len(documents), bool)
    first[positions[np.concatenate([[True], change])[: len(positions)]]] = True
    last[positions[np.concatenate([change, [True]])[: len(positions)]]] = True
    return first, last


def blocks(codes: Codes, entries_at_once: int = ENTRIES_AT_ONCE) -> Iterator[Firings]:
    """Yields the firings of all latents in blocks of consecutive latents.

    A block holds at most `entries_at_once` firings, except that a single latent with more is a block by itself. Each
    block costs one pass over the codes.
    """
    counts = np.bincount(codes.indices, minlength=codes.d_sae) if len(codes.indices) else np.zeros(codes.d_sae, int)
    totals = np.concatenate([[0], np.cumsum(counts)])
    first = 0
    while first < codes.d_sae:
        # the largest `last` whose block still fits; at least one latent, so that the loop always advances
        last = int(np.searchsorted(totals, totals[first] + entries_at_once, side="right")) - 1
        last = min(max(last, first + 1), codes.d_sae)
        offsets = (totals[first : last + 1] - totals[first]).astype(np.int64)
        token = np.empty(offsets[-1], np.int32 if codes.n_tokens < 2**31 else np.int64)
        value = np.empty(offsets[-1], np.float32)
        # a copy, since `_transpose` advances these offsets as it writes
        _transpose(
            codes.offsets,
            codes.indices,
            codes.values,
            first=first,
            last=last,
            at=offsets[:-1].copy(),
            token=token,
            value=value,
        )
        yield Firings(first, offsets, token, value)
        first = last


@_serial
def _transpose(offsets, indices, values, first, last, at, token, value):
    """Counting sort of the codes into rows by latent, for latents first … last − 1, in one pass over all entries.

    `at[f]` is where latent first + f writes next. Tokens are read in increasing order, so each latent's tokens come out
    sorted.
    """
    for n in range(len(offsets) - 1):
        for z in range(offsets[n], offsets[n + 1]):
            f = indices[z]
            if first <= f < last:
                token[at[f - first]] = n
                value[at[f - first]] = values[z]
                at[f - first] += 1


def summarise(firings: Firings, text: Text, settings: FeatureSettings) -> dict[str, Shaped[ndarray, "m ..."]]:
    """Statistics and chosen windows of a block of m latents. Every array has m rows:

    n, n_windows                  int64 [m], firings and windows with a firing
    mean, min, max, first_share, last_share, mean_position, token_entropy (bits)
                                  float32 [m]; NaN for a latent that never fires, except that its max is 0
    quantiles                     float32 [m, len(LEVELS)]
    histogram, positions          int64 [m, n_bins] and [m, n_position_buckets]
    chosen                        int64 [m, n_top + 5·n_per_quantile], token of each example's peak or −1
    sample, sample_value          int64 and float32 [m, n_sample], token and activation of sampled peaks
    index_token, index_score      int64 and float32 [m, n_index_tokens]

    The index score of token v is √(s·r). s is the share of the latent's summed activation that falls on v, and r the
    mean of activation / largest activation over all occurrences of v. It is high when the two occur together: the
    latent fires mostly on v, and v mostly makes it fire.
    """
    m, s = firings.n_latents, settings
    out: dict[str, Any] = {
        "token_entropy": np.full(m, np.nan, np.float32),
        "n": np.diff(firings.offsets),
        "n_windows": np.zeros(m, np.int64),
        "quantiles": np.full((m, len(LEVELS)), np.nan, np.float32),
        "histogram": np.zeros((m, s.n_bins), np.int64),
        "positions": np.zeros((m, s.n_position_buckets), np.int64),
        "chosen": np.full((m, s.n_top + N_QUANTILES * s.n_per_quantile), -1, np.int64),
        "sample": np.full((m, s.n_sample), -1, np.int64),
        "sample_value": np.zeros((m, s.n_sample), np.float32),
        "index_token": np.full((m, s.n_index_tokens), -1, np.int64),
        "index_score": np.zeros((m, s.n_index_tokens), np.float32),
    }
    # the compiled functions fill the arrays of `out` in place
    flat = text.tokens.reshape(-1)
    occurrences = np.bincount(flat[text.encoded], minlength=text.n_vocabulary)
    rows = LatentRows(firings.offsets, firings.token, firings.value)
    ends = (text.first_of_document, text.last_of_document)
    moments = np.full((m, len(_MOMENTS)), np.nan, np.float32)
    levels = np.asarray(LEVELS)
    _statistics(
        rows,
        text.context_length,
        ends,
        levels,
        moments=moments,
        quantiles=out["quantiles"],
        histogram=out["histogram"],
        positions=out["positions"],
    )
    out |= {name: moments[:, column].copy() for column, name in enumerate(_MOMENTS)}
    sizes, counts = (text.context_length, text.window), (s.n_top, s.n_per_quantile)
    _choose(
        rows,
        sizes,
        counts,
        generator_base(s.seed, firings.first),
        examples=out["chosen"],
        sample=out["sample"],
        sample_value=out["sample_value"],
        n_windows=out["n_windows"],
    )
    _tokens(
        rows,
        flat,
        occurrences,
        numba.get_num_threads(),
        entropy=out["token_entropy"],
        index_token=out["index_token"],
        index_score=out["index_score"],
    )
    out["max"][out["n"] == 0] = 0
    return out


# Compiled functions take their inputs in tuples, but every output array is a parameter of its own: in parallel loops,
# numba eliminates writes to an array unpacked from a tuple as dead code.

_MOMENTS = ("mean", "min", "max", "first_share", "last_share", "mean_position")
"""The columns that `_statistics` writes to `moments`."""


class LatentRows(NamedTuple):
    """The arrays of `Firings` as a tuple, for compiled functions."""

    offsets: Int64[ndarray, " m_plus_1"]
    token: Int[ndarray, " z"]
    value: Float32[ndarray, " z"]


@_parallel
def _statistics(rows, length, ends, levels, moments, quantiles, histogram, positions):
    """Moments, quantiles, histogram and positions of every latent's firings.

    A thread takes whole latents, so the sums of a latent are added in token order whatever the number of threads.
    """
    offsets, token, value = rows
    first, last = ends
    n_bins, n_buckets = histogram.shape[1], positions.shape[1]
    for f in numba.prange(len(offsets) - 1):
        a, b = offsets[f], offsets[f + 1]
        if a == b:
            continue
        n = b - a
        ordered = np.sort(value[a:b])
        low, high = ordered[0], ordered[n - 1]
        # linear interpolation between the two nearest order statistics, as np.quantile does by default
        for q in range(len(levels)):
            at = levels[q] * (n - 1)
            below = int(at)
            above = min(below + 1, n - 1)
            quantiles[f, q] = ordered[below] + (at - below) * (ordered[above] - ordered[below])
        total, places, n_first, n_last = 0.0, 0.0, 0, 0
        # in float64: rounding in float32 could put an activation near an edge into the wrong bin
        width = np.float64(high) - np.float64(low)
        for z in range(a, b):
            total += value[z]
            place = token[z] % length
            places += place
            n_first += first[token[z]]
            n_last += last[token[z]]
            positions[f, place * n_buckets // length] += 1
            # the largest value would fall just behind the last bin
            bin = int((np.float64(value[z]) - low) / width * n_bins) if width > 0 else 0
            histogram[f, min(bin, n_bins - 1)] += 1
        moments[f, 0], moments[f, 1], moments[f, 2] = total / n, low, high
        moments[f, 3], moments[f, 4], moments[f, 5] = n_first / n, n_last / n, places / n


def generator_base(seed: int, first: int, multiplier: int = 0xD1342543DE82EF95) -> np.uint64:
    """State of latent `first`'s random generator, modulo 2^64; that of latent first + f is larger by f.

    Callers with different multipliers draw from different streams for the same seed.
    """
    return np.uint64((seed * multiplier + first) % 2**64)


@_serial
def next_random(state):
    """One step of splitmix64: the next state and 64 random bits."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    z = state
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state, z ^ (z >> np.uint64(31))


@_serial
def _draw(items, k, state):
    """Moves k items, drawn uniformly without replacement, to the front (Fisher-Yates); returns the next state."""
    n = len(items)
    for i in range(min(k, n)):
        state, bits = next_random(state)
        j = i + np.int64(bits % np.uint64(n - i))
        items[i], items[j] = items[j], items[i]
    return state


@_serial
def _peaks(token, value, size):
    """Token and value of the largest activation in each stretch of `size` tokens that holds a firing.

    Firings are in token order, so a stretch is finished as soon as the next one begins. Equal values keep the first.
    """
    where, peak = np.empty(len(token), np.int64), np.empty(len(token), np.float32)
    n, current = 0, -1
    for z in range(len(token)):
        stretch = token[z] // size
        if stretch != current:
            current = stretch
            where[n], peak[n] = token[z], value[z]
            n += 1
        elif value[z] > peak[n - 1]:
            where[n - 1], peak[n - 1] = token[z], value[z]
    return where[:n], peak[:n]


@_parallel
def _choose(rows, sizes, counts, base, examples, sample, sample_value, n_windows):
    """Chooses the contexts with the highest peaks, windows drawn from each fifth by peak, and a uniform sample.

    A stable sort (mergesort) leaves equal peaks in the order of their tokens. Each latent has its own generator.
    """
    offsets, token, value = rows
    length, window = sizes
    n_top, n_per_quantile = counts
    n_quantiles = (examples.shape[1] - n_top) // max(n_per_quantile, 1)
    for f in numba.prange(len(offsets) - 1):
        a, b = offsets[f], offsets[f + 1]
        if a == b:
            continue
        # 1. the strongest examples: one per context, so that one text cannot fill the list
        where, peak = _peaks(token[a:b], value[a:b], length)
        order = np.argsort(-peak, kind="mergesort")
        for k in range(min(n_top, len(order))):
            examples[f, k] = where[order[k]]
        # 2. examples of each fifth of the firing windows, weakest fifth first
        where, peak = _peaks(token[a:b], value[a:b], window)
        n_windows[f] = len(where)
        order = np.argsort(peak, kind="mergesort")
        # splitmix64 hashes its state: states that differ by 1 give unrelated draws
        state, _ = next_random(base + np.uint64(f))
        for q in range(n_quantiles):
            fifth = order[q * len(order) // n_quantiles : (q + 1) * len(order) // n_quantiles].copy()
            state = _draw(fifth, n_per_quantile, state)
            for k in range(min(n_per_quantile, len(fifth))):
                examples[f, n_top + q * n_per_quantile + k] = where[fifth[k]]
        # 3. a uniform sample of the firing windows for labels, put back into token order
        windows = np.arange(len(where))
        _draw(windows, sample.shape[1], state)
        sampled = np.sort(windows[: sample.shape[1]])
        for k in range(len(sampled)):
            sample[f, k], sample_value[f, k] = where[sampled[k]], peak[sampled[k]]


@_parallel
def _tokens(rows, ids, occurrences, n_threads, entropy, index_token, index_score):
    """Entropy of the tokens that a latent fires on, and the tokens that go with it best (`summarise`: index score).

    Every thread has one table over the vocabulary and takes every n_threads-th latent. Only the entries that a latent
    touched are set back to zero, so a latent costs time in proportion to its firings, not to the vocabulary.
    """
    offsets, token, value = rows
    n_latents = len(offsets) - 1
    for thread in numba.prange(n_threads):
        count, total = np.zeros(len(occurrences), np.int64), np.zeros(len(occurrences), np.float64)
        tokens_met = np.empty(len(occurrences), np.int64)
        for f in range(thread, n_latents, n_threads):
            n_met, sum_all, largest = 0, 0.0, 0.0
            for z in range(offsets[f], offsets[f + 1]):
                v = ids[token[z]]
                if count[v] == 0:
                    tokens_met[n_met] = v
                    n_met += 1
                count[v] += 1
                total[v] += value[z]
                sum_all += value[z]
                largest = max(largest, value[z])
            if n_met == 0:
                continue
            n, bits = offsets[f + 1] - offsets[f], 0.0
            scores = np.empty(n_met, np.float64)
            for k in range(n_met):
                v = tokens_met[k]
                bits -= count[v] / n * np.log2(count[v] / n)
                # occurrences[v] is not 0: it counts encoded positions, the only ones that fire
                scores[k] = np.sqrt(total[v] / sum_all * total[v] / (largest * occurrences[v]))
                count[v], total[v] = 0, 0.0
            entropy[f] = bits
            best = np.argsort(-scores, kind="mergesort")
            for k in range(min(len(best), index_token.shape[1])):
                index_token[f, k], index_score[f, k] = tokens_met[best[k]], scores[best[k]]
