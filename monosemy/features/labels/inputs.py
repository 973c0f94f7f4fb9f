"""The inputs of the labels: the arrays of a feature build that they need, with their shapes.

Place on the data's path: feature build → `LabelInputs` → the text of the pass (`corpus`), labels (`labelling`) and
their scores (`scores`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class LabelInputs:
    """The inputs of the labels of m latents, over N = S·T tokens cut into W = S·(T / window) windows.

    A *token index* is flat: sequence · T + position. Window w covers token indices [w · window, (w + 1) · window).
    """

    tokens: Array
    """int32 [S, T]: the token ids of the pass."""
    documents: Array
    """int32 [S, T]: the document of every token, as in the token store."""
    window: int
    """Tokens in a window (32); divides T."""
    hidden: Array
    """float16 or float32 [W, d]: mean hidden state of every window at the SAE's own site.

    The mean leaves out special tokens and first positions, whose activations are massive.
    """
    token_texts: Sequence[str]
    """[V]: the text of every token id decoded by itself, with its leading space; incomplete characters are U+FFFD."""
    token_bytes: Sequence[bytes] | None
    """[V]: the exact bytes of every token id, with which words made of byte fragments can be read; None if unknown."""
    special: Array
    """bool [V]: tokens that are not text (separators, BOS, padding, chat markers)."""
    offsets: Array
    """int64 [m + 1]: latent i's sampled positives are entries offsets[i]:offsets[i+1] of `peaks` and `values`."""
    peaks: Array
    """int64 [Z]: token index of the largest activation in each sampled window.

    The sample is uniform over the windows in which the latent fires (up to about 256 per latent), one entry per window.
    """
    values: Array
    """float32 [Z]: the activation there, > 0."""
    top: Array | None
    """int64 [m, n]: token index of the peak in each of the latent's strongest contexts, best first, −1 after the last.

    None if unknown; labels then rest on the sample alone.
    """
    background: Array
    """int64 [B]: windows drawn uniformly without replacement, the same for all latents (about 2,048)."""
    background_offsets: Array
    """int64 [m + 1]: latent i fires in the background windows background_fired[offsets[i]:offsets[i+1]]."""
    background_fired: Array
    """int32 [Y]: indices into `background` (0 … B − 1)."""
    raised: Array
    """int32 [m, k]: the output tokens each latent raises most, best first; k may be 0."""
    raised_values: Array
    """float32 [m, k]: by how much it raises them (logits per unit of activation)."""
    document_sources: Sequence[str] = ()
    """[number of documents]: name of each document's source (a corpus, a language); empty if there is only one."""
    embeddings: Array | None = None
    """float32 [W, e]: the sentence embedding of each window; None if no embedding model was named."""
    seed: int = 0

    @property
    def n_latents(self) -> int:
        return len(self.offsets) - 1

    def check(self) -> None:
        """Raises ValueError when the arrays do not fit together."""
        n_windows = self.tokens.size // self.window
        if self.tokens.shape[1] % self.window:
            raise ValueError(f"windows of {self.window} tokens do not divide sequences of {self.tokens.shape[1]}")
        if self.tokens.shape != self.documents.shape or len(self.hidden) != n_windows:
            raise ValueError(f"documents {self.documents.shape} or hidden {self.hidden.shape} do not fit the tokens")
        if not len(self.offsets) == len(self.background_offsets) == len(self.raised) + 1:
            raise ValueError("offsets, background_offsets and raised are of different numbers of latents")
        if not int(self.offsets[-1]) == len(self.peaks) == len(self.values):
            raise ValueError("peaks and values must have offsets[-1] entries")
