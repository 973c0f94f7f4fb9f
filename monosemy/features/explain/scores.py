"""Scores an explanation: AUROC and balanced accuracy of yes-no answers, correlation of simulated activations.

Place on the data's path: a chat model's answers → numbers with intervals, for `explanations`. An answer that could
not be read is missing: it is counted as such, and left out of all means.

Intervals rest on the number of documents, as in `labels/scores.py`, since passages of one document resemble each other.
AUROC has the interval described there. Balanced accuracy combines the Wilson intervals of its two halves, with n the
number of documents, by MOVER (Zou & Donner 2008); its lower end is (a + b)/2 − ½√((a − l_a)² + (b − l_b)²), and its
upper end has the upper limits instead. Correlation is bootstrapped by resampling whole documents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

Score = dict[str, Any]


def yes_no_score(
    positives: Sequence[float | None],
    negatives: Sequence[float | None],
    positive_documents: Sequence[int],
    negative_documents: Sequence[int],
) -> Score:
    """The score of P(yes) answers to positive and negative passages; None is an answer that could not be read.

    The documents are those of the passages asked about. Returns {"auroc", "auroc_low", "auroc_high",
    "balanced_accuracy", …_low, …_high, "n_positive", "n_negative", "n_missing", "n_positive_documents",
    "n_negative_documents"}; the first six are None if one kind has no answer. For balanced accuracy, P(yes) > ½ counts
    as yes, and exactly ½ as half right.
    """
    from monosemy.features.labels.scores import auroc, auroc_interval

    yes = np.array([p for p in positives if p is not None], float)
    no = np.array([p for p in negatives if p is not None], float)
    n_yes, n_no = _n_documents(positives, positive_documents), _n_documents(negatives, negative_documents)
    # counts are of passages, intervals rest on documents
    counts = {
        "n_positive": len(yes),
        "n_negative": len(no),
        "n_missing": len(positives) + len(negatives) - len(yes) - len(no),
        "n_positive_documents": n_yes,
        "n_negative_documents": n_no,
    }
    names = ("auroc", "auroc_low", "auroc_high", "balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high")
    if not len(yes) or not len(no):
        return dict.fromkeys(names) | counts
    area = float(auroc(yes, no))
    low, high = auroc_interval(np.array([area]), np.array([n_yes]), np.array([n_no]))
    accuracy = _balanced_accuracy(_share(yes > 0.5, yes == 0.5), n_yes, _share(no < 0.5, no == 0.5), n_no)
    return dict(zip(names, (area, float(low[0]), float(high[0]), *accuracy), strict=True)) | counts


def _n_documents(answers: Sequence[float | None], documents: Sequence[int]) -> int:
    """Number of documents with an answer that could be read."""
    return len({document for p, document in zip(answers, documents, strict=True) if p is not None})


def _share(right: np.ndarray, undecided: np.ndarray) -> float:
    return float(right.mean() + undecided.mean() / 2)


def _balanced_accuracy(a: float, n_a: int, b: float, n_b: int) -> tuple[float, float, float]:
    """(mean of two shares, low, high), the interval by MOVER; a of n_a and b of n_b documents."""
    # each side of the interval adds up the distances of its own limits, so it need not be symmetric
    (low_a, high_a), (low_b, high_b) = wilson(a, n_a), wilson(b, n_b)
    middle = (a + b) / 2
    below, above = math.hypot(a - low_a, b - low_b) / 2, math.hypot(high_a - a, high_b - b) / 2
    return middle, max(0.0, middle - below), min(1.0, middle + above)


def wilson(share: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share of n observations (n ≥ 1)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    margin = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - margin), min(1.0, centre + margin)


def simulation_score(
    simulated: Sequence[Sequence[float]], true: Sequence[Sequence[float]], documents: Sequence[int], seed: int = 0
) -> Score:
    """Pearson correlation of simulated with true activations over all tokens of the passages.

    Returns {"correlation", "correlation_low", "correlation_high", "n_passages", "n_documents", "n_tokens"}. The
    interval resamples documents (1,000 times) and is None with fewer than five. The correlation is None where either
    side is constant.
    """
    # document → its passages, the unit that is resampled
    blocks: dict[int, list[int]] = {}
    for k, document in enumerate(documents):
        blocks.setdefault(document, []).append(k)
    n_tokens = sum(len(values) for values in true)
    counts = {"n_passages": len(true), "n_documents": len(blocks), "n_tokens": n_tokens}
    pairs = [np.stack([np.asarray(s, float), np.asarray(t, float)]) for s, t in zip(simulated, true, strict=True)]
    correlation = _correlation(pairs)
    low = high = None
    if correlation is not None and len(blocks) >= 5:
        of_document = [np.concatenate([pairs[k] for k in block], axis=1) for block in blocks.values()]
        draws = np.random.default_rng(seed).integers(len(blocks), size=(1000, len(blocks)))
        # resamples in which one side is constant have no correlation and are left out
        estimates = [r for draw in draws if (r := _correlation([of_document[k] for k in draw])) is not None]
        low, high = (float(x) for x in np.quantile(estimates, [0.025, 0.975]))
    return {"correlation": correlation, "correlation_low": low, "correlation_high": high} | counts


def _correlation(pairs: Sequence[np.ndarray]) -> float | None:
    if not pairs:
        return None
    joined = np.concatenate(pairs, axis=1)
    centred = joined - joined.mean(1, keepdims=True)
    spread = np.sqrt((centred**2).sum(1))
    return float(centred[0] @ centred[1] / (spread[0] * spread[1])) if spread.min() > 1e-12 else None
