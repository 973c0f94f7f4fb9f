"""Compares dictionaries in pairs, from sums of their errors and losses over blocks of documents.

Place on the data's path: evaluation writes the sums beside evaluation.json (documents.safetensors); comparisons of SAEs
read them, within a run or across runs over the same validation text.

All dictionaries are measured on the same documents, and a document that is hard for one is hard for all. A difference
taken within the same resampled documents is therefore known far more precisely than either number alone.

    error        e_ab  Σ ‖x − x̂‖² of dictionary a over the tokens of block b
                 ratio of two FVUs = Σ_b w_b e_1b / Σ_b w_b e_2b       (the variance of x cancels)
    delta_loss   l_ab  Σ CE(spliced) − CE(clean)
                 difference of two delta losses = Σ_b w_b (l_1b − l_2b) / Σ_b w_b n_b     nats per token

where w are the bootstrap's weights (intervals.py) and n_b the tokens of block b. The sums of a group (an architecture's
seeds) are averaged. Intervals hold simultaneously over all pairs (max-t, differences.py).

Limits: the intervals are over documents and do not include differences between seeds. A comparison is meaningful only
between groups that reached the same L0; the caller has to see to that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from safetensors import SafetensorError, safe_open

from monosemy.errors import UserError
from monosemy.evals.differences import Difference, simultaneous
from monosemy.evals.intervals import bootstrap_weights
from monosemy.support.files import atomic_path
from monosemy.support.tensors import save_tensors

FORMAT = 1


@dataclass(frozen=True)
class DocumentSums:
    """One quantity of several dictionaries at one site, summed over the tokens of each block of documents."""

    documents: Int[ndarray, " document"]
    """The documents in the order first seen; the i-th of them lies in block i modulo the number of blocks."""
    n_tokens: Float[ndarray, " block"]
    sums: Mapping[str, Float[ndarray, " block"]]
    """The sums by the dictionary's name."""

    def joined(self, other: DocumentSums) -> DocumentSums:
        """The sums of both sets of dictionaries. Raises UserError when they were measured on different documents or
        different numbers of tokens."""
        same = np.array_equal(self.documents, other.documents) and np.array_equal(self.n_tokens, other.n_tokens)
        if not same:
            raise UserError(
                f"cannot pair evaluations over other tokens ({int(self.n_tokens.sum()):,} of {len(self.documents)} "
                f"documents, {int(other.n_tokens.sum()):,} of {len(other.documents)}); evaluate both runs with the "
                "same text, sites and evaluation settings"
            )
        return DocumentSums(self.documents, self.n_tokens, {**self.sums, **other.sums})


Sites = Mapping[str, Mapping[str, DocumentSums]]
"""{site: {quantity: sums}}."""


def save_documents(path: Path, sites: Sites) -> None:
    """Writes documents.safetensors, durably."""
    tensors: dict[str, torch.Tensor] = {}
    names: dict[str, dict[str, list[str]]] = {}
    for site, quantities in sites.items():
        names[site] = {quantity: list(evaluation.sums) for quantity, evaluation in quantities.items()}
        for quantity, evaluation in quantities.items():
            place = f"{site}/{quantity}"
            tensors[f"{place}/documents"] = torch.from_numpy(np.asarray(evaluation.documents, np.int64))
            tensors[f"{place}/n_tokens"] = torch.from_numpy(np.asarray(evaluation.n_tokens, np.float64))
            sums = (
                np.stack(list(evaluation.sums.values())) if evaluation.sums else np.zeros((0, len(evaluation.n_tokens)))
            )
            tensors[f"{place}/sums"] = torch.from_numpy(sums.astype(np.float64))
    with atomic_path(path) as temporary:
        # A single entry of metadata: safetensors writes several in no fixed order, and the same run must give the same
        # bytes.
        save_tensors(temporary, tensors, {"about": json.dumps({"format": FORMAT, "names": names})})


def load_documents(path: Path) -> dict[str, dict[str, DocumentSums]]:
    """Reads documents.safetensors. Raises UserError for a missing or damaged file or one of another kind or format."""
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["about"])
            if about.get("format") != FORMAT:
                raise ValueError(f"format {about.get('format')!r}, this version reads {FORMAT}")
            return {
                site: {
                    quantity: DocumentSums(
                        file.get_tensor(f"{site}/{quantity}/documents"),
                        file.get_tensor(f"{site}/{quantity}/n_tokens"),
                        dict(zip(listed, file.get_tensor(f"{site}/{quantity}/sums"), strict=True)),
                    )
                    for quantity, listed in quantities.items()
                }
                for site, quantities in about["names"].items()
            }
    except (OSError, SafetensorError, KeyError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is not a file of document sums ({error}); run `monosemy evaluate {path.parent}` again"
        ) from None


def joined(evaluations: Iterable[DocumentSums]) -> DocumentSums:
    """The sums of all dictionaries of several evaluations. Raises UserError for none, or for different documents."""
    parts = list(evaluations)
    if not parts:
        raise UserError("no evaluation to compare; give a run folder that was evaluated")
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.joined(part)
    return whole


def paired_differences(
    evaluation: DocumentSums,
    groups: Mapping[str, Sequence[str]],
    pairs: Sequence[tuple[str, str]] | None = None,
    *,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Difference]:
    """Differences per token between groups of dictionaries (first − second), with simultaneous intervals.

    Without `pairs`, compares all groups. Raises UserError for an unknown dictionary and with fewer than two blocks.
    """
    totals, weights = _prepared(evaluation, groups, n_resamples, seed)
    tokens, n = weights @ evaluation.n_tokens, evaluation.n_tokens.sum()
    estimates = {name: float(total.sum() / n) for name, total in totals.items()}
    resampled = {name: weights @ total / tokens for name, total in totals.items()}
    return simultaneous(estimates, resampled, pairs or list(combinations(groups, 2)), confidence=confidence)


def paired_ratios(
    evaluation: DocumentSums,
    groups: Mapping[str, Sequence[str]],
    pairs: Sequence[tuple[str, str]] | None = None,
    *,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Difference]:
    """Ratios of the groups' sums minus one, first / second − 1 (−0.02: 2% less), with simultaneous intervals.

    The intervals are computed on the logarithm of the ratio. Raises UserError as `paired_differences` does, and for a
    sum that is not positive.
    """
    totals, weights = _prepared(evaluation, groups, n_resamples, seed)
    if wrong := [name for name, total in totals.items() if not total.sum() > 0]:
        raise UserError(f"{wrong[0]!r} sums to {totals[wrong[0]].sum():g}; only positive sums have a ratio")
    estimates = {name: float(np.log(total.sum())) for name, total in totals.items()}
    resampled = {name: np.log(weights @ total) for name, total in totals.items()}
    logs = simultaneous(estimates, resampled, pairs or list(combinations(groups, 2)), confidence=confidence)
    return [
        Difference(d.first, d.second, *(float(np.expm1(value)) for value in (d.estimate, d.low, d.high))) for d in logs
    ]


def _prepared(
    evaluation: DocumentSums, groups: Mapping[str, Sequence[str]], n_resamples: int, seed: int
) -> tuple[dict[str, ndarray], ndarray]:
    """The mean sums of each group [block], and the bootstrap's weights [resample, block]."""
    for name in (name for names in groups.values() for name in names):
        if name not in evaluation.sums:
            raise UserError(f"no dictionary {name!r} in this evaluation; there are {', '.join(evaluation.sums)}")
    if len(evaluation.n_tokens) < 2:
        raise UserError("a paired comparison needs validation text of two documents or more")
    # Averaged over seeds before the resampling, so that every resample pairs the groups on the same documents.
    totals = {group: np.mean([evaluation.sums[name] for name in names], axis=0) for group, names in groups.items()}
    return totals, bootstrap_weights(len(evaluation.n_tokens), n_resamples, seed)
