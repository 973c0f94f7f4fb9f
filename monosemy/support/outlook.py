"""How long several stages of work together will still take, from what they should cost and how fast they went so far.

Place on the path: pipeline (which says what the stages should cost) → [outlook] → `progress`, which shows it.

    left  = Σ_kinds expected seconds still to come · slowness
    slowness of a kind = (spent + `WEIGHT` · slowness of all) / (expected + `WEIGHT`)    of its work done

A kind is work of one sort: passes of the model, training, whatever else. Two machines differ more in what training
costs beside the model than in either, so each kind has its own slowness, which is that of all kinds as long as
little of it was done. Of what was done, the last minutes count most (`HALF_LIFE`), as other programs come
and go. Expected seconds are those of some machine: only their proportions count.

Time between stages belongs to none: downloads and loading say little of what comes after them. Work that was restored,
and stages that did not come because their results were there, count neither as done nor as left.

Limits: nothing is said before `LEAST_SECONDS`. No estimate knows what other programs will do: one that begins or ends
is followed within minutes. In the replayed runs of tests/unit/support/test_outlook.py the estimate is between 0.7 and
1.5 times what was really left, from the end of the first minute on. Where training is 2.5 times dearer beside the rest
than in those, it is little more than half, as nothing before the first SAE can tell; within 0.65 and 1.5 from a
minute of the training of all on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

LEAST_SECONDS = 20.0
WEIGHT = 30.0
"""After so many expected seconds of a kind, its own slowness counts as much as that of all work."""
HALF_LIFE = 300.0
"""Seconds of work of a kind after which what was measured before counts half."""


class ExpectedStage(NamedTuple):
    """A stage that should come."""

    name: str
    """How its name begins; empty: what comes before the next stage, whose time is not measured."""
    seconds: float
    kind: str = ""
    units: float = 0.0
    """The units of work that take these seconds, where a part of the stage's total is done before; 0: all of it."""


class Outlook:
    """The stages of a piece of work, in order."""

    def __init__(self, expected: Sequence[ExpectedStage]) -> None:
        self._expected = list(expected)
        self._next = 0
        self._began = self._counted = time.monotonic()
        self._measured: dict[str, tuple[float, float]] = {}
        """{kind: (seconds spent, seconds expected) of the work done}, of which old ones count less."""
        self._kind = ""
        self._current = self._total = self._share = 0.0

    def begin(self, name: str, total: float | None, start: float) -> None:
        """A stage begins, `start` of its `total` units done before. One that is not expected is passed over."""
        places = range(self._next, len(self._expected))
        place = next((i for i in places if (prefix := self._expected[i].name) and name.startswith(prefix)), None)
        if place is None:
            return
        stage = self._expected[place]
        left = (total - start) / (stage.units or total) if total else 1.0
        self._kind, self._current, self._total, self._share = (
            stage.kind,
            left * stage.seconds,
            (total or 0) - start,
            0.0,
        )
        self._counted, self._next = time.monotonic(), place + 1

    def advance(self, n: float) -> None:
        """`n` more units of the present stage are done."""
        if self._total > 0:
            self._count(min(1.0, self._share + n / self._total))

    def end(self) -> None:
        """The present stage is over."""
        if self._current:
            self._count(1.0)
        self._current = self._total = self._share = 0.0

    def _count(self, share: float) -> None:
        """This share of the present stage is done: what it took since the last count goes to its kind."""
        now = time.monotonic()
        spent, done = self._measured.get(self._kind, (0.0, 0.0))
        weight = 0.5 ** ((now - self._counted) / HALF_LIFE)
        done = weight * done + (share - self._share) * self._current
        self._measured[self._kind] = weight * spent + now - self._counted, done
        self._counted, self._share = now, share

    def left(self) -> float | None:
        """The seconds left; None while there is too little to tell by."""
        spent, done = (sum(column) for column in zip((0.0, 0.0), *self._measured.values(), strict=True))
        if time.monotonic() - self._began < LEAST_SECONDS or done <= 0:
            return None
        return sum(seconds * self._slowness(kind, spent / done) for kind, seconds in self._to_come())

    def _to_come(self) -> list[tuple[str, float]]:
        """(kind, expected seconds) of what is left of the present stage, and of every one after it."""
        present = self._kind, (1 - self._share) * self._current
        return [present, *((stage.kind, stage.seconds) for stage in self._expected[self._next :])]

    def _slowness(self, kind: str, of_all: float) -> float:
        """How many seconds an expected second of this kind takes."""
        spent, done = self._measured.get(kind, (0.0, 0.0))
        return (spent + WEIGHT * of_all) / (done + WEIGHT)
