"""Measures how well a stream is shuffled: the correlation of neighbouring rows, relative to that of a full shuffle.

Place on the data's path: beside the streams. It reads batches as training receives them, and changes nothing.

With u_i = (x_i - mean) / ||x_i - mean||, the centred directions of the rows in the order of the stream:
    c  = mean over neighbours (i, i+1) of one batch of  u_i . u_{i+1}
    r  = mean over pairs of rows of different batches of  u_i . u_j        (what a full shuffle gives)
    correlation = (c - r) / (1 - r)          0: as a full shuffle; 1: every row equals its neighbour
Training does not depend on the order within a batch, so for a stream that draws at random, neighbours stand for all
pairs of a batch. r comes from the rows themselves, so no second, shuffled stream is needed; it is unbiased if the
batches span the whole text. The interval reflects c only: 1.96 standard errors, with each batch as one observation.

Source: the autocorrelation test of SAE shuffle buffers, turned into a number. Limits: batches of an unshuffled stream
depend on each other, so its interval is too narrow; the error of r itself (of order 1/sqrt(rows)) is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.shapes import Activations, PerInput

ROWS_PER_BATCH = 128
"""How many rows of each batch are used: enough to resolve 1e-3, at a negligible cost."""


@dataclass(frozen=True)
class ShuffleQuality:
    """How well a stream is shuffled, as measured by `NeighbourMeter`."""

    correlation: float
    """(c - r) / (1 - r): 0 for a full shuffle."""
    interval: tuple[float, float]
    """The 95% interval of the correlation."""
    neighbour_cosine: float
    """c, the mean cosine of neighbouring rows."""
    full_shuffle_cosine: float
    """r, the mean cosine of rows of different batches."""
    _: KW_ONLY
    n_pairs: int
    """The number of neighbouring pairs that c is the mean of."""
    n_batches: int
    """The number of batches that the pairs come from."""

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "interval": list(self.interval)}


class NeighbourMeter:
    """Accumulates c and r over batches. Its state can be saved and restored exactly."""

    def __init__(self, mean: PerInput) -> None:
        """`mean` is the centre of the rows, in the units of the batches."""
        self.mean = mean.detach().cpu().double()
        self.direction_sum = torch.zeros_like(self.mean)
        # In this order: number of batches b, pairs, sum c_b, sum c_b^2, rows, sum n_b^2, and sum ||s_b||^2, where batch
        # b has n_b rows, mean neighbour cosine c_b and s_b = sum of u over its rows.
        self.totals = torch.zeros(7, dtype=torch.float64)

    def update(self, batch: Activations) -> None:
        """Takes in the first rows of one batch, in the order of the stream."""
        rows = batch[:ROWS_PER_BATCH].detach().cpu().double() - self.mean
        if len(rows) < 2:
            return
        u = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30)
        cosine = float((u[1:] * u[:-1]).sum(1).mean())
        batch_sum = u.sum(0)
        self.direction_sum += batch_sum
        n = len(u)
        self.totals += torch.tensor([1, n - 1, cosine, cosine**2, n, n * n, float(batch_sum.square().sum())]).double()

    def result(self) -> ShuffleQuality | None:
        """The quality over all batches so far; None before the second, since r needs rows of different batches."""
        batches, pairs, cosines, squares, rows, row_squares, batch_squares = self.totals.tolist()
        if batches < 2:
            return None
        c = cosines / batches
        # The cosines of all pairs sum to ||sum of all u||^2, those within batches to sum ||s_b||^2. Their difference is
        # the sum over pairs of different batches, without a loop over pairs.
        r = (float(self.direction_sum.square().sum()) - batch_squares) / (rows**2 - row_squares)
        variance = max(squares / batches - c * c, 0.0) / (batches - 1)
        room = max(1 - r, 1e-12)
        value, half = (c - r) / room, 1.96 * variance**0.5 / room
        return ShuffleQuality(value, (value - half, value + half), c, r, n_pairs=int(pairs), n_batches=int(batches))

    def state(self) -> dict[str, Tensor]:
        return {"mean": self.mean.clone(), "direction_sum": self.direction_sum.clone(), "totals": self.totals.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.mean = state["mean"].clone()
        self.direction_sum = state["direction_sum"].clone()
        self.totals = state["totals"].clone()


def measure_shuffle(batches: Iterable[Float[Tensor, "_ d_in"]], mean: PerInput) -> ShuffleQuality | None:
    """Measures a stream from some of its batches, which should be spread over all of it.

    `mean` is the centre of the rows. Returns None for fewer than two batches.
    """
    meter = NeighbourMeter(mean)
    for batch in batches:
        meter.update(batch)
    return meter.result()
