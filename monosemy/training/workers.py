"""Runs the steps of several SAEs at the same time, each on its share of the CPU's threads.

Place on the path: between the trainer and its trainees. SAEs on one stream are independent, so on a CPU their steps may
run side by side. Two SAEs on one core each are about as fast as one after the other on both cores, and much faster
where other programs use the cores too, because a parallel sum waits for its slowest thread (research/speed/README.md).
A step's result depends on the number of threads it was given, but not on what ran beside it.
Limits: on a GPU, or where a single SAE fills the memory, SAEs step one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

T = TypeVar("T")

SCALING = 0.8
"""The assumed speed-up of a step on t threads is t to this power; parts of it, such as sorting entries, are serial."""


def plan(n_jobs: int, n_threads: int) -> tuple[int, int]:
    """Chooses (jobs at a time, threads for each) so that n_jobs equal jobs finish soonest."""

    def rounds(n_workers: int) -> float:
        """The time of all jobs, in units of one job on one thread."""
        return math.ceil(n_jobs / n_workers) / (n_threads // n_workers) ** SCALING

    # Among equals `min` takes the first: the fewest jobs at a time, which need the least memory.
    n_workers = min(range(1, max(1, min(n_jobs, n_threads)) + 1), key=rounds)
    return n_workers, max(1, n_threads // n_workers)


def buffer_bytes(batch_tokens: int, d_sae: int) -> int:
    """The temporary memory of one SAE's step: two float32 arrays [N, d_sae]."""
    return 2 * 4 * batch_tokens * d_sae


class Workers:
    """A context manager that runs jobs, `n_workers` at a time, on `n_threads` threads each.

    `most` bounds how many run at a time, to save memory. Of the n_jobs jobs of a run, this process may have only some,
    beside `n_processes` − 1 others: each job has the threads that it would have if one process had them all, so that
    its result does not depend on the number of processes.
    """

    def __init__(self, n_jobs: int, device: torch.device, most: int | None = None, *, n_processes: int = 1) -> None:
        self._before = torch.get_num_threads()
        self.n_workers, self.n_threads = 1, self._before
        if device.type == "cpu" and _kernels_may_run_side_by_side():
            self.n_workers, self.n_threads = plan(n_jobs, self._before)
            if most is not None and self.n_workers > most:
                self.n_workers = max(1, most)
                self.n_threads = max(1, self._before // self.n_workers)
            # Memory is one for all processes of the machine.
            self.n_workers = self.n_workers if most is None else max(1, min(self.n_workers, most // n_processes))
        self._pool = ThreadPoolExecutor(self.n_workers, initializer=_take_threads, initargs=(self.n_threads,))

    def run(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """Runs the jobs and returns their results in the same order.

        An error in a job is raised here; with several workers, only after all jobs have ended.
        """
        if self.n_workers == 1:
            # In the caller's own thread, whose thread count is set already.
            return [job() for job in jobs]
        futures = [self._pool.submit(job) for job in jobs]
        # Wait for all: no job may still change its SAE while the error of another is handled.
        wait(futures)
        return [future.result() for future in futures]

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        # torch takes the count that a worker chose as the default for threads made later.
        torch.set_num_threads(self._before)


def _kernels_may_run_side_by_side() -> bool:
    """Whether numba's parallel loops may be called from several threads at once.

    They may not where numba found neither OpenMP nor TBB: its own thread pool aborts when two threads use it.
    """
    import numba

    from monosemy.kernels.cpu import sparse as cpu

    # numba chooses its threading layer at the first parallel call, and cannot be asked before.
    cpu.squared_error(torch.zeros(1, 1), torch.zeros(1, 1))
    return numba.threading_layer() != "workqueue"


def _take_threads(n_threads: int) -> None:
    """Sets a worker thread's own share of torch's and numba's threads."""
    import numba

    torch.set_num_threads(n_threads)
    numba.set_num_threads(min(n_threads, numba.get_num_threads()))
