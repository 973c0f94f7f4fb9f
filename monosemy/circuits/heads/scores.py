"""The result of every method: one number per head, or per edge, with intervals and cost.

Place on the path: `Contrast` or codes → method → [`HeadScores`, `EdgeScores`] → ranking, members, tables.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.circuits.heads.contrast import Contrast
from monosemy.circuits.heads.task import Edge
from monosemy.evals.intervals import bootstrap_weights


@dataclass(frozen=True)
class HeadScores:
    """One number per head: positive where the head supports the behaviour, negative where it works against it.

    Methods that cannot tell the two apart (`signed` false) give numbers ≥ 0. Heads are ranked by `importance`.
    """

    method: str
    scores: Float[Tensor, " n"]
    signed: bool
    seconds: float
    """Time of the method's own work."""
    reading_seconds: float = 0.0
    """Time of the passes that it shares with other methods, counted in full."""
    per_example: Float[Tensor, "E n"] | None = None
    intervals: Float[Tensor, "n 2"] | None = None
    """95% intervals [low, high]; None where prompts cannot be resampled."""
    n_passes: float = 0.0
    """Forward passes over all prompts, beyond the two of reading (prompts and counterparts). A backward pass counts as
    two; a pass that starts late counts as the share of layers it runs."""
    checked: frozenset[int] | None = None
    """Heads whose score is exact while the others' are estimates; None where no score is an estimate."""
    replaced: dict[int, float] = field(default_factory=dict)
    """For heads whose score is the effect of restoring them in the counterpart, the effect of replacing them, for which
    other heads make up."""

    @property
    def importance(self) -> Float[Tensor, " n"]:
        """|score|, by which heads are ranked."""
        return self.scores.abs()

    @property
    def total_seconds(self) -> float:
        """Time of the method's own work and of the reading it needs."""
        return self.seconds + self.reading_seconds


@dataclass(frozen=True)
class EdgeScores:
    """One number per edge, with the sign convention of `HeadScores`."""

    method: str
    edges: list[Edge]
    scores: Float[Tensor, " edges"]
    signed: bool
    seconds: float
    reading_seconds: float = 0.0
    intervals: Float[Tensor, "edges 2"] | None = None

    @property
    def importance(self) -> Float[Tensor, " edges"]:
        return self.scores.abs()


def mean_intervals(per_example: Float[Tensor, "E n"], n_resamples: int = 1000) -> Float[Tensor, "n 2"]:
    """95% bootstrap intervals of the means over prompts, [n, (low, high)]; all heads share their resamples."""
    weights = torch.from_numpy(bootstrap_weights(len(per_example), n_resamples)) / len(per_example)
    means = weights @ per_example.cpu().double()
    return means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0).T


def from_examples(
    method: str, contrast: Contrast, per_example: Float[Tensor, "E n"], began: float, *, n_passes: float
) -> HeadScores:
    """Signed scores that are means over prompts, with their intervals.

    began: the `time.perf_counter` at which the method's own work began.
    """
    seconds = time.perf_counter() - began
    per_example = per_example.cpu().double()
    return HeadScores(
        method,
        per_example.mean(0),
        True,
        seconds,
        reading_seconds=contrast.seconds,
        per_example=per_example,
        intervals=mean_intervals(per_example),
        n_passes=n_passes,
    )


def edges_from_examples(
    method: str, contrast: Contrast, edges: list[Edge], per_example: Float[Tensor, "E edges"], *, began: float
) -> EdgeScores:
    """Signed scores of edges that are means over prompts, with their intervals; `began` as in `from_examples`."""
    seconds = time.perf_counter() - began
    intervals = mean_intervals(per_example) if edges else torch.zeros(0, 2, dtype=torch.float64)
    return EdgeScores(
        method, edges, per_example.mean(0), True, seconds=seconds, reading_seconds=contrast.seconds, intervals=intervals
    )
