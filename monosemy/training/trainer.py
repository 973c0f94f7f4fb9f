"""The trainer: trains all SAEs of a run on one stream of activations, with checkpoints.

Place on the path: activation stream → **trainer** → saved SAEs. A training step advances every `Unit`: one SAE, or
several whose gradients are joined. The trainer needs little of the stream: `next(stream)` gives {site: [N, d] at
E‖x‖² = 1}, and there are `stream.n_steps`, `stream.state()` and `stream.restore(state)`. An SAE whose batch, loss or
gradient is not finite stops at that step with a message, and the others go on. A run that is stopped at any moment and
started again ends with the same weights, bit for bit, as one that was never stopped: the checkpoint holds everything
that changes, and metrics written after it are cut off.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from monosemy.config import TrainingConfig
from monosemy.errors import Interrupted
from monosemy.support import files, ranks
from monosemy.support.metrics import MetricsWriter
from monosemy.training.checkpoint import Origin, checkpoint_folders, load_checkpoint, save_checkpoint
from monosemy.training.parts import Part, joined_records, newest_checkpoints
from monosemy.training.trainee import Diverged, Trainee
from monosemy.training.viewers import Viewer
from monosemy.training.workers import Workers, buffer_bytes

Key = tuple[str, str]
"""The (site, name) of an SAE."""


class Stream(Protocol):
    """A stream of activations, as far as the trainer needs it."""

    n_steps: int

    def __next__(self) -> Mapping[str, Tensor]: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...


class Unit(Protocol):
    """One SAE or several that take their steps together.

    `step` receives the batch of every site, advances the trainees of all `keys` and returns their metrics. It raises
    Diverged with nothing changed. `n_bytes` is the temporary memory that it needs beyond the buffers of one SAE's step.
    """

    @property
    def keys(self) -> tuple[Key, ...]: ...
    @property
    def n_bytes(self) -> int: ...
    def step(self, batch: Mapping[str, Tensor], index: int) -> Mapping[Key, dict[str, float]]: ...


class JoinedUnit(Unit, Protocol):
    """A unit of several SAEs, built for a run by a room (`rooms.Room.units`)."""

    @property
    def trainees(self) -> tuple[Trainee, ...]:
        """The trainees of the unit, in the order of `keys`."""
        ...

    def record(self) -> dict[str, Any]:
        """Entries to add to `record` in the config.json of each of its SAEs."""
        ...


class _Alone:
    """The unit of a single SAE."""

    def __init__(self, key: Key, trainee: Trainee) -> None:
        self.keys: tuple[Key, ...] = (key,)
        self.n_bytes, self._trainee = 0, trainee

    def step(self, batch: Mapping[str, Tensor], index: int) -> Mapping[Key, dict[str, float]]:
        (key,) = self.keys
        return {key: self._trainee.step(batch[key[0]], index)}


class Trainer:
    """Trains the SAEs of {(site, name): Trainee} on one stream.

    `units` says which trainees take their steps together; a trainee in none of them steps alone. `resume` refuses a
    checkpoint of another `origin`. `on_step(n_tokens, metrics)` is called after every step, for progress displays and
    loggers; its result is ignored. Where several processes share a run, `part` is set to which part of it this is.
    """

    def __init__(
        self,
        trainees: Mapping[Key, Trainee],
        stream: Stream,
        config: TrainingConfig,
        *,
        checkpoints: Path,
        metrics: MetricsWriter,
        origin: Origin,
        units: Sequence[Unit] = (),
        on_step: Callable[[int, Mapping[Key, Mapping[str, float]]], None] | None = None,
    ) -> None:
        self.trainees, self.stream, self.config = dict(trainees), stream, config
        joined = {key for unit in units for key in unit.keys}
        alone: list[Unit] = [_Alone(key, trainee) for key, trainee in self.trainees.items() if key not in joined]
        self.units: list[Unit] = [*alone, *units]
        self.checkpoints, self.metrics, self.origin = checkpoints, metrics, origin
        self.on_step = on_step
        self.part = Part(len(self.units))
        self.index = 0
        self.n_tokens = 0
        self.messages: list[str] = []
        self.viewers: list[Viewer] = []
        self.seconds = 0.0
        """Seconds spent in training, over all resumptions."""
        self._clock = time.perf_counter()
        self._ahead: dict[Key, int] = {}
        """Steps of the SAEs that have taken more than `index`, because another process had trained them further."""

    def resume(self) -> int:
        """Restores the newest checkpoint, and returns the number of tokens trained so far (0 where there is none).

        Where the processes of a run, or their number, have changed, every SAE continues from the newest checkpoint that
        any of them wrote of it. Raises UserError when a checkpoint is damaged or has another origin.
        """
        if self.checkpoints.exists():
            files.clear_leftovers(self.checkpoints)
        if self.part.places:
            return self._resume_from_all()
        folders = checkpoint_folders(self.checkpoints)
        if not folders:
            # Training starts anew, so records of a run killed before its first checkpoint must go.
            self.metrics.truncate(0)
            return 0
        tensors, state = load_checkpoint(folders[-1])
        self.origin.require(state, folders[-1])
        for key in self.trainees:
            self._restore(key, tensors, state)
        self._restore_stream(tensors, state)
        self.messages = list(state["messages"])
        self.seconds = state["seconds"]
        # Records written after the checkpoint belong to steps that will be taken again.
        self.metrics.truncate(state["metrics_offset"])
        self._say_if_arithmetic_differs(state)
        return self.n_tokens

    def _resume_from_all(self) -> int:
        """As `resume`, from the newest checkpoint of every SAE in any of the places."""
        newest = newest_checkpoints(self.part.places, [f"{site}/{name}" for site, name in self.trainees])
        self._ahead = {key: newer.step for key in self.trainees if (newer := newest.get("/".join(key)))}
        for folder in {newer.folder for newer in newest.values()}:
            tensors, state = load_checkpoint(folder)
            self.origin.require(state, folder)
            for key in self.trainees:
                if (newer := newest.get("/".join(key))) and newer.folder == folder:
                    self._restore(key, tensors, state)
            self.seconds = max(self.seconds, state["seconds"])
            self._say_if_arithmetic_differs(state)
        # The stream continues where the SAE that is furthest behind needs it; the others wait until it has caught up.
        if len(newest) == len(self.trainees) and newest:
            self._restore_stream(*load_checkpoint(min(newest.values(), key=lambda newer: newer.stream_step).folder))
        self.messages = [trainee.stopped for trainee in self.trainees.values() if trainee.stopped]
        metrics = [place.metrics for place in self.part.places]
        self.metrics.rewrite(joined_records(metrics, {key: self._ahead.get(key, 0) for key in self.trainees}))
        return self.n_tokens

    def _restore(self, key: Key, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restores one SAE from a checkpoint."""
        label = "/".join(key)
        own = {name.removeprefix(f"{label}/"): t for name, t in tensors.items() if name.startswith(f"{label}/")}
        self.trainees[key].restore(own, state["trainees"][label])

    def _restore_stream(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restores the stream, and with it the step and the tokens so far."""
        stream_tensors = {k.removeprefix("stream/"): t for k, t in tensors.items() if k.startswith("stream/")}
        self.stream.restore({**state["stream"], **stream_tensors})
        self.index, self.n_tokens = state["step"], state["n_tokens"]

    def _say_if_arithmetic_differs(self, state: Mapping[str, Any]) -> None:
        for quantity, before in state.get("arithmetic", {}).items():
            if (now := self.arithmetic()[quantity]) != before:
                print(
                    f"continuing with {quantity} {now} what began with {before}: sums are taken in another order, so "
                    "the result will agree to rounding, not bit for bit",
                    file=sys.stderr,
                )

    def save(self) -> Path:
        """Writes a checkpoint of the current state, and returns its folder."""
        tensors = {
            f"{s}/{n}/{key}": tensor
            for (s, n), trainee in self.trainees.items()
            for key, tensor in trainee.tensors().items()
        }
        stream = self.stream.state()
        tensors |= {f"stream/{key}": value for key, value in stream.items() if isinstance(value, Tensor)}
        state = {
            "fingerprint": self.origin.fingerprint,
            "parts": self.origin.parts,
            "n_tokens": self.n_tokens,
            "messages": self.messages,
            "seconds": self._tick(),
            "arithmetic": self.arithmetic(),
            "trainees": {f"{s}/{n}": trainee.state() for (s, n), trainee in self.trainees.items()},
            "ahead": {"/".join(key): step for key, step in self._ahead.items() if step > self.index},
            "stream": {key: value for key, value in stream.items() if not isinstance(value, Tensor)},
            "metrics_offset": self.metrics.offset(),
        }
        return save_checkpoint(self.checkpoints, self.index, tensors, state)

    def train(self) -> None:
        """Trains to the end of the stream, or until every SAE has stopped.

        When SIGINT or SIGTERM arrives, writes a checkpoint after the current step and raises Interrupted.
        """
        self._clock = time.perf_counter()
        with _watch_signals() as stop_asked, self._workers() as workers:
            while self.index < self.stream.n_steps and not self.all_stopped:
                batch = next(self.stream)
                n_rows = len(next(iter(batch.values())))
                before = self.n_tokens
                metrics = self._step(batch, workers)
                self.index += 1
                self.n_tokens += n_rows
                last = self.index == self.stream.n_steps or self.all_stopped
                # Records and checkpoints are due whenever the token count passes a multiple of their interval.
                interval_tokens = self.config.log_tokens
                if recorded := last or self.n_tokens // interval_tokens > before // interval_tokens or before == 0:
                    self._record(metrics)
                if self.on_step:
                    self.on_step(n_rows, metrics)
                # Signals are acted on between steps only, when no state is half changed.
                if stop_asked() or (recorded and ranks.another_failed()):
                    folder = self.save()
                    saved = f"interrupted at step {self.index}; saved as {folder}"
                    raise Interrupted(f"{saved}; run the same command to continue")
                interval_tokens = self.config.checkpoint_tokens
                if last or self.n_tokens // interval_tokens > before // interval_tokens:
                    self.save()

    @property
    def all_stopped(self) -> bool:
        """Whether every SAE has stopped, so that there is nothing left to train."""
        return all(trainee.stopped for trainee in self.trainees.values())

    def arithmetic(self) -> dict[str, int | bool]:
        """The settings that decide the order of floating-point sums, apart from the kind of machine."""
        from monosemy.kernels.cpu import screen

        with self._workers() as workers:
            return {"threads per SAE": workers.n_threads, "8-bit screen": screen.available()}

    def _workers(self) -> Workers:
        sae = next(iter(self.trainees.values())).sae
        most = self._most_at_a_time()
        return Workers(self.part.n_units, sae.W_dec.device, most, n_processes=self.part.n_local)

    def _tick(self) -> float:
        """Adds the time since the last call to `seconds`, and returns the new total."""
        now = time.perf_counter()
        self.seconds, self._clock = self.seconds + now - self._clock, now
        return self.seconds

    def _most_at_a_time(self) -> int:
        """How many units may step side by side so that their buffers stay within an eighth of the machine's memory."""
        import psutil

        widest = max(trainee.sae.d_sae for trainee in self.trainees.values())
        # Per unit, with what a joined unit needs beyond the step of one SAE.
        buffers = buffer_bytes(self.config.batch_tokens, widest) + max(unit.n_bytes for unit in self.units)
        return max(1, psutil.virtual_memory().total // 8 // buffers)

    def _step(self, batch: Mapping[str, Tensor], workers: Workers) -> dict[Key, dict[str, float]]:
        """Advances every unit by one step and returns the metrics; stops the SAEs of units that diverge."""
        # A finite sum proves that every entry is finite, and it is fast. A sum that is not finite may just have
        # overflowed, so only then is every entry tested.
        finite = {site: bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all()) for site, x in batch.items()}
        going = [unit for unit in self.units if all(self._goes(key) for key in unit.keys)]

        def advance(unit: Unit) -> Mapping[Key, dict[str, float]] | Diverged:
            if not all(finite[site] for site, _ in unit.keys):
                return Diverged(f"the batch holds NaN or infinity at step {self.index}")
            try:
                return unit.step(batch, self.index)
            except Diverged as reason:
                return reason

        # `advance` returns Diverged rather than raising it, so that one SAE's end does not cut off the others' steps.
        results = workers.run([partial(advance, unit) for unit in going])
        metrics: dict[Key, dict[str, float]] = {}
        for unit, result in zip(going, results, strict=True):
            if not isinstance(result, Diverged):
                metrics |= result
                continue
            for site, name in unit.keys:
                stopped = f"{name} at {site} stopped: {result}; the other SAEs go on"
                self.trainees[site, name].stopped = stopped
                self.messages.append(stopped)
        return metrics

    def _goes(self, key: Key) -> bool:
        """Whether an SAE takes the present step: it has not stopped, and did not take the step before."""
        return self.trainees[key].stopped is None and self._ahead.get(key, 0) <= self.index

    def _record(self, metrics: Mapping[Key, Mapping[str, float]]) -> None:
        """Appends a record per SAE to the metrics, and shows it in the viewers."""
        records = []
        for (site, name), values in metrics.items():
            config = self.trainees[site, name].sae.config
            records.append(
                {
                    "site": site,
                    "name": name,
                    "architecture": config.architecture,
                    "target_l0": config.l0,
                    "seed": config.seed,
                    "step": self.index,
                    "n_tokens": self.n_tokens,
                    **values,
                }
            )
        self.metrics.append(records)
        for view in self.viewers:
            view(records)


@contextmanager
def _watch_signals() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether SIGINT or SIGTERM has arrived, for the training loop to ask after each step.

    A second signal raises KeyboardInterrupt at once, unless there are several processes: what starts them passes on the
    signal that the terminal has sent to all of them already. The former handlers are restored at the end.
    """
    stop_signal = threading.Event()
    # Python lets the main thread alone set signal handlers; elsewhere the question is always answered with no.
    if threading.current_thread() is not threading.main_thread():
        yield stop_signal.is_set
        return

    def note(number: int, frame: object) -> None:
        if stop_signal.is_set() and ranks.n_ranks() == 1:
            raise KeyboardInterrupt
        stop_signal.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop_signal.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
