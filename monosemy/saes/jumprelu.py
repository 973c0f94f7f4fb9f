"""JumpReLU: every latent has its own threshold, learned through straight-through gradients.

    f = π ⊙ H(π − θ),  π = (x − b_dec) W_enc + b_enc,  x̂ = b_dec + f W_dec
    recipe "step" (Rajamanoharan et al. 2024, arXiv 2407.14435):  L = FVU + λ mean‖f‖₀
    recipe "tanh" (Anthropic, January 2025):  L = FVU + λ mean Σ tanh(c f_i‖d_i‖)
                                                  + λ_P mean Σ ReLU(θ_i − π_i)‖d_i‖
with the batch's FVU = mean‖x − x̂‖² / mean‖x − x̄‖². "step" also has
    frequency_coef · min(1, FVU / 0.1) · Σ_i max(0, p_i − limit)²
over the latents with p_i < 3 · limit, p_i the share of the batch's rows on which latent i fires; like the L0, it
reaches θ only. Its weight, which has no gradient, falls with the FVU where that is small; otherwise the penalty would
cost a large share of it.

Straight-through pseudo-derivatives, K(u) = 1 where |u| < ½:
    ∂f/∂θ = −(θ/ε) K((π − θ)/ε),  ∂H/∂θ = −(1/ε) K((π − θ)/ε),  ∂f/∂π = H(π − θ),  ∂H/∂π = 0.
In "step" the sparsity term reaches θ only; in "tanh" it reaches θ and the encoder through f. Gradients are exactly zero
off {π > θ − ε/2}, apart from the λ_P term, whose gradient below the threshold is one sum shared by all latents
(`BelowThreshold`). Training is therefore sparse and exact.
As `matryoshka_jumprelu` the dictionary is nested: the FVU is the mean over its prefixes (prefixes.py).
Unless λ is fixed, "step" steers the thresholds: in each batch all are multiplied by the factor at which exactly L0 · N
entries fire, and keep it. Since that undoes whatever the gradient does to their common level, λ has to say only how the
error weighs against the L0 between latents; it is the Lagrange multiplier at which the step's gradient leaves the
common level where it is (`balanced_coef`). In "tanh", a controller steers λ until the L0 lands on its target. Either
way thresholds are calibrated at the end on tokens left for it.

Deviations, for runs of hundreds of steps: the start is that of starts.py, with every θ at its latent's own quantile; ε
is a share of the current mean θ rather than an absolute 0.001; θ itself is trained, in float32 and clamped at zero (log
θ under Adam barely moves in short runs); Adam has β₁ 0.5 (the paper's is 0); dead latents restart
(training/revival.py). To train as the paper does, set `bandwidth_relative = 0`, `bandwidth`, `threshold_start`,
`beta1 = 0`, `frequency_coef = 0`, `sparsity_coef` (a fixed λ) and `training.restart_share = 0`.
"""

# mypy: disable-error-code="override"
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.autograd import Function

from monosemy.kernels import dispatch, ops
from monosemy.kernels.reference import Columns, Pattern
from monosemy.latents import SparseLatents
from monosemy.ranges import SHARE, Range
from monosemy.saes.base import Restart, SaeConfig, SparseAutoencoder, StepInfo, StepOutput
from monosemy.saes.losses import Target
from monosemy.saes.options import COEF, DECAY, FACTOR, FIRST_COEF, RATE, START_FACTOR
from monosemy.saes.prefixes import NESTED, PREFIX, decoded, prefix_widths
from monosemy.saes.starts import SMALL_START, fit_size, scaled_restart, start_thresholds, start_weights
from monosemy.shapes import Activations, Outputs, PerEntry, PerLatent, PreActs, Scalar

RESTART_THRESHOLD = 0.85
"""θ of a latent that restarts, as a share of the mean θ: one that is as strong as others where it fires stays alive.
Shares near .7 are best on planted features that are sparse and even, 1 under dominating directions."""
FULL_FREQUENCY_FVU = 0.1
"""The FVU from which on the penalty on frequent latents has its full weight."""
FACTOR_BOUNDS = 0.5, 2.0
"""The smallest and largest factor by which one batch may move the thresholds."""


@dataclass(frozen=True)
class JumpReluOptions:
    """The options of JumpReLU, for activations at E‖x‖² = 1."""

    learning_rate: Annotated[float | None, RATE] = None
    """Peak Adam learning rate at E‖x‖² = 1; None takes that of training/optim.py."""
    beta1: Annotated[float, DECAY] = 0.5
    """Decay of Adam's first moment per step."""
    beta2: Annotated[float, DECAY] = 0.999
    """Decay of Adam's second moment per step."""
    bias_rate_factor: Annotated[float, FACTOR] = 1.0
    """Learning rate of all biases as a multiple of the weights'."""
    recipe: Literal["step", "tanh"] = "step"
    """The sparsity term: a step function of π − θ, or a tanh of the latents."""
    bandwidth_relative: Annotated[float, Range(0, 100, example=0.5)] = 0.5
    """Kernel width ε as a share of the mean threshold; 0 uses `bandwidth`."""
    bandwidth: Annotated[float, Range(0, 100, example=0.001, above_low=True)] = 0.001
    """Kernel width ε at E‖x‖² = 1, used when `bandwidth_relative` is 0."""
    threshold_start: Annotated[float, Range(0, 1e6, example=0.01)] = 0.0
    """θ at the start; 0 takes each latent's own quantile of π, so that all fire equally often at the starting L0."""
    threshold_rate_factor: Annotated[float, FACTOR] = 1.0
    """θ's learning rate as a multiple of the weights'."""
    k_start_factor: Annotated[float, START_FACTOR] = 1.0
    """The L0 starts at this multiple of the target L0."""
    k_anneal_fraction: Annotated[float, SHARE] = 0.3
    """Share of training over which the controller's L0 falls to the target L0."""
    sparsity_coef: Annotated[float, COEF] = 0.0
    """A fixed λ; 0 lets the controller choose it."""
    sparsity_coef_start: Annotated[float, FIRST_COEF] = 0.1
    """The λ that the controller starts from, in units of the starting error over the starting sparsity term."""
    frequency_coef: Annotated[float, COEF] = 0.1
    """Weight of the penalty on latents that fire more often than `frequency_limit`, up to three times as often; 0
    leaves it out. Below an FVU of a tenth it falls with the FVU. It lowers the share of latents on more than a tenth of
    the tokens from 2.0% to 0.7% at 0.8% more FVU (L0 64 of 2,304, 300k tokens of the embedded model, one seed)."""
    frequency_limit: Annotated[float, SHARE] = 0.1
    """The share of tokens up to which a latent may fire without that penalty; three times the mean rate if higher."""
    tanh_scale: Annotated[float, Range(0, 1e6, example=96, above_low=True)] = 96.0
    """The factor c inside the tanh, at E‖x‖² = 1 (4·√d for d = 576); read by `tanh` only."""
    pre_act_coef: Annotated[float, COEF] = 0.0
    """Coefficient λ_P of the penalty on pre-activations below their threshold; read by `tanh` only."""
    prefixes: Annotated[tuple[float, ...], PREFIX] = ()
    """Prefixes of the dictionary that must reconstruct on their own, as shares of its latents; none: only all."""


def frequency_weight(options: JumpReluOptions, error: Scalar) -> Scalar:
    """The weight of the penalty on frequent latents in a batch of that FVU, without gradient."""
    return options.frequency_coef * (error.detach() / FULL_FREQUENCY_FVU).clamp(max=1)


class JumpReluFunction(Function):
    """f = π H(π − θ) on entries π, θ [Z]. Gradient: H to π, −(θ/ε) K to θ."""

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
    """H(π − θ) on entries π, θ [Z]. Gradient: none to π, −(1/ε) K to θ."""

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


@torch.no_grad()
def threshold_factor(pre: PerEntry, threshold: PerEntry, n_firing: int) -> float:
    """The factor on thresholds at which `n_firing` of the entries π, θ [Z] fire, within `FACTOR_BOUNDS`."""
    ratios = pre / threshold.clamp_min(1e-12)
    n_silent = len(ratios) - n_firing
    low, high = FACTOR_BOUNDS
    if n_silent < 1:  # all that the window holds may fire, and more should
        return low if len(ratios) == 0 else min(high, max(low, 0.999 * float(ratios.min())))
    # Halfway to the next: at a pre-activation itself, rounding would decide whether it fires.
    next_ratio = ratios.kthvalue(min(n_silent + 1, len(ratios))).values
    return min(high, max(low, float(ratios.kthvalue(n_silent).values + next_ratio) / 2))


@torch.no_grad()
def l0_slope(pre: PerEntry, threshold: PerEntry, bandwidth: float, *, n_rows: int) -> float:
    """Σ_i θ_i ∂L0/∂θ_i through the window, from entries π, θ [Z] of a batch: −(1/ε) mean_n Σ_i θ_i K((π − θ)/ε)."""
    inside = (pre - threshold).abs() < bandwidth / 2
    return -float(torch.where(inside, threshold, 0.0).sum()) / (bandwidth * n_rows)


class BelowThreshold(Function):
    """The λ_P term, mean_n Σ_i ReLU(θ_i − π_ni)‖d_i‖ with unit rows d_i, with its exact gradient at a sparse cost.

    π_ni receives −1/N wherever π_ni < θ_i, which is almost everywhere. The encoder's gradient is then the sum over all
    rows, the same for every latent, minus the sum over the few rows at or above the threshold. With x_n centred:
    ∂W_enc[:, i] = −(Σ_n x_n − Σ_{n above} x_n) / N.
    Gradient: to W_enc, b_enc, b_dec and θ.
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
        # A code of ones on the entries at or above θ turns the sparse kernels into sums over those entries.
        unit_values = centred.new_ones(len(ctx.above.indices))
        above_sum = ops.codes_transposed_times(ctx.above, ctx.columns, unit_values, centred, n_latents=n_latents)
        below_share = 1 - dispatch.sum_by_latent(ctx.columns, unit_values) / n_rows
        # The share of rows below θ_i is −∂/∂b_enc and ∂/∂θ; b_dec enters π through −W_enc.
        grad_W = ((above_sum - centred.sum(0)) * (grad / n_rows)).T
        return grad_W, -grad * below_share, grad * (W_enc @ below_share), grad * below_share, None, None, None, None


@final
class JumpRelu(SparseAutoencoder):
    """JumpReLU: f = π ⊙ H(π − θ), with θ learned through a kernel window of width ε."""

    name = "jumprelu"
    Options = JumpReluOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"matryoshka_jumprelu": NESTED}
    coefficient = True
    scaled = ("b_enc", "b_dec", "threshold")

    def __init__(self, config: SaeConfig) -> None:
        super().__init__(config)
        self.widths = prefix_widths(self.options.prefixes, config.d_sae)
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae))
        self.threshold = nn.Parameter(torch.full((config.d_sae,), self.options.threshold_start))

    def _pre(self, x: Activations) -> PreActs:
        return ops.pre_activations(x, self.W_enc, self.b_enc, self.b_in)

    def _encode(self, x: Activations, threshold: PerLatent) -> tuple[Pattern, PerEntry, Activations]:
        """The pattern above the threshold, the pre-activations on it [Z], and x − b_dec."""
        centred = ops.centre(x, self.b_in)
        return *dispatch.encode_above(centred, self.W_enc, self.b_enc, threshold), centred

    def rate_factors(self) -> Mapping[str, float]:
        return {**super().rate_factors(), "threshold": self.options.threshold_rate_factor}

    @property
    def bandwidth(self) -> float:
        """ε, the width of the kernel window, in units of the SAE's input."""
        relative = self.options.bandwidth_relative
        return relative * float(self.threshold.detach().mean()) if relative > 0 else self.options.bandwidth

    @property
    def steered(self) -> bool:
        """Whether a common factor gives every batch of training its L0."""
        return self.options.recipe == "step" and self.options.sparsity_coef == 0

    @torch.no_grad()
    def encode(self, x: Activations) -> SparseLatents:
        pattern, values, _ = self._encode(x, self.threshold.clamp_min(0))
        return SparseLatents(pattern.offsets, pattern.indices, values, self.d_sae)

    def losses(self, x: Activations, step: StepInfo, target: Target | None = None) -> StepOutput:
        target = target or Target.of(x)
        # A relative width is zero once all thresholds are; the backward pass divides by it.
        bandwidth = max(self.bandwidth, 1e-12)
        # The selection reaches down to the window's lower edge, where f is zero but θ still receives gradient. The edge
        # may lie below zero; entries there move θ as well.
        window, pre_acts, centred = self._encode(x, self.threshold.detach() - bandwidth / 2)
        selection = ops.Selection(window, pre_acts, centred, x=x, W_enc=self.W_enc, b_enc=self.b_enc, b_dec=self.b_in)
        threshold = selection.per_latent(self.threshold)
        factor = threshold_factor(selection.pre_acts, threshold, round(step.l0 * len(x))) if self.steered else None
        if factor is not None:
            threshold = threshold * factor
        values = JumpReluFunction.apply(selection.pre_acts, threshold, bandwidth)
        # The variance is that of the batch and has no gradient: the error is the batch's FVU, and λ has no unit.
        reconstruction, error = decoded(selection, values, self.W_dec, self.b_dec, target=target, widths=self.widths)
        terms = {"error": error.detach()}
        if self.options.recipe == "step":
            fires = StepFunction.apply(selection.pre_acts, threshold, bandwidth)
            sparsity = fires.sum() / len(x)
        else:
            # Decoder rows have unit length, and tanh(0) = 0 off the selection.
            sparsity = torch.tanh(self.options.tanh_scale * values).sum() / len(x)
        terms["sparsity"] = sparsity.detach()
        total = error + step.sparsity_coef * sparsity
        if self.options.recipe == "step" and self.options.frequency_coef > 0:
            frequency = self._frequency(fires, selection, step.l0, n_rows=len(x))
            terms["frequency"] = frequency.detach()
            total = total + frequency_weight(self.options, error) * frequency
        if self.options.recipe == "tanh" and self.options.pre_act_coef > 0:
            below = self._below(x, centred)
            terms["below"] = below.detach()
            total = total + self.options.pre_act_coef * below
        latents = selection.latents(values.detach())
        slope = None if factor is None else l0_slope(selection.pre_acts, threshold, bandwidth, n_rows=len(x))
        return StepOutput(total, terms, reconstruction, latents, statistic=factor, l0_slope=slope)

    @torch.no_grad()
    def balanced_coef(self, output: StepOutput, step: StepInfo) -> float | None:
        """λ − (Σ_i θ_i ∂L/∂θ_i) / (Σ_i θ_i ∂L0/∂θ_i): with it, this step would not have moved the common level of θ."""
        if output.l0_slope is None:
            return None
        if output.l0_slope == 0 or self.threshold.grad is None:  # nothing near a threshold, nothing to learn λ from
            return step.sparsity_coef
        pull = float((self.threshold * self.threshold.grad).sum())
        return max(0.0, step.sparsity_coef - pull / output.l0_slope)

    def _frequency(self, fires: PerEntry, selection: ops.Selection, l0: float, *, n_rows: int) -> Scalar:
        """Σ_i max(0, p_i − limit)² with p_i the share of the batch's rows on which latent i fires.

        The limit is at least three times the mean rate, as it must be in a small dictionary.
        Latents above three times the limit are left alone: those of dominating directions fire on half of the rows
        (starts.py), and are better kept than made to share out what they hold.
        """
        latents = selection.pattern.indices.long()
        rates = fires.new_zeros(self.d_sae).index_add(0, latents, fires) / n_rows
        limit = max(self.options.frequency_limit, 3 * l0 / self.d_sae)
        excess = (rates - limit).clamp_min(0).square()
        return torch.where(rates.detach() < 3 * limit, excess, 0).sum()

    def _below(self, x: Activations, centred: Activations) -> Scalar:
        """The λ_P term of a batch. It needs every pre-activation, so the dense product is taken once more."""
        pre = self._pre(x)
        # The selection is strict; against the next float below θ it includes entries exactly at θ, whose gradient is 0.
        above = dispatch.select_above(pre, torch.nextafter(self.threshold.detach(), torch.tensor(-torch.inf).to(pre)))
        columns = dispatch.transpose(above, self.d_sae)
        parameters = (self.W_enc, self.b_enc, self.b_in, self.threshold)
        return BelowThreshold.apply(*parameters, pre, centred, above, columns)

    @torch.no_grad()
    def initialise(self, x: Activations, l0: float, y: Outputs | None = None) -> None:
        n_dense = start_weights(self, x, y)
        if self.options.threshold_start == 0:
            self.threshold.copy_(start_thresholds(self._pre(x), l0, n_dense))
            # Only then: a θ that was set stays as it is.
            fit_size(self, x, n_dense, y, share=SMALL_START if self.steered else 1.0)

    @torch.no_grad()
    def restart(self, latents: Int64[Tensor, " r"], new: Restart, output: StepOutput) -> None:
        new = scaled_restart(new, RESTART_THRESHOLD * self.threshold.mean() / new.thresholds.clamp_min(1e-12))
        super().restart(latents, new, output)
        self.b_enc[latents] = 0
        self.threshold[latents] = new.thresholds

    @torch.no_grad()
    def observe(self, output: StepOutput, step: StepInfo) -> None:
        """Keeps the batch's factor, and clamps thresholds at zero, so that no latent takes a negative value."""
        if output.statistic is not None:
            self.threshold.mul_(output.statistic)
        self.threshold.clamp_min_(0)

    @torch.no_grad()
    def margins(self, x: Activations) -> PreActs:
        pre = self._pre(x)
        # Thresholds never fall below zero, so a pre-activation that is not positive cannot fire at any shift.
        return torch.where(pre > 0, pre - self.threshold, -torch.inf)

    @torch.no_grad()
    def shift_margins(self, amount: float) -> None:
        self.threshold.add_(amount).clamp_min_(0)
