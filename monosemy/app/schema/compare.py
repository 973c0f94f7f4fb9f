"""Two SAEs beside each other.

Place on the path: as the package says, whose rules hold here too.
"""

from __future__ import annotations

from typing import Literal

from monosemy.app.schema.run import SaeEntry
from monosemy.app.schema.wire import Wire

Measure = Literal["cosine", "correlation"]


class ComparedPair(Wire):
    a: int
    b: int
    label_a: str
    label_b: str
    cosine: float | None
    """Null where the two SAEs read spaces of different width."""
    correlation: float | None
    """Of activations over the same tokens; null where it was not measured."""
    firing_rate_a: float | None
    firing_rate_b: float | None
    mutual: bool
    """Each is the other's best match."""


class Available(Wire):
    cosine: bool
    correlation: bool


class Distribution(Wire):
    edges: list[float]
    a: list[int]
    b: list[int]


class Comparison(Wire):
    """`GET /api/compare`: each latent of `a` beside its best match in `b`, and what has no match."""

    a: SaeEntry
    b: SaeEntry
    by: Measure
    """What the match was made by."""
    available: Available
    notes: list[str]
    """Why a measure is not available, for the user; empty when both are."""
    threshold: float
    """A latent is matched when its best value is at least this."""
    n_matched_a: int
    n_matched_b: int
    n_mutual: int
    distribution: Distribution
    """Best value per latent, as counts between edges."""
    view: Literal["matched", "only_a", "only_b"]
    total: int
    offset: int
    rows: list[ComparedPair]
    """Rows of the view asked for."""
