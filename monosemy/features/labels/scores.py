"""Scores labels: how well a simple classifier tells the windows where a latent fires from those where it doesn't.

Place on the data's path: `labels` fits on one part of the documents, this module scores on the other.

    AUROC = P(score of a firing window > score of a silent one) + ½ P(equal)

The positives of a latent are its sampled windows. The negatives are the shared background windows in which it doesn't
fire. Both are from held-out documents. A window has four scores:
    label        max over its tokens t of [peak log-odds(t) + log-odds(token before t)] + Σ over its distinct words of
                 their log-odds of being in the window at all (the label's text is made from the same tokens)
    hidden       the window's mean hidden state, projected on Σ⁻¹(μ₊ − μ₀) (linear discriminant, shared covariance)
    combined     the sum of these two, each in standard deviations over silent windows of fitted documents
    top token    1 if the window contains the token most frequent at the latent's peaks in fitted documents, else 0:
                 the trivial classifier, which is given whether or not that token is over-represented

The `_strong` columns score the strongest quarter of the firing windows alone, because most of a latent's firing is
weak, and weak firing is hard to predict from any label.

The hidden-state score must be read with care: the hidden states are those of the SAE's own site, of which the latent
itself is a function. The score bounds what a linear reader of the averaged site can achieve. It is no evidence that
people can tell.

Intervals are Newcombe's (2006), method 5: all AUROCs θ with |A − θ| ≤ 1.96·SE(θ), where SE is that of Hanley & McNeil
(1982) with (n₊ + n₋)/2 in place of each n. Unlike DeLong's and the bootstrap, they do not collapse to a point at A = 1.
n₊ and n₋ are numbers of *documents*, since windows of one document resemble each other. Every AUROC over all windows
has an interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np

if TYPE_CHECKING:
    from monosemy.features.labels.corpus import LabelText, Sample
    from monosemy.features.labels.inputs import LabelInputs

Array = np.ndarray[Any, np.dtype[Any]]
_compile = numba.njit(parallel=True, cache=True)
_compile_serial = numba.njit(cache=True)

_BLOCK = 64
_RIDGE = 10.0
"""Added to the diagonal of the covariance, which is that of standardised vectors."""
MIN_WINDOWS = 5
"""With fewer held-out windows of either kind there is no score."""


@_compile_serial
def auroc(positives: Array, negatives: Array) -> float:
    """P(positive > negative) + ½ P(equal) of two sets of scores, [n₊] and [n₋]; NaN when either is empty."""
    if len(positives) == 0 or len(negatives) == 0:
        return np.nan
    ranked = np.sort(negatives)
    total = 0.0
    # left counts the negatives below the value, right those below or equal: their mean counts ties by half
    for value in positives:
        total += 0.5 * (np.searchsorted(ranked, value, side="left") + np.searchsorted(ranked, value, side="right"))
    return total / (len(positives) * len(negatives))


def auroc_interval(area: Array, n_positive: Array, n_negative: Array, confidence: float = 0.95) -> tuple[Array, Array]:
    """The intervals (low, high) of AUROCs, each [m]; NaN where the area is NaN or a count is below one.

    They are found by bisection on each side of the area, where the condition is monotone. Source: Newcombe, Statistics
    in Medicine 25 (2006) 559, method 5.
    """
    from statistics import NormalDist

    z = NormalDist().inv_cdf((1 + confidence) / 2)
    a = np.asarray(area, np.float64)
    n1, n0 = np.asarray(n_positive, np.float64), np.asarray(n_negative, np.float64)
    defined = np.isfinite(a) & (n1 >= 1) & (n0 >= 1)
    half = (n1 + n0) / 2 - 1

    def outside(theta: Array) -> Array:
        """Whether θ is rejected: further from the area than z standard errors at θ."""
        spread = theta * (1 - theta) * (1 + half * (1 - theta) / (2 - theta) + half * theta / (1 + theta))
        return np.abs(a - theta) > z * np.sqrt(np.maximum(spread, 0) / (n1 * n0))

    # 40 halvings leave less than 1e-12 of the unit interval
    bounds = []
    for end in (0.0, 1.0):
        rejected, accepted = np.full_like(a, end), a.copy()
        with np.errstate(invalid="ignore", divide="ignore"):
            for _ in range(40):
                middle = (rejected + accepted) / 2
                out = outside(middle)
                rejected, accepted = np.where(out, middle, rejected), np.where(out, accepted, middle)
        bounds.append(np.where(defined, accepted, np.nan))
    return bounds[0], bounds[1]


@_compile
def project_positives(hidden: Array, directions: Array, offsets: Array, windows: Array, out: Array) -> None:
    """Writes out[z] = hidden[windows[z]] · directions[latent of z]. hidden [W, d], directions [m, d], out float32 [Z].

    A loop rather than a matrix product, since each latent has windows of its own.
    """
    for i in numba.prange(len(offsets) - 1):
        for z in range(offsets[i], offsets[i + 1]):
            total = np.float32(0)
            row = windows[z]
            for k in range(hidden.shape[1]):
                total += np.float32(hidden[row, k]) * directions[i, k]
            out[z] = total


class WindowTokens(NamedTuple):
    """The text that windows are cut from."""

    tokens: Array
    """int32 [N]."""
    window: int
    groups: Array
    """int32 [V]: group of every token id."""
    kinds: Array
    """int8 [V]: kind of every token id."""
    n_groups: int


class ScoredWindows(NamedTuple):
    """The windows to score."""

    offsets: Array
    """int64 [m + 1]: a latent's entries of `positives`."""
    positives: Array
    """int64 [Z]: windows in which a latent fires."""
    background: Array
    """int64 [B]: windows shared by all latents."""


class LabelTables(NamedTuple):
    """The log-odds with which a label scores windows; shapes as in `Tables`."""

    groups: Array
    odds: Array
    kind_odds: Array
    top_token: Array
    """int32 [m]."""


@_compile_serial
def _window_score(
    tokens: Array, groups: Array, kinds: Array, dense: Array, by_kind: Array, marks: Array, mark: int
) -> float:
    """The label score of one window's tokens. dense float32 [3, G] holds the peak, before and context log-odds.

    A group without log-odds of its own counts as its kind does. A group seen in this window is given the window's
    `mark`, so nothing has to be cleared between windows.
    """
    best = np.float32(-1e30)
    context = np.float32(0)
    for t in range(len(tokens)):
        group = groups[tokens[t]]
        # 0 marks a group without log-odds of its own: fall back on those of the token's kind
        peak = dense[0, group] if dense[0, group] != 0 else by_kind[0, kinds[tokens[t]]]
        if t > 0:
            previous = groups[tokens[t - 1]]
            peak += dense[1, previous] if dense[1, previous] != 0 else by_kind[1, kinds[tokens[t - 1]]]
        if peak > best:
            best = peak
        if marks[group] != mark:
            marks[group] = mark
            context += dense[2, group]
    return float(best + context)


@_compile
def score_labels(
    text: WindowTokens,
    windows: ScoredWindows,
    tables: LabelTables,
    positive_scores: Array,
    background_scores: Array,
    top_positive: Array,
    top_background: Array,
) -> None:
    """Writes the label scores and top-token hits of every latent's windows.

    The outputs are positive_scores, top_positive [Z] and background_scores, top_background [m, B]; numba needs each as
    its own parameter.

    A thread takes `_BLOCK` latents. For each it writes the latent's few log-odds into a table over all groups, looks up
    every token there, and clears the same few entries again.
    """
    tokens, window, groups, kinds, n_groups = text
    offsets, positives, background = windows
    table_groups, odds, kind_odds, top_token = tables
    m, n_background = len(offsets) - 1, len(background)
    for block in numba.prange((m + _BLOCK - 1) // _BLOCK):
        dense = np.zeros((3, n_groups), np.float32)  # one table per block: a new one per latent would cost more
        marks = np.zeros(n_groups, np.int32)
        mark = 0
        for i in range(block * _BLOCK, min(m, (block + 1) * _BLOCK)):
            for table in range(3):
                for k in range(table_groups.shape[2]):
                    if table_groups[i, table, k] >= 0:
                        dense[table, table_groups[i, table, k]] = odds[i, table, k]
            # the latent's own windows first, then the shared background
            n_positive = offsets[i + 1] - offsets[i]
            for j in range(n_positive + n_background):
                mark += 1
                z = offsets[i] + j if j < n_positive else j - n_positive
                first = (positives[z] if j < n_positive else background[z]) * window
                ids = tokens[first : first + window]
                score = _window_score(ids, groups, kinds, dense, kind_odds[i], marks, mark)
                hit = False
                for t in range(window):
                    hit |= ids[t] == top_token[i]
                if j < n_positive:
                    positive_scores[z], top_positive[z] = score, hit
                else:
                    background_scores[i, z], top_background[i, z] = score, hit
            for table in range(3):
                for k in range(table_groups.shape[2]):
                    if table_groups[i, table, k] >= 0:
                        dense[table, table_groups[i, table, k]] = 0


@_compile
def areas(
    positive_scores: Array,
    background_scores: Array,
    offsets: Array,
    positive_mask: Array,
    background_mask: Array,
    out: Array,
) -> None:
    """Writes out[i] = AUROC of latent i's masked positives [Z] against its masked background windows [m, B].

    NaN where either kind has fewer than `MIN_WINDOWS`.
    """
    for i in numba.prange(len(offsets) - 1):
        span = slice(offsets[i], offsets[i + 1])
        positives = positive_scores[span][positive_mask[span]]
        negatives = background_scores[i][background_mask[i]]
        enough = len(positives) >= MIN_WINDOWS and len(negatives) >= MIN_WINDOWS
        out[i] = auroc(positives, negatives) if enough else np.nan


@_compile
def n_documents(documents: Array, offsets: Array, mask: Array, out: Array) -> None:
    """Writes out[i] = number of distinct documents among latent i's masked entries. documents, mask [Z]."""
    for i in numba.prange(len(offsets) - 1):
        span = slice(offsets[i], offsets[i + 1])
        out[i] = len(np.unique(documents[span][mask[span]]))


@dataclass(frozen=True)
class Tables:
    """Over-represented groups of m latents: three tables (at the peak, just before, in the window) of K groups each,
    best first."""

    groups: Array
    """int32 [m, 3, K], −1 after the last."""
    odds: Array
    """float32 [m, 3, K]: log-odds δ."""
    z: Array
    """float32 [m, 3, K]: δ in standard deviations."""
    share: Array
    """float32 [m, 3, K]: weighted share of the peaks (or windows) with the group."""
    kind_odds: Array
    """float32 [m, 2, kinds]: log-odds of each kind of token at the peak and just before."""
    kind_share: Array
    """float32 [m, 2, kinds]: weighted share of the peaks with each kind."""


def merged(tables: Tables, strongest: Tables, n: int = 8) -> Tables:
    """`tables` with those of the first n items of `strongest` that they lack, so scores use all the label's words.

    Only groups and odds are extended; the others keep their K columns.
    """
    # groups that the latent already has become −1, which marks no group
    new = strongest.groups[:, :, :n]
    already = (new[..., None] == tables.groups[:, :, None]).any(-1)
    all_groups = np.concatenate([tables.groups, np.where(already, -1, new)], 2)
    odds = np.concatenate([tables.odds, strongest.odds[:, :, :n]], 2)
    return replace(tables, groups=all_groups, odds=odds)


@dataclass(frozen=True)
class Reader:
    """A linear discriminant over window vectors."""

    vectors: Array
    """float32 [W, d]: vectors of all windows, standardised by mean and standard deviation of the fitted ones."""
    covariance: Array
    """float64 [d, d]: covariance of the fitted windows' vectors, with `_RIDGE` added to its diagonal."""

    @staticmethod
    def fit(vectors: Array, fitted: Array) -> Reader:
        """Standardises vectors [W, d]; mean, scale and covariance are those of the windows in `fitted`, bool [W]."""
        fitted_vectors = vectors[fitted].astype(np.float32)
        mean, scale = fitted_vectors.mean(0), fitted_vectors.std(0)
        scale[scale == 0] = 1  # a constant dimension stays 0 rather than become NaN
        fitted_vectors = (fitted_vectors - mean) / scale
        covariance = (fitted_vectors.T @ fitted_vectors).astype(np.float64) / max(1, len(fitted_vectors))
        covariance[np.diag_indices_from(covariance)] += _RIDGE
        return Reader((vectors.astype(np.float32) - mean) / scale, covariance)

    def directions(self, sample: Sample) -> Array:
        """Σ⁻¹(μ₊ − μ₀) of every latent, float32 [m, d]. μ₀ is the mean over all fitted windows, which is 0 here."""
        peaks = sample.fitted
        means = np.zeros((len(sample.fired), self.vectors.shape[1]), np.float32)
        for i, (start, stop) in enumerate(pairwise(peaks.offsets.tolist())):
            means[i] = self.vectors[peaks.tokens[start:stop] // sample.window].sum(0)
        means /= np.maximum(peaks.totals, 1)[:, None]
        # one factorisation of the covariance serves all latents of the chunk
        return np.linalg.solve(self.covariance, means.T.astype(np.float64)).T.astype(np.float32)

    def scores(self, sample: Sample, background: Array) -> tuple[Array, Array]:
        """The discriminant's scores of the sampled windows [Z] and of the background windows [m, B]."""
        directions = np.ascontiguousarray(self.directions(sample))
        positive = np.empty(len(sample.windows), np.float32)
        project_positives(self.vectors, directions, sample.offsets, sample.windows, out=positive)
        return positive, directions @ self.vectors[background].T


def score_sample(
    inputs: LabelInputs, text: LabelText, sample: Sample, tables: Tables, *, readers: Mapping[str, Reader]
) -> dict[str, Array]:
    """All score columns of a chunk of latents, float32 [m]; NaN where there are too few windows."""
    # 1. scores of every window: by the label, its top token, and each reader
    m, n_background = sample.fired.shape
    vocabulary = text.corpus.vocabulary
    positive = np.empty(len(sample.peaks), np.float32)
    background = np.empty((m, n_background), np.float32)
    top_positive, top_background = np.empty_like(positive), np.empty_like(background)
    score_labels(
        WindowTokens(
            text.corpus.tokens, inputs.window, vocabulary.groups, vocabulary.kinds, n_groups=vocabulary.n_groups
        ),
        ScoredWindows(sample.offsets, sample.windows, inputs.background),
        LabelTables(tables.groups, tables.odds, tables.kind_odds, sample.top_token),
        positive,
        background_scores=background,
        top_positive=top_positive,
        top_background=top_background,
    )
    pairs = {"label": (positive, background), "top_token": (top_positive, top_background)}
    pairs |= {name: reader.scores(sample, inputs.background) for name, reader in readers.items()}
    # standard deviations come from fitted documents, so that held-out windows do not set their own scale
    silent_fitted = ~sample.fired & text.window_fitted[inputs.background]
    latent = np.repeat(np.arange(m), np.diff(sample.offsets))
    standard = [_standardised(*pairs[name], silent_fitted, latent) for name in ("label", "hidden")]
    pairs["combined"] = (standard[0][0] + standard[1][0], standard[0][1] + standard[1][1])
    # 2. AUROCs over held-out windows, with intervals
    silent = ~sample.fired & text.window_held_out[inputs.background]
    columns: dict[str, Array] = {}
    for name, (of_positives, of_background) in pairs.items():
        columns[f"{name}_auroc"] = np.empty(m)
        areas(
            of_positives,
            of_background,
            sample.offsets,
            sample.scored,
            background_mask=silent,
            out=columns[f"{name}_auroc"],
        )
    for name in ("label", "hidden"):
        columns[f"{name}_auroc_strong"] = np.empty(m)
        areas(
            *pairs[name],
            sample.offsets,
            sample.scored & sample.strong,
            background_mask=silent,
            out=columns[f"{name}_auroc_strong"],
        )
    counts = _document_counts(inputs, text, sample, silent)
    for name in pairs:
        columns[f"{name}_auroc_low"], columns[f"{name}_auroc_high"] = auroc_interval(columns[f"{name}_auroc"], *counts)
    columns["label_n"] = np.bincount(latent[sample.scored], minlength=m)
    columns["label_n_negative"] = silent.sum(1)
    columns["label_n_documents"], columns["label_n_negative_documents"] = counts
    return {name: column.astype(np.float32) for name, column in columns.items()}


def _standardised(positive: Array, background: Array, reference: Array, latent: Array) -> tuple[Array, Array]:
    """Both scores, centred and in standard deviations of the background's `reference` entries [m, B], per latent."""
    n = np.maximum(reference.sum(1), 1)
    mean = np.where(reference, background, 0).sum(1) / n
    spread = np.sqrt(np.where(reference, (background - mean[:, None]) ** 2, 0).sum(1) / n) + 1e-6
    return (positive - mean[latent]) / spread[latent], (background - mean[:, None]) / spread[:, None]


def _document_counts(inputs: LabelInputs, text: LabelText, sample: Sample, silent: Array) -> tuple[Array, Array]:
    """Numbers of distinct documents among the positives and among the negatives of every latent, [m] each."""
    m = len(sample.fired)
    positive, negative = np.empty(m), np.empty(m)
    n_documents(text.documents[sample.peaks], sample.offsets, sample.scored, positive)
    # a background window counts for the document at its middle
    middle = text.documents[inputs.background * inputs.window + inputs.window // 2]
    # the same background documents for every latent, each with the latent's own mask
    spans = np.arange(m + 1) * len(middle)
    n_documents(np.tile(middle, m), spans, np.ascontiguousarray(silent).reshape(-1), negative)
    return positive, negative
