"""How sparse the Jacobian between two SAEs' latents is, measured in one pass over validation tokens.

Place on the path: validation activations → slices.py, mlp.py (a k×k slice per token) → [measures] → table and report.
Elements are the pairs (i, j) of a token's active output and input latents. All other entries are zero by construction
and are not counted, so that a pair of SAEs does not look sparse merely because its L0 is low.

  over_t        share of the elements with |J| > t, t = .005, .01, .02, .05
  scaled_over_t the same for |J| / r, where r² is the mean of J² over the token's elements: independent of the latents'
                scale
  kurtosis      E(J − E J)⁴ / (E(J − E J)²)² over all elements (a normal distribution has 3); scaled_kurtosis: of J / r
  share_of_90   the smallest share of all elements that holds 90% of Σ|J|; token_share_of_90: the same within each
                token, averaged over tokens

Source: Farnik et al. 2025 (arXiv 2502.18147) for over_t. Deviation: the paper divides by k² even where fewer than k
latents are positive; here only the elements that exist count, and `n_elements` over `n_tokens` is their mean number. J
is the derivative between latents at E‖x‖² = E‖y‖² = 1 (slices.py), so the raw thresholds cannot be compared with the
published ones, which belong to unscaled activations.

Every measure is a function of sums over documents, most are ratios of two; intervals resample documents
(evals/intervals.py). Where k is given (TopK's), `short_in` and `short_out` are the shares of tokens with fewer than k
active input and output latents. On such tokens fewer than k pre-activations are positive, J has fewer than k² elements,
and the penalty's mean over k² is lower. share_of_90 is read from a histogram with 40 bins per decade and is off by less
than 3% of its value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from monosemy.circuits.jacobian.slices import JacobianSlices
from monosemy.errors import UserError
from monosemy.evals.intervals import Blocks, Interval, bootstrap_weights, percentiles
from monosemy.evals.reconstruction import block_sums
from monosemy.ranges import number_name

THRESHOLDS = (0.005, 0.01, 0.02, 0.05)
SCALED_THRESHOLDS = (0.005, 0.01, 0.02, 0.1, 0.5, 1.0)
"""In units of the root mean square of a token's elements."""
HELD = 0.9
BINS_PER_DECADE, LOWEST, HIGHEST = 40, -10, 4  # |J| is resolved between 10^LOWEST and 10^HIGHEST
N_BINS = BINS_PER_DECADE * (HIGHEST - LOWEST) + 2  # the two more: everything below (zero included) and above

Sums: TypeAlias = dict[str, Float[ndarray, "block ..."]]


@dataclass(frozen=True)
class Estimate:
    """A value and its interval. The value is None without elements, the interval with fewer than two documents."""

    value: float | None
    interval: Interval = None


@dataclass(frozen=True)
class JacobianRecord:
    """The measures of one pair's Jacobian, defined in the module's docstring. Shares are of elements."""

    n_tokens: int
    n_documents: int
    n_elements: int
    """Pairs of active latents over all tokens."""
    estimates: dict[str, Estimate]
    """mean_abs, rms, kurtosis, scaled_kurtosis, share_of_90, token_share_of_90, over_0.01, scaled_over_0.01, …"""
    histogram: list[int]
    """Number of elements in each bin of |J|: one bin below 1e-10, 40 bins per decade, one from 1e4 on."""
    draws: dict[str, Float[ndarray, " resample"]]
    """The value of each estimate on every resample of the documents (resamples.py)."""

    def __getitem__(self, measure: str) -> Estimate:
        return self.estimates[measure]


class JacobianMeter:
    """The sums behind a JacobianRecord, filled batch by batch.

    k: the number of latents that both SAEs select, where it is fixed (TopK). None leaves out `short_in` and
    `short_out`.
    """

    def __init__(self, k: int | None = None) -> None:
        self.k = k
        self._blocks = Blocks()
        limit = self._blocks.limit
        self._sums = np.zeros((limit, len(_COLUMNS)))
        self._counts = np.zeros((limit, N_BINS))
        self._totals = np.zeros((limit, N_BINS))

    @torch.no_grad()
    def add(self, slices: JacobianSlices, documents: Int[Tensor, " n"]) -> None:
        """Counts N tokens, given the number of each one's document. Raises UserError where J is not finite."""
        if not len(documents):
            return
        pairs = slices.active
        block = self._blocks.rows(torch.as_tensor(documents)).to(slices.values.device)
        J = slices.values.double()  # fourth powers of float32 would underflow and lose digits
        if not torch.isfinite(J).all():
            raise UserError("the Jacobian holds NaN or infinity; leave this pair out or train it again")
        columns = _per_token(J, pairs)
        for side, active in (("in", slices.in_active), ("out", slices.out_active)):
            columns[f"short_{side}"] = (active.sum(1) < (self.k or 0)).double()
        limit = len(self._sums)
        self._sums += block_sums(torch.stack([columns[name] for name in _COLUMNS], 1), block, limit)
        # One bincount over (block, bin) fills the histograms of all blocks; a second one, weighted, sums |J| per bin.
        element_block = block[:, None, None].expand_as(J)[pairs]
        magnitude = J[pairs].abs()
        flat = element_block * N_BINS + bins(magnitude)
        counted = torch.bincount(flat, minlength=limit * N_BINS)
        summed = torch.bincount(flat, magnitude, minlength=limit * N_BINS)
        self._counts += counted.view(limit, N_BINS).cpu().numpy()
        self._totals += summed.view(limit, N_BINS).cpu().numpy()

    def finish(self, n_bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0) -> JacobianRecord:
        """The measures of everything counted so far. Raises UserError when no token was counted."""
        n = self._blocks.n
        if not n:
            raise UserError(
                "no validation tokens to measure the Jacobian on: every token was dropped or none was given"
            )
        sums: Sums = {name: self._sums[:n, place] for place, name in enumerate(_COLUMNS)}
        sums |= {"counts": self._counts[:n], "totals": self._totals[:n]}
        weights = bootstrap_weights(n, n_bootstrap, seed) if n > 1 else np.zeros((0, n))
        measures = _MEASURES if self.k is None else {**_MEASURES, **_SHORT}
        evaluated = {name: _evaluated(measure, sums, weights) for name, measure in measures.items()}
        estimates = {
            name: Estimate(value, percentiles(draws, confidence)) for name, (value, draws) in evaluated.items()
        }
        return JacobianRecord(
            n_tokens=int(sums["tokens"].sum()),
            n_documents=self._blocks.n_documents,
            n_elements=int(sums["elements"].sum()),
            estimates=estimates,
            histogram=sums["counts"].sum(0).astype(np.int64).tolist(),
            draws={name: draws for name, (_, draws) in evaluated.items()},
        )


def estimated(
    measure: Callable[[Sums], Float[ndarray, " r"]], sums: Sums, weights: Float[ndarray, "r block"], confidence: float
) -> Estimate:
    """A function of sums over documents, with its bootstrap interval; each row of `weights` is one resample."""
    value, draws = _evaluated(measure, sums, weights)
    return Estimate(value, percentiles(draws, confidence))


def _evaluated(
    measure: Callable[[Sums], Float[ndarray, " r"]], sums: Sums, weights: Float[ndarray, "r block"]
) -> tuple[float | None, Float[ndarray, " r"]]:
    """The measure on the data (None where it is not finite) and on each resample (a row of `weights`)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(measure({name: part.sum(0, keepdims=True) for name, part in sums.items()})[0])
        resampled = measure({name: weights @ part for name, part in sums.items()}) if len(weights) else np.empty(0)
    return value if math.isfinite(value) else None, resampled


def bins(magnitude: Float[Tensor, " z"]) -> Int[Tensor, " z"]:
    """The bin of each |J|: bin 0 below 1e-10, the last bin from 1e4 on."""
    # The clamp keeps log10(0) from becoming −∞; such elements land in bin 0 either way.
    place = torch.floor((torch.log10(magnitude.clamp_min(1e-300)) - LOWEST) * BINS_PER_DECADE) + 1
    return place.clamp(0, N_BINS - 1).long()


def share_holding(counts: Float[ndarray, "r bin"], totals: Float[ndarray, "r bin"], mass: float = HELD) -> ndarray:
    """The smallest share of the elements that holds the share `mass` of Σ|J|, [r], one per row.

    counts, totals: number of elements and Σ|J| per bin, bins in rising order of |J|. Elements of one bin are taken as
    equal.
    """
    # From the largest elements down, find the bin in which the running total crosses the target ...
    counts, totals = counts[:, ::-1], totals[:, ::-1]
    target = mass * totals.sum(1, keepdims=True)
    before_total = np.cumsum(totals, 1) - totals
    before_count = np.cumsum(counts, 1) - counts
    # (the tolerance keeps rounding from pushing an exactly reached target into the next bin)
    crossing = (np.cumsum(totals, 1) < target * (1 - 1e-12)).sum(1).clip(max=counts.shape[1] - 1)
    row = np.arange(len(counts))
    # ... and take the part of that bin which is still missing.
    part = (target[:, 0] - before_total[row, crossing]) / totals[row, crossing]
    return (before_count[row, crossing] + part * counts[row, crossing]) / counts.sum(1)


def _per_token(J: Float[Tensor, "n i j"], pairs: Bool[Tensor, "n i j"]) -> dict[str, Float[Tensor, " n"]]:
    """Per token, the columns of `_COLUMNS` that J itself determines; J is zero outside the pairs."""
    elements = pairs.sum((1, 2)).double()
    # A token without elements gives 0/0 and then rms 0; dividing by 1 instead keeps its (empty) sums at 0.
    rms = (J.square().sum((1, 2)) / elements).sqrt().nan_to_num(0)
    scaled = J / torch.where(rms > 0, rms, 1)[:, None, None]
    columns = {"tokens": torch.ones_like(elements), "elements": elements, "abs": J.abs().sum((1, 2))}
    for power in range(1, 5):
        columns[f"power_{power}"] = J.pow(power).sum((1, 2))
        columns[f"scaled_power_{power}"] = scaled.pow(power).sum((1, 2))
    for threshold in THRESHOLDS:
        columns[f"over_{number_name(threshold)}"] = (J.abs() > threshold).sum((1, 2)).double()
    for threshold in SCALED_THRESHOLDS:
        columns[f"scaled_over_{number_name(threshold)}"] = (scaled.abs() > threshold).sum((1, 2)).double()
    columns["share_tokens"] = (columns["abs"] > 0).double()
    columns["share"] = _token_share(J.abs().flatten(1), columns["abs"]) / elements.clamp_min(1)
    return columns


def _token_share(magnitude: Float[Tensor, "n z"], total: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The fewest elements of each token that hold 90% of its Σ|J|; 0 where Σ|J| is zero."""
    rising = magnitude.sort(1, descending=True).values.cumsum(1)
    fewer = (rising < HELD * (1 - 1e-12) * total[:, None]).sum(1) + 1
    return torch.where(total > 0, fewer, 0).double()


def _kurtosis(prefix: str) -> Callable[[Sums], ndarray]:
    """Kurtosis from the sums of the first four powers, so that one pass over the data is enough."""

    def kurtosis(sums: Sums) -> ndarray:
        # The central moments, expanded in raw ones.
        first, second, third, fourth = (sums[f"{prefix}power_{power}"] / sums["elements"] for power in range(1, 5))
        variance = second - first**2
        return (fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4) / variance**2

    return kurtosis


def _ratio(top: str, bottom: str = "elements") -> Callable[[Sums], ndarray]:
    return lambda sums: sums[top] / sums[bottom]


_OVER = [f"over_{number_name(t)}" for t in THRESHOLDS] + [f"scaled_over_{number_name(t)}" for t in SCALED_THRESHOLDS]
_COLUMNS: Sequence[str] = (
    "tokens",
    "elements",
    "abs",
    "share_tokens",
    "share",
    "short_in",
    "short_out",
    *_OVER,
    *(f"{prefix}power_{power}" for prefix in ("", "scaled_") for power in range(1, 5)),
)
_MEASURES: dict[str, Callable[[Sums], ndarray]] = {
    "elements_per_token": _ratio("elements", "tokens"),
    "mean_abs": _ratio("abs"),
    "rms": lambda sums: np.sqrt(sums["power_2"] / sums["elements"]),
    "kurtosis": _kurtosis(""),
    "scaled_kurtosis": _kurtosis("scaled_"),
    "share_of_90": lambda sums: share_holding(sums["counts"], sums["totals"]),
    "token_share_of_90": _ratio("share", "share_tokens"),
    **{name: _ratio(name) for name in _OVER},
}
_SHORT = {name: _ratio(name, "tokens") for name in ("short_in", "short_out")}
