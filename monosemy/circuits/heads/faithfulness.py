"""How much of a behaviour a set of heads carries, and how much it misses.

Place on the path: a ranking or a circuit, prompts with counterparts → [faithfulness, completeness] → report.

    f(C) = (m(C) − m(∅)) / (m(M) − m(∅))     m(C): metric with all heads but C replaced, averaged over prompts first
    CPR = ∫ f,  CMD = ∫ |1 − f|              over the share of heads in C, best first, straight lines between points
    completeness  f(M ∖ C), which is 0 when nothing outside C does the task; and the mean of |f(C ∖ K) − f(M ∖ K)| over
                  random halves K of C, which is 0 when C and M lose the same without K

M is the whole model. Source: MIB (2504.13151) for CPR and CMD; Wang et al. 2022 (2211.00593) for completeness.
Deviations: heads are counted instead of edges; the curve starts at the empty set, where f is 0. Intervals resample
prompts.
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
from monosemy.circuits.heads.model_heads import n_all, replace_edit
from monosemy.errors import UserError
from monosemy.evals.intervals import Interval, bootstrap_weights, percentiles, resampled_ratio

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of all heads that a faithfulness curve keeps."""


@dataclass(frozen=True)
class Faithfulness:
    """How much of the behaviour the k best heads carry alone, for several k."""

    sizes: tuple[int, ...]
    """How many heads are left intact at each point, from 0 to all."""
    values: tuple[float, ...]
    intervals: tuple[Interval, ...]
    """95% bootstrap intervals over prompts."""
    cpr: float
    cmd: float
    cpr_interval: Interval
    cmd_interval: Interval


def faithfulness(
    contrast: Contrast,
    importance: Float[Tensor, " n"],
    ablation: Ablation = "resample",
    fractions: Sequence[float] = FRACTIONS,
) -> Faithfulness:
    """The faithfulness curve of a ranking of heads; one pass over the prompts for every point.

    Raises UserError when replacing all heads does not change the mean metric, so that no share is defined.
    """
    n = n_all(contrast.heads)
    order = torch.argsort(importance.detach().cpu(), descending=True, stable=True).tolist()
    counts = sorted({0, n} | {round(fraction * n) for fraction in fractions})
    return curve([restricted_metric(contrast, order[:count], ablation) for count in counts], counts)


def curve(metric: Sequence[Float[Tensor, " E"]], sizes: Sequence[int]) -> Faithfulness:
    """The faithfulness curve of growing sets of heads or edges that are left intact.

    metric: for each set, the metric on every prompt, [E]; sizes: how many members each set has. The first set must be
    empty and the last must hold everything.
    """
    # [prompts, sets]: what each set gains over the empty one.
    m = torch.stack(list(metric), 1).cpu().double().numpy()
    gained = m - m[:, :1]
    full_gain = gained[:, -1:]
    if abs(full_gain.mean()) <= 1e-6 * max(1.0, float(np.abs(m).mean())):
        raise UserError(
            "the metric is the same with all heads replaced as with none; the prompts and their counterparts do not "
            "differ in this behaviour, so faithfulness means nothing here"
        )
    shares = np.array(sizes, dtype=np.float64) / sizes[-1]
    # A ratio of means, not a mean of ratios: on single prompts the full gain may be near 0 or negative.
    values = gained.mean(0) / full_gain.mean()
    weights = bootstrap_weights(len(m), 1000)
    resampled = np.stack([resampled_ratio(column, full_gain[:, 0], weights) for column in gained.T], 1)
    several = len(m) > 1
    return Faithfulness(
        tuple(sizes),
        tuple(values.tolist()),
        tuple(percentiles(column) if several else None for column in resampled.T),
        _area(values[None], shares).item(),
        cmd=_area(values[None], shares, missing=True).item(),
        cpr_interval=percentiles(_area(resampled, shares)) if several else None,
        cmd_interval=percentiles(_area(resampled, shares, missing=True)) if several else None,
    )


def _area(values: Float[ndarray, "r k"], shares: Float[ndarray, " k"], missing: bool = False) -> Float[ndarray, " r"]:
    """∫ f, or ∫ |1 − f| with `missing`, by the trapezoidal rule over the points.

    |1 − f| is taken at the points only, not where the line between two points crosses 1.
    """
    heights = np.abs(1 - values) if missing else values
    return ((heights[:, 1:] + heights[:, :-1]) / 2 * np.diff(shares)).sum(1)


@dataclass(frozen=True)
class Completeness:
    """How much of the behaviour a circuit misses."""

    without: float
    """f(M ∖ C): what the rest of the model still carries."""
    without_interval: Interval
    incompleteness: float
    """The mean of |f(C ∖ K) − f(M ∖ K)| over random halves K of C."""


def completeness(
    contrast: Contrast, members: Sequence[int], ablation: Ablation = "resample", n_subsets: int = 8, *, seed: int = 0
) -> Completeness:
    """The completeness of a set of heads (by number), over `n_subsets` random halves.

    Raises UserError for an empty set, or when replacing all heads does not change the metric.
    """
    if not members:
        raise UserError("completeness needs a circuit of at least one head; none was given")
    every_head = list(all_heads(contrast.heads))
    outside = [index for index in every_head if index not in set(members)]

    # A curve of three points, of which only the middle one is wanted.
    def f(indices: Sequence[int]) -> Faithfulness:
        return curve([empty, restricted_metric(contrast, indices, ablation), full_metric], [0, 1, 2])

    empty, full_metric = restricted_metric(contrast, [], ablation), restricted_metric(contrast, every_head, ablation)
    without = f(outside)
    random = np.random.default_rng(seed)
    gaps = []
    for _ in range(n_subsets):
        lost = set(random.choice(members, max(1, len(members) // 2), replace=False).tolist())
        ours, theirs = ([index for index in side if index not in lost] for side in (members, every_head))
        gaps.append(abs(f(ours).values[1] - f(theirs).values[1]))
    return Completeness(without.values[1], without.intervals[1], float(np.mean(gaps)))


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
        curve([empty, restricted_metric(contrast, indices, ablation), full_metric], [0, 1, 2])
        for indices in (members, outside)
    )
    return Carried(alone.values[1], alone.intervals[1], without.values[1], without.intervals[1])


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
