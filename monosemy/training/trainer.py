"""The trainer: a dict of SAEs per site on one stream of activations, with checkpoints.

Place on the path: activation stream → **trainer** → saved SAEs. What advances by itself is a `Unit`: one SAE, or
several whose gradients belong together. It needs only a stream: `next(stream)` gives
{site: [N, d] at E‖x‖² = 1}, `stream.n_steps`, `stream.state()` and `stream.restore(state)`. An SAE whose batch, loss or
gradient is not finite stops there, with a message; the others go on. A run stopped at any instant and started again
ends in the same weights, bit for bit, as one that was never stopped: the checkpoint holds every changing thing, and
metrics written after it are cut off.
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
from monosemy.support import files
from monosemy.support.metrics import MetricsWriter
from monosemy.training.checkpoint import Origin, checkpoint_folders, load_checkpoint, save_checkpoint
from monosemy.training.trainee import Diverged, Trainee
from monosemy.training.viewers import Viewer
from monosemy.training.workers import Workers

Key = tuple[str, str]
"""(site, name) of an SAE."""


class Stream(Protocol):
    """What the trainer needs of a stream of activations."""

    n_steps: int

    def __next__(self) -> Mapping[str, Tensor]: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...


class Unit(Protocol):
    """SAEs that take their steps together.

    `step` takes the batch of every site, moves the trainees of all `keys` and returns their metrics; it raises Diverged
    with nothing changed. `n_bytes`: temporary memory it takes beside the buffers of one SAE's step.
    """

    @property
    def keys(self) -> tuple[Key, ...]: ...
    @property
    def n_bytes(self) -> int: ...
    def step(self, batch: Mapping[str, Tensor], index: int) -> Mapping[Key, dict[str, float]]: ...


class JoinedUnit(Unit, Protocol):
    """A unit of several SAEs that is built for a run as one (`rooms.Room.units`)."""

    @property
    def trainees(self) -> tuple[Trainee, ...]:
        """In the order of `keys`."""
        ...

    def record(self) -> dict[str, Any]:
        """What is added to `record` in the config.json of each of its SAEs."""
        ...


class _Alone:
    """The unit of one SAE."""

    def __init__(self, key: Key, trainee: Trainee) -> None:
        self.keys: tuple[Key, ...] = (key,)
        self.n_bytes, self._trainee = 0, trainee

    def step(self, batch: Mapping[str, Tensor], index: int) -> Mapping[Key, dict[str, float]]:
        (key,) = self.keys
        return {key: self._trainee.step(batch[key[0]], index)}


class Trainer:
    """Trains {(site, name): Trainee} on one stream.

    `units` say which of them take their steps together; those in none of them go alone.
    a checkpoint of another `origin` is refused. `on_step(n_tokens, metrics)` is
    called after every step, for progress and loggers; it cannot change training.
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
        self.index = 0
        self.n_tokens = 0
        self.messages: list[str] = []
        self.viewers: list[Viewer] = []
        self.seconds = 0.0
        """Spent in training, over all resumptions."""
        self._clock = time.perf_counter()

    def resume(self) -> int:
        """Continues from the newest checkpoint; returns the tokens already done (0 at the start)."""
        if self.checkpoints.exists():
            files.clear_leftovers(self.checkpoints)
        folders = checkpoint_folders(self.checkpoints)
        if not folders:
            self.metrics.truncate(0)
            return 0
        tensors, state = load_checkpoint(folders[-1])
        self.origin.require(state, folders[-1])
        for (site, name), trainee in self.trainees.items():
            prefix = f"{site}/{name}/"
            own = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
            trainee.restore(own, state["trainees"][f"{site}/{name}"])
        stream_tensors = {k.removeprefix("stream/"): t for k, t in tensors.items() if k.startswith("stream/")}
        self.stream.restore({**state["stream"], **stream_tensors})
        self.index, self.n_tokens, self.messages = state["step"], state["n_tokens"], list(state["messages"])
        self.seconds = state["seconds"]
        # Records written after the checkpoint belong to steps that are taken again.
        self.metrics.truncate(state["metrics_offset"])
        for quantity, before in state.get("arithmetic", {}).items():
            if (now := self.arithmetic()[quantity]) != before:
                print(
                    f"continuing with {quantity} {now} what began with {before}: sums are taken in another order, so "
                    "the result will agree to rounding, not bit for bit",
                    file=sys.stderr,
                )
        return self.n_tokens

    def save(self) -> Path:
        """Writes a checkpoint of this instant."""
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
            "stream": {key: value for key, value in stream.items() if not isinstance(value, Tensor)},
            "metrics_offset": self.metrics.offset(),
        }
        return save_checkpoint(self.checkpoints, self.index, tensors, state)

    def train(self) -> None:
        """Trains to the end of the stream, or until every SAE has stopped.

        Raises Interrupted after a checkpoint when SIGINT or SIGTERM arrives.
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
                if last or self.n_tokens // self.config.log_tokens > before // self.config.log_tokens or before == 0:
                    self._record(metrics)
                if self.on_step:
                    self.on_step(n_rows, metrics)
                # Between steps only: nothing is then half changed.
                if stop_asked():
                    folder = self.save()
                    raise Interrupted(f"interrupted at step {self.index}; saved as {folder}")
                every = self.config.checkpoint_tokens
                if last or self.n_tokens // every > before // every:
                    self.save()

    @property
    def all_stopped(self) -> bool:
        """Whether there is nothing left to train."""
        return all(trainee.stopped for trainee in self.trainees.values())

    def arithmetic(self) -> dict[str, int | bool]:
        """What the order of floating-point sums depends on, besides the machine's kind."""
        from monosemy.kernels.cpu import screen

        with self._workers() as workers:
            return {"threads per SAE": workers.n_threads, "8-bit screen": screen.available()}

    def _workers(self) -> Workers:
        sae = next(iter(self.trainees.values())).sae
        return Workers(len(self.units), sae.W_dec.device, self._most_at_a_time())

    def _tick(self) -> float:
        now = time.perf_counter()
        self.seconds, self._clock = self.seconds + now - self._clock, now
        return self.seconds

    def _most_at_a_time(self) -> int:
        """Units that may step side by side before their buffers, two of [N, d_sae] and their own, take an eighth of the
        memory."""
        import psutil

        widest = max(trainee.sae.d_sae for trainee in self.trainees.values())
        buffers = 2 * 4 * self.config.batch_tokens * widest + max(unit.n_bytes for unit in self.units)
        return max(1, psutil.virtual_memory().total // 8 // buffers)

    def _step(self, batch: Mapping[str, Tensor], workers: Workers) -> dict[Key, dict[str, float]]:
        # The sum is quick, and finite for finite rows but where it overflows: only then is every entry looked at.
        finite = {site: bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all()) for site, x in batch.items()}
        going = [unit for unit in self.units if not any(self.trainees[key].stopped for key in unit.keys)]

        def advance(unit: Unit) -> Mapping[Key, dict[str, float]] | Diverged:
            if not all(finite[site] for site, _ in unit.keys):
                return Diverged(f"the batch holds NaN or infinity at step {self.index}")
            try:
                return unit.step(batch, self.index)
            except Diverged as reason:
                return reason

        # Diverged is returned rather than raised, so that one SAE's end does not cut off the steps of the others.
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

    def _record(self, metrics: Mapping[Key, Mapping[str, float]]) -> None:
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
    """Turns SIGINT and SIGTERM into a question the training loop asks after each step; a second SIGINT acts at once."""
    stop_signal = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop_signal.is_set
        return

    def note(number: int, frame: object) -> None:
        if stop_signal.is_set():
            raise KeyboardInterrupt
        stop_signal.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop_signal.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
