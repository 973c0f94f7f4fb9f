"""Ends a text at a stop sequence, and holds back what may be the beginning of one.

Place on the path: text of new tokens → [text to release] → answer. The stop sequence itself is not released.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """A growing text with stop sequences; `stopped` once one has occurred."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = [stop for stop in stops if stop]
        self.stopped = False
        self._held = ""

    def add(self, piece: str) -> str:
        """The text that can be released after this piece."""
        if self.stopped:
            return ""
        text = self._held + piece
        places = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if places:
            self.stopped, self._held = True, ""
            return text[: min(places)]
        n_held = max((self._n_begun(text, stop) for stop in self.stops), default=0)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    def finish(self) -> str:
        """What was held back, once no further piece comes."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _n_begun(text: str, stop: str) -> int:
        """How many characters at the text's end are the beginning of the stop sequence."""
        return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
