"""Fits probes: a logistic regression on a few latents, its baseline on raw activations, and its control.

Place on the path: pooled features, labels, folds → [scores of held-out texts, weights] → `monosemy probe`.

    few latents      columns in standard deviations, unshifted, so that silence stays 0; of the `SCREENED` that differ
                     most between the labels, the at most k that an L1 penalty leaves as it falls; then L2 on those
    raw activations  all d columns, standardised; L2, whose C is chosen on a quarter of the training texts
    control          the first again, with labels shuffled

Both labels weigh the same. Everything that is chosen is chosen without the held-out fold. Source: sparse probing,
Gurnee et al., Finding neurons in a haystack (2023), with selection by an L1 penalty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import sklearn
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from monosemy.errors import UserError
from monosemy.monitors.held_out import HeldOut

Array = np.ndarray[Any, np.dtype[Any]]
N_FOLDS = 5
SCREENED = 512
MIN_FIRED = 3
"""Training texts on which a latent must fire to be chosen."""
_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_STEPS = 12
_L1 = {"l1_ratio": 1.0} if tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 8) else {"penalty": "l1"}


@dataclass(frozen=True)
class SparseFit:
    """A logistic regression on a few columns: logit = intercept + x[latents] · weights."""

    latents: Array
    """int64 [k]"""
    weights: Array
    """float64 [k], per unit of the column."""
    deviations: Array
    """float64 [k]: standard deviations of the columns."""
    intercept: float

    def logits(self, features: scipy.sparse.csr_matrix) -> Array:
        return np.asarray(features[:, self.latents] @ self.weights).ravel() + self.intercept


def folds_of(is_positive: Array, group: Array, *, seed: int = 0) -> HeldOut:
    """The fold of every text: groups stay whole, both labels in every fold. Raises UserError where that cannot be."""
    fold = np.zeros(len(is_positive), np.int64)
    for label in (is_positive, ~is_positive):
        n = len(np.unique(group[label]))
        if n < N_FOLDS:
            raise UserError(
                f"the texts of one label stand in {n} groups, and {N_FOLDS} are needed to hold some out; give texts "
                "of more groups"
            )
    splitter = StratifiedGroupKFold(N_FOLDS, shuffle=True, random_state=seed)
    for number, (_, test) in enumerate(splitter.split(np.zeros((len(group), 1)), is_positive, group)):
        fold[test] = number
    for number in range(N_FOLDS):
        if len(np.unique(is_positive[fold == number])) < 2:
            raise UserError(
                "the groups cannot be split so that both labels stand on both sides: a few hold nearly all texts of "
                "one; give texts of more groups"
            )
    return HeldOut(fold, is_positive, group)


def held_out_scores(held_out: HeldOut, fit: Callable[[Array], Callable[[Array], Array]]) -> Array:
    """The score of every text by a model that was fitted without its fold, float64 [n], from 0 to 1.

    `fit` takes the rows to train on and gives a function from rows to logits.
    """
    scores = np.zeros(len(held_out.fold))
    for number in np.unique(held_out.fold):
        test = np.flatnonzero(held_out.fold == number)
        scores[test] = fit(np.flatnonzero(held_out.fold != number))(test)
    return 0.5 * (1 + np.tanh(0.5 * scores))


def fit_sparse(features: scipy.sparse.csr_matrix, is_positive: Array, n_latents: int) -> SparseFit:
    """A logistic regression on at most `n_latents` columns. Raises UserError if no latent fires often enough."""
    deviations = _deviations(features)
    fired = np.asarray((features > 0).sum(0)).ravel()
    candidates = np.flatnonzero((fired >= MIN_FIRED) & (deviations > 0))
    if not len(candidates):
        raise UserError(f"no latent fires on {MIN_FIRED} of the texts to train on; give more or longer texts")
    scaled = features[:, candidates] @ scipy.sparse.diags(1 / deviations[candidates])
    difference = np.abs(_means(scaled[is_positive]) - _means(scaled[~is_positive]))
    screened = np.sort(np.argsort(-difference, kind="stable")[:SCREENED])
    scaled, candidates = scaled[:, screened].toarray(), candidates[screened]
    columns = _chosen(scaled, is_positive, n_latents)
    latents = candidates[columns]
    model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=2_000).fit(scaled[:, columns], is_positive)
    return SparseFit(latents, model.coef_[0] / deviations[latents], deviations[latents], float(model.intercept_[0]))


def fit_raw(rows: Array, is_positive: Array, group: Array, *, seed: int = 0) -> Callable[[Array], Array]:
    """A logistic regression on all columns; gives the function from rows to logits."""
    mean, spread = rows.mean(0), rows.std(0)
    spread = np.where(spread > 0, spread, 1)
    scaled = (rows - mean) / spread
    inner = np.random.default_rng(seed).permutation(int(group.max()) + 1)[group] % 4 > 0
    best, best_auroc = _STRENGTHS[len(_STRENGTHS) // 2], -1.0
    if all(0 < is_positive[part].sum() < part.sum() for part in (inner, ~inner)):
        check = HeldOut(np.zeros((~inner).sum(), np.int64), is_positive[~inner], group[~inner])
        for strength in _STRENGTHS:
            auroc = check.auroc(_ridge(scaled[inner], is_positive[inner], strength).decision_function(scaled[~inner]))
            if auroc > best_auroc:
                best, best_auroc = strength, auroc
    model = _ridge(scaled, is_positive, best)
    return lambda others: np.asarray(model.decision_function((others - mean) / spread))


def _ridge(scaled: Array, is_positive: Array, strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, class_weight="balanced", max_iter=2_000).fit(scaled, is_positive)


def _chosen(scaled: Array, is_positive: Array, n_latents: int) -> Array:
    """The columns that the weakest L1 penalty leaves of which at most `n_latents` remain, by bisection."""
    if scaled.shape[1] <= n_latents:
        return np.arange(scaled.shape[1])
    low, high, columns = 1e-4, 1e2, np.zeros(0, np.int64)
    for _ in range(_STEPS):
        strength = float(np.sqrt(low * high))
        model = LogisticRegression(
            C=strength,
            solver="liblinear",
            class_weight="balanced",
            intercept_scaling=10.0,
            max_iter=500,
            random_state=0,
            **_L1,
        ).fit(scaled, is_positive)
        nonzero = np.flatnonzero(model.coef_[0])
        if len(nonzero) > n_latents:
            high = strength
            continue
        low = strength
        if len(nonzero) >= len(columns):
            columns = nonzero
        if len(columns) == n_latents:
            break
    if len(columns):
        return columns
    # even the strongest penalty that was tried left too many, or none: the one that differs most
    difference = np.abs(scaled[is_positive].mean(0) - scaled[~is_positive].mean(0))
    return np.argsort(-difference, kind="stable")[:1]


def _means(rows: Any) -> Array:
    return np.asarray(rows.mean(0)).ravel()


def _deviations(features: scipy.sparse.csr_matrix) -> Array:
    mean, square = _means(features), _means(features.multiply(features))
    return np.sqrt(np.maximum(square - mean**2, 0))
