"""A probe: a logistic regression on the pooled activations of a few latents, and its file.

Place on the path: `monosemy probe` writes it → [file] → verdicts of `monosemy serve` and `monosemy trace --monitor`.

    score = σ(b + Σ_i w_i f̄_i)        f̄_i pooled over the text (`firings`), w_i per unit of raw activation

The file is JSON, of which only numbers and text are read: {"format": "monosemy-probe", "version": 1, …} with the fields
of `Probe`. It names the SAE by `SITE/NAME` and by the SHA-256 of its weights, since a number means another latent in
another SAE.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from monosemy.config import from_json
from monosemy.errors import UserError, unknown
from monosemy.monitors.firings import POOLINGS, Firings
from monosemy.support import files

FORMAT, VERSION = "monosemy-probe", 1
MAX_WEIGHTS = 10_000


@dataclass(frozen=True)
class Weight:
    """One latent of a probe."""

    latent: int
    weight: float
    """Per unit of raw activation."""
    per_deviation: float = 0.0
    """The same per standard deviation of the pooled activation: comparable between latents."""
    label: str = ""


@dataclass(frozen=True)
class Probe:
    """A trained probe, as its file holds it."""

    name: str
    sae: str
    """`SITE/NAME`."""
    weights: tuple[Weight, ...]
    intercept: float
    threshold: float
    """A text of at least this score, from 0 to 1, is flagged."""
    pooling: str = "max"
    sae_sha256: str = ""
    positive: str = ""
    """The label that a high score stands for."""
    model: str = ""
    measured: dict[str, Any] = field(default_factory=dict)
    """How good it is on held-out texts, for people."""

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise unknown("pooling", self.pooling, POOLINGS)
        if not 0 < len(self.weights) <= MAX_WEIGHTS:
            raise UserError(f"a probe has 1 to {MAX_WEIGHTS} latents with weights, got {len(self.weights)}")
        numbers = [self.intercept, self.threshold, *(entry.weight for entry in self.weights)]
        if not all(math.isfinite(number) for number in numbers):
            raise UserError(f"the weights and the threshold of probe {self.name!r} must be finite numbers")
        if not 0 <= self.threshold <= 1:
            raise UserError(f"the threshold of probe {self.name!r} must be from 0 to 1, got {self.threshold}")

    def score(self, firings: Firings) -> float:
        """The score of a text, from 0 to 1."""
        return sigmoid(self.intercept + sum(self.contributions(firings).values()))

    def contributions(self, firings: Firings) -> dict[int, float]:
        """w_i f̄_i of every latent with a weight, 0 where it is silent."""
        latents, values = firings.pooled(self.pooling)
        pooled = dict(zip(latents.tolist(), values.tolist(), strict=True))
        return {entry.latent: entry.weight * pooled.get(entry.latent, 0.0) for entry in self.weights}


def sigmoid(logit: float) -> float:
    """1 / (1 + e^−x), without overflow."""
    return float(0.5 * (1 + np.tanh(0.5 * logit)))


def write_probe(path: Path, probe: Probe) -> None:
    files.write_json(path, {"format": FORMAT, "version": VERSION, **asdict(probe)})


def probe_of(document: Mapping[str, Any], path: Path) -> Probe:
    """The probe of a file's JSON. Raises UserError for another version, and for missing, unknown or wrong values."""
    if document.get("version") != VERSION:
        raise UserError(f"{path} has version {document.get('version')!r} of the probe file, this one reads {VERSION}")
    values = {key: value for key, value in document.items() if key not in ("format", "version")}
    require_keys(values, ("name", "sae", "weights", "intercept", "threshold"), f"the probe {path}")
    for number, entry in enumerate(values["weights"] if isinstance(values["weights"], list) else []):
        require_keys(entry, ("latent", "weight"), f"weight {number} of the probe {path}")
    return from_json(Probe, values, str(path))


def require_keys(values: Any, names: tuple[str, ...], label: str) -> None:
    """Raises UserError for the first of the names that a JSON object lacks."""
    if not isinstance(values, Mapping):
        raise UserError(f"{label} must be an object of named values, got {str(values)[:40]!r}")
    for name in names:
        if name not in values:
            raise UserError(f"{label} needs {name!r}; it has {', '.join(map(repr, values)) or 'nothing'}")
