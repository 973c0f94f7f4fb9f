"""Gated: one affine map decides which latents fire, and a rescaled copy of it decides how strongly.

    π_gate = (x − b_dec) W_enc + b_gate;  π_mag = e^{r_mag} ⊙ ((x − b_dec) W_enc) + b_mag
    f = 1[π_gate > 0] ⊙ ReLU(π_mag),  x̂ = b_dec + f W_dec
    L = (mean‖x − x̂‖² + aux_coef · mean‖x − x̂_frozen(ReLU(π_gate))‖²) / V
        + λ mean Σ_f ReLU(π_gate)_f ‖d_f‖ / √V,  V = mean‖x − x̄‖² of the batch

x̂_frozen decodes with W_dec and b_dec detached. A controller steers λ so that the L0
lands on its target. Gradient: every term is exactly zero off {π_gate > 0}. W_enc receives gradient through the
magnitudes (where π_mag > 0), the L1 term and the auxiliary error; b_gate through the latter two only.
Source: Rajamanoharan et al. 2024 (arXiv 2404.16014).
Deviations: the start is that of starts.py, with every b_gate at its latent's own quantile, so that the code is sparse
from the first step; Adam has β₁ 0.5 rather than the paper's 0; dead latents restart (training/revival.py).
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
class GatedOptions:
    """The options of Gated, for activations at E‖x‖² = 1."""

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
    aux_coef: Annotated[float, COEF] = 1.0
    """Weight of the error that the gate's own values leave when the frozen decoder reconstructs from them."""
    sparsity_coef: Annotated[float, COEF] = 0.0
    """A fixed λ; 0 lets the controller choose it."""
    sparsity_coef_start: Annotated[float, FIRST_COEF] = 0.1
    """The λ that the controller starts from, in units of the starting error over the starting sparsity term."""


@final
class Gated(SparseAutoencoder):
    """Gated: f = 1[π_gate > 0] ⊙ ReLU(e^{r_mag} ⊙ ((x − b_dec) W_enc) + b_mag)."""

    name = "gated"
    Options = GatedOptions
    coefficient = True
    scaled = ("b_gate", "b_mag", "b_dec")

    def __init__(self, config: SaeConfig) -> None:
        super().__init__(config)
        self.b_gate = nn.Parameter(torch.zeros(config.d_sae))
        self.b_mag = nn.Parameter(torch.zeros(config.d_sae))
        self.r_mag = nn.Parameter(torch.zeros(config.d_sae))

    def _linear(self, x: Activations) -> PreActs:
        return ops.pre_activations(x, self.W_enc, None, self.b_in)

    def _encode(self, x: Activations) -> tuple[Pattern, PerEntry, Activations]:
        """The pattern where the gate is open, (x − b_dec) W_enc on it [Z], and x − b_dec."""
        centred = ops.centre(x, self.b_in)
        # Gate and magnitude share the product and differ in bias, so it is selected without one: π_gate > 0 is
        # (x − b_dec) W_enc > −b_gate.
        return *dispatch.encode_above(centred, self.W_enc, None, -self.b_gate), centred

    @torch.no_grad()
    def encode(self, x: Activations) -> SparseLatents:
        pattern, linear, _ = self._encode(x)
        latents = pattern.indices.long()
        magnitude = linear * self.r_mag.exp()[latents] + self.b_mag[latents]
        return SparseLatents(pattern.offsets, pattern.indices, magnitude.relu(), self.d_sae)

    def losses(self, x: Activations, step: StepInfo, target: Target | None = None) -> StepOutput:
        target = target or Target.of(x)
        selection = ops.Selection(*self._encode(x), x=x, W_enc=self.W_enc, b_enc=None, b_dec=self.b_in)
        gate = selection.pre_acts + selection.per_latent(self.b_gate)
        magnitude = selection.pre_acts * selection.per_latent(self.r_mag.exp()) + selection.per_latent(self.b_mag)
        values = magnitude.relu()
        # The step 1[π_gate > 0] has no gradient. The gate learns from the L1 term and from reconstructing on its own,
        # with a decoder that is detached so that only the magnitudes shape it.
        reconstruction = selection.decode(values, self.W_dec, self.b_dec)
        by_gate = selection.decode(gate, self.W_dec.detach(), self.b_dec.detach())
        # The variance is that of the batch and has no gradient: the errors are FVUs, and λ has no unit.
        unit = target.variance
        error, aux = (
            squared_error(target.rows, reconstruction) / unit,
            squared_error(target.rows.detach(), by_gate) / unit,
        )
        # On the selection ReLU(π_gate) is π_gate itself, and decoder rows have unit length.
        l1 = gate.sum() / len(x) / unit.sqrt()
        terms = {"error": error.detach(), "sparsity": l1.detach(), "aux": aux.detach()}
        total = error + step.sparsity_coef * l1 + self.options.aux_coef * aux
        return StepOutput(total, terms, reconstruction.detach(), selection.latents(values.detach()))

    @torch.no_grad()
    def initialise(self, x: Activations, l0: float, y: Outputs | None = None) -> None:
        n_dense = start_weights(self, x, y)
        self.b_gate.copy_(-start_thresholds(self._linear(x), l0, n_dense))
        fit_size(self, x, n_dense, y)

    @torch.no_grad()
    def restart(self, latents: Int64[Tensor, " r"], new: Restart, output: StepOutput) -> None:
        super().restart(latents, new, output)
        self.r_mag[latents] = 0
        self.b_mag[latents] = 0
        self.b_gate[latents] = -new.thresholds

    @torch.no_grad()
    def margins(self, x: Activations) -> PreActs:
        linear = self._linear(x)
        # A latent whose magnitude is zero does not fire, however wide its gate is opened.
        on = linear * self.r_mag.exp() + self.b_mag > 0
        return torch.where(on, linear + self.b_gate, -torch.inf)

    @torch.no_grad()
    def shift_margins(self, amount: float) -> None:
        self.b_gate.sub_(amount)
