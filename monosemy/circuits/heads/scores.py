"""What every method returns: one number per head, or per edge, with intervals and cost.

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
    """One number per head. Positive supports the behaviour, negative works against it; methods that cannot tell
    (`signed` false) give numbers from 0 up. Heads are ranked by `importance`."""

    method: str
    scores: Float[Tensor, " n"]
    signed: bool
    seconds: float
    """The method's own."""
    reading_seconds: float = 0.0
    """Of passes that it shares with other methods, counted whole."""
    per_example: Float[Tensor, "E n"] | None = None
    intervals: Float[Tensor, "n 2"] | None = None
    """95%, where prompts can be resampled."""
    n_passes: float = 0.0
    """Forward passes over all its prompts beyond the two of reading (prompts and counterparts), a backward pass
    counted as two; layers that are skipped are not counted."""
    checked: frozenset[int] | None = None
    """Heads whose score is exact where the others' is an estimate; None where none is an estimate."""
    replaced: dict[int, float] = field(default_factory=dict)
    """Heads whose score is what restoring them in the counterpart gives → the effect of replacing them, which others
    make up for."""

    @property
    def importance(self) -> Float[Tensor, " n"]:
        """|score|: what heads are ranked by."""
        return self.scores.abs()

    @property
    def total_seconds(self) -> float:
        return self.seconds + self.reading_seconds


@dataclass(frozen=True)
class EdgeScores:
    """One number per edge, in the sign convention of `HeadScores`."""

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
    """95% bootstrap intervals of the means over prompts."""
    weights = torch.from_numpy(bootstrap_weights(len(per_example), n_resamples)) / len(per_example)
    means = weights @ per_example.cpu().double()
    return means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0).T


def from_examples(
    method: str, contrast: Contrast, per_example: Float[Tensor, "E n"], began: float, *, n_passes: float
) -> HeadScores:
    """Signed scores that are means over prompts, with their intervals; `began`: when the method's own work did."""
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
