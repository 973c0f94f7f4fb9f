"""Which heads matter, by trying: the reference for models whose circuit nobody wrote down.

Place on the path: `Contrast` → [every head replaced, every pair replaced] → the heads that other methods should find.

With D = mean m(clean) − m(corrupted), a head is in the reference circuit when

    |mean effect| ≥ s·D, its 95% interval over prompts excludes 0                        (alone), or
    |effect(g and h) − effect(g) − effect(h)| ≥ s·D for some h                          (together with another)

The second finds heads that stand in for each other, whose single effects are nothing.

Limits: three or more heads of which one is enough stay hidden; the share s is a choice, so report it with the result.
This is agreement with exhaustive ablation, not ground truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from monosemy.circuits.contrast import Ablation, Contrast, HeadScores, metric_difference
from monosemy.circuits.patching import exhaustive_patching, pairwise_patching
from monosemy.circuits.task import Head

SHARE = 0.05
"""s: the part of D that counts as mattering."""


@dataclass(frozen=True)
class Reference:
    """The result of exhaustive ablation."""

    single: HeadScores
    """Effect of each head, with intervals."""
    synergy: Float[Tensor, "n n"] | None
    """effect(g and h) − effect(g) − effect(h), 0 on the diagonal; None when pairs were not tried."""
    difference: float
    """D: mean m(clean) − m(corrupted)."""
    share: float
    n_heads: int
    """Heads in a layer."""

    @property
    def alone(self) -> Bool[ndarray, " n"]:
        """Heads that matter by themselves."""
        large = (self.single.scores.abs() >= self.share * abs(self.difference)).numpy()
        if self.single.intervals is None:
            return large
        low, high = self.single.intervals.T
        return large & ((low > 0) | (high < 0)).numpy()

    @property
    def together(self) -> Bool[ndarray, " n"]:
        """Heads that matter in some pair beyond the sum of both."""
        if self.synergy is None:
            return np.zeros(len(self.single.scores), dtype=bool)
        return (self.synergy.abs().amax(1) >= self.share * abs(self.difference)).numpy()

    @property
    def labels(self) -> Bool[ndarray, " n"]:
        """The reference circuit, heads counted layer by layer."""
        return self.alone | self.together

    @property
    def heads(self) -> frozenset[Head]:
        return frozenset(divmod(int(index), self.n_heads) for index in np.flatnonzero(self.labels))


def find_reference(
    contrast: Contrast, ablation: Ablation = "resample", *, pairs: bool = True, share: float = SHARE
) -> Reference:
    """Replaces every head, and every pair of heads if asked: n + n(n − 1)/2 passes over the prompts.

    Raises UserError when the metric does not fall from prompts to counterparts, so that no share of it can be told.
    """
    difference = metric_difference(contrast)
    single = exhaustive_patching(contrast, ablation)
    synergy = None
    if pairs:
        both = pairwise_patching(contrast, single, ablation=ablation)
        synergy = (both - single.scores[:, None] - single.scores[None, :]).fill_diagonal_(0.0)
    return Reference(single, synergy, difference, share, contrast.heads.n_heads)
