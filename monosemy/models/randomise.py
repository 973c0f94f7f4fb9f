"""A model with random weights: the control that says what a method finds without anything learned.

Place on the path: load_model → [weights redrawn] → activations, with a fingerprint of their own, so that no cache of
the trained model is ever taken for the random one's.

  published       every weight matrix, embeddings included, from N(0, (0.8/√d)²), d the width of the residual stream;
                  gains of norms and all biases stay as trained
  reinitialised   the whole model as its own library initialises it before training: nothing learned is left
  matched         every weight matrix from a normal distribution with its own mean and variance; the rest stays

Source: `published` is that of Farnik et al. 2025 (arXiv 2502.18147), where the redrawn tensors are those that
TransformerLens names W_*. Deviation: matrices are redrawn in the model's own form, with no norm folded into them.
Limits: one draw of each kind (seed 0), the same on every device.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

PUBLISHED_GAIN = 0.8


@torch.no_grad()
def randomise_module(module: nn.Module, kind: str, d_model: int, seed: int = 0) -> None:
    """Redraws the weights of a transformers model in place; `kind` is `published`, `reinitialised` or `matched`."""
    if kind == "reinitialised":
        _reinitialise(module, seed)
        return
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():  # tied ones come once
        if parameter.ndim < 2:
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        if kind == "published":
            parameter.copy_(noise * (PUBLISHED_GAIN / math.sqrt(d_model)))
        else:
            values = parameter.float()
            parameter.copy_(noise.to(values.device) * values.std() + values.mean())


def _reinitialise(module: Any, seed: int) -> None:
    """As transformers makes this architecture from its configuration."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = AutoModelForCausalLM.from_config(module.config, trust_remote_code=False)
    for (name, parameter), (other, drawn) in zip(module.named_parameters(), fresh.named_parameters(), strict=True):
        assert name == other
        parameter.copy_(drawn)
