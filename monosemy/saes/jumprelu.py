"""JumpReLU: every latent has its own threshold, learned by straight-through gradients.

    f = π ⊙ H(π − θ),  π = (x − b_dec) W_enc + b_enc,  x̂ = b_dec + f W_dec
    recipe "step" (Rajamanoharan et al. 2024, arXiv 2407.14435):  L = mean‖x − x̂‖² + λ mean‖f‖₀
    recipe "tanh" (Anthropic, January 2025):  L = mean‖x − x̂‖² + λ mean Σ tanh(c f_i‖d_i‖)
                                                  + λ_P mean Σ ReLU(θ_i − π_i)‖d_i‖

Straight-through pseudo-derivatives, K(u) = 1 where |u| < ½:
    ∂f/∂θ = −(θ/ε) K((π − θ)/ε),  ∂H/∂θ = −(1/ε) K((π − θ)/ε),  ∂f/∂π = H(π − θ),  ∂H/∂π = 0.
In "step" only θ feels the sparsity term; in "tanh" it reaches every parameter through f. Gradients are exactly zero off
{π > θ − ε/2}, plus, for the λ_P term, a shared column sum (`BelowThreshold`): training is sparse and exact.
λ is steered by a controller so that the L0 lands where asked; thresholds are calibrated at the end on held-in tokens.

Deviations, for runs of hundreds of steps: θ starts at the quantile of π that gives the starting L0; ε is a share of θ's
running mean (`bandwidth` relative) rather than an absolute 0.001; θ is trained raw, float32, clamped at zero (log θ
under Adam barely moves in short runs); Adam has β₁ 0.9 (the paper's is 0). The paper's: `bandwidth_relative = 0`,
`bandwidth`, `threshold_start`, `beta1 = 0`.
"""

# mypy: disable-error-code="override"
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, final

import torch
from torch import Tensor, nn
from torch.autograd import Function

from monosemy.kernels import dispatch, ops
from monosemy.kernels.reference import Columns, Pattern
from monosemy.latents import SparseLatents
from monosemy.ranges import SHARE, Range
from monosemy.saes.base import SaeConfig, SparseAutoencoder, StepInfo, StepOutput, quantile_of_l0
from monosemy.saes.losses import squared_error
from monosemy.saes.options import COEF, DECAY, FACTOR, FIRST_COEF, RATE, START_FACTOR
from monosemy.shapes import Activations, PerEntry, PerLatent, PreActs, Scalar


@dataclass(frozen=True)
class JumpReluOptions:
    learning_rate: Annotated[float, RATE] = 2e-3
    """Peak Adam learning rate at E‖x‖² = 1."""
    beta1: Annotated[float, DECAY] = 0.9
    beta2: Annotated[float, DECAY] = 0.999
    bias_rate_factor: Annotated[float, FACTOR] = 1.0
    """Learning rate of all biases as a multiple of the weights'."""
    recipe: Literal["step", "tanh"] = "step"
    """Which sparsity loss."""
    bandwidth_relative: Annotated[float, Range(0, 100, example=0.5)] = 0.5
    """ε as a share of the mean threshold; 0 uses `bandwidth`."""
    bandwidth: Annotated[float, Range(0, 100, example=0.001, above_low=True)] = 0.001
    """ε at E‖x‖² = 1, when `bandwidth_relative` is 0."""
    threshold_start: Annotated[float, Range(0, 1e6, example=0.01)] = 0.0
    """θ at the start; 0 takes the quantile of π that gives the starting L0."""
    threshold_rate_factor: Annotated[float, FACTOR] = 1.0
    """θ's learning rate as a multiple of the others'."""
    k_start_factor: Annotated[float, START_FACTOR] = 2.0
    """The L0 starts at this multiple of the asked one."""
    k_anneal_fraction: Annotated[float, SHARE] = 0.3
    """Share of training over which the controller's target falls to the asked L0."""
    sparsity_coef: Annotated[float, COEF] = 0.0
    """A fixed λ; 0 lets the controller choose it."""
    sparsity_coef_start: Annotated[float, FIRST_COEF] = 1e-3
    """λ from which the controller starts."""
    tanh_scale: Annotated[float, Range(0, 1e6, example=96, above_low=True)] = 96.0
    """c in "tanh" at E‖x‖² = 1 (4·√d for d = 576)."""
    pre_act_coef: Annotated[float, COEF] = 0.0
    """λ_P in "tanh"."""


class JumpReluFunction(Function):
    """π, θ [Z] → π H(π − θ); gradients: π ← H, θ ← −(θ/ε) K."""

    @staticmethod
    def forward(ctx: Any, pre: PerEntry, threshold: PerEntry, bandwidth: float) -> PerEntry:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return torch.where(pre > threshold, pre, 0.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pre, threshold = ctx.saved_tensors
        inside = (pre - threshold).abs() < ctx.bandwidth / 2
        grad_threshold = torch.where(inside, -threshold / ctx.bandwidth * grad, 0.0)
        return torch.where(pre > threshold, grad, 0.0), grad_threshold, None


class StepFunction(Function):
    """π, θ [Z] → H(π − θ); gradients: π ← 0, θ ← −(1/ε) K."""

    @staticmethod
    def forward(ctx: Any, pre: PerEntry, threshold: PerEntry, bandwidth: float) -> PerEntry:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pre, threshold = ctx.saved_tensors
        inside = (pre - threshold).abs() < ctx.bandwidth / 2
        return None, torch.where(inside, -grad / ctx.bandwidth, 0.0), None


class BelowThreshold(Function):
    """mean_n Σ_i ReLU(θ_i − π_ni)‖d_i‖ with unit rows, exact without a dense gradient.

    The gradient it sends π_ni is −1/N where π_ni < θ_i. Summed into the encoder, that is one shared column sum minus a
    sum over the few entries at or above their threshold: ∂W_enc[:, i] = −(Σ_n x_n − Σ_{n above} x_n) / N.
    """

    @staticmethod
    def forward(
        ctx: Any,
        W_enc: Tensor,
        b_enc: Tensor,
        b_dec: Tensor,
        threshold: Tensor,
        pre: Tensor,
        centred: Tensor,
        above: Pattern,
        columns: Columns,
    ) -> Tensor:
        ctx.save_for_backward(W_enc, centred)
        ctx.above, ctx.columns = above, columns
        return (threshold - pre).clamp_min(0).sum() / len(pre)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        W_enc, centred = ctx.saved_tensors
        n_rows, n_latents = len(centred), W_enc.shape[1]
        unit_values = centred.new_ones(len(ctx.above.indices))
        above_sum = ops.codes_transposed_times(ctx.above, ctx.columns, unit_values, centred, n_latents)
        below_share = 1 - dispatch.sum_by_latent(ctx.columns, unit_values) / n_rows
        grad_W = ((above_sum - centred.sum(0)) * (grad / n_rows)).T
        return grad_W, -grad * below_share, grad * (W_enc @ below_share), grad * below_share, None, None, None, None


@final
class JumpRelu(SparseAutoencoder):
    """f = π ⊙ H(π − θ) with θ learned through a kernel window of width ε."""

    name = "jumprelu"
    Options = JumpReluOptions
    coefficient = True
    scaled = ("b_enc", "b_dec", "threshold")

    def __init__(self, config: SaeConfig) -> None:
        super().__init__(config)
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae))
        self.threshold = nn.Parameter(torch.full((config.d_sae,), self.options.threshold_start))

    def _pre(self, x: Activations) -> PreActs:
        return ops.pre_activations(x, self.W_enc, self.b_enc, self.b_dec)

    def _encode(self, x: Activations, threshold: PerLatent) -> tuple[Pattern, PerEntry, Activations]:
        """Pattern above the threshold, its pre-activations, and x − b_dec."""
        centred = ops.centre(x, self.b_dec)
        return *dispatch.encode_above(centred, self.W_enc, self.b_enc, threshold), centred

    def rate_factors(self) -> Mapping[str, float]:
        return {**super().rate_factors(), "threshold": self.options.threshold_rate_factor}

    @property
    def bandwidth(self) -> float:
        """ε, the width of the kernel window."""
        relative = self.options.bandwidth_relative
        return relative * float(self.threshold.detach().mean()) if relative > 0 else self.options.bandwidth

    @torch.no_grad()
    def encode(self, x: Activations) -> SparseLatents:
        pattern, values, _ = self._encode(x, self.threshold.clamp_min(0))
        return SparseLatents(pattern.offsets, pattern.indices, values, self.d_sae)

    def losses(self, x: Activations, step: StepInfo) -> StepOutput:
        bandwidth = max(self.bandwidth, 1e-12)
        # The window's lower edge may lie below zero; what lies there still moves θ.
        window, pre_acts, centred = self._encode(x, self.threshold.detach() - bandwidth / 2)
        selection = ops.Selection(window, pre_acts, centred, x=x, W_enc=self.W_enc, b_enc=self.b_enc, b_dec=self.b_dec)
        threshold = selection.per_latent(self.threshold)
        values = JumpReluFunction.apply(selection.pre_acts, threshold, bandwidth)
        reconstruction = selection.decode(values, self.W_dec, self.b_dec)
        error = squared_error(x, reconstruction)
        terms = {"error": error.detach()}
        if self.options.recipe == "step":
            sparsity = StepFunction.apply(selection.pre_acts, threshold, bandwidth).sum() / len(x)
        else:
            sparsity = torch.tanh(self.options.tanh_scale * values).sum() / len(x)
        terms["sparsity"] = sparsity.detach()
        total = error + step.sparsity_coef * sparsity
        if self.options.recipe == "tanh" and self.options.pre_act_coef > 0:
            below = self._below(x, centred)
            terms["below"] = below.detach()
            total = total + self.options.pre_act_coef * below
        return StepOutput(total, terms, reconstruction.detach(), selection.latents(values.detach()))

    def _below(self, x: Activations, centred: Activations) -> Scalar:
        pre = self._pre(x)
        above = dispatch.select_above(pre, torch.nextafter(self.threshold.detach(), torch.tensor(-torch.inf).to(pre)))
        columns = dispatch.transpose(above, self.d_sae)
        parameters = (self.W_enc, self.b_enc, self.b_dec, self.threshold)
        return BelowThreshold.apply(*parameters, pre, centred, above, columns)

    @torch.no_grad()
    def initialise(self, x: Activations, l0: float) -> None:
        self.b_dec.copy_(x.mean(0))
        if self.options.threshold_start == 0:
            self.threshold.fill_(max(0.0, quantile_of_l0(self._pre(x), l0)))

    @torch.no_grad()
    def observe(self, output: StepOutput, step: StepInfo) -> None:
        """Thresholds stay at or above zero."""
        self.threshold.clamp_min_(0)

    @torch.no_grad()
    def margins(self, x: Activations) -> PreActs:
        pre = self._pre(x)
        return torch.where(pre > 0, pre - self.threshold, -torch.inf)

    @torch.no_grad()
    def shift_margins(self, amount: float) -> None:
        self.threshold.add_(amount).clamp_min_(0)
