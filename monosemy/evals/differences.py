"""Which groups differ in their mean: simultaneous intervals of all differences, and permutation tests.

Place on the data's path: beside evaluation, for numbers that exist once per latent or per SAE (scores of labels,
cosines of twins), in groups (architectures) that are compared with each other.

A group is a list of clusters (one per SAE: its latents' values); its estimate is the mean of its clusters' means, so
that every SAE counts alike.

    differences   d_ab = mean_a − mean_b, with intervals that hold together: d ± c·SE, SE from resampling values within
                  clusters, c the confidence quantile of max_ab |d*_ab − d_ab| / SE over resamples (single-step max-t)
    blocked test  groups × blocks (seeds) table of cluster means: p of Σ_g (mean_g − mean)² when the names of the groups
                  are dealt out anew within each block; the SAE, not the latent, is what is independent here

Source: Westfall and Young, Resampling-Based Multiple Testing (1993), section 2; Edgington and Onghena, Randomization
Tests (2007), chapter 6. Limits: the intervals know nothing of the spread between seeds; that is what the test is for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float
from numpy import ndarray

Groups = Mapping[str, Sequence[ndarray]]
"""Group → the values of each of its clusters."""


@dataclass(frozen=True)
class Difference:
    """mean of `first` − mean of `second`, with an interval that holds for all pairs together."""

    first: str
    second: str
    estimate: float
    low: float
    high: float

    @property
    def apart(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def group_means(groups: Groups) -> dict[str, float]:
    """Mean of the clusters' means. Raises ValueError for a cluster without values."""
    _check(groups)
    return {name: float(np.mean([values.mean() for values in clusters])) for name, clusters in groups.items()}


def resampled_means(groups: Groups, n_resamples: int = 2000, seed: int = 0) -> dict[str, ndarray]:
    """Group → its estimate [n_resamples] when the values within each cluster are drawn anew, with replacement."""
    _check(groups)
    random = np.random.default_rng(seed)
    means_by_group = {}
    for name, clusters in groups.items():
        means = np.empty((len(clusters), n_resamples))
        for k, values in enumerate(clusters):
            for first in range(0, n_resamples, 200):  # bounds the memory of the drawn indices
                n = min(200, n_resamples - first)
                drawn = random.integers(0, len(values), (n, len(values)))
                means[k, first : first + n] = values[drawn].mean(1)
        means_by_group[name] = means.mean(0)
    return means_by_group


def simultaneous_differences(
    groups: Groups,
    pairs: Sequence[tuple[str, str]] | None = None,
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> list[Difference]:
    """Differences of means of `pairs` (default: all), with intervals that hold together with `confidence`.

    Raises ValueError for a cluster without values.
    """
    pairs = list(combinations(groups, 2)) if pairs is None else list(pairs)
    return simultaneous(group_means(groups), resampled_means(groups, n_resamples, seed), pairs, confidence=confidence)


def simultaneous(
    estimates: Mapping[str, float],
    resampled: Mapping[str, ndarray],
    pairs: Sequence[tuple[str, str]],
    *,
    confidence: float = 0.95,
) -> list[Difference]:
    """Differences of estimates from resamples made elsewhere, [n_resamples] each; where the r-th of all groups rests on
    the same draw (of documents, say), the differences are paired."""
    estimate = np.array([estimates[a] - estimates[b] for a, b in pairs])
    deviation = np.array([resampled[a] - resampled[b] for a, b in pairs]) - estimate[:, None]
    error = deviation.std(1, ddof=1)
    studentised = np.abs(deviation) / np.where(error > 0, error, 1)[:, None]
    margin = np.quantile(studentised.max(0), confidence) * error
    return [
        Difference(a, b, float(d), float(d - m), float(d + m))
        for (a, b), d, m in zip(pairs, estimate, margin, strict=True)
    ]


def blocked_permutation(
    table: Float[ndarray, "block group"], *, n_permutations: int = 20_000, seed: int = 0
) -> tuple[float, float]:
    """(statistic, p): Σ_g (mean of column g − overall mean)², and the share of rearrangements in rows that reach it.

    The observed arrangement counts as one of them, so p is at least 1 / (n_permutations + 1).
    Raises ValueError for fewer than two blocks or groups.
    """
    n_blocks, n_groups = table.shape
    if n_blocks < 2 or n_groups < 2:
        raise ValueError(f"a blocked test needs two blocks and two groups at least, got {n_blocks} and {n_groups}")
    random = np.random.default_rng(seed)

    def spread(tables: ndarray) -> ndarray:
        means = tables.mean(-2)
        return np.square(means - means.mean(-1, keepdims=True)).sum(-1)

    observed = float(spread(table))
    orders = random.random((n_permutations, n_blocks, n_groups)).argsort(-1)
    dealt = np.take_along_axis(np.broadcast_to(table, orders.shape), orders, axis=-1)
    reached = int((spread(dealt) >= observed * (1 - 1e-9)).sum())
    return observed, (reached + 1) / (n_permutations + 1)


def _check(groups: Groups) -> None:
    for name, clusters in groups.items():
        if not clusters or any(len(values) == 0 for values in clusters):
            raise ValueError(f"group {name!r} has a cluster without values")
