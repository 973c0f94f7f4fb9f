"""What an evaluation measured, and how the parts of several processes become that of the whole run.

Place on the path: evaluation stage of every process → **one set of measurements** → evaluation.json and
documents.safetensors, which do not depend on how many processes measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from monosemy.pipeline.training_data import Key

if TYPE_CHECKING:
    from monosemy.evals.documents import DocumentSums
    from monosemy.evals.frontier import Candidate
    from monosemy.evals.model_loss import ModelLosses
    from monosemy.evals.reconstruction import ReconstructionRecord


@dataclass(frozen=True)
class Measured:
    """The measurements of several dictionaries; all of a site's have the same tokens behind them."""

    candidates: dict[Key, Candidate]
    reconstructions: dict[Key, ReconstructionRecord]
    errors: dict[str, DocumentSums]
    """By site."""
    losses: dict[str, ModelLosses] = field(default_factory=dict)
    """By site; empty where there is no language model."""


def joined(parts: Sequence[Measured], saved: Sequence[Key], sites: Sequence[str]) -> Measured:
    """The measurements of all processes, in the order of one: by site, saved SAEs in their order, then controls."""
    if len(parts) == 1:
        return parts[0]
    evaluated: dict[Key, tuple[Candidate, ReconstructionRecord]] = {
        key: (candidate, part.reconstructions[key]) for part in parts for key, candidate in part.candidates.items()
    }
    order = {key: number for number, key in enumerate(saved)}
    keys = sorted(evaluated, key=lambda key: (sites.index(key[0]), order.get(key, len(order))))
    names = {site: [name for key_site, name in keys if key_site == site] for site in sites}
    errors, losses = {}, {}
    for site in sites:
        if of_site := [part.errors[site] for part in parts if site in part.errors]:
            errors[site] = _joined_sums(of_site, names[site])
        if losses_of_site := [part.losses[site] for part in parts if site in part.losses]:
            records = {name: record for loss in losses_of_site for name, record in loss.records.items()}
            losses[site] = dataclasses.replace(
                losses_of_site[0],
                records={name: records[name] for name in names[site]},
                documents=_joined_sums([loss.documents for loss in losses_of_site], names[site]),
            )
    return Measured({key: evaluated[key][0] for key in keys}, {key: evaluated[key][1] for key in keys}, errors, losses)


def _joined_sums(parts: Sequence[DocumentSums], names: Sequence[str]) -> DocumentSums:
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.joined(part)
    return dataclasses.replace(whole, sums={name: whole.sums[name] for name in names})
