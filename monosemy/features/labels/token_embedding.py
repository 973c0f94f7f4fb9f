"""Unit vectors of tokens, in which those of like use lie near each other, from a model's own embedding.

Place on the path: rows of the model's embedding matrix E → [vectors] → search by meaning; how alike a latent's peaks
are. Common directions, which say how frequent a token is rather than what it means, are taken out:

    e_t = unit(E_t − mean E − the part along the N_COMMON largest principal directions of E)

Source: Mu and Viswanath 2018 (arXiv 1702.01417). Limits: one vector a token, so that parts of words are read badly, and
languages only as far as the model knows them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

N_COMMON = 5
_SAMPLE = 8192
N_PEAKS = 6
"""How many of a latent's tokens are compared."""


@dataclass(frozen=True)
class TokenEmbedding:
    """Rows of an embedding matrix without its common directions, made on demand."""

    rows: Callable[[Array], Array]
    """From n token ids to their rows of the matrix, float32 [n, d]."""
    mean: Array
    common: Array
    """float32 [N_COMMON, d]: orthonormal directions that are taken out."""

    @staticmethod
    def of(weights: Any) -> TokenEmbedding:
        """Of the embedding matrix of a model, a tensor [n_tokens, d] on any device and in any dtype."""
        import torch

        def rows(tokens: Array) -> Array:
            with torch.no_grad():
                values = weights[torch.as_tensor(tokens, device=weights.device)].float().cpu()
            return np.asarray(values.numpy())

        return TokenEmbedding.read(rows, len(weights))

    @staticmethod
    def read(rows: Callable[[Array], Array], n_tokens: int) -> TokenEmbedding:
        """Finds mean and common directions from up to `_SAMPLE` evenly spaced tokens."""
        sample = rows(np.linspace(0, n_tokens - 1, min(n_tokens, _SAMPLE)).astype(np.int64))
        mean = sample.mean(0)
        centred = (sample - mean).astype(np.float64)
        # Of d × d, a tenth of the time of the rows' own singular values; eigenvalues ascend.
        directions = np.linalg.eigh(centred.T @ centred)[1].T[::-1].astype(np.float32)
        return TokenEmbedding(rows, mean, directions[: min(N_COMMON, min(sample.shape) - 1)])

    def vectors(self, tokens: Array) -> Array:
        """Unit vectors of n tokens, float32 [n, d]."""
        rows = self.rows(tokens) - self.mean
        rows = rows - (rows @ self.common.T) @ self.common
        return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9), np.float32)


def peak_likeness(
    peaks: Sequence[Sequence[int]], text: Callable[[int], str], embedding: TokenEmbedding
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """How alike the tokens at each latent's peaks are: the mean of e_t · e_u over pairs of its `N_PEAKS` most typical.

    peaks: token ids by latent, most typical first. Tokens that differ in case or in a space count as one; a latent with
    fewer than two has NaN. float32 [m], about 0 for unlike tokens.
    """
    likeness = np.full(len(peaks), np.nan, np.float32)
    for latent, tokens in enumerate(peaks):
        distinct = list({text(token).strip().casefold(): token for token in reversed(tokens[:N_PEAKS])}.values())
        if (n := len(distinct)) > 1:
            vectors = embedding.vectors(np.array(distinct, np.int64))
            likeness[latent] = ((vectors @ vectors.T).sum() - n) / (n * (n - 1))
    return likeness
