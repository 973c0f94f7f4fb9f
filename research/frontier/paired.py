"""Compares dictionaries in pairs, from the sums of their errors and losses over blocks of documents (evals.documents).

    ratio of two FVUs               = Σ_b w_b e_1b / Σ_b w_b e_2b       (the variance of x cancels)
    difference of two delta losses  = Σ_b w_b (l_1b − l_2b) / Σ_b w_b n_b     nats per token

where w are the bootstrap's weights (evals.intervals) and n_b the tokens of block b. The sums of a group (an
architecture's seeds) are averaged. Intervals hold simultaneously over all pairs (max-t, research.differences).

Limits: the intervals are over documents and do not include differences between seeds. A comparison is meaningful only
between groups that reached the same L0; the caller has to see to that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy import ndarray

from monosemy.errors import UserError
from monosemy.evals.documents import DocumentSums
from monosemy.evals.intervals import bootstrap_weights
from research.differences import Difference, simultaneous


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
    return [Difference(d.first, d.second, _change(d.estimate), low=_change(d.low), high=_change(d.high)) for d in logs]


def _change(log_ratio: float) -> float:
    """The ratio minus 1."""
    return float(np.expm1(log_ratio))


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
