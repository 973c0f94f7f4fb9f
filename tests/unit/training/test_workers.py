"""Several SAEs at a time: how the threads are shared, and that what runs beside a step does not change it."""

import threading

import pytest
import torch

from monosemy.config import TrainingConfig
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
from monosemy.training.trainee import Trainee
from monosemy.training.workers import Workers, plan


@pytest.mark.parametrize(
    ("n_jobs", "n_threads", "n_workers", "each"),
    [(1, 1, 1, 1), (1, 8, 1, 8), (18, 2, 2, 1), (2, 2, 2, 1), (3, 2, 1, 2), (16, 16, 16, 1), (4, 8, 4, 2)],
)
def test_the_threads_are_shared_so_that_all_jobs_end_soonest(n_jobs, n_threads, n_workers, each):
    assert plan(n_jobs, n_threads) == (n_workers, each)


def test_no_plan_takes_more_threads_than_there_are():
    for n_jobs in range(1, 40):
        for n_threads in range(1, 40):
            n_workers, each = plan(n_jobs, n_threads)
            assert n_workers >= 1
            assert each >= 1
            assert n_workers * each <= n_threads


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_keep_the_order_of_the_jobs_and_errors_come_through(two_threads):
    with Workers(4, torch.device("cpu")) as workers:
        assert workers.n_workers == 2
        assert workers.run([lambda i=i: i * i for i in range(9)]) == [i * i for i in range(9)]
        with pytest.raises(ZeroDivisionError):
            workers.run([lambda: 1 // 0, lambda: 1])
        assert torch.get_num_threads() == 2  # the caller keeps its own


def test_memory_bounds_how_many_run_at_a_time(two_threads):
    with Workers(4, torch.device("cpu"), most=1) as workers:
        assert workers.n_workers == 1


def test_a_workers_choice_of_threads_is_not_left_to_later_threads(two_threads):
    with Workers(4, torch.device("cpu")) as workers:
        workers.run([lambda: None] * 4)
    thread_counts: list[int] = []
    later = threading.Thread(target=lambda: thread_counts.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert thread_counts == [2]


def test_saes_trained_side_by_side_end_in_the_weights_of_each_trained_alone(two_threads):
    """On one thread each, as the workers give them, to the last bit."""
    x = torch.randn(20, 64, 16, generator=torch.Generator().manual_seed(3))
    kinds = ("relu", "topk", "batch_topk", "gated", "jumprelu")

    def trainees():
        built = [
            Trainee(build_sae(SaeConfig(kind, 16, 64, 4.0, seed=1)), TrainingConfig(batch_tokens=64), 20, 20 * 64)
            for kind in kinds
        ]
        for trainee in built:
            trainee.initialise(x[0])
        return built

    together, alone = trainees(), trainees()
    with Workers(len(kinds), torch.device("cpu"), most=2) as workers:
        for index, batch in enumerate(x):
            workers.run([lambda trainee=trainee, b=batch, i=index: trainee.step(b, i) for trainee in together])
    torch.set_num_threads(1)
    for trainee in alone:
        for index, batch in enumerate(x):
            trainee.step(batch, index)
    for left, right in zip(together, alone, strict=True):
        for name, value in left.tensors().items():
            assert torch.equal(value, right.tensors()[name]), name
