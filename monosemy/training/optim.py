"""Adam over one SAE's parameters, the learning-rate schedule, and unit decoder rows.

This is bias-corrected Adam (Kingma & Ba 2015) in one fused pass per tensor (`kernels.dispatch.adam`). For W_dec, the
gradient's component along each row is removed before the step, and the rows are scaled back to unit length after it.

One learning rate suits all data only if each parameter's rate is in the parameter's own unit. Weights have none.
Thresholds and biases do: those of latents are measured in pre-activations, b_dec in activations. E‖x‖² = 1 fixes
neither, because activations may have a large mean and few dominating directions. `parameter_units` measures both. A
transcoder's encoder has a unit as well, outputs per input: the length that its columns start with.

Dominating directions also drown the encoder's gradient: it is a sum over rows, and most of a row lies along them. W_enc
is therefore trained as M V, with `Anisotropy`'s M: V receives Mᵀ ∂L/∂W_enc, and Adam's step of V moves W_enc by M
times it. Where no direction dominates, M is the identity. The decoder rows of the two dense latents on u_k
(`start_weights`) take s_k of a step, because turning a row costs error in proportion to its latent's activations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from monosemy.kernels import dispatch, ops
from monosemy.kernels.reference import AdamStep
from monosemy.saes.base import SparseAutoencoder
from monosemy.saes.losses import variance
from monosemy.saes.starts import Anisotropy, measure_anisotropy, no_anisotropy
from monosemy.shapes import Activations, Outputs


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


def default_rate(d_in: int, batch_tokens: int) -> float:
    """The peak learning rate where none is set: 0.13/√d_in · √(batch_tokens/1024), at most 0.02.

    A decoder row has unit length, so its entries are about 1/√d_in, and Adam moves each by about the learning rate: the
    direction then turns equally fast whatever the width of the data. Larger batches have less noise to average out
    (square-root rule: Malladi et al. 2022, arXiv 2205.10287).
    """
    return min(0.02, 0.13 * math.sqrt(batch_tokens / 1024 / d_in))


@torch.no_grad()
def parameter_units(
    sae: SparseAutoencoder, x: Activations, anisotropy: Anisotropy, y: Outputs | None = None
) -> dict[str, float]:
    """The units of the parameters that have one, by name, from training rows x [N, d_in] at the SAE's start.

    For b_dec, the rows' root mean square distance σ from their mean, dominating directions shrunk; for a transcoder,
    whose outputs y are given, that of the outputs. For latents' biases and thresholds, √d_in times the root mean square
    of (x − b_in) W_enc over the rows, that of the median latent. On isotropic data with unit encoder rows, that too is
    σ.
    """
    rows = x[:256]
    linear = ops.centre(rows, sae.b_in) @ sae.W_enc
    spread = math.sqrt(float(variance(anisotropy.shrink(rows.T).T if y is None else y[:256])))
    # The median latent's: dense latents of dominating directions answer far more strongly than all others.
    response = math.sqrt(sae.d_in * float(linear.square().mean(0).median()))
    # Constant rows have no spread; a rate of zero would freeze the parameters for good.
    units = {name: (spread if name == "b_dec" else response) or 1.0 for name in sae.scaled}
    if y is not None:
        units["W_enc"] = float(sae.W_enc.norm(dim=0).median()) or 1.0
    return {name: unit for name, unit in units.items() if math.isfinite(unit)}


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
        self.units: dict[str, float] = {}
        self.anisotropy = no_anisotropy(sae.W_enc.T)
        self.sae = sae
        self.of_transcoder = sae.config.transforms.transcoder
        self.first_latent = 0
        """The number of the SAE's first latent in its dictionary, where it is a slice of one (distributed/shard.py)."""

    def adapt(self, x: Activations, y: Outputs | None = None) -> None:
        """Measures units and dominating directions from training rows x [N, d_in], at the SAE's start.

        y are a transcoder's outputs on them.
        """
        self.anisotropy = measure_anisotropy(ops.centre(x, self.sae.b_in), self.sae.config.l0)
        self.units = parameter_units(self.sae, x, self.anisotropy, y)

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Moves every parameter that has a gradient, and drops the gradients."""
        self.n_steps += 1
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            options = AdamStep(
                step=self.n_steps,
                learning_rate=learning_rate * self.rate_factors.get(name, 1.0) * self.units.get(name, 1.0),
                beta1=self.beta1,
                beta2=self.beta2,
                epsilon=self.epsilon,
                unit_rows=name == "W_dec",
            )
            moments = self.first[name], self.second[name]
            if name == "W_enc" and len(self.anisotropy.excess):
                self._shrunk_step(parameter, moments, options)
            else:
                n_dense = self._n_dense() if name == "W_dec" else 0
                dense_rows = parameter[:n_dense].clone()
                dispatch.adam(parameter, parameter.grad, *moments, options=options)
                if n_dense:
                    shares = (1 - self.anisotropy.excess).repeat_interleave(2)[self.first_latent :][:n_dense, None]
                    parameter[:n_dense] = normalize(torch.lerp(dense_rows, parameter[:n_dense], shares), dim=1)
            # Not zeroed: the next backward pass then writes the gradient instead of adding to it.
            parameter.grad = None

    def _n_dense(self) -> int:
        """How many of the SAE's latents are dense ones of dominating directions; they are the dictionary's first."""
        if self.of_transcoder:
            return 0
        return min(max(2 * int(self.anisotropy.n_paired) - self.first_latent, 0), self.sae.d_sae)

    def _shrunk_step(self, W_enc: Tensor, moments: tuple[Tensor, Tensor], options: AdamStep) -> None:
        """Adam's step of V, where W_enc = M V. V itself is not kept: only its change is needed."""
        directions, excess, _ = self.anisotropy
        assert W_enc.grad is not None
        gradient = self.anisotropy.shrink(W_enc.grad)
        before = directions @ W_enc
        dispatch.adam(W_enc, gradient, *moments, options=options)
        # W_enc has moved by ΔV. Along each dominating direction, the excess of that is taken back.
        W_enc.sub_(directions.T @ (excess[:, None] * (directions @ W_enc - before)))

    def tensors(self) -> dict[str, Tensor]:
        """The moments by name, for a checkpoint. The tensors are the optimizer's own, not copies."""
        return {f"{kind}.{name}": t for kind in ("first", "second") for name, t in getattr(self, kind).items()}
