"""Finds over-represented items: log-odds of counts against a background, with an informative Dirichlet prior.

Place on the data's path: token groups at and around a latent's peaks → the few that characterise it, for `labels`.

For an item with count c among n, background count b among N, and prior α = a·b/N (a items of the background's mix):
    δ = ln((c + α)/(n + a − c − α)) − ln((b + α)/(N + a − b − α)),   z = δ / √(1/(c + α) + 1/(b + α))
Source: Monroe, Colaresi & Quinn, "Fightin' Words" (2008), equations 15–22. Deviation: counts are weighted by the
square root of the activation, with weights that average 1 over a latent's sample. Strong activations then count for
more without a few extreme ones drowning out the rest (held-out AUROC of labels is best between no weight and the root).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
_compile = numba.njit(parallel=True, cache=True)
_compile_serial = numba.njit(cache=True)

PRIOR = 50.0
"""a: size of the prior, in items."""


@_compile_serial
def log_odds(count: float, n: float, background: float, n_background: float, prior: float) -> tuple[float, float]:
    """(δ, z) of one item, as in the module's equations. Arguments: c, n, b, N, a."""
    # half a count for an item that the background lacks, and floors under the complements: every logarithm stays finite
    alpha = prior * max(background, 0.5) / n_background
    first = math.log((count + alpha) / max(n + prior - count - alpha, 1e-3))
    second = math.log((background + alpha) / max(n_background + prior - background - alpha, 1e-3))
    delta = first - second
    return delta, delta / math.sqrt(1 / (count + alpha) + 1 / (max(background, 0.5) + alpha))


class WeightedItems(NamedTuple):
    """The items to count: Z items of m latents, latent after latent."""

    items: Array
    """int32 [Z]; a negative number means that there is no item."""
    weights: Array
    """float32 [Z]."""
    offsets: Array
    """int64 [m + 1]."""
    totals: Array
    """float32 [m]: n of each latent."""


@_compile
def over_represented(
    counted: WeightedItems,
    background: Array,
    n_background: float,
    minimum: float,
    top_items: Array,
    odds: Array,
    z: Array,
    share: Array,
) -> None:
    """Writes the K items with the largest z of each latent, best first.

    background float64 [items] holds the counts in all text, which sum to n_background. The outputs are top_items int32
    [m, K], −1 after the last, and odds, z and share (of n) float32 [m, K]; numba needs each as its own parameter. Items
    with z below `minimum`, and items that occur only once in a sample of 8 or more, are left out.

    Sorting brings equal items together, so each is counted in one stretch. A table over the vocabulary would cost more
    than a latent's few hundred items. The K best are kept by insertion.
    """
    items, weights, offsets, totals = counted
    n_items = top_items.shape[1]
    for i in numba.prange(len(offsets) - 1):
        top_items[i], odds[i], z[i], share[i] = -1, 0, 0, 0
        latent_items = items[offsets[i] : offsets[i + 1]]
        order = np.argsort(latent_items)
        start = 0
        while start < len(order):
            item = latent_items[order[start]]
            stop = start
            count = 0.0
            while stop < len(order) and latent_items[order[stop]] == item:
                count += weights[offsets[i] + order[stop]]
                stop += 1
            # one occurrence is an accident, unless the whole sample is tiny
            repeated = stop - start > 1 or totals[i] < 8
            start = stop
            if item < 0 or not repeated:
                continue
            delta, score = log_odds(count, totals[i], background[item], n_background, PRIOR)
            # the last place holds the weakest of the K kept so far (0 while there are fewer)
            if score < minimum or score <= z[i, n_items - 1]:
                continue
            # insertion: move weaker items down until the new one is in place, and drop the last
            k = n_items - 1
            while k > 0 and z[i, k - 1] < score:
                top_items[i, k], odds[i, k], z[i, k], share[i, k] = (
                    top_items[i, k - 1],
                    odds[i, k - 1],
                    z[i, k - 1],
                    share[i, k - 1],
                )
                k -= 1
            top_items[i, k], odds[i, k], z[i, k], share[i, k] = item, delta, score, count / totals[i]


@_compile
def kind_log_odds(counted: WeightedItems, background: Array, n_background: float, odds: Array, share: Array) -> None:
    """Writes δ and the share of every kind at each latent's positions. The counted items are kinds, int [Z];
    background float64 [kinds]; the outputs odds and share are float32 [m, kinds]."""
    kinds, weights, offsets, totals = counted
    n_kinds = odds.shape[1]
    for i in numba.prange(len(offsets) - 1):
        counts = np.zeros(n_kinds)
        for e in range(offsets[i], offsets[i + 1]):
            if kinds[e] >= 0:
                counts[kinds[e]] += weights[e]
        for k in range(n_kinds):
            odds[i, k] = log_odds(counts[k], totals[i], background[k], n_background, PRIOR)[0] if totals[i] > 0 else 0.0
            share[i, k] = counts[k] / totals[i] if totals[i] > 0 else 0.0


@_compile
def distinct_in_windows(tokens: Array, window: int, groups: Array, windows: Array, out: Array) -> None:
    """Writes out int32 [Z, window]: the group of each token in a window, −1 where the window already had that group."""
    for z in numba.prange(len(windows)):
        for j in range(window):
            group = groups[tokens[windows[z] * window + j]]
            out[z, j] = group
            for earlier in range(j):
                if out[z, earlier] == group:
                    out[z, j] = -1
                    break
