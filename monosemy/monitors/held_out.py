"""How well scores tell two labels apart on held-out texts: AUROC within folds, with a bootstrap interval over groups.

Place on the path: scores of held-out texts → [AUROC, interval, threshold] → `monosemy probe`. Each text is scored by a
model that was trained on the other folds. Scores of different models need not be comparable, so only pairs of one fold
count. With the positives P and the negatives N of fold φ, ties counting half,

    AUROC = Σ_φ Σ_{i∈P_φ, j∈N_φ} w_i w_j [s_i > s_j] / Σ_φ Σ_{i∈P_φ, j∈N_φ} w_i w_j

with w = 1, and in a resample as often as the text's group was drawn. Groups are resampled, not texts, which within one
group resemble each other. Source: Mann and Whitney 1947; Efron and Tibshirani, An Introduction to the Bootstrap (1993).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from monosemy.evals.intervals import Interval, bootstrap_weights, percentiles

Array = np.ndarray[Any, np.dtype[Any]]
N_RESAMPLES = 1_000


@dataclass(frozen=True)
class HeldOut:
    """Where n texts stand: fold, label, group."""

    fold: Array
    """int64 [n]"""
    is_positive: Array
    """bool [n]"""
    group: Array
    """int64 [n], from 0."""

    def auroc(self, scores: Array) -> float:
        """The share of pairs of one fold that scores put in the right order."""
        return float(self._resampled(scores, np.ones((1, int(self.group.max()) + 1)))[0])

    def interval(self, scores: Array, *, seed: int = 0) -> Interval:
        """The 95% bootstrap interval of the AUROC; None with fewer than two groups."""
        return self.difference_interval(scores, None, seed=seed)

    def difference_interval(self, scores: Array, others: Array | None, *, seed: int = 0) -> Interval:
        """The interval of the AUROC of `scores` minus that of `others`, resampled together."""
        n_groups = int(self.group.max()) + 1
        if n_groups < 2:
            return None
        weights = bootstrap_weights(n_groups, N_RESAMPLES, seed)
        estimates = self._resampled(scores, weights)
        return percentiles(estimates if others is None else estimates - self._resampled(others, weights))

    def _resampled(self, scores: Array, group_weights: Array) -> Array:
        """The AUROC under each row of weights of groups, float64 [resample]; NaN where a label is not drawn."""
        right, pairs = np.zeros(len(group_weights)), np.zeros(len(group_weights))
        for fold in np.unique(self.fold):
            own = self.fold == fold
            high, low = own & self.is_positive, own & ~self.is_positive
            order = 0.5 * (np.sign(scores[high][:, None] - scores[low][None, :]) + 1)
            w_high, w_low = group_weights[:, self.group[high]], group_weights[:, self.group[low]]
            right += ((w_high @ order) * w_low).sum(1)
            pairs += w_high.sum(1) * w_low.sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return right / pairs

    def threshold(self, scores: Array, false_alarms: float) -> tuple[float, float, float]:
        """(threshold, share of negatives flagged, share of positives flagged) of held-out texts.

        The threshold that flags most positives, less negatives, among those that flag at most the share `false_alarms`
        of the negatives; half way between two scores, and of equals the highest.
        """
        distinct = np.unique(scores)
        candidates = np.append((distinct[1:] + distinct[:-1]) / 2, 1.0)
        # of each candidate, the share of a label's scores that lie at or above it
        negative, positive = (
            (own.sum() - np.searchsorted(np.sort(scores[own]), candidates, side="left")) / own.sum()
            for own in (~self.is_positive, self.is_positive)
        )
        gain = np.where(negative <= false_alarms, positive - negative, -np.inf)
        best = len(candidates) - 1 - int(gain[::-1].argmax())
        return float(candidates[best]), float(negative[best]), float(positive[best])
