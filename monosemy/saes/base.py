"""The interface that every sparse autoencoder implements, its configuration and its shared parameters.

Place on the path: activations → **SAE** → training. A concrete architecture is one final class in one file of this
package. It inherits from `SparseAutoencoder` directly and shares code through functions (`losses`, `kernels.ops`),
never through a common subclass.

Shapes: W_enc [d_in, d_sae] (stored column by column, so that a latent's weights are contiguous, because gradients touch
whole latents), W_dec [d_sae, d_in] with unit rows, b_dec [d_in], b_enc [d_sae].
Units: during training, inputs are divided by the site's scale C so that E‖x‖² = 1. `fold_scale(C)` then makes the SAE
read raw activations: both weight matrices stay the same, and biases, thresholds and latents are multiplied by C.

A transcoder is an SAE whose output stands for another site's activation y [N, d_out] (Dunefsky et al. 2024, arXiv
2406.11944; the linear path: Paulo et al. 2025, arXiv 2501.18823):

    π = (x − m) W_enc + b_enc,   ŷ = b_dec + f W_dec [+ (x − m) W_skipᵀ]

m is the input's mean, measured at the start, which `fold_input_mean` puts into the biases at the end: the saved
transcoder reads x itself. Every architecture can be trained as one: `b_in` is what its encoder subtracts, and its
losses compare with a `Target`.
`forward`, `encode` and `losses` are pure. Apart from the optimizer, only `observe` changes an SAE during training.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from monosemy.config import from_json, to_json
from monosemy.errors import UserError
from monosemy.kernels import ops
from monosemy.latents import SparseLatents
from monosemy.saes.losses import Target, variance
from monosemy.saes.transforms import NO_TRANSFORMS, Transforms
from monosemy.shapes import Activations, LatentMask, Outputs, PerInput, PreActs, Scalar
from monosemy.support.notebook import facts_html, facts_line
from monosemy.support.numbers import count_text, setting_text


@dataclass(frozen=True)
class SaeConfig:
    """The description of an SAE that is saved beside its weights.

    `scale` is the C that was folded into the weights (1 during training); `record` says how the SAE was made.
    """

    architecture: str
    d_in: int
    d_sae: int
    l0: float
    """The target L0: how many latents should be active per token; 0 where a publisher does not say it."""
    site: str = ""
    model: str = ""
    seed: int = 0
    frozen_decoder: bool = False
    """Whether the SAE is a control whose decoder keeps its random unit rows. All other parameters are trained."""
    options: Mapping[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    record: Mapping[str, Any] = field(default_factory=dict)
    transforms: Transforms = NO_TRANSFORMS
    """What a published SAE does to its input and output beside encoding and decoding."""
    d_out: int | None = None
    """The width of a transcoder's output; None where the output is a reconstruction of the input."""
    site_out: str = ""
    """The site that a transcoder's output stands for; empty where it is `site`."""

    @property
    def source_site(self) -> str | None:
        """The site that a transcoder reads; None for an SAE, which reads the site that it reconstructs."""
        return self.site if self.site_out else None


@dataclass(frozen=True)
class StepInfo:
    """The settings of one training step: everything that varies over training and is decided outside the SAE.

    progress: share of the steps done, 0 to 1.
    l0: the L0 that this step should have; it is annealed towards the target L0.
    sparsity_coef: the coefficient λ of the architecture's sparsity term: the controller's, or the fixed one.
    dead: bool [d_sae], the latents that have been silent for too many tokens; None when there are none.
    """

    progress: float
    l0: float
    sparsity_coef: float = 0.0
    dead: LatentMask | None = None


@dataclass(frozen=True)
class StepOutput:
    """The result of a step's forward pass.

    total: the scalar loss to differentiate.
    terms: the parts of the loss, detached and without their coefficients.
    reconstruction: x̂ [N, d_in], detached; of a transcoder ŷ [N, d_out] without its linear path.
    latents: the code, detached. JumpReLU's also holds entries of value zero inside the kernel window.
    statistic: a number that `observe` needs, such as the smallest pre-activation that BatchTopK kept.
    l0_slope: Σ_i θ_i ∂L0/∂θ_i, at most 0: how the batch's L0 answers to a relative rise of all thresholds; None where
    no common factor steers them.
    """

    total: Scalar
    terms: Mapping[str, Tensor]
    reconstruction: Outputs
    latents: SparseLatents
    statistic: float | None = None
    l0_slope: float | None = None


class Restart(NamedTuple):
    """New weights for R latents, and how they answer to the N rows of the step's batch."""

    decoder: Float[Tensor, "r d_out"]
    """Unit rows."""
    encoder: Float[Tensor, "d_in r"]
    gains: Float[Tensor, " r"]
    """The factor, of order 1, by which each encoder is longer than the filter that answers its decoder row with 1."""
    answers: Float[Tensor, "n r"]
    """(x − b_in) times the encoder."""
    thresholds: Float[Tensor, " r"]
    """Not negative; each lies below as many answers as an average latent has firings in the batch."""


class SparseAutoencoder(nn.Module, ABC):
    """A sparse autoencoder: x → latents → x̂ = b_dec + Σ_f latents_f W_dec[f].

    Every architecture defines these class attributes:
    name: its name in the registry.
    Options: a frozen dataclass of its settings, with defaults.
    presets: further names under which it is registered, each with the defaults that are others there.
    coefficient: True when the L0 follows from λ and a controller has to steer λ; False when the selection fixes the L0.
    scaled: the parameters and buffers in units of the input, which are multiplied by C when the scale is folded in.
    """

    name: ClassVar[str]
    Options: ClassVar[type]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    coefficient: ClassVar[bool]
    scaled: ClassVar[tuple[str, ...]] = ("b_enc", "b_dec")

    W_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter
    W_skip: nn.Parameter
    input_mean: Tensor

    def __init__(self, config: SaeConfig) -> None:
        super().__init__()
        check_sizes(config)
        self.config = config
        options = {**self.presets.get(config.architecture, {}), **config.options}
        self.options: Any = from_json(self.Options, options, f"options of {config.architecture}")
        # Its own generator, on the CPU: the weights depend on the seed alone, not on earlier draws or the device.
        generator = torch.Generator().manual_seed(config.seed)
        rows = _unit_rows(config.d_sae, self.d_out, generator)
        # An SAE's encoder starts as the decoder's transpose; a transcoder's reads another space.
        columns = _unit_rows(config.d_sae, config.d_in, generator) if config.transforms.transcoder else rows.clone()
        self.W_dec = nn.Parameter(rows, requires_grad=not config.frozen_decoder)
        self.W_enc = nn.Parameter(columns.T)  # a transposed view: stored column by column
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))
        if config.transforms.transcoder:
            self.register_buffer("input_mean", torch.zeros(config.d_in))
            if config.transforms.skip:
                self.W_skip = nn.Parameter(torch.zeros(self.d_out, config.d_in))

    @property
    def d_in(self) -> int:
        return self.config.d_in

    @property
    def d_sae(self) -> int:
        return self.config.d_sae

    @property
    def d_out(self) -> int:
        """The width of the output; that of the input except for transcoders."""
        return self.config.d_out or self.config.d_in

    @property
    def b_in(self) -> Tensor | None:
        """What the encoder subtracts from its input, [d_in]: b_dec; in a transcoder in training, the input's mean.

        None within a published SAE that subtracts nothing (transformed.py).
        """
        return self.input_mean if self.config.transforms.transcoder else self.b_dec

    @property
    def source_site(self) -> str | None:
        """The site that a transcoder reads; None for an SAE, which reads the site that it reconstructs."""
        return self.config.source_site

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a file of this SAE holds, by name: the parameters and buffers themselves."""
        return {name: tensor for name, tensor in self.state_dict().items() if name != "input_mean"}

    def target(self, x: Activations, y: Outputs) -> Target:
        """The target of a step that reads x and should give y; x and y are the same rows for an SAE.

        Gradient: to W_skip, since the linear path is taken off y rather than added to the output of the latents.
        """
        rows = y - (x - self.input_mean) @ self.W_skip.T if self.config.transforms.skip else y
        return Target(rows, variance(y))

    def _facts(self) -> dict[str, str]:
        config = self.config
        size = {"d_in": count_text(self.d_in), "d_sae": count_text(self.d_sae)}
        facts = {**size, "L0": setting_text(config.l0) if config.l0 else "", "site": config.site, "model": config.model}
        return {name: value for name, value in facts.items() if value}

    def __repr__(self) -> str:
        return facts_line(f"{self.config.architecture} SAE", self._facts())

    def _repr_html_(self) -> str:
        return facts_html(f"{self.config.architecture} SAE", self._facts())

    @abstractmethod
    def encode(self, x: Activations) -> SparseLatents:
        """Encodes x [N, d_in] with the selection used at inference, without gradient."""

    @abstractmethod
    def losses(self, x: Activations, step: StepInfo, target: Target | None = None) -> StepOutput:
        """Computes the training loss of a batch x [N, d_in] at E‖x‖² = 1. Pure: changes nothing.

        `target` is that of a transcoder, as `self.target` gives it; None stands for x itself.
        """

    @abstractmethod
    def initialise(self, x: Activations, l0: float, y: Outputs | None = None) -> None:
        """Sets biases and thresholds from training rows x [n, d_in] so that the L0 starts near `l0`.

        y [n, d_out] are a transcoder's outputs on these rows, at E‖y‖² = 1.
        """

    def margins(self, x: Activations) -> PreActs | None:
        """How far each latent is above its firing point, [N, F]: it fires exactly where its margin is positive.

        −∞ marks a latent that no shift can make fire. None when the selection fixes the L0, as in TopK.
        """
        return None

    def shift_margins(self, amount: float) -> None:
        """Lowers every margin by `amount`, by raising thresholds or lowering biases; `calibrate` uses it."""

    def observe(self, output: StepOutput, step: StepInfo) -> None:
        """Updates what gradients do not train, such as a running threshold; called once per step, after Adam's."""

    def balanced_coef(self, output: StepOutput, step: StepInfo) -> float | None:
        """The λ that this step's gradient calls for, where thresholds are steered to the L0; None for a controller's λ.

        Called between the backward pass and Adam's step.
        """
        return None

    def restart(self, latents: Int64[Tensor, " r"], new: Restart, output: StepOutput) -> None:
        """Gives `latents` new weights, with which they fire where their answers are above their thresholds.

        `output` is that of the step just taken. Where the selection decides what fires, as in TopK, encoders are scaled
        instead, so that the latents are selected as often.
        """
        if self.W_dec.requires_grad:
            self.W_dec[latents] = new.decoder
        self.W_enc[:, latents] = new.encoder

    def rate_factors(self) -> Mapping[str, float]:
        """Learning-rate multipliers by parameter name (default 1)."""
        biases = [name for name, _ in self.named_parameters() if name.startswith("b_")]
        return dict.fromkeys(biases, getattr(self.options, "bias_rate_factor", 1.0))

    def output_scale(self, x: Activations) -> Float[Tensor, "n 1"] | None:
        """By what a latent's activation times its decoder row is multiplied in x̂, per row of x; None where by 1."""
        return None

    def decode(self, latents: SparseLatents) -> Activations:
        """Decodes a code into x̂ [N, d_in]. Raises UserError when the code's number of latents is not this SAE's."""
        if latents.d_sae != self.d_sae:
            raise UserError(f"the code has {latents.d_sae} latents but this SAE has {self.d_sae}")
        return ops.decode(latents, self.W_dec, self.b_dec)

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructs x [..., d_in]. Raises UserError when the last dimension is not d_in."""
        rows = x.reshape(-1, x.shape[-1])
        check_input(rows, self.d_in)
        output = self.decode(self.encode(rows))
        if self.config.transforms.skip:
            output = output + (rows - self.input_mean) @ self.W_skip.T
        return output.view(*x.shape[:-1], self.d_out)

    @torch.no_grad()
    def fold_scale(self, scale: float, scale_out: float | None = None) -> None:
        """Makes an SAE that was trained on x / C read raw x, in place: folded(x) = C · unfolded(x / C).

        A transcoder whose output was trained on y / C_out takes that scale too: folded(x) = C_out · unfolded(x / C).
        """
        scale_out = scale if scale_out is None else scale_out
        # π(x) is affine and H(π − θ) looks at signs only. With biases and thresholds times C, π(x) = C π'(x / C): the
        # same latents fire, with C times the value.
        for name in self.scaled:
            getattr(self, name).mul_(scale_out)
        if self.config.transforms.transcoder:
            # Latents are in units of the output, so the encoder takes the ratio of the units.
            self.W_enc.mul_(scale_out / scale)
            self.input_mean.mul_(scale)
            if self.config.transforms.skip:
                self.W_skip.mul_(scale_out / scale)
        self.config = dataclasses.replace(self.config, scale=self.config.scale * scale_out)

    @torch.no_grad()
    def fold_input_mean(self) -> None:
        """Makes a transcoder read x rather than x − m, in place, with the same codes and outputs up to rounding."""
        if self.config.transforms.skip:
            self.b_dec.sub_((self.W_skip.double() @ self.input_mean.double()).to(self.b_dec))
        for name, bias in biases_of_shifted_input(self.tensors(), -self.input_mean).items():
            getattr(self, name).copy_(bias)
        self.input_mean.zero_()

    @torch.no_grad()
    def fold_centre(self, centre: PerInput) -> None:
        """Makes an SAE that was trained on x − m read x, in place; the centre m [d_in] is in units of its input."""
        # Every architecture reads x only through x − b_dec, and adds b_dec to what it decodes.
        self.b_dec.add_(centre.to(self.b_dec))


def _unit_rows(n_rows: int, width: int, generator: torch.Generator) -> Tensor:
    """Rows [n_rows, width] that are uniform on the sphere: normalised Gaussian ones."""
    if torch.get_default_device().type == "meta":
        return torch.empty(n_rows, width)  # no storage: a saved SAE is read into it (storage.py)
    return nn.functional.normalize(torch.randn(n_rows, width, generator=generator), dim=1)


def biases_of_shifted_input(tensors: Mapping[str, Tensor], shift: PerInput) -> dict[str, Tensor]:
    """The biases with which an encoder that reads x has the pre-activations that it has on x + shift, by name."""
    # (x + s) W + b = x W + (b + s W), in float64 because the two may nearly cancel.
    answer = shift.double() @ tensors["W_enc"].double()
    biases = {}
    for name in ("b_enc", "b_gate", "b_mag"):
        if name in tensors:
            factor = tensors["r_mag"].double().exp() if name == "b_mag" else 1.0
            biases[name] = (tensors[name].double() + answer * factor).to(tensors[name])
    return biases


def check_sizes(config: SaeConfig) -> None:
    """Raises UserError for sizes that no SAE can have, such as an L0 above the number of latents."""
    if config.d_in < 1 or config.d_sae < 1:
        raise UserError(f"d_in and d_sae must be at least 1, got {config.d_in} and {config.d_sae}")
    unknown_l0 = config.l0 == 0 and "origin" in config.record
    if not 0 < config.l0 <= config.d_sae and not unknown_l0:
        raise UserError(
            f"l0 {setting_text(config.l0)} must be above 0 and at most d_sae {config.d_sae}; lower the L0 or widen the "
            "SAE"
        )


def check_input(x: Tensor, d_in: int) -> None:
    """Raises UserError when the rows of x are not `d_in` wide."""
    if x.shape[-1] != d_in:
        raise UserError(f"the input has width {x.shape[-1]} but this SAE reads width {d_in}; take its own site")


@torch.no_grad()
def calibrate(sae: SparseAutoencoder, batches: list[Tensor]) -> dict[str, float]:
    """Shifts all thresholds once, by the same amount, so that the mean L0 over `batches` is the target L0.

    The shift lies between the margins of the (l0·N)-th and the next strongest (row, latent) pair, so the L0 is exact up
    to ties. Where fewer pairs than that can fire at all, every one of them fires except the weakest. On rows that the
    SAE was trained on it would land too low for others: JumpReLU at layer 12 of SmolLM2-135M, calibrated to 32.0 on
    them, had an L0 of 34.6 on left-out rows after 4 passes over 40,000 tokens, and 42 after 10 passes over 10,000.
    Returns l0_before, l0_after, shift (in units of the SAE's input) and n_tokens; an empty dict when the selection
    fixes the L0 and there is nothing to shift.
    """
    if sae.margins(batches[0][:1]) is None:
        return {}
    n_tokens = sum(len(x) for x in batches)
    n_keep = round(sae.config.l0 * n_tokens)
    strongest, n_active = _strongest_margins(sae, batches, n_keep)
    ranked = strongest.sort(descending=True).values
    n_keep = min(n_keep, len(ranked) - 1)
    # Halfway between two neighbours: on a margin itself, rounding would decide whether that pair still fires.
    shift = float((ranked[n_keep - 1].double() + ranked[n_keep].double()) / 2) if n_keep > 0 else 0.0
    sae.shift_margins(shift)
    after = sum(sae.encode(x).l0 * len(x) for x in batches) / n_tokens
    return {"l0_before": n_active / n_tokens, "l0_after": after, "shift": shift, "n_tokens": float(n_tokens)}


def _strongest_margins(sae: SparseAutoencoder, batches: list[Tensor], n_keep: int) -> tuple[Tensor, int]:
    """A set of margins that contains the n_keep + 1 largest of all rows, and the number of positive ones among all.

    Where fewer than n_keep + 1 are finite, the set holds every finite one. All margins together might not fit into
    memory, so only those above a bound are kept. The bound is guessed from the first batch and lowered until enough
    margins pass it.
    """
    share = n_keep / sum(len(x) for x in batches)
    slack = 1.5
    while True:
        bound, parts, n_active = -torch.inf, [], 0
        for i, x in enumerate(batches):
            margins = sae.margins(x)
            assert margins is not None
            flat = margins.flatten()
            # The bound lets through `slack` times as many pairs of the first batch as its share would be, and a few
            # more for small batches. Where that is all of them, it stays at −∞ and the search ends after this round.
            rank = math.ceil(slack * share * len(x)) + 64
            if i == 0 and rank < flat.numel():
                bound = float(flat.kthvalue(flat.numel() - rank + 1).values)
            n_active += int((flat > 0).sum())
            parts.append(flat[flat > bound])
        strongest = torch.cat(parts)
        if len(strongest) > n_keep or bound == -torch.inf:
            return strongest[strongest > -torch.inf], n_active  # pairs at −∞ cannot fire whatever the shift
        slack *= 4


def describe(sae: SparseAutoencoder) -> dict[str, Any]:
    """The SAE's configuration as JSON values."""
    return to_json(sae.config)
