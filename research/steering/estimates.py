"""Means over prompts, and differences of two conditions prompt by prompt, with bootstrap intervals.

Place on the path: one number per answer → [estimate] → tables. Answers to the same prompt under two steerings are not
independent, so two conditions are compared by the mean of their differences. Intervals resample prompts; with a single
prompt there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monosemy.evals.intervals import Interval, bootstrap_weights, ratio_interval


@dataclass(frozen=True)
class Estimate:
    """A mean over n prompts; `interval` is None for n < 2, `mean` is None for n = 0."""

    mean: float | None
    interval: Interval
    n: int


def mean_over_prompts(values: Sequence[float | None], *, n_bootstrap: int = 2000, seed: int = 0) -> Estimate:
    """Mean of the values that are not None, with a 95% bootstrap interval over them."""
    defined = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(defined):
        return Estimate(None, None, 0)
    weights = bootstrap_weights(len(defined), n_bootstrap, seed)
    return Estimate(float(defined.mean()), ratio_interval(defined, np.ones(len(defined)), weights), len(defined))


def paired_difference(
    first: Sequence[float | None], second: Sequence[float | None], *, n_bootstrap: int = 2000, seed: int = 0
) -> Estimate:
    """Mean of first − second over the prompts for which both exist, with a 95% bootstrap interval."""
    pairs = zip(first, second, strict=True)
    return mean_over_prompts(
        [a - b for a, b in pairs if a is not None and b is not None], n_bootstrap=n_bootstrap, seed=seed
    )
