"""Adam over one SAE's parameters, the learning-rate schedule, and unit decoder rows.

This is bias-corrected Adam (Kingma & Ba 2015) in one fused pass per tensor (`kernels.dispatch.adam`). For W_dec, the
gradient's component along each row is removed before the step, and the rows are scaled back to unit length after it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from monosemy.kernels import dispatch
from monosemy.kernels.reference import AdamStep
from monosemy.saes.base import SparseAutoencoder


def schedule(progress: float, warmup_fraction: float, decay_fraction: float) -> float:
    """The learning-rate factor at `progress`, the share of steps done.

    It rises along a cosine from 0.1 to 1 over the warm-up, stays at 1, and falls linearly to 0 over the decay.
    """
    if progress < warmup_fraction:
        # From a tenth rather than from zero, so that the first step already moves the weights and Adam's moments are
        # filled along a path that training really takes.
        return 0.1 + 0.9 * 0.5 * (1 - math.cos(math.pi * progress / warmup_fraction))
    if progress > 1 - decay_fraction:
        return max(0.0, (1 - progress) / decay_fraction)
    return 1.0


class Adam:
    """Adam for the trainable parameters of one SAE. A step leaves parameters without a gradient unchanged."""

    def __init__(self, sae: SparseAutoencoder, beta1: float, beta2: float, epsilon: float = 1e-8) -> None:
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.n_steps = 0
        self.parameters = {name: p for name, p in sae.named_parameters() if p.requires_grad}
        # Moments take the parameters' strides, so that the fused pass walks all four tensors in the same order.
        self.first = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.rate_factors = dict(sae.rate_factors())

    def step(self, learning_rate: float) -> None:
        """Moves every parameter that has a gradient, and drops the gradients."""
        self.n_steps += 1
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            options = AdamStep(
                step=self.n_steps,
                learning_rate=learning_rate * self.rate_factors.get(name, 1.0),
                beta1=self.beta1,
                beta2=self.beta2,
                epsilon=self.epsilon,
                unit_rows=name == "W_dec",
            )
            dispatch.adam(parameter, parameter.grad, self.first[name], self.second[name], options=options)
            # Not zeroed: the next backward pass then writes the gradient instead of adding to it.
            parameter.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """The moments by name, for a checkpoint. The tensors are the optimizer's own, not copies."""
        return {f"{kind}.{name}": t for kind in ("first", "second") for name, t in getattr(self, kind).items()}
