"""Randomises the weights of a model: a control that shows what a method finds where nothing was learned.

Place on the path: load_model → [weights redrawn] → activations. The model gets its own fingerprint, so that no cache of
the trained model is ever used for the random one.

  published       every weight matrix, embeddings included, is drawn from N(0, (0.8/√d)²), with d the width of the
                  residual stream; gains of norms and all biases stay as trained
  reinitialised   the whole model is initialised as transformers does before training: nothing learned is left
  matched         every weight matrix is drawn from a normal distribution with its own mean and variance; the rest stays

Source: `published` follows Farnik et al. 2025 (arXiv 2502.18147), who redraw the tensors that TransformerLens names
W_*. Deviation: matrices are redrawn in the model's own form, with no norm folded into them.
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
    # Drawn on the CPU, so that every device gets the same weights. Tied parameters are listed once, and so stay tied.
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        # Vectors are biases and gains of norms.
        if parameter.ndim < 2:
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        if kind == "published":
            parameter.copy_(noise * (PUBLISHED_GAIN / math.sqrt(d_model)))
        else:
            values = parameter.float()
            parameter.copy_(noise.to(values.device) * values.std() + values.mean())


def _reinitialise(module: Any, seed: int) -> None:
    """Initialises the model as transformers does for this architecture from its configuration."""
    from transformers import AutoModelForCausalLM

    # Restores the global random state afterwards: transformers offers no generator of its own.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = AutoModelForCausalLM.from_config(module.config, trust_remote_code=False)
    for (name, parameter), (other, drawn) in zip(module.named_parameters(), fresh.named_parameters(), strict=True):
        assert name == other
        parameter.copy_(drawn)
