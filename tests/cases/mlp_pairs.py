"""Tiny MLPs and SAEs around them in float64, for the tests of Jacobians and of pairs in training."""

from __future__ import annotations

import torch
from torch import Tensor

from monosemy.circuits.jacobian.weights import MlpWeights
from monosemy.saes.base import SaeConfig, SparseAutoencoder
from monosemy.saes.registry import build_sae

D, FF, M, K, N = 12, 20, 40, 5, 6
"""d_in, hidden units, latents, active latents, tokens."""


def make_weights(activation: str, gated: bool, d: int = D, d_ff: int = FF, seed: int = 1) -> MlpWeights:
    draw = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64) / shape[0] ** 0.5

    up = (random(d, d_ff), random(d_ff)) if gated else (None, None)
    return MlpWeights(
        random(d, d_ff), up[0], random(d_ff, d), random(d_ff), b_up=up[1], b_out=random(d), activation=activation
    )


def make_sae(seed: int, architecture: str = "topk", *, m: int = M, d: int = D, l0: float = K) -> SparseAutoencoder:
    """With biases drawn too, so that few pre-activations are positive on some rows."""
    sae = build_sae(SaeConfig(architecture, d, m, l0, seed=seed)).double()
    draw = torch.Generator().manual_seed(100 + seed)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            if name != "W_dec":
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
        if architecture == "jumprelu":
            sae.threshold.abs_().add_(0.2)
        if architecture == "batch_topk":
            sae.threshold.fill_(0.7)
    return sae.requires_grad_(False)


def rows(n: int = N, d: int = D, seed: int = 3) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
