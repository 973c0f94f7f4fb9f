"""Makes a short label for every latent without a language model, from what is over-represented where it fires.

Place on the data's path: the feature build calls `label_latents` after its aggregation; the labels and their scores go
into the feature database. It works on arrays alone: no model, no tokenizer, no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from monosemy.features.labels.corpus import LabelText, Peaks, Sample
from monosemy.features.labels.inputs import LabelInputs
from monosemy.features.labels.log_odds import (
    WeightedItems,
    distinct_in_windows,
    kind_log_odds,
    over_represented,
)
from monosemy.features.labels.scores import Reader, Tables, merged, score_sample
from monosemy.features.labels.vocabulary import KINDS, read_vocabulary
from monosemy.features.labels.wording import Evidence, compose
from monosemy.support.numbers import fixed_percent_text

Array = np.ndarray[Any, np.dtype[Any]]

LABELS_VERSION = 2
"""Increased whenever the same inputs would get other labels or scores, so that databases are built again."""
_CHUNK = 1024
_N_ITEMS = 24
"""Number of over-represented items kept per latent and table."""
_MIN_Z = 3.0


@dataclass(frozen=True)
class Labels:
    """Labels of m latents, and how well they tell firing from silent windows of held-out documents."""

    texts: list[str]
    """[m]: labels such as `“July”, “June” after “in”; raises “August”`; empty for a latent that never fired."""
    hints: list[list[str]]
    """[m]: short remarks in plain words such as `months`, `at the start of a line` or `in French text`."""
    peak_tokens: list[list[tuple[int, float]]]
    """[m]: (token id, z of its log-odds) of the tokens over-represented at peaks, best first."""
    before_tokens: list[list[tuple[int, float]]]
    """[m]: the same for the token just before the peak."""
    columns: dict[str, Array] = field(default_factory=dict)
    """name → float32 [m], NaN where it cannot be computed:

    token_entropy                                   bits
    label_auroc, hidden_auroc, combined_auroc, top_token_auroc (and embedding_auroc if there are embeddings)
                                                    each with _low and _high; label and hidden also with _strong
    label_n, label_n_negative                       held-out firing and silent windows
    label_n_documents, label_n_negative_documents   the documents of these windows, on which the intervals rest
    """


def label_latents(inputs: LabelInputs) -> Labels:
    """Labels and scores of every latent (see `Labels`); the same inputs give the same labels.

    Documents are split once: labels are made from 60% of them and scored on the other 40%. A latent with fewer than ten
    sampled windows gets its label from all of them, and no scores. Raises ValueError when the arrays do not fit
    together.
    """
    inputs.check()
    vocabulary = read_vocabulary(inputs.token_texts, inputs.special, inputs.token_bytes)
    text = LabelText.read(inputs, vocabulary)
    readers = {"hidden": Reader.fit(inputs.hidden, text.window_fitted)}
    if inputs.embeddings is not None:
        readers["embedding"] = Reader.fit(inputs.embeddings, text.window_fitted)
    parts = [_label_chunk(inputs, text, readers, first) for first in range(0, inputs.n_latents, _CHUNK)]
    names = parts[0].columns if parts else {}
    return Labels(
        texts=[t for part in parts for t in part.texts],
        hints=[h for part in parts for h in part.hints],
        peak_tokens=[p for part in parts for p in part.peak_tokens],
        before_tokens=[b for part in parts for b in part.before_tokens],
        columns={name: np.concatenate([part.columns[name] for part in parts]) for name in names},
    )


def _label_chunk(inputs: LabelInputs, text: LabelText, readers: Mapping[str, Reader], first: int) -> Labels:
    """Labels of latents first … first + _CHUNK − 1."""
    # evidence twice: of the whole fitted sample, and of the strongest contexts alone
    stop = min(inputs.n_latents, first + _CHUNK)
    sample = Sample.take(inputs, text, first, stop)
    tables, strongest = (_tables(text, peaks, inputs.window) for peaks in (sample.fitted, sample.top))
    scores = score_sample(inputs, text, sample, merged(tables, strongest), readers=readers)
    labels = Labels([], [], [], [], columns=scores | {"token_entropy": _entropy(text, sample)})
    of_fitted = _evidence(inputs, text, sample.fitted, tables, first=first)
    of_top = _evidence(inputs, text, sample.top, strongest, first=first)
    background_rate = sample.fired.mean(1)
    for i in range(stop - first):
        label, hints = compose(of_fitted(i), of_top(i), text.corpus)
        if background_rate[i] >= 0.5:
            hints.append(f"fires in {fixed_percent_text(background_rate[i])} of all stretches of text")
        labels.texts.append(label)
        labels.hints.append(hints)
        # groups are shown by their commonest token
        for table, token_lists in enumerate((labels.peak_tokens, labels.before_tokens)):
            present = tables.groups[i, table] >= 0
            tokens = text.corpus.group_tokens[tables.groups[i, table][present]]
            token_lists.append(list(zip(tokens.tolist(), tables.z[i, table][present].tolist(), strict=True)))
    return labels


def _evidence(
    inputs: LabelInputs, text: LabelText, peaks: Peaks, tables: Tables, *, first: int
) -> Callable[[int], Evidence]:
    """A function from a latent's number in the chunk to the evidence about it."""
    places = peaks.shares(text.places.T[peaks.tokens])
    n_sources = max(1, len(text.corpus.sources))
    sources = peaks.shares(text.source_of[peaks.tokens, None] == np.arange(n_sources))

    def of(i: int) -> Evidence:
        return Evidence(
            peaks=peaks.tokens[peaks.offsets[i] : peaks.offsets[i + 1]],
            groups=tables.groups[i],
            shares=tables.share[i],
            kind_shares=tables.kind_share[i, 0],
            kind_odds=tables.kind_odds[i, 0],
            place_shares=places[i],
            source_shares=sources[i],
            raised=inputs.raised[first + i],
            raised_values=inputs.raised_values[first + i],
        )

    return of


def _tables(text: LabelText, peaks: Peaks, window: int) -> Tables:
    """Finds the over-represented groups at the peaks, just before them and in their windows, against all fitted text.

    The first two also get the log-odds and shares of the kinds of token.
    """
    m, n_kinds, at = len(peaks.totals), len(KINDS), peaks.tokens
    shape = (m, 3, _N_ITEMS)
    tables = Tables(
        np.empty(shape, np.int32),
        *(np.empty(shape, np.float32) for _ in range(3)),
        *(np.empty((m, 2, n_kinds), np.float32) for _ in range(2)),
    )

    # views into the result, which the compiled functions below fill in place
    def top(table: int) -> dict[str, Array]:
        columns = {"top_items": tables.groups, "odds": tables.odds, "z": tables.z, "share": tables.share}
        return {name: array[:, table] for name, array in columns.items()}

    vocabulary, tokens = text.corpus.vocabulary, text.corpus.tokens
    # a token before the peak counts only within the same document and if it is text
    before = np.maximum(at - 1, 0)
    has_before = (at > 0) & (text.documents[before] == text.documents[at]) & ~vocabulary.special[tokens[before]]
    n_tokens = float(text.group_counts.sum())
    for table, (positions, present) in enumerate([(at, np.ones_like(has_before)), (before, has_before)]):
        items = np.where(present, vocabulary.groups[tokens[positions]], -1).astype(np.int32)
        kinds = np.where(present, vocabulary.kinds[tokens[positions]], -1).astype(np.int8)
        counted = WeightedItems(items, peaks.weights, peaks.offsets, peaks.totals)
        over_represented(counted, text.group_counts, n_tokens, _MIN_Z, **top(table))
        odds, share = tables.kind_odds[:, table], tables.kind_share[:, table]
        kind_log_odds(counted._replace(items=kinds), text.kind_counts, n_tokens, odds, share=share)
    # the third table counts windows, not tokens: a group counts once per window
    around = np.empty((len(at), window), np.int32)
    distinct_in_windows(tokens, window, vocabulary.groups, at // window, out=around)
    weights = np.repeat(peaks.weights, window)
    counted = WeightedItems(around.reshape(-1), weights, peaks.offsets * window, peaks.totals)
    over_represented(counted, text.window_counts, float(text.window_fitted.sum()), _MIN_Z, **top(2))
    return tables


def _entropy(text: LabelText, sample: Sample) -> Array:
    """Entropy in bits of the token at the peak, over each latent's sample: float32 [m], NaN without a sample."""
    latent = np.repeat(np.arange(len(sample.fired)), np.diff(sample.offsets)).astype(np.int64)
    # (latent, token) packed into one integer, counted in one pass for all latents
    pairs, counts = np.unique(latent << 32 | text.corpus.tokens[sample.peaks], return_counts=True)
    n = np.diff(sample.offsets).astype(np.float64)
    p = counts / n[pairs >> 32]
    bits = np.bincount(pairs >> 32, -p * np.log2(p), minlength=len(n))
    # abs: a single token gives −0
    return np.where(n > 0, np.abs(bits), np.nan).astype(np.float32)
