"""Several SAEs at a time, each on its share of the threads.

Place on the path: between the trainer and its trainees. SAEs on one stream don't know of one another, so on a CPU a
step of one may run beside a step of another: two SAEs on one core each are about as fast as one after the other on
both, and much faster where other programs want the cores too (a parallel sum waits for its slowest thread;
research/speed/README.md).
A step's result depends on the threads it was given, not on what ran beside it.
Limits: on a GPU, or where a single SAE fills the memory, one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

T = TypeVar("T")

SCALING = 0.8
"""A step on t threads is taken to be t to this power faster than on one: some of it (sorting entries) is serial."""


def plan(n_jobs: int, n_threads: int) -> tuple[int, int]:
    """(jobs at a time, threads for each) that finish n_jobs equal jobs soonest; fewest jobs at a time among equals."""

    def rounds(n_workers: int) -> float:
        return math.ceil(n_jobs / n_workers) / (n_threads // n_workers) ** SCALING

    # `min` takes the first of equals: the fewest at a time, which need the least memory.
    n_workers = min(range(1, max(1, min(n_jobs, n_threads)) + 1), key=rounds)
    return n_workers, max(1, n_threads // n_workers)


class Workers:
    """Runs jobs, some at a time; results come in the jobs' order. A context manager.

    `most` bounds how many run at a time (memory). `n_workers` are running, on `n_threads` each.
    """

    def __init__(self, n_jobs: int, device: torch.device, most: int | None = None) -> None:
        self._before = torch.get_num_threads()
        self.n_workers, self.n_threads = 1, self._before
        if device.type == "cpu" and _kernels_may_run_side_by_side():
            self.n_workers, self.n_threads = plan(n_jobs, self._before)
            if most is not None and self.n_workers > most:
                self.n_workers = max(1, most)
                self.n_threads = max(1, self._before // self.n_workers)
        self._pool = ThreadPoolExecutor(self.n_workers, initializer=_take_threads, initargs=(self.n_threads,))

    def run(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """Raises what a job raised, once those begun have ended."""
        if self.n_workers == 1:  # in the caller's own thread, whose thread count is set already
            return [job() for job in jobs]
        futures = [self._pool.submit(job) for job in jobs]
        wait(futures)  # all of them: no job may still move its SAE while the error of another is handled
        return [future.result() for future in futures]

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._before)  # a worker's choice is the default of threads made later


def _kernels_may_run_side_by_side() -> bool:
    """False where numba found neither OpenMP nor TBB: its own pool aborts when two threads use it."""
    import numba

    from monosemy.kernels.cpu import sparse as cpu

    cpu.squared_error(torch.zeros(1, 1), torch.zeros(1, 1))  # starts numba's threads
    return numba.threading_layer() != "workqueue"


def _take_threads(n_threads: int) -> None:
    import numba

    torch.set_num_threads(n_threads)
    numba.set_num_threads(min(n_threads, numba.get_num_threads()))
