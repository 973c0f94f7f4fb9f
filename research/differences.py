"""Compares the means of groups: simultaneous intervals of all their differences, and a permutation test.

Place on the data's path: beside evaluation, for numbers that exist once per latent or per SAE (scores of labels,
cosines of twins), in groups (architectures) that are compared with each other.

A group is a list of clusters: one per SAE, with one value per latent. Its estimate is the mean of its clusters' means,
so that every SAE has the same weight.

    differences   d_ab = mean_a − mean_b, with simultaneous intervals d ± c·SE: SE from resampling values within
                  clusters, c the confidence quantile of max_ab |d*_ab − d_ab| / SE over resamples (single-step max-t)
    blocked test  on a table of cluster means, blocks (seeds) × groups: the p-value of Σ_g (mean_g − mean)² when the
                  groups' names are permuted within each block; SAEs, not latents, are the independent units here

Source: Westfall and Young, Resampling-Based Multiple Testing (1993), section 2; Edgington and Onghena, Randomization
Tests (2007), chapter 6. Limits: the intervals do not include the spread between seeds; the blocked test does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float
from numpy import ndarray

Groups = Mapping[str, Sequence[ndarray]]
"""{group: the values of each of its clusters}."""


@dataclass(frozen=True)
class Difference:
    """The mean of `first` minus the mean of `second`, with an interval that holds simultaneously for all pairs."""

    first: str
    second: str
    estimate: float
    _: KW_ONLY
    low: float
    high: float

    @property
    def apart(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def group_means(groups: Groups) -> dict[str, float]:
    """The estimate of each group, the mean of its clusters' means. Raises ValueError for a cluster without values."""
    _check(groups)
    return {name: float(np.mean([values.mean() for values in clusters])) for name, clusters in groups.items()}


def resampled_means(groups: Groups, n_resamples: int = 2000, seed: int = 0) -> dict[str, ndarray]:
    """The resampled estimates of each group, [n_resamples]: values are drawn with replacement within each cluster.

    Raises ValueError for a cluster without values.
    """
    _check(groups)
    random = np.random.default_rng(seed)
    means_by_group = {}
    for name, clusters in groups.items():
        means = np.empty((len(clusters), n_resamples))
        for k, values in enumerate(clusters):
            # In parts, to bound the memory of the drawn indices.
            for first in range(0, n_resamples, 200):
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
    """Differences of the means of `pairs` (default: all), with intervals that hold simultaneously at `confidence`.

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
    """Differences of estimates, with simultaneous intervals from resampled estimates [n_resamples] of each group.

    The differences are paired if resample r of every group uses the same draw, for example of documents.
    """
    estimate = np.array([estimates[a] - estimates[b] for a, b in pairs])
    deviation = np.array([resampled[a] - resampled[b] for a, b in pairs]) - estimate[:, None]
    error = deviation.std(1, ddof=1)
    # Single-step max-t: the largest studentised deviation over all pairs, resample by resample, sets one critical value
    # for all. A pair that never varies has error 0 and must not divide by it.
    studentised = np.abs(deviation) / np.where(error > 0, error, 1)[:, None]
    margin = np.quantile(studentised.max(0), confidence) * error
    return [
        Difference(a, b, float(d), low=float(d - m), high=float(d + m))
        for (a, b), d, m in zip(pairs, estimate, margin, strict=True)
    ]


def blocked_permutation(
    table: Float[ndarray, "block group"], *, n_permutations: int = 20_000, seed: int = 0
) -> tuple[float, float]:
    """Permutation test of whether the groups (columns) differ; returns (statistic, p).

    The statistic is Σ_g (mean of column g − overall mean)²; p is the share of random permutations within rows that
    reach it. The observed arrangement counts as one of them, so p is at least 1 / (n_permutations + 1).
    Raises ValueError for fewer than two blocks or groups.
    """
    n_blocks, n_groups = table.shape
    if n_blocks < 2 or n_groups < 2:
        raise ValueError(f"a blocked test needs two blocks and two groups at least, got {n_blocks} and {n_groups}")
    random = np.random.default_rng(seed)

    def spread(tables: ndarray) -> ndarray | np.floating:
        means = tables.mean(-2)
        return np.square(means - means.mean(-1, keepdims=True)).sum(-1)

    observed = float(spread(table))
    # Sorting random numbers gives an independent permutation of every row in every rearrangement.
    orders = random.random((n_permutations, n_blocks, n_groups)).argsort(-1)
    dealt = np.take_along_axis(np.broadcast_to(table, orders.shape), orders, axis=-1)
    # Equal statistics can differ in the last bits by the order of their sums; they must count as reached.
    reached = int((spread(dealt) >= observed * (1 - 1e-9)).sum())
    return observed, (reached + 1) / (n_permutations + 1)


def _check(groups: Groups) -> None:
    for name, clusters in groups.items():
        if not clusters or any(len(values) == 0 for values in clusters):
            raise ValueError(f"group {name!r} has a cluster without values")
