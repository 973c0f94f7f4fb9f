"""The latents of every row, strongest first, by which rows that hold a word lead to latents.

Place on the path: codes → [row index] → database, in the place of the index from tokens to latents. A latent's strength
on a row is its activation as a share of its largest one, so that latents of different scales can be ranked.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Shaped
from numpy import ndarray

from monosemy.features.building.encode_pass import Codes

MOST_LATENTS = 16
"""Latents kept for each row."""


def row_index(codes: Codes, largest: Float32[ndarray, " d_sae"]) -> dict[str, Shaped[ndarray, " _"]]:
    """index_offsets [n + 1], index_latent and index_score: the strongest latents of each of n rows, best first."""
    row = np.repeat(np.arange(codes.n_tokens), np.diff(codes.offsets))
    strength = codes.values / largest[codes.indices]
    # By row, then by strength downwards, then by latent, so that ties do not depend on the order of the codes.
    order = np.lexsort((codes.indices, -strength, row))
    rank = np.arange(len(order)) - np.repeat(codes.offsets[:-1], np.diff(codes.offsets))
    leading = order[rank < MOST_LATENTS]
    counts = np.bincount(row[leading], minlength=codes.n_tokens)
    return {
        "index_offsets": np.concatenate([[0], np.cumsum(counts)]),
        "index_latent": codes.indices[leading],
        "index_score": strength[leading],
    }
