"""Which latents are dead: silent for a number of *tokens*, never of steps."""

from __future__ import annotations

import torch
from torch import Tensor

from monosemy.latents import SparseLatents


class FiringTracker:
    """Tokens since each latent last fired, int64 [F]."""

    def __init__(self, d_sae: int, dead_after_tokens: int, device: torch.device | None = None) -> None:
        self.dead_after_tokens = dead_after_tokens
        self.silent_tokens = torch.zeros(d_sae, dtype=torch.int64, device=device)

    def observe(self, latents: SparseLatents) -> None:
        """One step's code: latents that fired start again from zero."""
        fired = latents.firing_counts() > 0
        self.silent_tokens = torch.where(fired, 0, self.silent_tokens + latents.n_tokens)

    def dead(self) -> Tensor:
        """bool [F]"""
        return self.silent_tokens >= self.dead_after_tokens
