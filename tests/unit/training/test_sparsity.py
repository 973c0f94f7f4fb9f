"""The schedule of the target L0 and the controller of λ against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from monosemy.config import TrainingConfig
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
from monosemy.training.sparsity import SparsityController, annealed_l0
from monosemy.training.trainee import Trainee


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (0.0, 128.0),
        (0.1, 64.0),  # half of the way in logarithms: √(128 · 32)
        (0.05, 32 * 4**0.75),
        (0.15, 32 * 4**0.25),
        (0.2, 32.0),
        (0.6, 32.0),
        (1.0, 32.0),
    ],
)
def test_the_l0_falls_geometrically_from_a_multiple_of_the_target(progress: float, expected: float) -> None:
    assert annealed_l0(32, progress, 4.0, 0.2, d_sae=1000) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("l0", "start_factor", "fraction", "d_sae", "expected"),
    [
        (32, 4.0, 0.2, 100, 50.0),  # at most half of the latents
        (32, 4.0, 0.2, 40, 32.0),  # a target above that half is not annealed
        (32, 0.5, 0.2, 1000, 32.0),  # never from below
        (32, 4.0, 0.0, 1000, 32.0),  # no annealing
    ],
)
def test_where_the_l0_starts(l0: float, start_factor: float, fraction: float, d_sae: int, expected: float) -> None:
    assert annealed_l0(l0, 0.0, start_factor, fraction, d_sae=d_sae) == pytest.approx(expected, rel=1e-12)


def test_the_coefficient_rises_by_the_gain_times_the_log_of_the_excess() -> None:
    controller = SparsityController(0.01, gain=0.2)
    controller.observe(60.0, 40.0)
    assert controller.coef == pytest.approx(0.01 * 1.5**0.2, rel=1e-12)
    controller.observe(20.0, 40.0)
    assert controller.coef == pytest.approx(0.01 * 1.5**0.2 * 0.5**0.2, rel=1e-12)


@pytest.mark.parametrize(("l0", "factor"), [(4000.0, math.exp(0.2)), (1.0, math.exp(-0.2)), (0.0, math.exp(-0.2))])
def test_an_odd_batch_moves_the_coefficient_by_one_gain_at_most(l0: float, factor: float) -> None:
    controller = SparsityController(0.01, gain=0.2)
    controller.observe(l0, 40.0)
    assert controller.coef == pytest.approx(0.01 * factor, rel=1e-12)


def test_the_coefficient_stays_finite_and_above_zero() -> None:
    silent, dense = SparsityController(1e-8, gain=1.0), SparsityController(100.0, gain=1.0)
    for _ in range(10):
        silent.observe(0.0, 40.0)
        dense.observe(4000.0, 40.0)
    assert (silent.coef, dense.coef) == (1e-9, 1e3)


@pytest.mark.parametrize("proportional", [1.0, 0.5])
def test_the_coefficient_in_use_follows_the_moving_average_of_the_l0(proportional: float) -> None:
    controller = SparsityController(0.01, gain=0.0, proportional=proportional)
    assert controller.used(40.0) == 0.01  # nothing is measured yet
    controller.observe(80.0, 40.0)
    assert controller.average_l0 == 80.0
    controller.observe(30.0, 40.0)
    assert controller.average_l0 == pytest.approx(0.8 * 80 + 0.2 * 30, rel=1e-12)
    assert controller.used(35.0) == pytest.approx(0.01 * (70 / 35) ** proportional, rel=1e-12)
    controller.average_l0 = 0.0
    assert controller.used(40.0) == pytest.approx(0.01 * (1e-3 / 40) ** proportional, rel=1e-12)


def test_a_restored_controller_goes_on_as_the_first() -> None:
    first, second = SparsityController(0.01, gain=0.2), SparsityController(5.0, gain=0.2)
    first.observe(60.0, 40.0)
    second.restore(first.state())
    for controller in (first, second):
        controller.observe(50.0, 40.0)
    assert second.state() == first.state()
    assert second.used(30.0) == first.used(30.0)


@pytest.mark.parametrize(("n_steps", "gain"), [(50, 0.2), (150, 0.2), (300, 0.1), (6000, 0.005)])
def test_the_gain_lets_the_coefficient_move_by_three_in_logarithms_in_a_tenth_of_the_run(
    n_steps: int, gain: float
) -> None:
    trainee = Trainee(build_sae(SaeConfig("gated", 6, 24, 3)), TrainingConfig(batch_tokens=8), n_steps, 8 * n_steps)
    assert trainee.controller is not None
    assert trainee.controller.gain == pytest.approx(gain, rel=1e-12)
