"""A tiny SAE on a tiny model, for the tests of steering."""

from __future__ import annotations

import torch

from monosemy.models.generation import Place
from monosemy.saes.base import SaeConfig, SparseAutoencoder
from monosemy.saes.registry import build_sae
from monosemy.steering.edits import LatentScales

SITE = "layers.2.resid_post"
D_SAE = 48


def tiny_sae(model, architecture: str = "topk", *, scale: float = 2.0) -> SparseAutoencoder:
    """An SAE with biases started on the model's own activations, its scale folded in."""
    tokens = torch.randint(256, (8, 20), generator=torch.Generator().manual_seed(5))
    x = model.activations(tokens, [SITE])[SITE].reshape(-1, model.d_model).float()
    sae = build_sae(SaeConfig(architecture, d_in=model.d_model, d_sae=D_SAE, l0=6, site=SITE, seed=1))
    sae.initialise(x / scale, 6.0)
    sae.fold_scale(scale)
    return sae.eval().requires_grad_(False)


def scales_of(sae: SparseAutoencoder, x: torch.Tensor) -> LatentScales:
    """Scales measured on rows x [N, d]."""
    code = sae.encode(x).to_dense()
    return LatentScales(code.amax(0), (code > 0).sum(0), float(x.square().sum(-1).mean().sqrt()))


def place_of(x: torch.Tensor, prompt_length: int) -> Place:
    """The place of whole texts of activations [B, T, d]."""
    positions = torch.arange(x.shape[1]).expand(x.shape[:2])
    return Place(positions, torch.full((len(x),), prompt_length))
