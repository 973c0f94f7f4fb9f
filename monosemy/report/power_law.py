r"""Fits power laws between how often latents fire and how strongly, in both directions.

Place on the data's path: from the firing statistics of one SAE to the two lines of its usage plot.

Estimator: ordinary least squares on the logarithms, over all latents that fired at least once. With f the firing
frequency and a the mean activation when active,

    a = A f^β     β  = Σ (u − ū)(v − v̄) / Σ (u − ū)²        u = log₁₀ f,  v = log₁₀ a,  log₁₀ A  = v̄ − β ū
    f = A' a^β'   β' = Σ (u − ū)(v − v̄) / Σ (v − v̄)²                                    log₁₀ A' = ū − β' v̄

The first minimises the error of the activation, the second that of the frequency. β β' = R², so the two are the same
line only where R² = 1; in a wide cloud they differ much, and neither is *the* slope. In the plot of a over f, the
second line has slope 1/β'.

Interval: percentile bootstrap over latents (latents drawn with replacement, 2.5th and 97.5th percentiles of β). It
reflects the choice of latents, not the finite number of validation tokens.

Limits: dead latents have no logarithm and are left out. The mean activation of a latent that fires rarely is noisy,
which pulls β' towards 0, and frequencies below 1/n_tokens cannot be observed. A straight line on log–log axes describes
the cloud of points; it does not show that a power law generated it. R² belongs beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MIN_LATENTS = 20
"""The least number of usable latents for which a law is fitted."""


@dataclass(frozen=True)
class PowerLaw:
    """A fitted power law, y = 10^log10_scale · x^exponent."""

    exponent: float
    interval: tuple[float, float]
    """The 95% bootstrap interval of the exponent."""
    log10_scale: float
    r_squared: float
    """The share of the variance of log₁₀ y that the line explains, in [0, 1]."""
    n_latents: int
    resampled: np.ndarray
    """float64 [n_bootstrap, 2]: (exponent, log10_scale) of every resample."""

    def line(self, x: np.ndarray) -> np.ndarray:
        """The fitted y at each x."""
        return 10 ** (self.log10_scale + self.exponent * np.log10(x))

    def band(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pointwise 95% bootstrap interval of the fitted line at each x."""
        lines = self.resampled[:, 1:] + self.resampled[:, :1] * np.log10(x)
        low, high = np.percentile(lines, [2.5, 97.5], axis=0)
        return 10**low, 10**high


@dataclass(frozen=True)
class UsageLaws:
    """Both regressions between firing frequency and mean activation."""

    activation_on_frequency: PowerLaw
    """a = A f^β, the line of the vertical axis on the horizontal one."""
    frequency_on_activation: PowerLaw
    """f = A' a^β'."""


def fit_usage(
    frequency: np.ndarray, activation: np.ndarray, *, n_bootstrap: int = 1000, seed: int = 0
) -> UsageLaws | None:
    """Fits both power laws over latents, given as [F].

    Returns None when fewer than `MIN_LATENTS` have finite, positive values, and when all frequencies or all activations
    are equal.
    """
    forth = fit_power_law(frequency, activation, n_bootstrap=n_bootstrap, seed=seed)
    back = fit_power_law(activation, frequency, n_bootstrap=n_bootstrap, seed=seed)
    return None if forth is None or back is None else UsageLaws(forth, back)


def fit_power_law(x: np.ndarray, y: np.ndarray, *, n_bootstrap: int = 1000, seed: int = 0) -> PowerLaw | None:
    """Fits y = A · x^β over latents.

    x and y are [F]; latents whose values are not finite and positive (dead ones) are left out. Returns None when fewer
    than `MIN_LATENTS` remain, and when all x are equal, so that there is no slope.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    usable = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    u, v = np.log10(x[usable]), np.log10(y[usable])
    if len(u) < MIN_LATENTS or np.ptp(u) < 1e-9:
        return None
    exponent, log10_scale = _least_squares(u, v)
    random = np.random.default_rng(seed)
    draws = (random.integers(len(u), size=len(u)) for _ in range(n_bootstrap))
    resampled = np.array([_least_squares(u[draw], v[draw]) for draw in draws])
    # A resample may draw latents of one x only, which has no slope.
    resampled = resampled[np.isfinite(resampled).all(axis=1)]
    low, high = np.percentile(resampled[:, 0], [2.5, 97.5])
    variance = float(((v - v.mean()) ** 2).sum())
    residual = float(((v - log10_scale - exponent * u) ** 2).sum())
    return PowerLaw(
        exponent=exponent,
        interval=(float(low), float(high)),
        log10_scale=log10_scale,
        r_squared=1 - residual / variance if variance > 0 else 0.0,
        n_latents=len(u),
        resampled=resampled,
    )


def _least_squares(u: np.ndarray, v: np.ndarray) -> tuple[float, float]:
    """The slope and intercept of v on u; NaN when all values of u are equal."""
    u_mean, v_mean = u.mean(), v.mean()
    centred = u - u_mean
    spread = centred @ centred
    if spread <= 0:
        return float("nan"), float("nan")
    slope = float(centred @ (v - v_mean) / spread)
    return slope, float(v_mean - slope * u_mean)
