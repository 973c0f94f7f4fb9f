"""TopK: keeps the k largest pre-activations of every token, then applies ReLU.

    f = ReLU(TopK_k(π)),  π = (x − b_dec) W_enc + b_enc,  x̂ = b_dec + f W_dec
    L = mean‖x − x̂‖² / mean‖x − x̄‖² + aux_coef · AuxK      (AuxK: losses.dead_latent_error)

Gradient: only the pre-activations of selected latents receive one. k is annealed from `k_start_factor`·k to k over the
first `k_anneal_fraction` of training. Source: Gao et al. 2024 (arXiv 2406.04093); as there, AuxK is divided by the
residual's energy and has the coefficient 1/32. Deviations: k annealing; b_dec starts at the mean, not at the geometric
median.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, final

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from monosemy.errors import UserError
from monosemy.kernels import dispatch, ops
from monosemy.kernels.reference import Pattern
from monosemy.latents import SparseLatents
from monosemy.ranges import SHARE, Range, number_name
from monosemy.saes.base import Restart, SaeConfig, SparseAutoencoder, StepInfo, StepOutput
from monosemy.saes.losses import Target, dead_latent_error, squared_error
from monosemy.saes.options import COEF, DECAY, FACTOR, RATE, START_FACTOR
from monosemy.saes.starts import SMALL_START, fit_size, halfway_below, scaled_restart, start_weights
from monosemy.shapes import Activations, Outputs, PerEntry


@dataclass(frozen=True)
class TopKOptions:
    """The options of TopK, for activations at E‖x‖² = 1."""

    learning_rate: Annotated[float | None, RATE] = None
    """Peak Adam learning rate at E‖x‖² = 1; None takes that of training/optim.py."""
    beta1: Annotated[float, DECAY] = 0.5
    """Decay of Adam's first moment per step."""
    beta2: Annotated[float, DECAY] = 0.999
    """Decay of Adam's second moment per step."""
    bias_rate_factor: Annotated[float, FACTOR] = 1.0
    """Learning rate of all biases as a multiple of the weights'."""
    k_start_factor: Annotated[float, START_FACTOR] = 1.0
    """k starts at this multiple of the target k."""
    k_anneal_fraction: Annotated[float, SHARE] = 0.3
    """Share of training over which k falls to its target."""
    aux_coef: Annotated[float, COEF] = 0.0
    """Coefficient of AuxK, which revives dead latents slowly; 0 leaves it out, the paper has 1/32."""
    k_aux: Annotated[int, Range(1, example=256)] = 256
    """Number of dead latents per token that AuxK uses to reconstruct the residual."""


@final
class TopK(SparseAutoencoder):
    """TopK, f = ReLU(TopK_k(π)): k active latents per token, fewer where fewer pre-activations are positive."""

    name = "topk"
    Options = TopKOptions
    coefficient = False

    def __init__(self, config: SaeConfig) -> None:
        super().__init__(config)
        if config.l0 != round(config.l0):
            raise UserError(
                f"topk keeps a whole number of latents, got l0 {number_name(config.l0)}; "
                f"choose {max(1, round(config.l0))}"
            )
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae))

    def _encode(self, x: Activations, k: int) -> tuple[Pattern, PerEntry, Activations]:
        """The selected pattern, the pre-activations on it [Z], and x − b_dec."""
        centred = ops.centre(x, self.b_in)
        return *dispatch.encode_topk(centred, self.W_enc, self.b_enc, k), centred

    @torch.no_grad()
    def encode(self, x: Activations) -> SparseLatents:
        # Selected values are positive already, so the ReLU has nothing left to do.
        pattern, values, _ = self._encode(x, round(self.config.l0))
        return SparseLatents(pattern.offsets, pattern.indices, values, self.d_sae)

    def losses(self, x: Activations, step: StepInfo, target: Target | None = None) -> StepOutput:
        target = target or Target.of(x)
        selection = ops.Selection(
            *self._encode(x, round(step.l0)), x=x, W_enc=self.W_enc, b_enc=self.b_enc, b_dec=self.b_in
        )
        reconstruction = selection.decode(selection.pre_acts, self.W_dec, self.b_dec)
        # The variance is that of the batch and has no gradient: the error is the batch's FVU.
        error = squared_error(target.rows, reconstruction) / target.variance
        terms = {"error": error.detach()}
        total = error
        # AuxK costs a second product, so it is left out while no latent is dead.
        if step.dead is not None and self.options.aux_coef > 0:
            aux = dead_latent_error(
                x,
                target.rows - reconstruction,
                W_enc=self.W_enc,
                W_dec=self.W_dec,
                b_enc=self.b_enc,
                b_in=self.b_in,
                dead=step.dead,
                k_aux=self.options.k_aux,
            )
            terms["aux"] = aux.detach()
            total = total + self.options.aux_coef * aux
        return StepOutput(total, terms, reconstruction.detach(), selection.latents(selection.pre_acts.detach()))

    @torch.no_grad()
    def initialise(self, x: Activations, l0: float, y: Outputs | None = None) -> None:
        n_dense = start_weights(self, x, y)
        fit_size(self, x, n_dense, y, share=SMALL_START)

    @torch.no_grad()
    def restart(self, latents: Int64[Tensor, " r"], new: Restart, output: StepOutput) -> None:
        # The weakest active latent of every row, which a new one must exceed there to be selected.
        codes = output.latents
        weakest = torch.segment_reduce(codes.values, "min", lengths=codes.offsets.diff(), initial=torch.inf)
        ratios = new.answers / torch.where(weakest.isfinite(), weakest, weakest.new_zeros(())).clamp_min(1e-12)[:, None]
        cut = halfway_below(ratios, int((new.answers[:, 0] > new.thresholds[0]).sum().clamp(1, len(ratios) - 1)))
        super().restart(latents, scaled_restart(new, 1 / cut.clamp_min(1e-12)), output)
        self.b_enc[latents] = 0
