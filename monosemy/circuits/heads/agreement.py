"""How well a ranking of heads or edges agrees with a known circuit.

Place on the path: importance of every head, the circuit's members → [agreement] → tables of methods.

    AUC           share of pairs (one member of the circuit, one other) in the right order; a tie counts half
    AP            Σ_i (recall_i − recall_{i−1}) · precision_i down the ranking, tied scores taken together
    precision, recall at k    of the first k; equal at k = |C|; scores tied at the border count by their share

Limits: intervals of AUC resample heads, members and others separately. The heads of one model are not independent, so
these intervals are rough.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from monosemy.circuits.heads.task import Head
from monosemy.errors import UserError
from monosemy.evals.intervals import Interval, bootstrap_weights, percentiles


def labels_of(members: Iterable[Head], n_layers: int, n_heads: int) -> Bool[ndarray, " n"]:
    """Whether each head is in the circuit, with heads counted layer by layer.

    Raises UserError for a head that the model does not have.
    """
    labels = np.zeros(n_layers * n_heads, dtype=bool)
    for layer, head in members:
        if not (0 <= layer < n_layers and 0 <= head < n_heads):
            raise UserError(
                f"the circuit has head {layer}.{head}, but the model has {n_layers} layers of {n_heads} heads; "
                "choose the ground truth of this model"
            )
        labels[layer * n_heads + head] = True
    return labels


@dataclass(frozen=True)
class Agreement:
    """How well a ranking agrees with a known circuit."""

    auc: float
    auc_interval: Interval
    """95% bootstrap interval over members and others, or None with fewer than two of either."""
    average_precision: float
    precision: float
    """Precision of the first |C|, which equals the recall at |C|."""
    n: int
    n_members: int


def agreement(
    importance: Float[Tensor, " n"] | ndarray, labels: Bool[ndarray, " n"], n_resamples: int = 1000, seed: int = 0
) -> Agreement:
    """The agreement of a ranking by `importance` with a circuit.

    Raises UserError when all labels are of one kind or a score is not finite.
    """
    scores = checked_scores(importance, labels)
    return Agreement(
        roc_auc(scores, labels),
        percentiles(resampled_auc(scores, labels, n_resamples, seed)) if can_resample(labels) else None,
        average_precision(scores, labels),
        precision_recall_at(scores, labels, int(labels.sum()))[0],
        n=len(labels),
        n_members=int(labels.sum()),
    )


def roc_auc(importance: Float[Tensor, " n"] | ndarray, labels: Bool[ndarray, " n"]) -> float:
    """The share of (member, other) pairs that the scores put in the right order. A tie counts half."""
    scores = checked_scores(importance, labels)
    return float(_order(scores, labels).mean())


def average_precision(importance: Float[Tensor, " n"] | ndarray, labels: Bool[ndarray, " n"]) -> float:
    """The mean over members of the precision at each one's rank. Tied members share the last of their ranks."""
    scores = checked_scores(importance, labels)
    down = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[down], append=-np.inf))  # last place of each distinct score
    hits = np.cumsum(labels[down])[ends]
    recall = hits / labels.sum()
    return float((np.diff(recall, prepend=0.0) * hits / (ends + 1)).sum())


def precision_recall_at(
    importance: Float[Tensor, " n"] | ndarray, labels: Bool[ndarray, " n"], k: int
) -> tuple[float, float]:
    """Precision and recall of the first k.

    Of the scores tied at the border, the expected number of members in a random order counts.
    """
    scores = checked_scores(importance, labels)
    if not 1 <= k <= len(scores):
        raise UserError(f"cannot take the first {k} of {len(scores)}; choose 1 to {len(scores)}")
    border = np.sort(scores)[::-1][k - 1]
    above, tied = scores > border, scores == border
    share = (k - above.sum()) / tied.sum()
    hits = float((above & labels).sum() + share * (tied & labels).sum())
    return hits / k, hits / float(labels.sum())


def _order(scores: ndarray, labels: ndarray) -> Float[ndarray, "members others"]:
    """1 where the member's score is larger than the other's, ½ where they are equal, else 0."""
    members, others = scores[labels][:, None], scores[~labels][None, :]
    return (members > others) + 0.5 * (members == others)


def resampled_auc(scores: ndarray, labels: ndarray, n_resamples: int, seed: int) -> Float[ndarray, " resample"]:
    """AUC on every resample of members and of others. The same labels and seed give the same resamples."""
    # A resampled AUC is a mean of the table of pairs, weighted by how often each row and column is drawn.
    order = _order(scores, labels)
    members = bootstrap_weights(order.shape[0], n_resamples, seed)
    others = bootstrap_weights(order.shape[1], n_resamples, seed + 1)
    return ((members @ order) * others).sum(1) / order.size


def can_resample(labels: ndarray) -> bool:
    """Whether there are at least two members and two others, so that both can be resampled."""
    return bool(2 <= labels.sum() <= len(labels) - 2)


def checked_scores(importance: Tensor | ndarray, labels: ndarray) -> ndarray:
    """The scores as float64. Raises UserError when one is not finite or all labels are of one kind."""
    scores = importance.detach().cpu().double().numpy() if isinstance(importance, Tensor) else np.asarray(importance)
    if scores.shape != labels.shape:
        raise ValueError(f"{scores.shape} scores for {labels.shape} labels")
    if not np.isfinite(scores).all():
        raise UserError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite; no ranking")
    if labels.all() or not labels.any():
        kind = "in" if labels.any() else "outside"
        raise UserError(f"all {len(labels)} labels are of one kind ({kind} the circuit); a ranking needs both kinds")
    return scores.astype(np.float64)
