"""Gathers the contexts shown for each latent: windows where it fires, windows where it is silent, and its activations.

Place on the path: `by_latent` (chosen windows), neighbours → [contexts] → database.

A near miss of latent i is a window around a strong peak of one of its nearest decoder neighbours in which i itself does
not fire; the neighbours take turns. Random negatives are drawn uniformly from the windows in which i does not fire. An
example points at one token: the peak, for a near miss the neighbour's peak, for a random window its middle. It carries
the latent's activations over that token's whole context, where the latent may fire outside the silent window.
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from jaxtyping import Float32, Int, Int64, UInt8, UInt16
from numpy import ndarray

from monosemy.features.building.by_latent import Firings, Text, generator_base, next_random
from monosemy.features.store.settings import GROUPS, N_QUANTILES, FeatureSettings

_ATTEMPTS = 256
_parallel = numba.njit(parallel=True, cache=True)
_serial = numba.njit(cache=True)


@dataclass(frozen=True)
class Examples:
    """Examples of a block of m latents, latent after latent; within a latent in the order of `GROUPS`."""

    offsets: Int64[ndarray, " m_plus_1"]
    """Offsets into `token` and `group`."""
    token: Int64[ndarray, " example"]
    """Sequence · T + position."""
    group: UInt8[ndarray, " example"]
    """Index into `GROUPS`."""
    activation_offsets: Int64[ndarray, " examples_plus_1"]
    """Offsets into `position` and `activation`."""
    position: UInt16[ndarray, " firing"]
    """Position of each firing in the context."""
    activation: Float32[ndarray, " firing"]
    """Activation divided by the latent's largest."""


def gather_examples(
    firings: Firings,
    text: Text,
    settings: FeatureSettings,
    windows: Int64[ndarray, "m column"],
    *,
    peaks: Int64[ndarray, "d_sae n_top"],
    neighbours: Int[ndarray, "m k"],
    largest: Float32[ndarray, " m"],
) -> Examples:
    """The examples of a block of m latents.

    windows is `chosen` of `summarise`; peaks holds the peak token of each latent's strongest contexts (−1: none);
    neighbours are the nearest latents by decoder direction; largest is each latent's largest activation.
    """
    s = settings
    # a multiplier of its own: the draws must not repeat those of `summarise`
    silent = np.full((firings.n_latents, s.n_near_miss + s.n_random), -1, np.int64)
    base = generator_base(s.seed, firings.first, 0xA0761D6478BD642F)
    stretch = (text.window, text.n_windows)
    _silent(
        firings.offsets,
        firings.token,
        stretch,
        base,
        n_near=s.n_near_miss,
        neighbours=neighbours,
        peaks=peaks,
        out=silent,
    )
    # all examples as one table [m, columns], each column of one group; −1 marks places without an example
    table = np.concatenate([windows, silent], axis=1)
    sizes = [s.n_top, *[s.n_per_quantile] * N_QUANTILES, s.n_near_miss, s.n_random]
    groups = np.repeat(np.arange(len(GROUPS), dtype=np.uint8), sizes)
    is_example = table >= 0
    offsets = np.concatenate([[0], np.cumsum(is_example.sum(1))]).astype(np.int64)
    token, latent = table[is_example], np.broadcast_to(np.arange(len(table))[:, None], table.shape)[is_example]
    # the firings of each example's latent within its context: find their range, then copy them
    starts, stops = np.empty(len(token), np.int64), np.empty(len(token), np.int64)
    first = token // text.context_length * text.context_length  # the token index at which the context begins
    _ranges(firings.offsets, firings.token, latent, first, length=text.context_length, starts=starts, stops=stops)
    length = stops - starts
    at = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    position, activation = np.empty(at[-1], np.uint16), np.empty(at[-1], np.float32)
    _fill(
        firings.token,
        firings.value,
        text.context_length,
        starts,
        stops=stops,
        lengths=at,
        position=position,
        activation=activation,
    )
    grouped = np.broadcast_to(groups, table.shape)[is_example]
    return Examples(
        offsets, token, grouped, at, position=position, activation=activation / np.repeat(largest[latent], length)
    )


@_serial
def _fires_in(token, a, b, start, stop):
    """Whether one of the firings token[a:b] (increasing) lies in [start, stop)."""
    at = a + np.searchsorted(token[a:b], start)
    return at < b and token[at] < stop


@_serial
def _new(row, n, window, size):
    """Whether none of the first n tokens in `row` lies in that window."""
    is_present = False
    for k in range(n):
        is_present |= row[k] >= 0 and row[k] // size == window
    return not is_present


@_parallel
def _silent(offsets, token, sizes, base, n_near, neighbours, peaks, out):
    """Fills out [m, n_near + n_random] with the tokens at which silent windows are shown; −1 where there are too few.

    Random windows come from rejection sampling: windows are drawn until enough are silent and new, at most `_ATTEMPTS`
    times, so a latent that fires in nearly every window gets fewer.
    """
    size, n_windows = sizes
    for f in numba.prange(len(offsets) - 1):
        a, b, n = offsets[f], offsets[f + 1], 0
        # rank outside, neighbour inside: the strongest context of every neighbour before anyone's second
        for rank in range(peaks.shape[1]):
            for k in range(neighbours.shape[1]):
                peak = peaks[neighbours[f, k], rank] if neighbours[f, k] >= 0 else -1
                if n < n_near and peak >= 0 and _new(out[f], n, peak // size, size):
                    start = peak // size * size
                    if not _fires_in(token, a, b, start, start + size):
                        out[f, n] = peak
                        n += 1
        state, _ = next_random(base + np.uint64(f))
        n = n_near  # random windows have fixed places, also when there are fewer near misses
        for _ in range(_ATTEMPTS):
            if n == out.shape[1]:
                break
            state, bits = next_random(state)
            start = np.int64(bits % np.uint64(n_windows)) * size
            if not _fires_in(token, a, b, start, start + size) and _new(out[f], n, start // size, size):
                out[f, n] = start + size // 2
                n += 1


@_parallel
def _ranges(offsets, token, latent, context_start, length, starts, stops):
    """The entries of `token` at which each example's latent fires in its context: starts[e]:stops[e]."""
    for e in numba.prange(len(latent)):
        a, b = offsets[latent[e]], offsets[latent[e] + 1]
        starts[e] = a + np.searchsorted(token[a:b], context_start[e])
        stops[e] = a + np.searchsorted(token[a:b], context_start[e] + length)


@_parallel
def _fill(token, value, length, starts, stops, lengths, position, activation):
    """Copies each example's firings, as positions in the context and activations, to their places in the output."""
    for e in numba.prange(len(starts)):
        for k in range(stops[e] - starts[e]):
            position[lengths[e] + k] = token[starts[e] + k] % length
            activation[lengths[e] + k] = value[starts[e] + k]
