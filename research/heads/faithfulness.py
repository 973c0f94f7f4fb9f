"""How faithful a ranking of heads is at every size, and how complete a circuit is.

Place on the path: a ranking or a circuit, prompts with counterparts → [faithfulness, completeness] → rows.

    f(C) as in the package's `faithfulness.py`: the share of the behaviour that the heads C carry alone
    CPR = ∫ f,  CMD = ∫ |1 − f|     over the share of heads in C, best first, straight lines between points
    completeness     f(M ∖ C), which is 0 when nothing outside C does the task; and the mean of |f(C ∖ K) − f(M ∖ K)|
                     over random halves K of C, which is 0 when C and M lose the same without K

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

from monosemy.circuits.heads.contrast import Ablation, Contrast, all_heads
from monosemy.circuits.heads.faithfulness import behaviour_shares, restricted_metric
from monosemy.circuits.heads.model_heads import n_all
from monosemy.errors import UserError
from monosemy.evals.intervals import Interval, percentiles

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of all heads at which the curve is measured."""


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
    return faithfulness_curve([restricted_metric(contrast, order[:count], ablation) for count in counts], counts)


def faithfulness_curve(metrics: Sequence[Float[Tensor, " E"]], sizes: Sequence[int]) -> Faithfulness:
    """The faithfulness curve of growing sets of heads or edges that are left intact.

    metrics: for each set, the metric on every prompt, [E]; sizes: how many members each set has. The first set must be
    empty and the last must hold everything.
    """
    shares = behaviour_shares(metrics)
    fractions = np.array(sizes, dtype=np.float64) / sizes[-1]
    values, resampled = shares.values[None], shares.resampled
    return Faithfulness(
        tuple(sizes),
        tuple(shares.values.tolist()),
        shares.intervals,
        _area(values, fractions).item(),
        cmd=_area(values, fractions, missing=True).item(),
        cpr_interval=None if resampled is None else percentiles(_area(resampled, fractions)),
        cmd_interval=None if resampled is None else percentiles(_area(resampled, fractions, missing=True)),
    )


def _area(
    values: Float[ndarray, "r k"], fractions: Float[ndarray, " k"], missing: bool = False
) -> Float[ndarray, " r"]:
    """∫ f, or ∫ |1 − f| with `missing`, by the trapezoidal rule over the points.

    |1 − f| is taken at the points only, not where the line between two points crosses 1.
    """
    heights = np.abs(1 - values) if missing else values
    return ((heights[:, 1:] + heights[:, :-1]) / 2 * np.diff(fractions)).sum(1)


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
        raise UserError("completeness needs a circuit of at least one head; this one has none")
    every_head = list(all_heads(contrast.heads))
    outside = [index for index in every_head if index not in set(members)]
    empty = restricted_metric(contrast, [], ablation)

    def share(indices: Sequence[int]) -> tuple[float, Interval]:
        shares = behaviour_shares([empty, restricted_metric(contrast, indices, ablation), contrast.m_clean])
        return float(shares.values[1]), shares.intervals[1]

    without, without_interval = share(outside)
    random = np.random.default_rng(seed)
    gaps = []
    for _ in range(n_subsets):
        lost = set(random.choice(members, max(1, len(members) // 2), replace=False).tolist())
        of_circuit, of_model = ([index for index in side if index not in lost] for side in (members, every_head))
        gaps.append(abs(share(of_circuit)[0] - share(of_model)[0]))
    return Completeness(without, without_interval, float(np.mean(gaps)))
