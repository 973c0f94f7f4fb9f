"""Turns a build's arrays into the inputs of the labels (`labels.inputs.LabelInputs`).

Place on the path: `by_latent` → [label inputs] → `labels`. The background is one uniform draw of windows, shared by all
latents; a latent's firings tell in which of these windows it fires.
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

import numba
import numpy as np
from jaxtyping import Float32, Int32, Int64
from numpy import ndarray

from monosemy.features.building.by_latent import Firings, Text
from monosemy.features.store.settings import FeatureSettings


def draw_background(text: Text, settings: FeatureSettings) -> Int64[ndarray, " window"]:
    """Draws the background: increasing, distinct windows with at least one encoded token."""
    filled = np.flatnonzero(text.encoded.reshape(-1, text.window).any(1))
    n = min(settings.n_background, len(filled))
    return np.sort(np.random.default_rng(settings.seed).choice(filled, n, replace=False))


def background_firings(
    firings: Firings, text: Text, background: Int64[ndarray, " window"]
) -> tuple[Int64[ndarray, " m_plus_1"], Int32[ndarray, " y"]]:
    """The background windows in which each latent fires: (offsets, indices into `background`).

    Latent first + f has the indices offsets[f]:offsets[f+1].
    """
    # window → its index in the background, −1 outside it
    rank = np.full(text.n_windows, -1, np.int32)
    rank[background] = np.arange(len(background), dtype=np.int32)
    fired = np.empty(min(len(firings.token), firings.n_latents * len(background)), np.int32)
    offsets = np.zeros(firings.n_latents + 1, np.int64)
    n = _fired_in(firings.offsets, firings.token, text.window, rank, out_offsets=offsets, fired=fired)
    return offsets, fired[:n].copy()


@numba.njit(cache=True)
def _fired_in(offsets, token, size, rank, out_offsets, fired):
    """Fills out_offsets [m + 1] and fired with the ranks of the background windows; returns the number of entries."""
    n = 0
    for f in range(len(offsets) - 1):
        # firings are in token order, so several in one window follow one another and count once
        last = -1
        for z in range(offsets[f], offsets[f + 1]):
            window = token[z] // size
            if window != last and rank[window] >= 0:
                fired[n] = rank[window]
                n += 1
            last = window
        out_offsets[f + 1] = n
    return n


def sampled_peaks(
    sample: Int64[ndarray, "m n_sample"], sample_value: Float32[ndarray, "m n_sample"]
) -> tuple[Int64[ndarray, " m_plus_1"], Int64[ndarray, " z"], Float32[ndarray, " z"]]:
    """Packs the samples (−1: none) into (offsets, peaks, values)."""
    is_sampled = sample >= 0
    return (
        np.concatenate([[0], np.cumsum(is_sampled.sum(1))]).astype(np.int64),
        sample[is_sampled],
        sample_value[is_sampled],
    )
