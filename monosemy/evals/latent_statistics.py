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
from safetensors import SafetensorError, safe_open

from monosemy.errors import UserError
from monosemy.support.files import atomic_path


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
            save_tensors(temporary, tensors, {"n_tokens": str(self.n_tokens)})

    @classmethod
    def load(cls, path: Path) -> LatentStatistics:
        """Reads the file. Raises UserError when it is missing, truncated or of another kind."""
        try:
            with safe_open(path, framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in ("firing_count", "sum", "max")}
                n_tokens = int((file.metadata() or {}).get("n_tokens", 0))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise UserError(f"{path} is not a file of latent statistics ({error}); run the evaluation again") from None
        return cls(**arrays, n_tokens=n_tokens or None)
