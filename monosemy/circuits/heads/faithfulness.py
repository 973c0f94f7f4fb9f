"""How much of a behaviour a set of heads carries alone, and how much is left without it.

Place on the path: a circuit, prompts with counterparts → [shares of the behaviour] → the circuit's page.

    f(C) = (m(C) − m(∅)) / (m(M) − m(∅))     m(C): metric with all heads but C replaced, averaged over prompts first

M is the whole model and ∅ the empty set, so f(∅) = 0 and f(M) = 1. Intervals resample prompts.

Source: MIB (2504.13151), which calls f faithfulness. Deviation: heads are counted instead of edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from monosemy.circuits.heads.contrast import Ablation, Contrast, all_heads, layers_of
from monosemy.circuits.heads.model_heads import replace_edit
from monosemy.errors import UserError
from monosemy.evals.intervals import Interval, bootstrap_weights, percentiles, resampled_ratio


@dataclass(frozen=True)
class BehaviourShares:
    """f of several sets of heads or edges."""

    values: Float[ndarray, " sets"]
    resampled: Float[ndarray, "resample sets"] | None
    """f on resamples of the prompts; None with a single prompt."""

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """95% bootstrap intervals over prompts, one for each set."""
        if self.resampled is None:
            return (None,) * len(self.values)
        return tuple(percentiles(column) for column in self.resampled.T)


def behaviour_shares(metrics: Sequence[Float[Tensor, " E"]]) -> BehaviourShares:
    """f of each set, from the metric on every prompt, [E], with only that set left intact.

    The first set must be empty and the last must hold everything. Raises UserError when the mean metric is the same
    for both, so that no share is defined.
    """
    # [prompts, sets]: what each set gains over the empty one.
    m = torch.stack(list(metrics), 1).cpu().double().numpy()
    gained = m - m[:, :1]
    full_gain = gained[:, -1:]
    if abs(full_gain.mean()) <= 1e-6 * max(1.0, float(np.abs(m).mean())):
        raise UserError(
            "the metric is the same with all heads replaced as with none; the prompts and their counterparts do not "
            "differ in this behaviour, so faithfulness means nothing here"
        )
    # A ratio of means, not a mean of ratios: on single prompts the full gain may be near 0 or negative.
    values = gained.mean(0) / full_gain.mean()
    if len(m) < 2:
        return BehaviourShares(values, None)
    weights = bootstrap_weights(len(m), 1000)
    return BehaviourShares(values, np.stack([resampled_ratio(gain, full_gain[:, 0], weights) for gain in gained.T], 1))


@dataclass(frozen=True)
class Carried:
    """How much of the behaviour a set of heads carries: 1 for all of it, 0 for nothing."""

    alone: float
    """f(C): with all other heads replaced."""
    alone_interval: Interval
    without: float
    """f(M ∖ C): with the set itself replaced."""
    without_interval: Interval


def carried(contrast: Contrast, members: Sequence[int], ablation: Ablation = "resample") -> Carried:
    """How much of the behaviour a set of heads (by number) carries alone, and how much is left without it.

    Takes three passes. Intervals are over prompts; a set that was found on the same prompts fits them better than
    others.
    """
    outside = [index for index in all_heads(contrast.heads) if index not in set(members)]
    empty, full_metric = restricted_metric(contrast, [], ablation), contrast.m_clean
    alone, without = (
        behaviour_shares([empty, restricted_metric(contrast, indices, ablation), full_metric])
        for indices in (members, outside)
    )
    return Carried(float(alone.values[1]), alone.intervals[1], float(without.values[1]), without.intervals[1])


def restricted_metric(
    contrast: Contrast, indices: Sequence[int], ablation: Ablation = "resample"
) -> Float[Tensor, " E"]:
    """m(C) on every prompt, with all heads but `indices` replaced."""
    heads = contrast.heads
    dropped = sorted(set(all_heads(heads)) - set(indices))
    if not dropped:
        return contrast.m_clean
    metric_values = []
    for batch, replacement in zip(contrast.batches, contrast.replacements(ablation)):
        edit = replace_edit(replacement, dropped, heads.n_heads)
        logits = heads.logits(batch.clean.tokens, edit, layers=layers_of(heads, dropped), clean=batch.clean)
        metric_values.append(batch.measure(logits))
    return torch.cat(metric_values)
