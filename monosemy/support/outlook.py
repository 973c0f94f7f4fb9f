"""How long several stages of work together will still take, from what they should cost and how fast they went so far.

Place on the path: pipeline (which says what the stages should cost) → [outlook] → `progress`, which shows it.

    left = expected seconds still to come · (seconds spent / expected seconds done)

Expected seconds are those of some machine: only their proportions matter, since the ratio of what was spent to what was
expected carries them over to this one, now. Work that was restored, and stages that did not come because their results
were there, count neither as done nor as left. Limits: one ratio for all stages, though a machine may be twice as fast
as another in one of them and not in the next; nothing is said before `LEAST_SECONDS`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

LEAST_SECONDS = 20.0


class Outlook:
    """The stages of a piece of work, in order, as (beginning of the stage's name, expected seconds).

    An empty name stands for what comes before the next stage.
    """

    def __init__(self, expected: Sequence[tuple[str, float]]) -> None:
        self._expected = list(expected)
        self._next = 0
        self._began = time.monotonic()
        self._finished = 0.0
        self._current = self._total = self._share = 0.0

    def begin(self, name: str, total: float | None, start: float) -> None:
        """A stage begins, `start` of its `total` units done before. One that is not expected is passed over."""
        places = range(self._next, len(self._expected))
        place = next((i for i in places if (prefix := self._expected[i][0]) and name.startswith(prefix)), None)
        if place is None:
            return
        self._end_current()
        self._finished += sum(seconds for prefix, seconds in self._expected[self._next : place] if not prefix)
        left = 1 - start / total if total else 1.0
        self._current, self._total, self._share = left * self._expected[place][1], (total or 0) - start, 0.0
        self._next = place + 1

    def advance(self, n: float) -> None:
        """`n` more units of the present stage are done."""
        if self._total > 0:
            self._share = min(1.0, self._share + n / self._total)

    def end(self) -> None:
        """The present stage is over."""
        self._end_current()

    def _end_current(self) -> None:
        self._finished += self._current
        self._current = self._total = self._share = 0.0

    def left(self) -> float | None:
        """The seconds left; None while there is too little to tell by."""
        spent, done = time.monotonic() - self._began, self._finished + self._share * self._current
        if spent < LEAST_SECONDS or done <= 0:
            return None
        to_come = sum(seconds for _, seconds in self._expected[self._next :])
        return (to_come + (1 - self._share) * self._current) * spent / done
