"""How well a stream is shuffled: correlation of neighbouring rows, against what a full shuffle would give.

Place on the data's path: beside the streams; it reads batches as training receives them and changes nothing.

With u_i = (x_i - mean) / ||x_i - mean||, the centred directions of the rows in the order of the stream:
    c  = mean over neighbours (i, i+1) of one batch of  u_i . u_{i+1}
    r  = mean over pairs of rows of different batches of  u_i . u_j        (what a full shuffle gives)
    correlation = (c - r) / (1 - r)          0: as a full shuffle; 1: every row equals its neighbour
Within a batch a trainer ignores the order, so for a stream that draws at random neighbours stand for all pairs of a
batch. r comes from the rows themselves, hence no second, shuffled stream is needed; it is unbiased once the batches
span the text. The interval is c's: 1.96 standard errors over batches, each batch one observation.

Source: the autocorrelation test of SAE shuffle buffers, made a number. Limits: batches of an unshuffled stream are
themselves dependent, so its interval is too narrow; r's own error (of order 1/sqrt(rows)) is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.shapes import Activations, PerInput

ROWS_PER_BATCH = 128
"""Rows of each batch that are looked at: enough for 1e-3, at no cost that shows."""


@dataclass(frozen=True)
class ShuffleQuality:
    """What `NeighbourMeter` found."""

    correlation: float
    """(c - r) / (1 - r): 0 for a full shuffle."""
    interval: tuple[float, float]
    """95% interval of the correlation."""
    neighbour_cosine: float
    """c, mean cosine of neighbours."""
    full_shuffle_cosine: float
    """r, mean cosine of rows of different batches."""
    n_pairs: int
    """Neighbouring pairs behind c."""
    n_batches: int
    """Batches they come from."""

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "interval": list(self.interval)}


class NeighbourMeter:
    """Accumulates c and r over batches; exact to save and restore."""

    def __init__(self, mean: PerInput) -> None:
        """`mean`: centre of the rows, in the units of the batches."""
        self.mean = mean.detach().cpu().double()
        self.direction_sum = torch.zeros_like(self.mean)
        # batches, pairs, sum c_b, sum c_b^2, rows, sum n_b^2, sum ||s_b||^2 with s_b the sum of u over batch b
        self.totals = torch.zeros(7, dtype=torch.float64)

    def update(self, batch: Activations) -> None:
        """Looks at the first rows of one batch, in the order of the stream."""
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
        """None before the second batch: one batch alone has nothing to be compared with."""
        batches, pairs, cosines, squares, rows, row_squares, batch_squares = self.totals.tolist()
        if batches < 2:
            return None
        c = cosines / batches
        r = (float(self.direction_sum.square().sum()) - batch_squares) / (rows**2 - row_squares)
        variance = max(squares / batches - c * c, 0.0) / (batches - 1)
        room = max(1 - r, 1e-12)
        value, half = (c - r) / room, 1.96 * variance**0.5 / room
        return ShuffleQuality(value, (value - half, value + half), c, r, int(pairs), int(batches))

    def state(self) -> dict[str, Tensor]:
        return {"mean": self.mean.clone(), "direction_sum": self.direction_sum.clone(), "totals": self.totals.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.mean = state["mean"].clone()
        self.direction_sum = state["direction_sum"].clone()
        self.totals = state["totals"].clone()


def measure_shuffle(batches: Iterable[Float[Tensor, "_ d_in"]], mean: PerInput) -> ShuffleQuality | None:
    """The quality of a stream from some of its batches, best spread over all of it; `mean` is its centre."""
    meter = NeighbourMeter(mean)
    for batch in batches:
        meter.update(batch)
    return meter.result()
