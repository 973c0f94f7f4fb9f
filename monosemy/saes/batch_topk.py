"""BatchTopK: keeps the k·N largest pre-activations of the whole batch, so that its tokens share one budget.

    training:   f = ReLU(π) on the k·N largest of the batch
    inference:  f = π ⊙ H(π − θ), one threshold θ for all latents (a JumpReLU with constant θ)
    L = mean‖x − x̂‖² / mean‖x − x̄‖² + aux_coef · AuxK

As `matryoshka_batch_topk` the dictionary is nested: the error is the mean over its prefixes (prefixes.py).

θ is a bias-corrected moving average of the smallest pre-activation kept in each batch, taken from the end of k's
annealing on (`observe`). It is calibrated at the end of training on training tokens. Gradient: only the pre-activations
of selected latents receive one.
Source: Bussmann et al. 2024 (arXiv 2412.06410). Deviations: k annealing; bias correction (a plain average with
β = 0.999 would still consist mostly of its starting value after a few hundred steps); final calibration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, final

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from monosemy.kernels import dispatch, ops
from monosemy.latents import SparseLatents
from monosemy.ranges import SHARE, Range
from monosemy.saes.base import Restart, SaeConfig, SparseAutoencoder, StepInfo, StepOutput
from monosemy.saes.losses import Target, dead_latent_error
from monosemy.saes.options import COEF, DECAY, FACTOR, RATE, START_FACTOR
from monosemy.saes.prefixes import NESTED, PREFIX, decoded, prefix_widths
from monosemy.saes.starts import SMALL_START, fit_size, scaled_restart, start_weights
from monosemy.shapes import Activations, Outputs, PreActs


@dataclass(frozen=True)
class BatchTopKOptions:
    """The options of BatchTopK, for activations at E‖x‖² = 1."""

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
    threshold_beta: Annotated[float, DECAY] = 0.99
    """Decay of the threshold's moving average per step."""
    prefixes: Annotated[tuple[float, ...], PREFIX] = ()
    """Prefixes of the dictionary that must reconstruct on their own, as shares of its latents; none: only all."""


@final
class BatchTopK(SparseAutoencoder):
    """BatchTopK: f = ReLU(π) on the batch's k·N largest pre-activations; at inference, f = π ⊙ H(π − θ)."""

    name = "batch_topk"
    Options = BatchTopKOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"matryoshka_batch_topk": NESTED}
    coefficient = False
    scaled = ("b_enc", "b_dec", "threshold")

    threshold: Tensor
    threshold_weight: Tensor

    def __init__(self, config: SaeConfig) -> None:
        super().__init__(config)
        self.widths = prefix_widths(self.options.prefixes, config.d_sae)
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae))
        self.register_buffer("threshold", torch.zeros(()))
        # The total weight 1 − βᵗ of the t cuts averaged so far; dividing by it is the bias correction. In float64, so
        # that long runs do not lose it to rounding.
        self.register_buffer("threshold_weight", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def encode(self, x: Activations) -> SparseLatents:
        threshold = self.threshold.clamp_min(0).to(x).expand(self.d_sae)
        centred = ops.centre(x, self.b_in)
        pattern, values = dispatch.encode_above(centred, self.W_enc, self.b_enc, threshold)
        return SparseLatents(pattern.offsets, pattern.indices, values, self.d_sae)

    def losses(self, x: Activations, step: StepInfo, target: Target | None = None) -> StepOutput:
        target = target or Target.of(x)
        centred = ops.centre(x, self.b_in)
        n_keep = round(step.l0 * len(x))
        pattern, values, cut = dispatch.encode_batch_topk(centred, self.W_enc, self.b_enc, n_keep)
        selection = ops.Selection(pattern, values, centred, x=x, W_enc=self.W_enc, b_enc=self.b_enc, b_dec=self.b_in)
        reconstruction, error = decoded(
            selection, selection.pre_acts, self.W_dec, self.b_dec, target=target, widths=self.widths
        )
        terms = {"error": error.detach()}
        total = error
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
        latents = selection.latents(selection.pre_acts.detach())
        return StepOutput(total, terms, reconstruction, latents, statistic=cut)

    @torch.no_grad()
    def initialise(self, x: Activations, l0: float, y: Outputs | None = None) -> None:
        n_dense = start_weights(self, x, y)
        fit_size(self, x, n_dense, y, share=SMALL_START)

    @torch.no_grad()
    def observe(self, output: StepOutput, step: StepInfo) -> None:
        """Moves θ's average by the smallest pre-activation kept in this step.

        While k is still annealed, θ is just that of the last step, since a larger k has a lower cut.
        """
        assert output.statistic is not None
        if step.l0 > self.config.l0:
            # Weight zero forgets all cuts so far, so that the average starts afresh once k has reached its target.
            self.threshold.fill_(output.statistic)
            self.threshold_weight.zero_()
            return
        # θ ← Σ_s β^(t−s) cut_s / Σ_s β^(t−s), as a running update: the newest cut's share of the weight is (1 − β) / w.
        weight = self.options.threshold_beta * self.threshold_weight + 1 - self.options.threshold_beta
        share = ((1 - self.options.threshold_beta) / weight).to(self.threshold)
        self.threshold.lerp_(torch.as_tensor(output.statistic).to(self.threshold), share)
        self.threshold_weight.copy_(weight)

    def margins(self, x: Activations) -> PreActs:
        pre = ops.pre_activations(x, self.W_enc, self.b_enc, self.b_in)
        # θ never falls below zero, so a pre-activation that is not positive cannot fire at any θ.
        return torch.where(pre > 0, pre - self.threshold, -torch.inf)

    def shift_margins(self, amount: float) -> None:
        self.threshold.add_(amount).clamp_min_(0)

    @torch.no_grad()
    def restart(self, latents: Int64[Tensor, " r"], new: Restart, output: StepOutput) -> None:
        assert output.statistic is not None
        factors = output.statistic / new.thresholds.clamp_min(1e-12)
        super().restart(latents, scaled_restart(new, factors), output)
        self.b_enc[latents] = 0
