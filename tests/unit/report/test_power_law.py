"""The power laws of usage: known exponents are recovered, intervals cover, both directions are fitted, or none."""

from __future__ import annotations

import numpy as np
import pytest

from monosemy.report.power_law import MIN_LATENTS, fit_power_law, fit_usage


def planted(random: np.random.Generator, n: int, exponent: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    activation = 10 ** random.uniform(0, 2, n)
    return activation, 0.3 * activation**exponent * 10 ** random.normal(0, noise, n)


@pytest.mark.parametrize("exponent", [-1.7, -0.4, 0.0, 0.9])
def test_exact_power_laws_are_recovered(exponent: float) -> None:
    law = fit_power_law(*planted(np.random.default_rng(0), 200, exponent, 0.0), n_bootstrap=50)
    assert law is not None
    assert law.exponent == pytest.approx(exponent, abs=1e-9)
    assert 10**law.log10_scale == pytest.approx(0.3)
    assert law.interval == pytest.approx((exponent, exponent), abs=1e-8)
    assert law.line(np.array([10.0])) == pytest.approx(0.3 * 10**exponent)
    assert law.n_latents == 200


def test_it_is_numpys_least_squares_on_the_logarithms() -> None:
    activation, frequency = planted(np.random.default_rng(1), 300, -0.8, 0.5)
    law = fit_power_law(activation, frequency, n_bootstrap=20)
    slope, intercept = np.polyfit(np.log10(activation), np.log10(frequency), 1)
    assert law is not None
    assert (law.exponent, law.log10_scale) == pytest.approx((slope, intercept))
    assert law.r_squared == pytest.approx(np.corrcoef(np.log10(activation), np.log10(frequency))[0, 1] ** 2)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    covered = 0
    for seed in range(100):
        law = fit_power_law(*planted(np.random.default_rng(seed), 120, -0.6, 0.4), n_bootstrap=200, seed=seed)
        assert law is not None
        covered += law.interval[0] <= -0.6 <= law.interval[1]
    assert 88 <= covered <= 100


def test_the_band_surrounds_the_line_and_is_narrowest_amid_the_points() -> None:
    law = fit_power_law(*planted(np.random.default_rng(2), 150, -1.0, 0.4), n_bootstrap=300)
    assert law is not None
    x = np.array([1.0, 10.0, 100.0])
    low, high = law.band(x)
    assert (low < law.line(x)).all()
    assert (law.line(x) < high).all()
    width = np.log(high / low)
    assert width[1] < min(width[0], width[2])


def test_dead_latents_are_left_out() -> None:
    activation, frequency = planted(np.random.default_rng(3), 100, -0.5, 0.2)
    alone = fit_power_law(activation, frequency, n_bootstrap=20)
    dead = np.full(40, np.nan), np.zeros(40)
    mixed = fit_power_law(np.append(dead[0], activation), np.append(dead[1], frequency), n_bootstrap=20)
    assert alone is not None
    assert mixed is not None
    assert mixed.n_latents == 100
    assert mixed.exponent == pytest.approx(alone.exponent)


def test_nothing_is_fitted_to_too_few_or_identical_latents() -> None:
    activation, frequency = planted(np.random.default_rng(4), MIN_LATENTS, -0.5, 0.2)
    assert fit_power_law(activation, frequency, n_bootstrap=20) is not None
    assert fit_power_law(activation[1:], frequency[1:]) is None
    assert fit_power_law(np.full(50, 3.0), np.linspace(0.1, 0.9, 50)) is None
    assert fit_power_law(np.array([]), np.array([])) is None


def test_the_same_seed_gives_the_same_interval() -> None:
    data = planted(np.random.default_rng(5), 80, -0.5, 0.3)
    first, second, other = (fit_power_law(*data, n_bootstrap=50, seed=seed) for seed in (0, 0, 1))
    assert first is not None
    assert second is not None
    assert other is not None
    assert first.interval == second.interval != other.interval


def test_both_directions_are_fitted_and_are_one_line_only_without_noise() -> None:
    activation, frequency = planted(np.random.default_rng(6), 300, -0.8, 0.5)
    laws = fit_usage(frequency, activation, n_bootstrap=20)
    assert laws is not None
    forth, back = laws.activation_on_frequency, laws.frequency_on_activation
    u, v = np.log10(frequency), np.log10(activation)
    covariance = np.cov(u, v)
    assert forth.exponent == pytest.approx(covariance[0, 1] / covariance[0, 0])
    assert back.exponent == pytest.approx(covariance[0, 1] / covariance[1, 1])
    assert forth.exponent * back.exponent == pytest.approx(np.corrcoef(u, v)[0, 1] ** 2)
    assert forth.r_squared == pytest.approx(back.r_squared)
    assert abs(1 / back.exponent) > abs(forth.exponent)
    # both pass through the middle of the cloud
    assert forth.line(10 ** u.mean()) == pytest.approx(10 ** v.mean())
    assert back.line(10 ** v.mean()) == pytest.approx(10 ** u.mean())
    exact = fit_usage(*planted(np.random.default_rng(7), 100, -0.5, 0.0)[::-1], n_bootstrap=20)
    assert exact is not None
    assert exact.activation_on_frequency.exponent == pytest.approx(-2)
    assert exact.frequency_on_activation.exponent == pytest.approx(-0.5)


def test_without_a_spread_of_either_there_are_no_laws() -> None:
    spread = np.linspace(0.1, 0.9, 50)
    assert fit_usage(spread, np.full(50, 3.0)) is None
    assert fit_usage(np.full(50, 3.0), spread) is None
