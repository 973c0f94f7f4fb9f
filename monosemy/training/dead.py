"""Which latents are dead: silent for a number of *tokens*, never of steps."""

from __future__ import annotations

import torch

from monosemy.latents import SparseLatents
from monosemy.shapes import LatentMask


class FiringTracker:
    """Tokens since each latent last fired, int64 [F]."""

    def __init__(self, d_sae: int, dead_after_tokens: int, device: torch.device | None = None) -> None:
        self.dead_after_tokens = dead_after_tokens
        self.silent_tokens = torch.zeros(d_sae, dtype=torch.int64, device=device)

    def observe(self, latents: SparseLatents) -> None:
        """One step's code: latents that fired start again from zero."""
        # Positive values only: entries of value zero, inside a kernel window, have not fired.
        fired = latents.firing_counts() > 0
        self.silent_tokens = torch.where(fired, 0, self.silent_tokens + latents.n_tokens)

    def dead(self) -> LatentMask:
        """True for latents that have been silent for `dead_after_tokens`."""
        return self.silent_tokens >= self.dead_after_tokens
