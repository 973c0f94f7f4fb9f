"""Sparse probing: how well the k latents that differ most between two classes tell them apart.

Place on the data's path: activations or codes of labelled text → [pooled features, k best, logistic regression] →
balanced accuracy with an interval over documents. The same for residual channels, principal components and random
latents: everything that gives one number per feature and example.

    feature_sf = mean over the counted tokens of text s of the latent's activation (zeros count)
    score_f    = |mean over positives − mean over negatives|, on the training half; the k largest are kept
    probe      = logistic regression on the k features, each in standard deviations of the training half (L2, C = 1,
                 classes weighted alike)
    balanced accuracy = ½ (share of positives found + share of negatives left alone), on the other half

Source: sparse probing of SAEBench (Karvonen et al. 2025), after Gurnee et al., Finding neurons in a haystack (2023).
Deviations: balanced accuracy instead of accuracy on balanced classes; standardised inputs of the probe; splits and
intervals by document; `standardise` chooses by the difference in standard deviations instead, which does not favour
features with large activations. Limits: classes of two; the features of all examples are held densely, [n, m].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from monosemy.latents import SparseLatents


@dataclass(frozen=True)
class Answers:
    """What a probe said of the test examples, as sums per document: all that resampling needs."""

    true_positives: Float[ndarray, " document"]
    """Positives called positive."""
    positives: Float[ndarray, " document"]
    true_negatives: Float[ndarray, " document"]
    """Negatives called negative."""
    negatives: Float[ndarray, " document"]

    @property
    def balanced_accuracy(self) -> float:
        return float(self.resampled(np.ones((1, len(self.true_positives))))[0])

    def resampled(self, weights: Float[ndarray, "resample document"]) -> Float[ndarray, " resample"]:
        """Balanced accuracy under each row of document weights; NaN where a class is not drawn."""
        with np.errstate(divide="ignore", invalid="ignore"):
            positive = (weights @ self.true_positives) / (weights @ self.positives)
            negative = (weights @ self.true_negatives) / (weights @ self.negatives)
        return (positive + negative) / 2


def pool_rows(
    rows: Float[ndarray, "n d"], example: Int[ndarray, " n"], n_examples: int
) -> Float[ndarray, "examples d"]:
    """Mean of the rows of each example, float32; zeros where it has none. example: of each row, 0 to n_examples − 1."""
    sums = np.zeros((n_examples, rows.shape[1]), np.float32)
    np.add.at(sums, example, rows.astype(np.float32))
    return sums / np.maximum(np.bincount(example, minlength=n_examples), 1)[:, None].astype(np.float32)


def pool_codes(codes: SparseLatents, example: Int[ndarray, " n"], n_examples: int) -> Float[ndarray, "examples d_sae"]:
    """As `pool_rows`, of a sparse code; example [n_tokens of the code]."""
    cell = torch.from_numpy(np.asarray(example, np.int64))[codes.rows()] * codes.d_sae + codes.indices.long()
    sums = torch.bincount(cell, codes.values.detach().double(), minlength=n_examples * codes.d_sae)
    counts = np.maximum(np.bincount(example, minlength=n_examples), 1).astype(np.float32)
    return sums.view(n_examples, codes.d_sae).numpy().astype(np.float32) / counts[:, None]


def split_documents(documents: Int[ndarray, " n"], train_share: float = 0.6, seed: int = 0) -> Bool[ndarray, " n"]:
    """Whether each example is one to train on: whole documents, drawn uniformly."""
    distinct, inverse = np.unique(documents, return_inverse=True)
    in_train = np.random.default_rng(seed).permutation(len(distinct)) < round(train_share * len(distinct))
    return in_train[inverse]


def class_difference(
    features: Float[ndarray, "n m"], labels: Bool[ndarray, " n"], *, standardise: bool = False
) -> Float[ndarray, " m"]:
    """|mean over positives − mean over negatives| of every feature, in its own units or in standard deviations.

    Raises ValueError when a class is empty.
    """
    if labels.all() or not labels.any():
        raise ValueError("a probe needs examples of both classes")
    difference = np.abs(features[labels].mean(0) - features[~labels].mean(0))
    if standardise:
        spread = features.std(0)
        difference = np.where(spread > 0, difference / np.where(spread > 0, spread, 1), 0)
    return difference


def best_features(
    features: Float[ndarray, "n m"], labels: Bool[ndarray, " n"], k: int, *, standardise: bool = False
) -> Int[ndarray, " k"]:
    """The k features that differ most between the classes, best first; ties go to the lower number."""
    return np.argsort(-class_difference(features, labels, standardise=standardise), kind="stable")[:k]


def fit_probe(
    features: Float[ndarray, "n k"], labels: Bool[ndarray, " n"], test: Float[ndarray, "n_test k"], c: float = 1.0
) -> Bool[ndarray, " n_test"]:
    """What a logistic regression on `features` says of `test`; c is the inverse strength of its L2 penalty."""
    from sklearn.linear_model import LogisticRegression

    mean, spread = features.mean(0), features.std(0)
    spread = np.where(spread > 0, spread, 1)
    model = LogisticRegression(C=c, class_weight="balanced", max_iter=2000)
    model.fit((features - mean) / spread, labels)
    return np.asarray(model.predict((test - mean) / spread), bool)


def full_probe(
    features: Float[ndarray, "n m"],
    labels: Bool[ndarray, " n"],
    documents: Int[ndarray, " n"],
    test: Float[ndarray, "n_test m"],
    *,
    strengths: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0),
    seed: int = 0,
) -> tuple[Bool[ndarray, " n_test"], float]:
    """A probe on all features: (what it says of `test`, the C chosen on held-out documents of the training half)."""
    inner = split_documents(documents, 0.75, seed)
    scores = []
    for c in strengths:
        predictions = fit_probe(features[inner], labels[inner], features[~inner], c)
        answers = answers_by_document(predictions, labels[~inner], np.zeros(int((~inner).sum()), np.int64), 1)
        scores.append(answers.balanced_accuracy)
    best = strengths[int(np.nanargmax(scores))]
    return fit_probe(features, labels, test, best), best


def answers_by_document(
    predictions: Bool[ndarray, " n"], labels: Bool[ndarray, " n"], documents: Int[ndarray, " n"], n_documents: int
) -> Answers:
    """Counts of right answers and of examples for each document, 0 to n_documents − 1."""

    def count(mask: ndarray) -> ndarray:
        return np.bincount(documents[mask], minlength=n_documents).astype(np.float64)

    return Answers(count(predictions & labels), count(labels), count(~predictions & ~labels), count(~labels))
