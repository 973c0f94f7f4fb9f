"""Tracks which latents are dead. A latent is dead after a number of silent *tokens*, whatever the batch size."""

from __future__ import annotations

import torch

from monosemy.config import TrainingConfig
from monosemy.latents import SparseLatents
from monosemy.shapes import LatentMask


def dead_after_tokens(config: TrainingConfig, n_train_tokens: int) -> int:
    """After how many silent tokens a latent counts as dead, in a run on `n_train_tokens` tokens.

    A share of the run, so that a latent can be tried again as often in a short run as in a long one, and at least one
    batch, so that every latent had a chance to fire. A long run thus has more patience with rare latents.
    """
    return max(config.batch_tokens, int(config.dead_fraction * n_train_tokens))


class FiringTracker:
    """Counts the tokens since each latent last fired: `silent_tokens`, int64 [F]."""

    def __init__(self, d_sae: int, dead_after_tokens: int, device: torch.device | None = None) -> None:
        self.dead_after_tokens = dead_after_tokens
        self.silent_tokens = torch.zeros(d_sae, dtype=torch.int64, device=device)

    def observe(self, latents: SparseLatents) -> None:
        """Takes in the code of one step: latents that fired start again from zero, all others gain its tokens."""
        # Positive values only: entries of value zero, inside JumpReLU's kernel window, have not fired.
        self.count(latents.firing_counts() > 0, latents.n_tokens)

    def count(self, fired: LatentMask, n_tokens: int) -> None:
        """Takes in which latents fired, [F], in a step of `n_tokens` tokens."""
        self.silent_tokens = torch.where(fired, 0, self.silent_tokens + n_tokens)

    def dead(self) -> LatentMask:
        """True for latents that have been silent for at least `dead_after_tokens` tokens, [F]."""
        return self.silent_tokens >= self.dead_after_tokens
