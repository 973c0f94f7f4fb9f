"""What the penalty costs the language model: how far a pair's CE score falls below that of the pair with λ = 0.

Place on the path: evaluation.json and documents.safetensors of a run → [cost] → frontier.py.

    cost of a side = (Δloss_λ − Δloss_0) / (CE(zero) − CE(clean)),    cost of a pair = the larger cost of its two sides

CE score is the loss recovered (evals/model_loss.py), with each SAE spliced in alone. Both pairs are spliced into the
same documents, so the documents are resampled for both together, and the larger side is chosen within each resample.

Limit: the denominator, the damage that zeros do, is held at its measured value; its own uncertainty would scale the
whole interval by some percent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monosemy.circuits.jacobian.resamples import interval
from monosemy.evals.documents import DocumentSums, load_documents
from monosemy.evals.intervals import bootstrap_weights
from monosemy.layout import RunFiles

N_RESAMPLES = 2000


@dataclass(frozen=True)
class Losses:
    """For each site, Σ Δloss of its SAEs by document, and the damage of zeros there in nats per token."""

    sums: Mapping[str, DocumentSums]
    damage: Mapping[str, float]


def read_losses(folder: Path, evaluation: Mapping[str, Any]) -> Losses:
    """The losses of an evaluated run. Raises UserError where documents.safetensors is missing or damaged."""
    stored = load_documents(RunFiles(folder).documents)
    damage = {site: zero - evaluation["clean_loss"] for site, zero in evaluation["zero_loss"].items()}
    return Losses({site: sums["delta_loss"] for site, sums in stored.items()}, damage)


def ce_cost(base: Mapping[str, Any], row: Mapping[str, Any], losses: Losses | None) -> dict[str, Any]:
    """The cost of `row` against `base` as an estimate.

    Its value is None where a CE score is missing, its interval where there are no `losses`.
    """
    scores = [(base[key]["value"], row[key]["value"]) for key in ("ce_score_in", "ce_score_out")]
    if any(value is None for pair in scores for value in pair):
        return {"value": None, "interval": None}
    value = max(before - after for before, after in scores)
    return {"value": value, "interval": None if losses is None else _interval(base, row, losses)}


def _interval(base: Mapping[str, Any], row: Mapping[str, Any], losses: Losses) -> list[float] | None:
    """The interval of the larger side's cost; None with fewer than two documents."""
    # Sums over documents are paired: each resample draws the same documents for both pairs and both sides.
    sides = []
    for site in row["sites"]:
        documents = losses.sums[site]
        if len(documents.n_tokens) < 2:
            return None
        weights = bootstrap_weights(len(documents.n_tokens), N_RESAMPLES)
        difference = documents.sums[row["name"]] - documents.sums[base["name"]]
        sides.append((weights @ difference) / (weights @ documents.n_tokens) / losses.damage[site])
    return interval(np.max(sides, axis=0))
