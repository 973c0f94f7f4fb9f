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
    """How much text a feature build looks at, and how much it keeps per latent."""

    window: int = 32
    """Number of tokens in a window; a build takes the largest number up to this that divides the context."""
    n_top: int = 16
    """Number of contexts with the highest peaks that are kept, one example per context."""
    n_per_quantile: int = 4
    """Number of windows drawn from each fifth of the firing windows."""
    n_near_miss: int = 12
    """Number of windows kept in which the latent is silent but one of its nearest neighbours fires."""
    n_random: int = 12
    """Number of windows drawn uniformly from those in which the latent is silent."""
    n_sample: int = 256
    """Number of firing windows drawn uniformly for labels (not kept in the database)."""
    n_background: int = 2048
    """Number of windows drawn uniformly for the labels of all latents (not kept in the database)."""
    n_bins: int = 30
    """Number of bins of the histogram of positive activations, with equal widths from the smallest to the largest."""
    n_position_buckets: int = 16
    """Number of equal parts of a context in which firings are counted."""
    n_neighbours: int = 10
    """Number of neighbours kept by decoder direction, and as many by co-activation."""
    n_output_tokens: int = 15
    """Number of output tokens kept that the latent raises most, and as many that it lowers."""
    n_index_tokens: int = 16
    """Number of tokens under which a latent is listed in the token index."""
    n_label_tokens: int = 6
    """Number of over-represented tokens kept at the peaks, and as many just before them."""
    n_sketch: int = 256
    """Length of the sketch by which activations of two databases over the same text are correlated."""
    seed: int = 0
    """Seed of everything that is drawn."""
