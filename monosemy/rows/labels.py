"""Labels of latents from the words of the rows on which they fire.

Place on the path: firings of the latents, texts of the rows → [labels and scores] → feature database. A label names the
words that are over-represented in the texts of the rows on which a latent is strongest, against all rows; a word counts
once in a row. The log-odds are those of `features.labels.log_odds`.

    score of a row = Σ over its distinct words of their log-odds for the latent
    AUROC          = P(score of a row on which the latent fires > score of one on which it is silent) + ½ P(equal)

Labels are made from 60% of the rows' groups and scored on the others (as in `features.labels`); a latent with fewer
than ten sampled rows gets its label from all of them, and no score.
Limits: words are runs of letters and digits, in lower case, the first `MOST_WORDS` of each row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, Int64
from numpy import ndarray

from monosemy.features.labels.corpus import MIN_SAMPLE, Peaks, is_fitted
from monosemy.features.labels.inputs import LabelInputs
from monosemy.features.labels.labelling import Labels
from monosemy.features.labels.log_odds import WeightedItems, over_represented
from monosemy.features.labels.scores import areas, auroc_interval, n_documents

MOST_WORDS = 128
_N_WORDS = 24
"""Number of over-represented words that a label's score rests on."""
_N_NAMED = 3
_MIN_Z = 3.0
_CHUNK = 256
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


@dataclass(frozen=True)
class RowWords:
    """The distinct words of n rows; row i has words[offsets[i]:offsets[i+1]]."""

    offsets: Int64[ndarray, " n_plus_1"]
    words: Int32[ndarray, " z"]
    names: Sequence[str]

    @staticmethod
    def read(texts: Sequence[str]) -> RowWords:
        """The words of the texts, numbered in the order in which they first occur."""
        numbers: dict[str, int] = {}
        words: list[int] = []
        offsets = np.zeros(len(texts) + 1, np.int64)
        for row, text in enumerate(texts):
            distinct = dict.fromkeys(_WORD.findall(text.lower())[:MOST_WORDS])
            words += [numbers.setdefault(word, len(numbers)) for word in distinct]
            offsets[row + 1] = len(words)
        return RowWords(offsets, np.array(words, np.int32), list(numbers))

    def of(self, rows: Int[ndarray, " k"]) -> tuple[Int64[ndarray, " k_plus_1"], Int32[ndarray, " y"]]:
        """The words of some rows, as (offsets, words)."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return offsets, self.words[places]


@dataclass(frozen=True)
class RowLabels:
    """Labels the latents of an SAE on n rows."""

    words: RowWords
    groups: Int[ndarray, " n"]
    """The group of every row; rows of one group are all fitted or all scored."""

    def __call__(self, inputs: LabelInputs) -> Labels:
        """The labels of all latents; a *token index* of the inputs is the number of a row."""
        parts = [self._chunk(inputs, first) for first in range(0, inputs.n_latents, _CHUNK)]
        names = parts[0].columns if parts else {}
        n = inputs.n_latents
        return Labels(
            texts=[text for part in parts for text in part.texts],
            hints=[[] for _ in range(n)],
            peak_tokens=[[] for _ in range(n)],
            before_tokens=[[] for _ in range(n)],
            columns={name: np.concatenate([part.columns[name] for part in parts]) for name in names},
        )

    def _chunk(self, inputs: LabelInputs, first: int) -> Labels:
        """The labels of latents first … first + _CHUNK − 1."""
        m = min(_CHUNK, inputs.n_latents - first)
        fitted = is_fitted(self.groups.astype(np.int64), inputs.seed)
        offsets = inputs.offsets[first : first + m + 1]
        rows, values = (array[offsets[0] : offsets[-1]] for array in (inputs.peaks, inputs.values))
        offsets = offsets - offsets[0]
        latent = np.repeat(np.arange(m), np.diff(offsets))
        few = np.diff(offsets) < MIN_SAMPLE
        fit = fitted[rows] | few[latent]
        sample = Peaks.of(latent[fit], rows[fit], np.sqrt(values[fit]), m)
        top_words, odds = self._over_represented(sample, fitted)
        texts = [
            ", ".join(f"“{self.words.names[word]}”" for word in best[:_N_NAMED] if word >= 0) for best in top_words
        ]
        columns = self._scores(inputs, first, (offsets, rows, ~fitted[rows] & ~few[latent]), top_words, odds=odds)
        return Labels(texts, [], [], [], columns=columns)

    def _over_represented(
        self, sample: Peaks, fitted: Bool[ndarray, " n"]
    ) -> tuple[Int32[ndarray, "m k"], Float32[ndarray, "m k"]]:
        """(words, log-odds) of each latent, best first, −1 after the last."""
        m = len(sample.totals)
        n_words = max(1, len(self.words.names))
        row_offsets, items = self.words.of(sample.tokens)
        lengths = np.diff(row_offsets)
        counted = WeightedItems(items, np.repeat(sample.weights, lengths), row_offsets[sample.offsets], sample.totals)
        background = np.bincount(self.words.of(np.flatnonzero(fitted))[1], minlength=n_words).astype(np.float64)
        top_words = np.empty((m, _N_WORDS), np.int32)
        odds, z, share = (np.empty((m, _N_WORDS), np.float32) for _ in range(3))
        over_represented(
            counted, background, float(fitted.sum()), _MIN_Z, top_items=top_words, odds=odds, z=z, share=share
        )
        return top_words, odds

    def _scores(
        self,
        inputs: LabelInputs,
        first: int,
        sample: tuple[Int64[ndarray, " m_plus_1"], Int64[ndarray, " z"], Bool[ndarray, " z"]],
        top_words: Int32[ndarray, "m k"],
        *,
        odds: Float32[ndarray, "m k"],
    ) -> dict[str, Float32[ndarray, " m"]]:
        """The AUROC of every latent's label with its interval, and the counts behind it.

        `sample` is (offsets, rows, whether the row is scored) of the rows on which the latents fire.
        """
        offsets, rows, scored = sample
        m = len(top_words)
        spans = inputs.background_offsets[first : first + m + 1].astype(np.int64)
        fired = np.zeros((m, len(inputs.background)), bool)
        fired[np.repeat(np.arange(m), np.diff(spans)), inputs.background_fired[spans[0] : spans[-1]]] = True
        silent = ~fired & ~is_fitted(self.groups.astype(np.int64), inputs.seed)[inputs.background]
        positive = np.empty(len(rows), np.float32)
        negative = np.empty(fired.shape, np.float32)
        of_background = self.words.of(inputs.background)
        for i in range(m):
            table = np.zeros(len(self.words.names) + 1, np.float32)
            present = top_words[i] >= 0
            table[top_words[i][present]] = odds[i][present]
            span = slice(offsets[i], offsets[i + 1])
            positive[span] = _sums(table, *self.words.of(rows[span]))
            negative[i] = _sums(table, *of_background)
        area = np.empty(m)
        areas(positive, negative, offsets, scored, background_mask=silent, out=area)
        n_positive, n_negative = np.empty(m), np.empty(m)
        n_documents(self.groups[rows], offsets, scored, n_positive)
        of_all = np.tile(self.groups[inputs.background], m)
        n_documents(of_all, np.arange(m + 1) * len(inputs.background), silent.reshape(-1), n_negative)
        latent = np.repeat(np.arange(m), np.diff(offsets))
        has_label = top_words[:, 0] >= 0
        area = np.where(has_label, area, np.nan)
        low, high = auroc_interval(area, n_positive, n_negative)
        columns = {
            "label_auroc": area,
            "label_auroc_low": low,
            "label_auroc_high": high,
            "label_n": np.bincount(latent[scored], minlength=m),
            "label_n_negative": silent.sum(1),
            "label_n_documents": n_positive,
            "label_n_negative_documents": n_negative,
        }
        return {name: np.asarray(column, np.float32) for name, column in columns.items()}


def _sums(
    table: Float32[ndarray, " words"], offsets: Int64[ndarray, " k_plus_1"], words: Int32[ndarray, " y"]
) -> Float32[ndarray, " k"]:
    """The sum of the table's entries over the words of each row."""
    totals = np.concatenate([[0.0], np.cumsum(table[words], dtype=np.float64)])
    return (totals[offsets[1:]] - totals[offsets[:-1]]).astype(np.float32)


def no_labels(inputs: LabelInputs) -> Labels:
    """Empty labels, for rows without texts."""
    n = inputs.n_latents
    return Labels([""] * n, [[] for _ in range(n)], [[] for _ in range(n)], [[] for _ in range(n)])
