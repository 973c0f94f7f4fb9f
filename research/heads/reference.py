"""Which heads matter, by trying: the reference for models whose circuit nobody wrote down.

Place on the path: `Contrast` → [every head replaced, every pair replaced] → the heads that other methods should find.

With D = mean m(clean) − m(corrupted), a head is in the reference circuit when

    |mean effect| ≥ s·D, its 95% interval over prompts excludes 0                        (alone), or
    effect(g and h) − effect(g) − effect(h) ≥ s·D for some h, its interval clear of 0   (together with another)

both sides of the second in the direction of effect(g and h). It finds heads that stand in for each other, whose single
effects are nothing. Pairs that do less than the sum of both are heads in series, of which one is enough to break the
path: that makes no new member (of a head with no clear effect of its own it says that its noise goes with the path).

Limits: three or more heads of which one is enough stay hidden; the share s is a choice, so report it with the result;
intervals are of one pair each, so of many pairs without synergy, 2.5 in 100 are clear of 0 upwards: s·D is what keeps
them out.
This is agreement with exhaustive ablation, not ground truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from monosemy.circuits.heads.contrast import MEMBER_SHARE, Ablation, Contrast, all_heads, metric_difference
from monosemy.circuits.heads.model_heads import n_all
from monosemy.circuits.heads.patching import exhaustive_patching, patched_effect
from monosemy.circuits.heads.scores import HeadScores, mean_intervals
from monosemy.circuits.heads.task import Head
from monosemy.support import progress


@dataclass(frozen=True)
class Reference:
    """The result of exhaustive ablation."""

    single: HeadScores
    """Effect of each head, with intervals."""
    synergy: Float[Tensor, "n n"] | None
    """effect(g and h) − effect(g) − effect(h), positive where the pair does more than both alone, 0 on the diagonal;
    None when pairs were not tried."""
    synergy_intervals: Float[Tensor, "n n 2"] | None
    difference: float
    """D: mean m(clean) − m(corrupted)."""
    _: KW_ONLY
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
        """Heads that do more in some pair than the two alone."""
        if self.synergy is None or self.synergy_intervals is None:
            return np.zeros(len(self.single.scores), dtype=bool)
        large = self.synergy >= self.share * abs(self.difference)
        return (large & (self.synergy_intervals[..., 0] > 0)).any(1).numpy()

    @property
    def labels(self) -> Bool[ndarray, " n"]:
        """The reference circuit, heads counted layer by layer."""
        return self.alone | self.together

    @property
    def heads(self) -> frozenset[Head]:
        return frozenset(divmod(int(index), self.n_heads) for index in np.flatnonzero(self.labels))


def find_reference(
    contrast: Contrast, ablation: Ablation = "resample", *, pairs: bool = True, share: float = MEMBER_SHARE
) -> Reference:
    """Replaces every head, and every pair of heads if asked: n + n(n − 1)/2 passes over the prompts.

    Raises UserError when the metric does not fall from prompts to counterparts, so that no share of it can be told.
    """
    difference = metric_difference(contrast)
    single = exhaustive_patching(contrast, ablation)
    synergy, intervals = pair_synergy(contrast, single, ablation) if pairs else (None, None)
    return Reference(single, synergy, intervals, difference, share=share, n_heads=contrast.heads.n_heads)


def pair_synergy(
    contrast: Contrast, single: HeadScores, ablation: Ablation
) -> tuple[Float[Tensor, "n n"], Float[Tensor, "n n 2"]]:
    """Synergy of every pair, its sign turned where the pair's effect is negative, with intervals over prompts."""
    assert single.per_example is not None
    both = pairwise_patching(contrast, single, ablation=ablation)
    alone = single.per_example
    each = (both - alone[:, :, None] - alone[:, None, :]) * both.mean(0).sign()
    each.diagonal(dim1=1, dim2=2).zero_()
    n = each.shape[1]
    return each.mean(0), torch.stack([mean_intervals(each[:, g]) for g in range(n)])


def pairwise_patching(
    contrast: Contrast, single: HeadScores, indices: Sequence[int] | None = None, ablation: Ablation = "resample"
) -> Float[Tensor, "E n n"]:
    """The effect of replacing two heads at once on every prompt; the diagonal holds the effects of `single`."""
    assert single.per_example is not None
    head_numbers = list(all_heads(contrast.heads) if indices is None else indices)
    n = n_all(contrast.heads)
    effects = torch.zeros(contrast.n_examples, n, n, dtype=torch.float64)
    n_done = 0
    pairs = list(combinations(sorted(head_numbers), 2))
    with progress.stage("patch pairs", total=len(pairs) * contrast.n_examples, unit="passes") as bar:
        for batch, replacement in zip(contrast.batches, contrast.replacements(ablation)):
            rows = slice(n_done, n_done := n_done + len(batch.examples))
            for g, h in pairs:
                effect = patched_effect(contrast.heads, batch, replacement, (g, h), direction="noise").cpu().double()
                effects[rows, g, h] = effects[rows, h, g] = effect
                bar.advance(len(batch.examples))
    return effects + torch.diag_embed(single.per_example)
