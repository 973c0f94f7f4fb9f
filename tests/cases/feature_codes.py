"""Codes made by hand, and the aggregation written plainly: dense arrays, one latent at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from monosemy.features.building.by_latent import Text, document_ends
from monosemy.features.building.encode_pass import Codes
from monosemy.features.store.settings import LEVELS, N_QUANTILES, FeatureSettings

T, WINDOW, VOCABULARY = 16, 4, 7
SETTINGS = FeatureSettings(
    window=WINDOW,
    n_top=3,
    n_per_quantile=2,
    n_near_miss=2,
    n_random=2,
    n_sample=5,
    n_background=6,
    n_bins=5,
    n_position_buckets=4,
    n_neighbours=3,
    n_index_tokens=3,
    n_sketch=64,
)


def codes_of(dense: np.ndarray) -> Codes:
    """[N, m] → compressed rows."""
    rows, columns = np.nonzero(dense)
    offsets = np.concatenate([[0], np.cumsum((dense != 0).sum(1))]).astype(np.int64)
    return Codes(offsets, columns.astype(np.int32), dense[rows, columns].astype(np.float32), dense.shape[1])


def text_of(n_sequences: int, seed: int = 0, encoded: np.ndarray | None = None) -> Text:
    """Random tokens; a new document about every ten tokens; first positions not encoded unless `encoded` is given."""
    random = np.random.default_rng(seed)
    tokens = random.integers(0, VOCABULARY, (n_sequences, T)).astype(np.int32)
    if encoded is None:
        encoded = np.ones(tokens.shape, bool)
        encoded[:, 0] = False
        encoded = encoded.reshape(-1)
    first, last = document_ends(np.cumsum(random.random(tokens.size) < 0.1), encoded)
    return Text(tokens, WINDOW, first, last, encoded=encoded, n_vocabulary=VOCABULARY)


@st.composite
def dense_codes(draw: st.DrawFn) -> tuple[np.ndarray, Text]:
    """Few different values, so that peaks tie; latent 0 never fires, latent 1 fires on every encoded token."""
    n_sequences, m = draw(st.integers(1, 5)), draw(st.integers(3, 6))
    values = hnp.arrays(np.float32, (n_sequences * T, m), elements=st.sampled_from([0, 0, 0, 0.5, 1, 2.5]))
    dense = draw(values)
    text = text_of(n_sequences, draw(st.integers(0, 99)))
    dense[:, 0] = 0
    dense[:, 1] = 1 + dense[:, 1]
    dense[~text.encoded] = 0
    return dense, text


def statistics_of(column: np.ndarray, text: Text) -> dict[str, object]:
    """What `summarise` must find for one latent, from its activations [N]."""
    where = np.flatnonzero(column)
    value, place = column[where].astype(np.float64), where % T
    if not len(where):
        return {"n": 0, "max": 0.0, "mean": np.nan}
    tokens = text.tokens.reshape(-1)[where]
    share = np.bincount(tokens, minlength=VOCABULARY) / len(where)
    edges = np.linspace(value.min(), value.max(), SETTINGS.n_bins + 1)
    inner = (
        np.searchsorted(edges[1:-1], value, side="right") if value.max() > value.min() else np.zeros(len(where), int)
    )
    return {
        "n": len(where),
        "mean": value.mean(),
        "min": value.min(),
        "max": value.max(),
        "first_share": text.first_of_document[where].mean(),
        "last_share": text.last_of_document[where].mean(),
        "mean_position": place.mean(),
        "token_entropy": -sum(p * np.log2(p) for p in share if p),
        "quantiles": np.quantile(value, LEVELS),
        "histogram": np.bincount(inner, minlength=SETTINGS.n_bins),
        "positions": np.bincount(place * SETTINGS.n_position_buckets // T, minlength=SETTINGS.n_position_buckets),
    }


def peaks_of(column: np.ndarray, size: int) -> list[tuple[int, float]]:
    """(token, value) of the peak of every stretch of `size` tokens that holds a firing; the first of equal ones."""
    peaks = []
    for start in range(0, len(column), size):
        part = column[start : start + size]
        if part.any():
            peaks.append((start + int(part.argmax()), float(part.max())))
    return peaks


def top_contexts(column: np.ndarray) -> list[int]:
    ranked = sorted(peaks_of(column, T), key=lambda pair: (-pair[1], pair[0]))
    return [token for token, _ in ranked[: SETTINGS.n_top]]


def fifths(column: np.ndarray) -> list[set[int]]:
    """The peaks of the firing windows in each fifth, weakest first."""
    ranked = [token for token, _ in sorted(peaks_of(column, WINDOW), key=lambda pair: (pair[1], pair[0]))]
    n = len(ranked)
    return [set(ranked[q * n // N_QUANTILES : (q + 1) * n // N_QUANTILES]) for q in range(N_QUANTILES)]


def index_scores(column: np.ndarray, text: Text) -> dict[int, float]:
    tokens = text.tokens.reshape(-1)
    return {
        v: float(
            np.sqrt(column[here].sum() / column.sum() * column[here & text.encoded].sum() / column.max() / n_encoded)
        )
        for v in range(VOCABULARY)
        if (here := tokens == v)[column > 0].any() and (n_encoded := (here & text.encoded).sum())
    }
