"""ReLU + L1: the original sparse autoencoder, kept as a baseline.

    f = ReLU(π),  π = (x − b_dec) W_enc + b_enc,  x̂ = b_dec + f W_dec,  unit decoder rows
    L = mean‖x − x̂‖² / V + λ mean Σ_f f_f / √V,  V = mean‖x − x̄‖² of the batch

A controller steers λ so that the L0 lands on its target. Gradient: only latents with π > 0 receive one; the sparse
kernels are used once few enough fire. b_enc starts at the quantile of π that gives the starting L0, so that the code is
sparse from the first step. Source: Bricken et al. 2023; Cunningham et al. 2023. Known fault: the L1 term shrinks the
latents, and with them the reconstruction (γ < 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, final

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from monosemy.kernels import dispatch, ops
from monosemy.kernels.reference import Pattern
from monosemy.latents import SparseLatents
from monosemy.ranges import SHARE
from monosemy.saes.base import Restart, SaeConfig, SparseAutoencoder, StepInfo, StepOutput
from monosemy.saes.losses import Target, squared_error
from monosemy.saes.options import COEF, DECAY, FACTOR, FIRST_COEF, RATE, START_FACTOR
from monosemy.saes.starts import fit_size, start_thresholds, start_weights
from monosemy.shapes import Activations, Outputs, PerEntry, PreActs


@dataclass(frozen=True)
class ReluOptions:
    """The options of ReLU + L1, for activations at E‖x‖² = 1."""

    learning_rate: Annotated[float | None, RATE] = None
    """Peak Adam learning rate at E‖x‖² = 1; None takes that of training/optim.py."""
    beta1: Annotated[float, DECAY] = 0.5
    """Decay of Adam's first moment per step."""
    beta2: Annotated[float, DECAY] = 0.999
    """Decay of Adam's second moment per step."""
    bias_rate_factor: Annotated[float, FACTOR] = 1.0
    """Learning rate of all biases as a multiple of the weights'."""
    k_start_factor: Annotated[float, START_FACTOR] = 1.0
    """The L0 starts at this multiple of the target L0."""
    k_anneal_fraction: Annotated[float, SHARE] = 0.3
    """Share of training over which the controller's L0 falls to the target L0."""
    sparsity_coef: Annotated[float, COEF] = 0.0
    """A fixed λ; 0 lets the controller choose it."""
    sparsity_coef_start: Annotated[float, FIRST_COEF] = 0.1
    """The λ that the controller starts from, in units of the starting error over the starting sparsity term."""


@final
class Relu(SparseAutoencoder):
    """ReLU + L1: f = ReLU(π), with an L1 penalty whose coefficient a controller steers."""

    name = "relu"
    Options = ReluOptions
    coefficient = True

    def __init__(self, config: SaeConfig) -> None:
        super().__init__(config)
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae))

    def _encode(self, x: Activations) -> tuple[Pattern, PerEntry, Activations]:
        """The pattern of latents that fire, the pre-activations on it [Z], and x − b_dec."""
        centred = ops.centre(x, self.b_in)
        return *dispatch.encode_above(centred, self.W_enc, self.b_enc, x.new_zeros(self.d_sae)), centred

    @torch.no_grad()
    def encode(self, x: Activations) -> SparseLatents:
        pattern, values, _ = self._encode(x)
        return SparseLatents(pattern.offsets, pattern.indices, values, self.d_sae)

    def losses(self, x: Activations, step: StepInfo, target: Target | None = None) -> StepOutput:
        target = target or Target.of(x)
        selection = ops.Selection(*self._encode(x), x=x, W_enc=self.W_enc, b_enc=self.b_enc, b_dec=self.b_in)
        reconstruction = selection.decode(selection.pre_acts, self.W_dec, self.b_dec)
        # The variance is that of the batch and has no gradient: the error is the batch's FVU, and λ has no unit.
        unit = target.variance
        error = squared_error(target.rows, reconstruction) / unit
        # Selected values are positive and decoder rows have unit length, so their plain sum is the L1 norm.
        l1 = selection.pre_acts.sum() / len(x) / unit.sqrt()
        terms = {"error": error.detach(), "sparsity": l1.detach()}
        total = error + step.sparsity_coef * l1
        return StepOutput(total, terms, reconstruction.detach(), selection.latents(selection.pre_acts.detach()))

    @torch.no_grad()
    def initialise(self, x: Activations, l0: float, y: Outputs | None = None) -> None:
        n_dense = start_weights(self, x, y)
        self.b_enc.zero_()
        self.b_enc.copy_(-start_thresholds(self.margins(x), l0, n_dense))
        fit_size(self, x, n_dense, y)

    @torch.no_grad()
    def restart(self, latents: Int64[Tensor, " r"], new: Restart, output: StepOutput) -> None:
        super().restart(latents, new, output)
        self.b_enc[latents] = -new.thresholds

    def margins(self, x: Activations) -> PreActs:
        return ops.pre_activations(x, self.W_enc, self.b_enc, self.b_in)

    @torch.no_grad()
    def shift_margins(self, amount: float) -> None:
        self.b_enc.sub_(amount)
