"""Decides which architecture is ahead at each sparsity, claiming no more than the intervals allow.

Place on the data's path: from evaluation records to the points of the frontier plots and to sentences.

Points. Records of one architecture and one target L0 that differ only in their seeds make one point, the mean over
seeds. With one seed, its interval is that of the record (bootstrap over validation documents). With several, it reaches
from the lowest lower end to the highest upper end of the seeds' intervals, so that it covers both sources of chance.

Verdicts. At each target L0, the architectures whose reached L0 is within 5% of it are ranked; lower is better for delta
loss and FVU. An architecture is ahead only if its interval ends below the start of every other's. Otherwise those that
overlap with the best are named as not told apart. Since all SAEs are measured on the same tokens, this test is
cautious: a paired comparison could still separate some that overlap.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from monosemy.report.read import Evaluated, Measure
from monosemy.report.theme import label, order
from monosemy.support.numbers import interval_text

L0_TOLERANCE = 0.05
"""The largest |reached L0 / target L0 − 1| at which SAEs count as equally sparse."""


@dataclass(frozen=True)
class Point:
    """One architecture at one target L0, with all its seeds."""

    architecture: str
    target_l0: float | None
    control: bool
    records: tuple[Evaluated, ...]

    def __getitem__(self, measure: str) -> Measure:
        """The mean over seeds with its interval (module docstring), over the seeds that have a value."""
        measured = [m for r in self.records if math.isfinite((m := r[measure]).value)]
        if not measured:
            return Measure(math.nan)
        if len(measured) == 1:
            return measured[0]
        # A seed without an interval (too few documents) still widens it by its value.
        lows = [m.low if math.isfinite(m.low) else m.value for m in measured]
        highs = [m.high if math.isfinite(m.high) else m.value for m in measured]
        return Measure(float(np.mean([m.value for m in measured])), min(lows), max(highs))

    def spread(self, measure: str) -> float:
        """The standard deviation over seeds (with n − 1 in the denominator); NaN for fewer than two."""
        values = [v for r in self.records if math.isfinite(v := r[measure].value)]
        return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan

    @property
    def on_target(self) -> bool:
        """Whether the mean reached L0 is within 5% of the target L0."""
        if not self.target_l0:
            return False
        return abs(self["l0"].value / self.target_l0 - 1) <= L0_TOLERANCE


def points(records: Iterable[Evaluated]) -> list[Point]:
    """The records of one site, grouped over seeds, in the order of architectures in the report and then of L0.

    SAEs whose training stopped early are left out, because their weights are not a result.
    """
    groups: dict[tuple[str, float | None, str], list[Evaluated]] = {}
    for record in records:
        if record.stopped:
            continue
        # Without a target L0, only the name tells which records differ by no more than their seed.
        without_seed = "" if record.target_l0 is not None else re.sub(r"-s\d+$", "", record.name)
        groups.setdefault((record.architecture, record.target_l0, without_seed), []).append(record)
    site_points = [Point(key[0], key[1], group[0].control, tuple(group)) for key, group in groups.items()]
    rank = {name: number for number, name in enumerate(order(p.architecture for p in site_points))}
    return sorted(site_points, key=lambda p: (rank[p.architecture], p["l0"].value))


@dataclass(frozen=True)
class Verdict:
    """The ranking of architectures at one target L0 by one measure (lower is better)."""

    target_l0: float
    measure: str
    ranked: tuple[Point, ...]
    """The points that reached the target, best first; controls are not ranked."""
    off_target: tuple[Point, ...]
    """The points that are not ranked, because their reached L0 is more than 5% from the target."""

    @property
    def best(self) -> Point | None:
        return self.ranked[0] if self.ranked else None

    @property
    def tied(self) -> tuple[Point, ...]:
        """The points that are not told apart from the best: their intervals overlap, or there are none."""
        if not self.ranked:
            return ()
        edge = self.ranked[0][self.measure].high
        # `not low > edge` rather than `low <= edge`: without an interval low is NaN, and both comparisons are false.
        return tuple(p for p in self.ranked[1:] if not p[self.measure].low > edge)


def verdicts(site_points: Sequence[Point], measure: str) -> list[Verdict]:
    """A verdict for each target L0 at which at least one architecture (not a control) was measured."""
    able = [p for p in site_points if not p.control and p.target_l0 and math.isfinite(p[measure].value)]
    result = []
    for target in sorted({p.target_l0 for p in able if p.target_l0}):
        here = [p for p in able if p.target_l0 == target]
        ranked = sorted((p for p in here if p.on_target), key=lambda p: p[measure].value)
        result.append(Verdict(target, measure, tuple(ranked), tuple(p for p in here if not p.on_target)))
    return result


def beaten_by_control(site_points: Sequence[Point], control: str, measure: str) -> tuple[list[Point], list[Point]]:
    """(SAEs compared with `control` at the same target L0, those of them that are not clearly better).

    An SAE is clearly better if its interval ends below the start of the control's.
    """
    floor = {p.target_l0: p[measure] for p in site_points if p.architecture == control}
    compared = [p for p in site_points if not p.control and p.target_l0 in floor and math.isfinite(p[measure].value)]
    return compared, [p for p in compared if not p[measure].high < floor[p.target_l0].low]


def names(site_points: Iterable[Point]) -> str:
    """The names of the points' architectures, as in `TopK, Gated and JumpReLU`."""
    labels = [label(name) for name in dict.fromkeys(p.architecture for p in site_points)]
    return labels[0] if len(labels) == 1 else ", ".join(labels[:-1]) + f" and {labels[-1]}"


def with_interval(measure: Measure, *, percent: bool = False) -> str:
    """The value and its interval as text (`interval_text`)."""
    return interval_text(measure.value, measure.low, measure.high, percent=percent)
