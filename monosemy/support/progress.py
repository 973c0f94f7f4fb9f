"""Shows the progress of long stages, with rate and time left, on a terminal or in a log.

Place on the data's path: beside all of it; every stage that can take more than a second reports here. On a terminal,
rich draws a bar (and is imported only then). Elsewhere, one plain line is printed about every ten seconds and one at
the end, so that a log file stays readable. `MONOSEMY_QUIET=1` silences both. A display that fails, because its terminal
was closed or the disk under its log is full, falls silent; the work goes on.

The rate is measured over the later half of the time since the stage's first report, because the first unit often
includes one-time costs such as compiling. Until there is enough evidence, neither rate nor time left is shown. Work
restored from an earlier, interrupted run is given as `start=`, so that it does not raise the rate. Where the stages of
a long piece of work are announced (`together`), each also shows how long all of them will still take.

Limits: stages do not nest; a stage that is opened within another one prints plain lines.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, Protocol, runtime_checkable

from monosemy.support import ranks
from monosemy.support.numbers import duration_text, fixed_percent_text, number_text
from monosemy.support.outlook import ExpectedStage, Outlook

PLAIN_INTERVAL_SECONDS = 10.0
_REDRAWS_PER_SECOND = 5.0
_outlook: Outlook | None = None
_live = False  # rich allows one live display at a time


@runtime_checkable  # so that tests can check signatures that name it
class Bar(Protocol):
    """The progress display that `stage` yields."""

    def advance(self, n: float = 1) -> None:
        """Counts `n` more units as done."""

    def note(self, text: str) -> None:
        """Shows a short remark after the numbers, e.g. the current loss."""


class _Quiet:
    """A display that shows nothing."""

    def advance(self, n: float = 1) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Shielded:
    """A display that falls silent at its first error, so that showing progress can never end the work."""

    def __init__(self, open_bar: Callable[[], Any]) -> None:
        self.bar: Any = _Quiet()
        self._attempt(lambda: setattr(self, "bar", open_bar()))

    def advance(self, n: float = 1) -> None:
        if _outlook is not None:
            _outlook.advance(n)
        self._attempt(lambda: self.bar.advance(n))

    def note(self, text: str) -> None:
        self._attempt(lambda: self.bar.note(text))

    def finish(self) -> None:
        self._attempt(lambda: self.bar.finish())

    def close(self) -> None:
        self._attempt(lambda: self.bar.close())

    def _attempt(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception:  # whatever a terminal, a pipe or a drawing library comes up with
            broken, self.bar = self.bar, _Quiet()
            with suppress(Exception):
                broken.close()


class _Rate:
    """The rate in units per second and the time left, from the later half of the time since the first report.

    The first unit of a stage often includes one-time costs (compiling, opening files): it starts the clock and is not
    counted. There is no rate until two more reports have come.
    """

    EVIDENCE, MARKS = 2, 64

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []
        self.last = (0.0, 0.0)
        self.n_reports, self.stride = 0, 1

    def observe(self, done: float) -> None:
        self.last = (time.monotonic(), done)
        if self.n_reports % self.stride == 0:
            self.marks.append(self.last)
            # When there are too many marks, every other one is dropped and new ones come half as often: memory is
            # bounded, and marks stay evenly spread.
            if len(self.marks) > self.MARKS:
                self.marks, self.stride = self.marks[::2], 2 * self.stride
        self.n_reports += 1

    def per_second(self) -> float | None:
        """The rate; None until there is enough evidence."""
        if self.n_reports <= self.EVIDENCE:
            return None
        now, done = self.last
        # From the last mark before the middle of the time so far, so that the rate follows a change of pace.
        middle = (self.marks[0][0] + now) / 2
        began, before = next(mark for mark in reversed(self.marks) if mark[0] <= middle)
        return (done - before) / max(now - began, 1e-9) or None

    def texts(self, done: float, total: float | None, unit: str) -> tuple[str, str]:
        """Rate and time left, as `2,041 tokens/s` and `2 min 21 s left`; empty while unknown."""
        rate = self.per_second()
        if rate is None:
            return "", ""
        left = "" if total is None else f"{duration_text(max(total - done, 0) / rate)} left"
        return f"{number_text(rate)} {unit}/s", left


class _Plain:
    """A display that prints a line every `interval` seconds, such as
    `harvest: 12,288/300,000 tokens (4%), 2,041 tokens/s, 2 min 21 s left`."""

    def __init__(self, name: str, total: float | None, unit: str, start: float, *, stream: IO[str], interval: float):
        self.name, self.total, self.unit, self.stream, self.interval = name, total, unit, stream, interval
        self.start = self.done = start
        self.remark = ""
        self.rate = _Rate()
        self.began = self.printed = time.monotonic()

    def advance(self, n: float = 1) -> None:
        self.done += n
        self.rate.observe(self.done)
        if time.monotonic() - self.printed >= self.interval:
            self.print_line(finished=False)

    def note(self, text: str) -> None:
        self.remark = text

    def finish(self) -> None:
        self.print_line(finished=True)

    def close(self) -> None:
        pass

    def print_line(self, *, finished: bool) -> None:
        self.printed = time.monotonic()
        seconds = self.printed - self.began
        parts = [progress_text(self.done, self.total, self.unit)]
        if finished:
            if mean := (self.done - self.start) / max(seconds, 1e-9):
                parts.append(f"{number_text(mean)} {self.unit}/s")
            parts.append(f"took {duration_text(seconds)}")
        else:
            parts.extend(filter(None, self.rate.texts(self.done, self.total, self.unit)))
        if self.remark:
            parts.append(self.remark)
        if not finished and (whole := _whole_text()):
            parts.append(whole)
        print(f"{self.name}: {', '.join(parts)}", file=self.stream, flush=True)


class _Drawn:
    """A display that draws a bar with rich."""

    def __init__(self, name: str, total: float | None, unit: str, start: float):
        global _live
        _live = True
        self.unit, self.total = unit, total
        self.start = self.done = start
        self.began = time.monotonic()
        self.drawn = 0.0
        self.rate = _Rate()
        self.display = _rich_display()
        self.task = self.display.add_task(
            name, total=total, completed=start, counts="", rate="", left="", spent="", remark="", whole=""
        )
        self.display.start()

    def advance(self, n: float = 1) -> None:
        self.done += n
        self.rate.observe(self.done)
        if time.monotonic() - self.drawn >= 1 / _REDRAWS_PER_SECOND:
            self.draw()

    def note(self, text: str) -> None:
        self.display.update(self.task, remark=text)

    def finish(self) -> None:
        self.draw()
        self.display.update(self.task, left="", remark="", whole="")

    def close(self) -> None:
        global _live
        _live = False
        self.display.stop()

    def draw(self) -> None:
        self.drawn = time.monotonic()
        seconds = self.drawn - self.began
        rate, left = self.rate.texts(self.done, self.total, self.unit)
        self.display.update(
            self.task,
            completed=self.done,
            counts=progress_text(self.done, self.total, self.unit),
            rate=rate,
            left=left,
            spent=duration_text(seconds),
            whole=_whole_text(),
        )


@contextmanager
def stage(name: str, total: float | None = None, unit: str = "steps", *, start: float = 0) -> Iterator[Bar]:
    """Shows the progress of one stage of work.

    The stage has `total` units (None when unknown), of which `start` were done before. Everything goes to standard
    error, so that standard output holds results only.

        with stage("harvest", total=300_000, unit="tokens") as bar:
            bar.advance(2048)
    """
    bar = _Shielded(lambda: _open(name, total, unit, start))
    if _outlook is not None:
        _outlook.begin(name, total, start)
    try:
        yield bar
        bar.finish()
    finally:
        bar.close()
        if _outlook is not None:
            _outlook.end()


@contextmanager
def together(expected: Sequence[ExpectedStage]) -> Iterator[None]:
    """Shows in every stage how long all these stages together will still take (`outlook.Outlook`)."""
    global _outlook
    before, _outlook = _outlook, Outlook(expected)
    try:
        yield
    finally:
        _outlook = before


def _whole_text() -> str:
    """`about 12 min left in all`; empty while unknown, and where no stages were announced."""
    seconds = None if _outlook is None else _outlook.left()
    if seconds is None:
        return ""
    return f"about {max(1, round(seconds / 60))} min left in all" if seconds >= 30 else "less than a minute left in all"


def _open(name: str, total: float | None, unit: str, start: float) -> _Quiet | _Plain | _Drawn:
    if _quiet():
        return _Quiet()
    if _live or not _is_terminal(sys.stderr):
        return _Plain(name, total, unit, start, stream=sys.stderr, interval=PLAIN_INTERVAL_SECONDS)
    return _Drawn(name, total, unit, start)


def say(text: str) -> None:
    """Prints one line for the user that belongs to no result. Not to be called inside a stage."""
    if not _quiet():
        with suppress(Exception):  # a failing display must not end the work
            print(text, file=sys.stderr, flush=True)


def _quiet() -> bool:
    # Of several processes the first one shows its own progress, which is that of all: they have equal shares.
    return os.environ.get("MONOSEMY_QUIET", "") not in ("", "0") or not ranks.is_first()


def _is_terminal(stream: IO[str]) -> bool:
    return stream.isatty() and os.environ.get("TERM", "") != "dumb"


def _rich_display() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}", style="bold"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[counts]}"),
        TextColumn("{task.fields[rate]}", style="cyan"),
        TextColumn("{task.fields[spent]}", style="dim"),
        TextColumn("{task.fields[left]}", style="green"),
        TextColumn("{task.fields[remark]}", style="dim"),
        TextColumn("{task.fields[whole]}", style="green"),
        console=Console(stderr=True),
        refresh_per_second=_REDRAWS_PER_SECOND,
    )


def progress_text(done: float, total: float | None, unit: str) -> str:
    """The progress as `12,288/300,000 tokens (4%)`, or as `12,288 tokens` when the total is unknown."""
    if total is None:
        return f"{number_text(done)} {unit}"
    share = f" ({fixed_percent_text(done / total)})" if total > 0 else ""
    return f"{number_text(done)}/{number_text(total)} {unit}{share}"
