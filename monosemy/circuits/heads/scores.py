"""How well a ranking of heads or edges matches a known circuit, and how much of the behaviour its first ones carry.

Place on the path: importance of every head, truth or prompts → [agreement, faithfulness, completeness] → report.

    AUC           share of pairs (one of the circuit, one not) in the right order; a tie counts half
    AP            Σ_i (recall_i − recall_{i−1}) · precision_i down the ranking, tied scores taken together
    precision, recall at k    of the k first; k = |C| makes them equal; a tie at the border counts by its share
    f(C) = (m(C) − m(∅)) / (m(M) − m(∅))     m(C): all heads but C replaced; means over prompts before dividing
    CPR = ∫ f,  CMD = ∫ |1 − f|              over the share of heads kept, best first, straight lines between points
    completeness  f(M ∖ C), 0 when nothing outside C does the task; and the mean of |f(C ∖ K) − f(M ∖ K)| over random
                  halves K of C, 0 when C loses what M loses

Source: MIB (2504.13151) for CPR and CMD; Wang et al. 2022 (2211.00593) for completeness. Deviations: heads, not edges,
are counted; the curve starts at no head at all, where f is 0. Limits: intervals of AUC resample heads (circuit and
others apart), those of f prompts; heads of one model are not independent, so the first are rough.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from monosemy.circuits.heads.contrast import Ablation, Contrast, all_heads, layers_of
from monosemy.circuits.heads.model_heads import n_all, replace_edit
from monosemy.circuits.heads.task import Head
from monosemy.errors import UserError
from monosemy.evals.intervals import Interval, bootstrap_weights, percentiles, resampled_ratio

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of all heads that a faithfulness curve keeps."""


def labels_of(members: Iterable[Head], n_layers: int, n_heads: int) -> Bool[ndarray, " n"]:
    """Which heads are of the circuit, heads counted layer by layer. Raises UserError for a head the model lacks."""
    labels = np.zeros(n_layers * n_heads, dtype=bool)
    for layer, head in members:
        if not (0 <= layer < n_layers and 0 <= head < n_heads):
            raise UserError(
                f"the circuit has head {layer}.{head}, but the model has {n_layers} layers of {n_heads} heads; "
                "choose the ground truth of this model"
            )
        labels[layer * n_heads + head] = True
    return labels


# --- agreement with a known circuit -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """A ranking against a known circuit."""

    auc: float
    auc_interval: Interval
    """95%, bootstrap over members and others; None when there are fewer than two of either."""
    average_precision: float
    precision: float
    """Of the |C| first; equals the recall at |C|."""
    n: int
    n_members: int


def agreement(
    importance: Float[Tensor, " n"] | ndarray, labels: Bool[ndarray, " n"], n_resamples: int = 1000, seed: int = 0
) -> Agreement:
    """Raises UserError when all labels are of one kind or a score is not finite."""
    scores = _checked(importance, labels)
    return Agreement(
        roc_auc(scores, labels),
        percentiles(resampled_auc(scores, labels, n_resamples, seed)) if _resamplable(labels) else None,
        average_precision(scores, labels),
        precision_recall_at(scores, labels, int(labels.sum()))[0],
        len(labels),
        int(labels.sum()),
    )


def roc_auc(importance: Float[Tensor, " n"] | ndarray, labels: Bool[ndarray, " n"]) -> float:
    """Share of (member, other) pairs that the scores put in the right order; ties count half."""
    scores = _checked(importance, labels)
    return float(_order(scores, labels).mean())


def auc_difference(
    first: Tensor | ndarray, second: Tensor | ndarray, labels: ndarray, n_resamples: int = 1000, seed: int = 0
) -> tuple[float, Interval]:
    """AUC of `first` minus that of `second`, with the interval from the same resamples of heads for both."""
    one, other = _checked(first, labels), _checked(second, labels)
    difference = roc_auc(one, labels) - roc_auc(other, labels)
    if not _resamplable(labels):
        return difference, None
    resampled = [resampled_auc(scores, labels, n_resamples, seed) for scores in (one, other)]
    return difference, percentiles(resampled[0] - resampled[1])


def average_precision(importance: Float[Tensor, " n"] | ndarray, labels: Bool[ndarray, " n"]) -> float:
    """Mean precision over the members, at each member's place; members of equal score share the later place."""
    scores = _checked(importance, labels)
    down = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[down], append=-np.inf))  # last place of each distinct score
    hits = np.cumsum(labels[down])[ends]
    recall = hits / labels.sum()
    return float((np.diff(recall, prepend=0.0) * hits / (ends + 1)).sum())


def precision_recall_at(
    importance: Float[Tensor, " n"] | ndarray, labels: Bool[ndarray, " n"], k: int
) -> tuple[float, float]:
    """Precision and recall of the k first; among scores tied at the border, the expected number of members."""
    scores = _checked(importance, labels)
    if not 1 <= k <= len(scores):
        raise UserError(f"cannot take the first {k} of {len(scores)}; choose 1 to {len(scores)}")
    border = np.sort(scores)[::-1][k - 1]
    above, tied = scores > border, scores == border
    share = (k - above.sum()) / tied.sum()
    hits = float((above & labels).sum() + share * (tied & labels).sum())
    return hits / k, hits / float(labels.sum())


def _order(scores: ndarray, labels: ndarray) -> Float[ndarray, "members others"]:
    """1 where the member's score is larger, ½ where equal."""
    members, others = scores[labels][:, None], scores[~labels][None, :]
    return (members > others) + 0.5 * (members == others)


def resampled_auc(scores: ndarray, labels: ndarray, n_resamples: int, seed: int) -> Float[ndarray, " resample"]:
    """AUC in every resample of members and of others. The same labels and seed give the same resamples."""
    order = _order(scores, labels)
    members = bootstrap_weights(order.shape[0], n_resamples, seed)
    others = bootstrap_weights(order.shape[1], n_resamples, seed + 1)
    return ((members @ order) * others).sum(1) / order.size


def _resamplable(labels: ndarray) -> bool:
    return 2 <= labels.sum() <= len(labels) - 2


def _checked(importance: Tensor | ndarray, labels: ndarray) -> ndarray:
    scores = importance.detach().cpu().double().numpy() if isinstance(importance, Tensor) else np.asarray(importance)
    if scores.shape != labels.shape:
        raise ValueError(f"{scores.shape} scores for {labels.shape} labels")
    if not np.isfinite(scores).all():
        raise UserError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite; no ranking")
    if labels.all() or not labels.any():
        kind = "in" if labels.any() else "outside"
        raise UserError(f"all {len(labels)} labels are of one kind ({kind} the circuit); a ranking needs both kinds")
    return scores.astype(np.float64)


# --- how much of the behaviour the first heads carry ------------------------------------------------------------------


@dataclass(frozen=True)
class Faithfulness:
    """The behaviour that the k best heads alone carry."""

    kept: tuple[int, ...]
    """Numbers of heads kept, from 0 to all."""
    values: tuple[float, ...]
    intervals: tuple[Interval, ...]
    """95%, bootstrap over prompts."""
    cpr: float
    cmd: float
    cpr_interval: Interval
    cmd_interval: Interval


def faithfulness(
    contrast: Contrast,
    importance: Float[Tensor, " n"],
    ablation: Ablation = "resample",
    fractions: Sequence[float] = FRACTIONS,
) -> Faithfulness:
    """The curve of a ranking; one pass over the prompts for every point.

    Raises UserError when replacing all heads changes nothing on average, so that no share can be told.
    """
    n = n_all(contrast.heads)
    order = torch.argsort(importance.detach().cpu(), descending=True, stable=True).tolist()
    counts = sorted({0, n} | {round(fraction * n) for fraction in fractions})
    return curve([kept_metric(contrast, order[:count], ablation) for count in counts], counts)


def curve(metric: Sequence[Float[Tensor, " E"]], kept: Sequence[int]) -> Faithfulness:
    """Faithfulness from the metric on every prompt with `kept` parts (heads or edges) kept; the first none, the last
    all of them."""
    m = torch.stack(list(metric), 1).cpu().double().numpy()
    gained = m - m[:, :1]
    whole = gained[:, -1:]
    if abs(whole.mean()) <= 1e-6 * max(1.0, float(np.abs(m).mean())):
        raise UserError(
            "the metric is the same with all heads replaced as with none; the prompts and their counterparts do not "
            "differ in this behaviour, so faithfulness means nothing here"
        )
    shares = np.array(kept, dtype=np.float64) / kept[-1]
    values = gained.mean(0) / whole.mean()
    weights = bootstrap_weights(len(m), 1000)
    resampled = np.stack([resampled_ratio(column, whole[:, 0], weights) for column in gained.T], 1)
    several = len(m) > 1
    return Faithfulness(
        tuple(kept),
        tuple(values.tolist()),
        tuple(percentiles(column) if several else None for column in resampled.T),
        _area(values[None], shares).item(),
        _area(values[None], shares, missing=True).item(),
        percentiles(_area(resampled, shares)) if several else None,
        percentiles(_area(resampled, shares, missing=True)) if several else None,
    )


def _area(values: Float[ndarray, "r k"], shares: Float[ndarray, " k"], missing: bool = False) -> Float[ndarray, " r"]:
    """∫ f, or ∫ |1 − f| (of the points, not of the lines between them), by the trapezoidal rule."""
    heights = np.abs(1 - values) if missing else values
    return ((heights[:, 1:] + heights[:, :-1]) / 2 * np.diff(shares)).sum(1)


@dataclass(frozen=True)
class Completeness:
    """What of the behaviour a circuit misses."""

    without: float
    """f(M ∖ C): what the rest of the model still does."""
    without_interval: Interval
    incompleteness: float
    """Mean over random halves K of C of |f(C ∖ K) − f(M ∖ K)|."""


def completeness(
    contrast: Contrast, members: Sequence[int], ablation: Ablation = "resample", n_subsets: int = 8, seed: int = 0
) -> Completeness:
    """Of a set of heads (by number). Raises UserError for an empty set or a metric that replacing all heads leaves."""
    if not members:
        raise UserError("completeness needs a circuit of at least one head; none was given")
    everything = list(all_heads(contrast.heads))
    rest = [index for index in everything if index not in set(members)]

    def f(kept: Sequence[int]) -> Faithfulness:
        return curve([empty, kept_metric(contrast, kept, ablation), whole], [0, 1, 2])

    empty, whole = kept_metric(contrast, [], ablation), kept_metric(contrast, everything, ablation)
    without = f(rest)
    random = np.random.default_rng(seed)
    gaps = []
    for _ in range(n_subsets):
        lost = set(random.choice(members, max(1, len(members) // 2), replace=False).tolist())
        ours, theirs = ([index for index in side if index not in lost] for side in (members, everything))
        gaps.append(abs(f(ours).values[1] - f(theirs).values[1]))
    return Completeness(without.values[1], without.intervals[1], float(np.mean(gaps)))


@dataclass(frozen=True)
class Carried:
    """What a set of heads carries of the behaviour: 1 all of it, 0 nothing."""

    alone: float
    """f(C): all other heads replaced."""
    alone_interval: Interval
    without: float
    """f(M ∖ C): the set replaced."""
    without_interval: Interval


def carried(contrast: Contrast, members: Sequence[int], ablation: Ablation = "resample") -> Carried:
    """Of a set of heads (by number): three passes. Intervals over prompts; where the set was found on the same prompts,
    it fits them better than others."""
    rest = [index for index in all_heads(contrast.heads) if index not in set(members)]
    empty, whole = kept_metric(contrast, [], ablation), contrast.m_clean
    alone, without = (
        curve([empty, kept_metric(contrast, kept, ablation), whole], [0, 1, 2]) for kept in (members, rest)
    )
    return Carried(alone.values[1], alone.intervals[1], without.values[1], without.intervals[1])


def kept_metric(contrast: Contrast, kept: Sequence[int], ablation: Ablation = "resample") -> Float[Tensor, " E"]:
    """m(C) on every prompt: all heads but `kept` replaced."""
    heads = contrast.heads
    dropped = sorted(set(all_heads(heads)) - set(kept))
    if not dropped:
        return contrast.m_clean
    found = []
    for batch, replacement in zip(contrast.batches, contrast.replacements(ablation)):
        edit = replace_edit(replacement, dropped, heads.n_heads)
        logits = heads.logits(batch.clean.tokens, edit, layers=layers_of(heads, dropped), clean=batch.clean)
        found.append(batch.measure(logits))
    return torch.cat(found)
