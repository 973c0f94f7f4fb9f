"""The settings of a feature build, which are recorded in features.json, and the names of the example groups.

Place on the path: used by both the build and the reader.
"""

from __future__ import annotations

from dataclasses import dataclass

FORMAT = 2
TOP, NEAR_MISS, RANDOM = "top", "near_miss", "random"
N_QUANTILES = 5
GROUPS = (TOP, *(f"q{i}" for i in range(N_QUANTILES)), NEAR_MISS, RANDOM)
"""Example groups in the order in which they are stored.

q0 … q4 are fifths of the windows in which the latent fires, ordered by peak: q0 is the weakest, q4 the strongest.
"""
LEVELS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
"""Levels of the stored quantiles of positive activations."""


@dataclass(frozen=True)
class FeatureSettings:
    """How much is kept per latent."""

    window: int = 32
    """Tokens in a window; contexts are cut into whole windows (shortened where it does not divide the context)."""
    n_top: int = 16
    """Contexts with the highest peaks, one example a context."""
    n_per_quantile: int = 4
    """Windows drawn from each fifth of the firing windows."""
    n_near_miss: int = 12
    """Windows without a firing in which the latent's nearest neighbours fire."""
    n_random: int = 12
    """Windows without a firing, drawn uniformly."""
    n_sample: int = 256
    """Firing windows drawn uniformly, for labels (not kept)."""
    n_background: int = 2048
    """Windows drawn uniformly for all latents, for labels (not kept)."""
    n_bins: int = 30
    """Bins of the histogram of positive activations, equal widths from the smallest to the largest."""
    n_position_buckets: int = 16
    """Equal parts of a context in which firings are counted."""
    n_neighbours: int = 10
    n_output_tokens: int = 15
    n_index_tokens: int = 16
    """Tokens a latent is listed under in the token index."""
    n_label_tokens: int = 6
    """Over-represented tokens kept of those a label is made from, at the peaks and just before."""
    n_sketch: int = 256
    """Length of the projection by which activations of two databases over one text are correlated."""
    seed: int = 0
