"""Statistics of how often and how strongly each latent of an SAE fires, saved as latents.safetensors beside the SAE.

Place on the data's path: reconstruction.py measures them → **the file** → report, pages, steering. The file holds three
arrays of length d_sae, and `n_tokens` in its metadata. Reading it needs no torch, because the pages start without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from monosemy.support.files import atomic_path
from monosemy.support.tensor_rows import read_arrays, unreadable


@dataclass(frozen=True)
class LatentStatistics:
    """Statistics of every latent over the evaluated tokens."""

    firing_count: Int[ndarray, " d_sae"]
    """The number of tokens on which the latent's value is not zero."""
    sum: Float[ndarray, " d_sae"]
    """The sum of its values, in raw units."""
    max: Float[ndarray, " d_sae"]
    """Its largest value where it fires, in raw units; 0 for a dead latent."""
    n_tokens: int | None
    """The number of tokens evaluated; None where the file does not say."""

    def save(self, path: Path) -> None:
        """Writes the file, durably. Raises UserError when the folder cannot be written to."""
        import torch

        from monosemy.support.tensors import save_tensors

        arrays = {"firing_count": self.firing_count, "sum": self.sum, "max": self.max}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        with atomic_path(path) as temporary:
            # 0 stands for None, which `load` gives for files that do not say.
            save_tensors(temporary, tensors, {"n_tokens": str(self.n_tokens or 0)})

    @classmethod
    def load(cls, path: Path) -> LatentStatistics:
        """Reads the file. Raises UserError when it is missing, truncated or of another kind."""
        content, fix = "latent statistics", "run the evaluation again"
        stored = read_arrays(path, content, fix, ("firing_count", "sum", "max"))
        try:
            n_tokens = int(stored.metadata.get("n_tokens", 0))
        except ValueError as error:
            raise unreadable(path, content, error, fix) from None
        return cls(**stored.arrays, n_tokens=n_tokens or None)
