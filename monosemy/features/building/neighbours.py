"""Finds each latent's nearest other latents by decoder direction, over the whole dictionary.

Place on the path: SAE → [decoder neighbours] → database. cos(d_i, d_j) is computed in blocks of rows, so nothing of
size d_sae² is held. Cost: 2 · d_sae² · d_in operations.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32, Int32
from numpy import ndarray

from monosemy.shapes import DecoderMatrix

_BLOCK = 2048


@torch.no_grad()
def decoder_neighbours(
    W_dec: DecoderMatrix, n_neighbours: int
) -> tuple[Int32[ndarray, "d_sae k"], Float32[ndarray, "d_sae k"]]:
    """The k = `n_neighbours` nearest other latents of each latent, and the cosines, best first.

    Rows of W_dec may have any norm. If k exceeds d_sae − 1, the missing places hold −1 and cosine 0.
    """
    rows = torch.nn.functional.normalize(W_dec.float(), dim=1)
    n = len(rows)
    k = min(n_neighbours, n - 1)
    latents = np.full((n, n_neighbours), -1, np.int32)
    cosines = np.zeros((n, n_neighbours), np.float32)
    for start in range(0, n if k else 0, _BLOCK):
        block = rows[start : start + _BLOCK] @ rows.T
        rows_of_block = torch.arange(len(block))
        block[rows_of_block, rows_of_block + start] = -torch.inf  # a latent is not its own neighbour
        best = block.topk(k, dim=1)
        latents[start : start + _BLOCK, :k] = best.indices.cpu().numpy()
        cosines[start : start + _BLOCK, :k] = best.values.cpu().numpy()
    return latents, cosines
