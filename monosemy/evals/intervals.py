"""Bootstrap intervals over documents, computed from sums that one pass collects.

Place on the data's path: under every number of evaluation. Tokens of one document are correlated, so the bootstrap
resamples documents, not tokens (block bootstrap). A resample needs only the sums of each block, so nothing is kept per
token. For a ratio estimator Σ_b t_b / Σ_b u_b over blocks b, resample r draws as many blocks as there are, with
replacement (multinomial counts w_rb), and gives Σ_b w_rb t_b / Σ_b w_rb u_b; two small matrix products compute all
resamples. The interval is a pair of percentiles of these values.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 13; for `jackknife_interval`,
chapter 11. Deviation: documents beyond the first `MAX_BLOCKS` share blocks with earlier ones. This bounds memory and
stays valid, since the merged blocks are independent too.

Limits: with fewer than about 20 blocks, percentile intervals are too narrow, by about 1/(2·blocks) and because there
are few distinct resamples. With fewer than two blocks there is no interval (None).
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

Interval: TypeAlias = tuple[float, float] | None
MAX_BLOCKS = 256


class Blocks:
    """Assigns documents to blocks 0, 1, 2, … in the order they are first seen, starting again at 0 beyond `limit`."""

    def __init__(self, limit: int = MAX_BLOCKS):
        self.limit = limit
        self._number: dict[int, int] = {}

    @property
    def n(self) -> int:
        """The number of blocks in use."""
        return min(len(self._number), self.limit)

    @property
    def n_documents(self) -> int:
        return len(self._number)

    @property
    def documents(self) -> list[int]:
        """The documents in the order first seen; the i-th of them lies in block i modulo `n`."""
        return list(self._number)

    def rows(self, ids: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The block of every document id; ids not seen before are given one."""
        distinct, inverse = torch.unique(ids, return_inverse=True)
        numbers = [self._number.setdefault(id_, len(self._number)) % self.limit for id_ in distinct.tolist()]
        return torch.tensor(numbers, dtype=torch.int64, device=ids.device)[inverse]


def bootstrap_weights(n_blocks: int, n_resamples: int, seed: int = 0) -> Float[ndarray, "resample block"]:
    """How often each resample draws each block.

    The same arguments give the same weights, so several SAEs over the same blocks are resampled alike.
    """
    random = np.random.default_rng(seed)
    return random.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=n_resamples).astype(np.float64)


def percentiles(estimates: Float[ndarray, " resample"], confidence: float = 0.95) -> Interval:
    """The percentiles that enclose the central share `confidence` of the resampled estimates.

    None when fewer than two estimates are finite. A resample without any counted token has no finite estimate.
    """
    finite = estimates[np.isfinite(estimates)]
    if len(finite) < 2:
        return None
    low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def resampled_ratio(
    top: Float[ndarray, " block"], bottom: Float[ndarray, " block"], weights: Float[ndarray, "resample block"]
) -> Float[ndarray, " resample"]:
    """Σ_b w_rb top_b / Σ_b w_rb bottom_b for every resample r."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (weights @ top) / (weights @ bottom)


def ratio_interval(
    top: Float[ndarray, " block"],
    bottom: Float[ndarray, " block"],
    weights: Float[ndarray, "resample block"],
    confidence: float = 0.95,
) -> Interval:
    """The interval of Σ top / Σ bottom, such as a mean (bottom: token counts); None with fewer than two blocks."""
    if weights.shape[1] < 2:
        return None
    return percentiles(resampled_ratio(top, bottom, weights), confidence)


def jackknife_interval(
    estimate: float, leave_one_out: Float[ndarray, " block"], confidence: float = 0.95, *, low: float, high: float
) -> Interval:
    """The jackknife interval estimate ± z·SE, clipped to [low, high]; None with fewer than two blocks.

    SE² = (n − 1)/n Σ_b (e_b − ē)², with e_b the estimate without block b (`leave_one_out`). It serves quantities that
    resampling with replacement biases, such as the share of latents that never fire.
    """
    n = len(leave_one_out)
    if n < 2:
        return None
    error = np.sqrt((n - 1) / n * np.square(leave_one_out - leave_one_out.mean()).sum())
    margin = NormalDist().inv_cdf((1 + confidence) / 2) * float(error)
    return max(low, estimate - margin), min(high, estimate + margin)
