"""Short labels for every latent, without a language model: what is over-represented where it fires.

Place on the data's path: the feature build calls `label_latents` once its aggregation is done; the labels and their
scores go into the feature database. Everything is arrays in, arrays out: no model, no tokenizer, no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from monosemy.features.labels.corpus import LabelText, Peaks, Sample
from monosemy.features.labels.counts import distinct_in_windows, kind_log_odds, over_represented
from monosemy.features.labels.scores import Reader, Tables, merged, score_sample
from monosemy.features.labels.text import Evidence, compose
from monosemy.features.labels.vocabulary import KINDS, read_vocabulary

Array = np.ndarray[Any, np.dtype[Any]]

LABELS_VERSION = 2
"""Raised whenever the same inputs would get other labels or scores, so that databases are built again."""
_CHUNK = 1024
_N_ITEMS = 24
"""Over-represented items kept for each latent and table."""
_MIN_Z = 3.0


@dataclass(frozen=True)
class LabelInputs:
    """What labels are made from: m latents over N = S·T tokens, cut into W = S·(T / window) windows.

    A *token index* is flat: sequence · T + position. Window w covers token indices [w · window, (w + 1) · window).
    """

    tokens: Array
    """int32 [S, T]: the token ids of the pass."""
    documents: Array
    """int32 [S, T]: the document of every token, as in the token store."""
    window: int
    """Tokens in a window (32); divides T."""
    hidden: Array
    """float16 or float32 [W, d]: the mean hidden state of every window at the SAE's own site, over the positions that
    count (first positions with their massive activations and special tokens left out)."""
    token_texts: Sequence[str]
    """[V]: the text of every token id decoded alone: leading space kept, broken bytes as U+FFFD."""
    token_bytes: Sequence[bytes] | None
    """[V]: the exact bytes of every token id, so that words made of byte fragments can be read; None if unknown."""
    special: Array
    """bool [V]: tokens that are no text (separators, BOS, padding, chat marks)."""
    offsets: Array
    """int64 [m + 1]: latent i's sampled positives are entries offsets[i]:offsets[i+1] of `peaks` and `values`."""
    peaks: Array
    """int64 [Z]: token index of the largest activation in each sampled window.

    The sample is uniform over the windows in which the latent fires (≤ ~256 a latent), one entry a window.
    """
    values: Array
    """float32 [Z]: the activation there, > 0."""
    top: Array | None
    """int64 [m, n]: token index of the peak in each of the latent's strongest contexts, best first, −1 after the last;
    None: unknown, then labels rest on the sample alone."""
    background: Array
    """int64 [B]: windows drawn uniformly over all W without replacement, the same for all latents (~2,048)."""
    background_offsets: Array
    """int64 [m + 1]: latent i fires in the background windows background_fired[offsets[i]:offsets[i+1]]."""
    background_fired: Array
    """int32 [Y]: indices into `background` (0 … B − 1)."""
    raised: Array
    """int32 [m, k]: the output tokens each latent raises most, best first; k may be 0."""
    raised_values: Array
    """float32 [m, k]: by how much (logits per unit of activation)."""
    document_sources: Sequence[str] = ()
    """[number of documents]: the name of each document's source (a corpus, a language); empty when there is one."""
    embeddings: Array | None = None
    """float32 [W, e]: windows embedded by a sentence-embedding model, where one was named."""
    seed: int = 0

    @property
    def n_latents(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True)
class Labels:
    """Labels of m latents, and how well they tell firing from non-firing windows of held-out documents."""

    texts: list[str]
    """[m]: `“July”, “June” after “in”; raises “August”`; an empty string for a latent that never fired."""
    hints: list[list[str]]
    """[m]: short plain remarks: `months`, `first token of a word in capitals`, `mostly in python_docs`."""
    peak_tokens: list[list[tuple[int, float]]]
    """[m]: (token id, log-odds in standard deviations) of tokens over-represented at peaks, best first."""
    before_tokens: list[list[tuple[int, float]]]
    """[m]: the same for the token just before the peak."""
    columns: dict[str, Array] = field(default_factory=dict)
    """name → float32 [m], NaN where it cannot be computed: token_entropy (bits); AUROCs label_auroc, hidden_auroc,
    combined_auroc, top_token_auroc (and embedding_auroc where embeddings are given), each with _low and _high, and
    _strong for label and hidden; label_n and label_n_negative, the held-out windows, label_n_documents and
    label_n_negative_documents, the documents they are of, which the intervals count."""


def label_latents(inputs: LabelInputs) -> Labels:
    """Labels and scores of every latent (see `Labels`). Deterministic given `inputs`.

    Documents are split once: 60% to make labels from, 40% to score them on. A latent with fewer than ten sampled
    windows gets its label from all of them, and no scores. Raises ValueError when the arrays do not fit together.
    """
    _check(inputs)
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


def _check(inputs: LabelInputs) -> None:
    n_windows = inputs.tokens.size // inputs.window
    if inputs.tokens.shape[1] % inputs.window:
        raise ValueError(f"windows of {inputs.window} tokens do not divide sequences of {inputs.tokens.shape[1]}")
    if inputs.tokens.shape != inputs.documents.shape or len(inputs.hidden) != n_windows:
        raise ValueError(f"documents {inputs.documents.shape} or hidden {inputs.hidden.shape} do not fit the tokens")
    if not len(inputs.offsets) == len(inputs.background_offsets) == len(inputs.raised) + 1:
        raise ValueError("offsets, background_offsets and raised are of different numbers of latents")
    if not int(inputs.offsets[-1]) == len(inputs.peaks) == len(inputs.values):
        raise ValueError("peaks and values must have offsets[-1] entries")


def _label_chunk(inputs: LabelInputs, text: LabelText, readers: Mapping[str, Reader], first: int) -> Labels:
    """Labels of latents first … first + _CHUNK."""
    stop = min(inputs.n_latents, first + _CHUNK)
    sample = Sample.take(inputs, text, first, stop)
    tables, strongest = (_tables(text, peaks, inputs.window) for peaks in (sample.fitted, sample.top))
    scores = score_sample(inputs, text, sample, merged(tables, strongest), readers)
    labels = Labels([], [], [], [], scores | {"token_entropy": _entropy(text, sample)})
    of_fitted = _evidence(inputs, text, sample.fitted, tables, first)
    of_top = _evidence(inputs, text, sample.top, strongest, first)
    often = sample.fired.mean(1)
    for i in range(stop - first):
        label, hints = compose(of_fitted(i), of_top(i), text.corpus)
        if often[i] >= 0.5:
            hints.append(f"fires in {often[i]:.0%} of all stretches of text")
        labels.texts.append(label)
        labels.hints.append(hints)
        for table, listed in enumerate((labels.peak_tokens, labels.before_tokens)):
            kept = tables.found[i, table] >= 0
            tokens = text.corpus.group_tokens[tables.found[i, table][kept]]
            listed.append(list(zip(tokens.tolist(), tables.z[i, table][kept].tolist(), strict=True)))
    return labels


def _evidence(
    inputs: LabelInputs, text: LabelText, peaks: Peaks, tables: Tables, first: int
) -> Callable[[int], Evidence]:
    """What is known of each latent of a chunk, by its number in the chunk."""
    places = peaks.shares(text.places.T[peaks.tokens])
    n_sources = max(1, len(text.corpus.sources))
    sources = peaks.shares(text.source_of[peaks.tokens, None] == np.arange(n_sources))

    def of(i: int) -> Evidence:
        return Evidence(
            peaks=peaks.tokens[peaks.offsets[i] : peaks.offsets[i + 1]],
            groups=tables.found[i],
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
    """Over-represented groups and kinds at the peaks, just before them, and in their windows."""
    m, n_kinds, at = len(peaks.totals), len(KINDS), peaks.tokens
    shape = (m, 3, _N_ITEMS)
    tables = Tables(
        np.empty(shape, np.int32), *(np.empty(shape, np.float32) for _ in range(3)),
        *(np.empty((m, 2, n_kinds), np.float32) for _ in range(2)),
    )  # fmt: skip
    vocabulary, tokens = text.corpus.vocabulary, text.corpus.tokens
    before = np.maximum(at - 1, 0)
    there = (at > 0) & (text.documents[before] == text.documents[at]) & ~vocabulary.special[tokens[before]]
    n_tokens = float(text.group_counts.sum())
    for table, (positions, present) in enumerate([(at, np.ones_like(there)), (before, there)]):
        items = np.where(present, vocabulary.groups[tokens[positions]], -1).astype(np.int32)
        kinds = np.where(present, vocabulary.kinds[tokens[positions]], -1).astype(np.int8)
        over_represented(
            items, peaks.weights, peaks.offsets, peaks.totals, text.group_counts, n_tokens, _MIN_Z,
            tables.found[:, table], tables.odds[:, table], tables.z[:, table], tables.share[:, table],
        )  # fmt: skip
        kind_log_odds(
            kinds, peaks.weights, peaks.offsets, peaks.totals, text.kind_counts, n_tokens,
            tables.kind_odds[:, table], tables.kind_share[:, table],
        )  # fmt: skip
    around = np.empty((len(at), window), np.int32)
    distinct_in_windows(tokens, window, vocabulary.groups, at // window, around)
    over_represented(
        around.reshape(-1), np.repeat(peaks.weights, window), peaks.offsets * window, peaks.totals,
        text.window_counts, float(text.window_fitted.sum()), _MIN_Z,
        tables.found[:, 2], tables.odds[:, 2], tables.z[:, 2], tables.share[:, 2],
    )  # fmt: skip
    return tables


def _entropy(text: LabelText, sample: Sample) -> Array:
    """Entropy, in bits, of the token at the peak over each latent's sample; NaN without one. float32 [m]."""
    latent = np.repeat(np.arange(len(sample.fired)), np.diff(sample.offsets)).astype(np.int64)
    pairs, counts = np.unique(latent << 32 | text.corpus.tokens[sample.peaks], return_counts=True)
    n = np.diff(sample.offsets).astype(np.float64)
    p = counts / n[pairs >> 32]
    bits = np.bincount(pairs >> 32, -p * np.log2(p), minlength=len(n))
    return np.where(n > 0, np.abs(bits), np.nan).astype(np.float32)
