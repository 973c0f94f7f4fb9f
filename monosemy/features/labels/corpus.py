"""The text of the pass and a latent's sampled windows, arranged for labels.

Place on the data's path: `LabelInputs` → `LabelText` (once) and `Sample` (per chunk of latents) → `labels`.
Documents are split once into those that labels are made from and those they are scored on, by a hash of the
document's number; windows that hold text of both kinds are left out of the scores. Labels are made from the stronger
half of the firing windows at hand: the weak half blurs them, and leaving it out costs the scores little.
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
"""Sampled windows below which a label is made from all of them and not scored."""
MIN_FITTED = 4
"""The same for windows in documents to make labels from."""


@dataclass(frozen=True)
class LabelText:
    """The pass's tokens, flat, with what labels ask of every position."""

    corpus: Corpus
    documents: Array
    """int64 [N]"""
    fitted: Array
    """bool [N]: the token's document is one to make labels from."""
    window_fitted: Array
    """bool [W]: all of the window's text is."""
    window_held_out: Array
    """bool [W]: all of the window's text is held out."""
    places: Array
    """bool [4, N]: start and end of a document, start of a line, start of a sentence."""
    source_of: Array
    """int32 [N]"""
    group_counts: Array
    """float64 [G]: over fitted text."""
    kind_counts: Array
    """float64 [kinds]: over fitted text."""
    window_counts: Array
    """float64 [G]: fitted windows that hold the group."""

    @staticmethod
    def read(inputs: LabelInputs, vocabulary: Vocabulary) -> LabelText:
        tokens = np.ascontiguousarray(inputs.tokens, np.int32).reshape(-1)
        documents = np.ascontiguousarray(inputs.documents, np.int64).reshape(-1)
        fitted = _is_fitted(documents, inputs.seed)
        by_window = fitted.reshape(-1, inputs.window)
        counted = ~vocabulary.special[tokens]
        if not (counted & fitted).any():  # one single document: nothing to hold out
            fitted = np.ones_like(fitted)
            by_window = fitted.reshape(-1, inputs.window)
        places = _places(tokens, documents, vocabulary)
        joined = np.zeros(len(tokens), bool)
        joined[1:] = vocabulary.joins_left[tokens[1:]] & vocabulary.joins_right[tokens[:-1]]
        joined[:: inputs.tokens.shape[1]] = False  # a sequence begins a word
        joined[1:] &= documents[1:] == documents[:-1]
        names = sorted(set(inputs.document_sources))
        number = {name: k for k, name in enumerate(names)}
        by_document = np.array([number[name] for name in inputs.document_sources] or [0], np.int32)
        source_of = by_document[documents] if names else np.zeros(len(tokens), np.int32)
        groups = vocabulary.groups[tokens]
        window_fitted, counted_fitted = np.all(by_window, axis=1), fitted & counted
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
    """Share of each group's occurrences that neither continue a word nor are continued."""
    is_whole = ~joined
    is_whole[:-1] &= ~joined[1:]
    n = np.bincount(groups, minlength=n_groups)
    return np.bincount(groups[is_whole], minlength=n_groups) / np.maximum(n, 1)


def _commonest(tokens: Array, vocabulary: Vocabulary) -> Array:
    """The commonest token of each group, int32 [G]; any of them for a group that does not occur."""
    rising = np.argsort(np.bincount(tokens, minlength=len(vocabulary.groups)), kind="stable")
    group_tokens = np.zeros(vocabulary.n_groups, np.int32)
    group_tokens[vocabulary.groups[rising]] = rising  # the last one written stays
    return group_tokens


def _common(raised: Array) -> frozenset[int]:
    """Tokens among the first five raised of more than 1% of the latents (and of more than four)."""
    tokens, counts = np.unique(raised[:, :5], return_counts=True)
    return frozenset(tokens[counts > max(4, 0.01 * len(raised))].tolist())


def _is_fitted(documents: Array, seed: int) -> Array:
    """Whether each document is one to make labels from: a hash of its number, so that more text moves none."""
    mixed = documents.astype(np.uint64) + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed ^ (mixed >> np.uint64(31))) % np.uint64(100) < np.uint64(_FITTED_PER_CENT)


def _places(tokens: Array, documents: Array, vocabulary: Vocabulary) -> Array:
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
    """Peaks of m latents, Z in all."""

    offsets: Array
    """int64 [m + 1]"""
    tokens: Array
    """int64 [Z]: token indices."""
    weights: Array
    """float32 [Z]: averaging 1 over each latent."""

    @staticmethod
    def of(latent: Array, tokens: Array, weights: Array, m: int) -> Peaks:
        """latent int [Z], in increasing order; weights > 0, any scale."""
        n = np.bincount(latent, minlength=m)
        means = np.bincount(latent, weights, minlength=m) / np.maximum(n, 1)
        scaled = (weights / np.maximum(means[latent], 1e-30)).astype(np.float32)
        return Peaks(np.concatenate([[0], np.cumsum(n)]), tokens, scaled)

    @property
    def totals(self) -> Array:
        """float32 [m]: Σ weights = number of peaks."""
        return np.diff(self.offsets).astype(np.float32)

    @property
    def latent(self) -> Array:
        """int64 [Z]"""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def shares(self, flags: Array) -> Array:
        """Weighted share of each latent's peaks with each flag: bool [Z, n] → float32 [m, n]."""
        sums = np.zeros((len(self.offsets) - 1, flags.shape[1]), np.float32)
        np.add.at(sums, self.latent, flags * self.weights[:, None])
        return sums / np.maximum(self.totals, 1)[:, None]


@dataclass(frozen=True)
class Sample:
    """The sampled windows of a chunk of latents: all of them, and those that labels are made from."""

    offsets: Array
    peaks: Array
    windows: Array
    scored: Array
    """bool [Z]: scored on."""
    strong: Array
    """bool [Z]: among the strongest quarter of the latent's sample."""
    fitted: Peaks
    """What labels are made from: the stronger half of the windows of fitted documents, weighted by √activation."""
    top_token: Array
    """int32 [m]: the most frequent token at the peaks of all windows of fitted documents, the smallest id of equally
    frequent ones; −1 without a window."""
    top: Peaks
    """The peaks of the strongest contexts of fitted documents, weighted alike."""
    window: int
    fired: Array
    """bool [m, B]: background windows in which each latent fires."""

    @staticmethod
    def take(inputs: LabelInputs, text: LabelText, first: int, stop: int) -> Sample:
        offsets = np.ascontiguousarray(inputs.offsets[first : stop + 1], np.int64)
        peaks = np.asarray(inputs.peaks[offsets[0] : offsets[-1]], np.int64)
        values = np.asarray(inputs.values[offsets[0] : offsets[-1]], np.float32)
        offsets = offsets - offsets[0]
        m = stop - first
        latent = np.repeat(np.arange(m), np.diff(offsets))
        few = np.diff(offsets) < MIN_SAMPLE
        fit = text.fitted[peaks]
        few |= (np.bincount(latent[fit], minlength=m) < MIN_FITTED) | (np.diff(offsets) == 0)
        fit = fit | few[latent]
        top_token = _most_frequent(latent[fit], text.corpus.tokens[peaks[fit]], m)
        fit &= ~(values < _quantiles(values, offsets, fit, 0.5)[latent])
        windows = peaks // inputs.window
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
    """Each latent's most frequent token, int32 [m]. latent, tokens [Z]."""
    pairs, counts = np.unique(latent.astype(np.int64) << 32 | tokens, return_counts=True)
    order = np.lexsort((-pairs, counts))  # the last one written stays
    most_frequent = np.full(m, -1, np.int32)
    most_frequent[pairs[order] >> 32] = pairs[order] & 0xFFFFFFFF
    return most_frequent


def _top(inputs: LabelInputs, text: LabelText, first: int, stop: int, *, few: Array) -> Peaks:
    """The strongest contexts' peaks in fitted documents; all of them for latents with `few` windows."""
    top = inputs.top[first:stop] if inputs.top is not None else np.empty((stop - first, 0), np.int64)
    latent, rank = np.nonzero(top >= 0)
    tokens = top[latent, rank].astype(np.int64)
    usable = text.fitted[tokens] | few[latent]
    return Peaks.of(latent[usable], tokens[usable], np.ones(int(usable.sum())), stop - first)


def _quantiles(values: Array, offsets: Array, mask: Array, level: float) -> Array:
    """The quantile of each latent's chosen values; NaN where none is chosen. float64 [m]."""
    spans = [slice(a, b) for a, b in pairwise(offsets.tolist())]
    selected = [values[span][mask[span]] for span in spans]
    return np.array([np.quantile(v, level) if len(v) else np.nan for v in selected])
