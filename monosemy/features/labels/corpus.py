"""Arranges the text of the pass and each latent's sampled windows for labels.

Place on the data's path: `LabelInputs` → `LabelText` (once) and `Sample` (per chunk of latents) → `labels`.
A hash of the document's number splits documents into *fitted* ones, from which labels are made, and *held-out* ones, on
which they are scored. Windows with text of both kinds are left out of the scores. Labels are made from the stronger
half of a latent's fitted windows; the weak half blurs them, and leaving it out costs the scores little.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from monosemy.features.labels.vocabulary import KINDS, Vocabulary
from monosemy.features.labels.wording import Corpus

if TYPE_CHECKING:
    from monosemy.features.labels.inputs import LabelInputs

Array = np.ndarray[Any, np.dtype[Any]]

_FITTED_PER_CENT = 60
MIN_SAMPLE = 10
"""With fewer sampled windows, a latent's label is made from all of them and is not scored."""
MIN_FITTED = 4
"""The same limit for sampled windows in fitted documents."""


@dataclass(frozen=True)
class LabelText:
    """The tokens of the pass as one flat array, with the facts about every position that labels use."""

    corpus: Corpus
    documents: Array
    """int64 [N]: number of each token's document."""
    fitted: Array
    """bool [N]: whether labels are made from the token's document."""
    window_fitted: Array
    """bool [W]: whether all of the window's text is fitted."""
    window_held_out: Array
    """bool [W]: whether all of the window's text is held out."""
    places: Array
    """bool [4, N]: start and end of a document, start of a line, start of a sentence."""
    source_of: Array
    """int32 [N]: index of each token's source in `corpus.sources`."""
    group_counts: Array
    """float64 [G]: occurrences of each group in fitted text."""
    kind_counts: Array
    """float64 [kinds]: occurrences of each kind in fitted text."""
    window_counts: Array
    """float64 [G]: number of fitted windows that contain the group."""

    @staticmethod
    def read(inputs: LabelInputs, vocabulary: Vocabulary) -> LabelText:
        """Splits the documents, joins tokens to words, and counts groups and kinds over the fitted text."""
        tokens = np.ascontiguousarray(inputs.tokens, np.int32).reshape(-1)
        documents = np.ascontiguousarray(inputs.documents, np.int64).reshape(-1)
        fitted = is_fitted(documents, inputs.seed)
        by_window = fitted.reshape(-1, inputs.window)
        counted = ~vocabulary.special[tokens]
        if not (counted & fitted).any():  # one single document: nothing to hold out
            fitted = np.ones_like(fitted)
            by_window = fitted.reshape(-1, inputs.window)
        places = _places(tokens, documents, vocabulary)
        # a token continues a word if both sides of the seam are letters or digits, within one document
        joined = np.zeros(len(tokens), bool)
        joined[1:] = vocabulary.joins_left[tokens[1:]] & vocabulary.joins_right[tokens[:-1]]
        joined[:: inputs.tokens.shape[1]] = False  # no word continues across the start of a sequence
        joined[1:] &= documents[1:] == documents[:-1]
        names = sorted(set(inputs.document_sources))
        number = {name: k for k, name in enumerate(names)}
        # document → number of its source → the same per token
        by_document = np.array([number[name] for name in inputs.document_sources] or [0], np.int32)
        source_of = by_document[documents] if names else np.zeros(len(tokens), np.int32)
        groups = vocabulary.groups[tokens]
        window_fitted, counted_fitted = np.all(by_window, axis=1), fitted & counted
        # the groups of each window sorted, so that the first of every run counts the window once
        rows = np.sort(groups.reshape(-1, inputs.window)[window_fitted], axis=1)
        first = np.ones(rows.shape, bool)
        first[:, 1:] = rows[:, 1:] != rows[:, :-1]
        n_counted = max(1, int(counted.sum()))
        corpus = Corpus(
            vocabulary=vocabulary,
            tokens=tokens,
            joined=joined,
            whole_share=_whole_share(groups, joined, vocabulary.n_groups),
            group_tokens=_commonest(tokens, vocabulary),
            common_raised=_common(inputs.raised),
            sources=names,
            source_base=np.bincount(source_of[counted], minlength=len(names)) / n_counted,
            place_base=places[:, counted].mean(1),
        )
        return LabelText(
            corpus,
            documents,
            fitted,
            window_fitted,
            window_held_out=~np.any(by_window, axis=1),
            places=places,
            source_of=source_of,
            group_counts=np.bincount(groups[counted_fitted], minlength=vocabulary.n_groups).astype(np.float64),
            kind_counts=np.bincount(vocabulary.kinds[tokens[counted_fitted]], minlength=len(KINDS)).astype(np.float64),
            window_counts=np.bincount(rows[first], minlength=vocabulary.n_groups).astype(np.float64),
        )


def _whole_share(groups: Array, joined: Array, n_groups: int) -> Array:
    """Share of each group's occurrences that are whole words: joined neither to the token before nor to the next."""
    is_whole = ~joined
    is_whole[:-1] &= ~joined[1:]
    n = np.bincount(groups, minlength=n_groups)
    return np.bincount(groups[is_whole], minlength=n_groups) / np.maximum(n, 1)


def _commonest(tokens: Array, vocabulary: Vocabulary) -> Array:
    """The most common token of each group, int32 [G]; an arbitrary member for a group that does not occur."""
    rising = np.argsort(np.bincount(tokens, minlength=len(vocabulary.groups)), kind="stable")
    group_tokens = np.zeros(vocabulary.n_groups, np.int32)
    group_tokens[vocabulary.groups[rising]] = rising  # with repeated indices the last write wins: the commonest token
    return group_tokens


def _common(raised: Array) -> frozenset[int]:
    """Tokens that are among the five most raised of more than 1% of the latents, and of more than four."""
    tokens, counts = np.unique(raised[:, :5], return_counts=True)
    return frozenset(tokens[counts > max(4, 0.01 * len(raised))].tolist())


def is_fitted(documents: Array, seed: int) -> Array:
    """Whether each document is fitted, by a hash of its number (splitmix64), so that adding text moves none."""
    mixed = documents.astype(np.uint64) + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed ^ (mixed >> np.uint64(31))) % np.uint64(100) < np.uint64(_FITTED_PER_CENT)


def _places(tokens: Array, documents: Array, vocabulary: Vocabulary) -> Array:
    """bool [4, N]: within three tokens of a document's start or end, first of a line, first of a sentence."""
    places = np.zeros((4, len(tokens)), bool)
    edges = np.flatnonzero(np.diff(documents)) + 1
    for distance in range(3):
        places[0, edges[edges + distance < len(tokens)] + distance] = True
        places[1, edges - 1 - distance] = True
    places[2, 1:] = vocabulary.ends_line[tokens[:-1]]
    places[3, 1:] = vocabulary.ends_sentence[tokens[:-1]]
    return places


@dataclass(frozen=True)
class Peaks:
    """Weighted peaks of m latents, Z in all, latent after latent."""

    offsets: Array
    """int64 [m + 1]"""
    tokens: Array
    """int64 [Z]: token index of each peak."""
    weights: Array
    """float32 [Z]: weights whose mean over each latent is 1."""

    @staticmethod
    def of(latent: Array, tokens: Array, weights: Array, m: int) -> Peaks:
        """Peaks from parallel arrays [Z]: `latent` in increasing order, `weights` > 0 on any scale."""
        n = np.bincount(latent, minlength=m)
        means = np.bincount(latent, weights, minlength=m) / np.maximum(n, 1)
        scaled = (weights / np.maximum(means[latent], 1e-30)).astype(np.float32)
        return Peaks(np.concatenate([[0], np.cumsum(n)]), tokens, scaled)

    @property
    def totals(self) -> Array:
        """float32 [m]: sum of each latent's weights, which is its number of peaks."""
        return np.diff(self.offsets).astype(np.float32)

    @property
    def latent(self) -> Array:
        """int64 [Z]: the latent of each peak."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def shares(self, flags: Array) -> Array:
        """The weighted share of each latent's peaks that have each flag: bool [Z, n] → float32 [m, n]."""
        sums = np.zeros((len(self.offsets) - 1, flags.shape[1]), np.float32)
        np.add.at(sums, self.latent, flags * self.weights[:, None])
        return sums / np.maximum(self.totals, 1)[:, None]


@dataclass(frozen=True)
class Sample:
    """The sampled windows of a chunk of m latents, and those among them that labels are made from."""

    offsets: Array
    """int64 [m + 1]: latent i's windows are entries offsets[i]:offsets[i+1] of the arrays [Z]."""
    peaks: Array
    """int64 [Z]: token index of the peak in each window."""
    windows: Array
    """int64 [Z]: number of each window."""
    scored: Array
    """bool [Z]: whether labels are scored on the window."""
    strong: Array
    """bool [Z]: whether the window is in the strongest quarter of the latent's sample."""
    fitted: Peaks
    """The peaks that labels are made from: the stronger half of the windows of fitted documents, weighted by
    √activation."""
    top_token: Array
    """int32 [m]: the most frequent token at the peaks of all windows of fitted documents; of equally frequent ones the
    smallest id; −1 without a window."""
    top: Peaks
    """The peaks of the strongest contexts in fitted documents, all with weight 1."""
    window: int
    fired: Array
    """bool [m, B]: background windows in which each latent fires."""

    @staticmethod
    def take(inputs: LabelInputs, text: LabelText, first: int, stop: int) -> Sample:
        """The samples of latents first … stop − 1."""
        # the chunk's entries of the sample, with offsets that begin at 0
        offsets = np.ascontiguousarray(inputs.offsets[first : stop + 1], np.int64)
        peaks = np.asarray(inputs.peaks[offsets[0] : offsets[-1]], np.int64)
        values = np.asarray(inputs.values[offsets[0] : offsets[-1]], np.float32)
        offsets = offsets - offsets[0]
        m = stop - first
        latent = np.repeat(np.arange(m), np.diff(offsets))
        # a latent with few windows: all of them are fitted, none is scored
        few = np.diff(offsets) < MIN_SAMPLE
        fit = text.fitted[peaks]
        few |= (np.bincount(latent[fit], minlength=m) < MIN_FITTED) | (np.diff(offsets) == 0)
        fit = fit | few[latent]
        top_token = _most_frequent(latent[fit], text.corpus.tokens[peaks[fit]], m)
        # keep the stronger half of the fitted windows, the median itself included
        fit &= ~(values < _quantiles(values, offsets, fit, 0.5)[latent])
        windows = peaks // inputs.window
        # which background windows each latent fires in, from a sparse list to a dense mask
        spans = inputs.background_offsets[first : stop + 1].astype(np.int64)
        fired = np.zeros((m, len(inputs.background)), bool)
        fired[np.repeat(np.arange(m), np.diff(spans)), inputs.background_fired[spans[0] : spans[-1]]] = True
        return Sample(
            offsets,
            peaks,
            windows,
            strong=values >= _quantiles(values, offsets, np.ones_like(fit), 0.75)[latent],
            scored=text.window_held_out[windows] & ~few[latent],
            fitted=Peaks.of(latent[fit], peaks[fit], np.sqrt(values[fit]), m),
            top_token=top_token,
            top=_top(inputs, text, first, stop, few=few),
            window=inputs.window,
            fired=fired,
        )


def _most_frequent(latent: Array, tokens: Array, m: int) -> Array:
    """Each latent's most frequent token, int32 [m], −1 for a latent without any. latent, tokens are int [Z]."""
    # latent and token packed into one integer, so that a one-dimensional unique counts pairs
    pairs, counts = np.unique(latent.astype(np.int64) << 32 | tokens, return_counts=True)
    order = np.lexsort((-pairs, counts))  # the last write wins: the highest count, and of equals the smallest token
    most_frequent = np.full(m, -1, np.int32)
    most_frequent[pairs[order] >> 32] = pairs[order] & 0xFFFFFFFF
    return most_frequent


def _top(inputs: LabelInputs, text: LabelText, first: int, stop: int, *, few: Array) -> Peaks:
    """The peaks of the strongest contexts in fitted documents, or in all documents for latents with `few` windows."""
    top = inputs.top[first:stop] if inputs.top is not None else np.empty((stop - first, 0), np.int64)
    latent, rank = np.nonzero(top >= 0)
    tokens = top[latent, rank].astype(np.int64)
    usable = text.fitted[tokens] | few[latent]
    return Peaks.of(latent[usable], tokens[usable], np.ones(int(usable.sum())), stop - first)


def _quantiles(values: Array, offsets: Array, mask: Array, level: float) -> Array:
    """The quantile of each latent's values inside `mask`, float64 [m]; NaN for a latent that has none."""
    spans = [slice(a, b) for a, b in pairwise(offsets.tolist())]
    selected = [values[span][mask[span]] for span in spans]
    return np.array([np.quantile(v, level) if len(v) else np.nan for v in selected])
