"""Reads a few rows of a saved SAE's decoder in place, from one file or from slices.

Place on the path: files of an SAE → **rows of W_dec** → pages, comparison of SAEs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int
from numpy import ndarray

from monosemy.layout import SaeFiles
from monosemy.support.tensor_rows import read_rows


def read_decoder_rows(folder: Path, latents: slice | Int[ndarray, " n"]) -> Float32[ndarray, "n d_in"]:
    """The decoder rows of some latents of the SAE in `folder`. Raises UserError when its weights are gone."""
    sae = SaeFiles(folder)
    if sae.weights.exists() or not sae.slices.exists():
        return read_rows(sae.weights, "W_dec", latents)
    # Not above: they load torch, which the server otherwise starts without.
    from monosemy.saes.formats import own
    from monosemy.saes.slices import read_slices

    config = own.config(folder)
    parts = [(folder / part.file, part.start, part.stop) for part in read_slices(folder, config)]
    numbers = np.arange(config.d_sae)[latents]
    rows = np.empty((len(numbers), config.d_in), np.float32)
    for path, start, stop in parts:
        at = np.flatnonzero((numbers >= start) & (numbers < stop))
        rows[at] = read_rows(path, "W_dec", numbers[at] - start)
    return rows
