"""What fires in a text, pooled over its tokens: all that monitors and probes read of it.

Place on the path: a text's sparse code → [firings, pooled] → verdicts, probes. Of latent i over the N tokens that were
read (those that training keeps: neither the first one, nor special tokens, nor outliers), zeros counting:

    max-pooled   max_t f_ti        mean-pooled   1/N Σ_t f_ti
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from monosemy.errors import unknown

Array = np.ndarray[Any, np.dtype[Any]]
POOLINGS = ("max", "mean")


@dataclass(frozen=True)
class Firings:
    """The activations above zero of a text, in no order, n of them."""

    position: Array
    """int64 [n]: the token, counted from the text's first."""
    latent: Array
    """int64 [n]"""
    value: Array
    """float32 [n]: the activation, raw."""
    n_tokens: int
    """Tokens that were read, silent ones included."""
    n_dropped: int = 0
    """Tokens at the text's end that nothing read."""

    def of(self, latent: int) -> tuple[Array, Array]:
        """(positions, values) of one latent."""
        own = self.latent == latent
        return self.position[own], self.value[own]

    def pooled(self, pooling: str) -> tuple[Array, Array]:
        """(latents int64 [k] in order, pooled values float64 [k]) of every latent that fires.

        Raises UserError for a pooling that is none of `POOLINGS`.
        """
        if pooling not in POOLINGS:
            raise unknown("pooling", pooling, POOLINGS)
        latents, inverse = np.unique(self.latent, return_inverse=True)
        if pooling == "mean":
            sums = np.bincount(inverse, self.value.astype(np.float64), minlength=len(latents))
            return latents, sums / max(self.n_tokens, 1)
        values = np.zeros(len(latents))
        np.maximum.at(values, inverse, self.value.astype(np.float64))
        return latents, values
