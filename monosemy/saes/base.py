"""What every sparse autoencoder is: parameters, configuration, the interface, and its folder on disk.

Place on the path: activations → **SAE** → training. A concrete architecture is one final class in one file of this
package; it inherits from `SparseAutoencoder` only and shares functions (`losses`, `kernels.ops`), never a subclass.

Shapes: W_enc [d_in, d_sae] (stored column by column, so that a latent's weights are contiguous: gradients touch
whole latents), W_dec [d_sae, d_in] with unit rows, b_dec [d_in], b_enc [d_sae].
Units: while training, inputs are divided by the site's scale C so that E‖x‖² = 1; `fold_scale(C)` makes the SAE read
raw activations (W unchanged; biases and thresholds × C; latents come out × C).
forward, encode and losses are pure: nothing changes but in `observe`, which the trainer calls once per step.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from monosemy.config import from_json, to_json
from monosemy.errors import UserError
from monosemy.kernels import ops
from monosemy.latents import SparseLatents
from monosemy.shapes import Activations, LatentMask, PreActs, Scalar


@dataclass(frozen=True)
class SaeConfig:
    """What a trained SAE is. `scale` is the C that was folded in (1 while training); `record` keeps how it was made."""

    architecture: str
    d_in: int
    d_sae: int
    l0: float
    """Active latents per token that it was asked for."""
    site: str = ""
    model: str = ""
    seed: int = 0
    frozen_decoder: bool = False
    """Control: the decoder keeps its random unit rows; only the encoder and the biases are trained."""
    options: Mapping[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StepInfo:
    """What a training step is told: everything that changes over training, decided outside the SAE.

    progress: share of the steps done, 0 to 1. l0: the sparsity this step should have (annealed towards the asked one).
    sparsity_coef: the coefficient λ of the architecture's sparsity term, from its controller. dead: bool [d_sae],
    latents silent for too many tokens, or None when there are none.
    """

    progress: float
    l0: float
    sparsity_coef: float = 0.0
    dead: LatentMask | None = None


@dataclass(frozen=True)
class StepOutput:
    """A step's result. `total` is the scalar to differentiate; `terms` are its parts, detached; `latents` the code
    (values may include zeros inside a kernel window); `statistic` whatever `observe` needs (a batch's cut, say)."""

    total: Scalar
    terms: Mapping[str, Tensor]
    reconstruction: Activations
    latents: SparseLatents
    statistic: float | None = None


class SparseAutoencoder(nn.Module, ABC):
    """x → latents → x̂ = b_dec + Σ_f latents_f W_dec[f].

    Class attributes of an architecture: `name`; `Options` (a frozen dataclass of its knobs, with defaults);
    `coefficient` (True when a controller must steer λ to land the L0, False when the L0 holds by construction);
    `scaled` (parameters in units of the input, multiplied by C on folding).
    """

    name: ClassVar[str]
    Options: ClassVar[type]
    coefficient: ClassVar[bool]
    scaled: ClassVar[tuple[str, ...]] = ("b_enc", "b_dec")

    W_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter

    def __init__(self, config: SaeConfig) -> None:
        super().__init__()
        check_sizes(config)
        self.config = config
        self.options: Any = from_json(self.Options, config.options, f"options of {self.name}")
        generator = torch.Generator().manual_seed(config.seed)
        rows = torch.randn(config.d_sae, config.d_in, generator=generator)
        rows = nn.functional.normalize(rows, dim=1)
        self.W_dec = nn.Parameter(rows, requires_grad=not config.frozen_decoder)
        self.W_enc = nn.Parameter(rows.clone().T)  # a transposed view: stored column by column
        self.b_dec = nn.Parameter(torch.zeros(config.d_in))

    @property
    def d_in(self) -> int:
        return self.config.d_in

    @property
    def d_sae(self) -> int:
        return self.config.d_sae

    @abstractmethod
    def encode(self, x: Activations) -> SparseLatents:
        """The code of x [N, d_in] as it is at inference, without gradient."""

    @abstractmethod
    def losses(self, x: Activations, step: StepInfo) -> StepOutput:
        """The training loss of a batch x [N, d_in] at E‖x‖² = 1; pure."""

    @abstractmethod
    def initialise(self, x: Activations, l0: float) -> None:
        """Sets biases and thresholds from held-in rows x [n, d_in] so that training starts near `l0`."""

    def margins(self, x: Activations) -> PreActs | None:
        """[N, F]: a latent is on exactly where its margin is positive. None when the L0 holds by construction."""
        return None

    def shift_margins(self, amount: float) -> None:
        """Lowers every margin by `amount` (calibration: raises thresholds or lowers biases)."""

    def observe(self, output: StepOutput, step: StepInfo) -> None:
        """The one place where anything but gradients changes the SAE; called once per training step."""

    def rate_factors(self) -> Mapping[str, float]:
        """Learning-rate multipliers by parameter name (default 1)."""
        biases = [name for name, _ in self.named_parameters() if name.startswith("b_")]
        return dict.fromkeys(biases, getattr(self.options, "bias_rate_factor", 1.0))

    def decode(self, latents: SparseLatents) -> Activations:
        """x̂ [N, d_in] of a code. Raises UserError when the code has another width."""
        if latents.d_sae != self.d_sae:
            raise UserError(f"the code has {latents.d_sae} latents but this SAE has {self.d_sae}")
        return ops.decode(latents, self.W_dec, self.b_dec)

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of x [..., d_in]."""
        rows = x.reshape(-1, x.shape[-1])
        check_input(rows, self.d_in)
        return self.decode(self.encode(rows)).view(x.shape)

    @torch.no_grad()
    def fold_scale(self, scale: float) -> None:
        """Makes an SAE trained on x / C read raw x, in place: folded(x) = C · unfolded(x / C)."""
        for name in self.scaled:
            getattr(self, name).mul_(scale)
        self.config = dataclasses.replace(self.config, scale=self.config.scale * scale)


def check_sizes(config: SaeConfig) -> None:
    if config.d_in < 1 or config.d_sae < 1:
        raise UserError(f"d_in and d_sae must be at least 1, got {config.d_in} and {config.d_sae}")
    if not 0 < config.l0 <= config.d_sae:
        raise UserError(
            f"l0 {config.l0:g} must be above 0 and at most d_sae {config.d_sae}; lower the L0 or widen the SAE"
        )


def check_input(x: Tensor, d_in: int) -> None:
    if x.shape[-1] != d_in:
        raise UserError(f"the input has width {x.shape[-1]} but this SAE reads width {d_in}; take its own site")


def quantile_of_l0(scores: PreActs, l0: float) -> float:
    """The value that l0 entries per row of scores [N, F] exceed, over all rows together."""
    n_above = min(scores.numel(), max(1, math.ceil(l0 * scores.shape[0])))
    return float(scores.flatten().kthvalue(scores.numel() - n_above + 1).values)


@torch.no_grad()
def calibrate(sae: SparseAutoencoder, batches: list[Tensor]) -> dict[str, float]:
    """Shifts thresholds once so that the mean L0 over held-in rows is the asked one.

    Returns what was done: l0_before, l0_after, shift (in units of the SAE's input), n_tokens; an empty dict when the
    L0 holds by construction. Exact up to ties: the shift is the margin of the (l0·N)-th strongest (row, latent) pair.
    Where fewer pairs than that can fire, all but the weakest of them do.
    """
    if sae.margins(batches[0][:1]) is None:
        return {}
    n_tokens = sum(len(x) for x in batches)
    n_keep = round(sae.config.l0 * n_tokens)
    strongest, n_active = _strongest_margins(sae, batches, n_keep)
    ranked = strongest.sort(descending=True).values
    n_keep = min(n_keep, len(ranked) - 1)
    shift = float((ranked[n_keep - 1].double() + ranked[n_keep].double()) / 2) if n_keep > 0 else 0.0
    sae.shift_margins(shift)
    after = sum(sae.encode(x).l0 * len(x) for x in batches) / n_tokens
    return {"l0_before": n_active / n_tokens, "l0_after": after, "shift": shift, "n_tokens": float(n_tokens)}


def _strongest_margins(sae: SparseAutoencoder, batches: list[Tensor], n_keep: int) -> tuple[Tensor, int]:
    """Margins that hold the n_keep + 1 largest of all rows (all finite ones where there are fewer), and how many of
    all are positive. Only those above a bound are kept; the bound is guessed from the first batch, and lowered until
    enough pass."""
    share = n_keep / sum(len(x) for x in batches)
    room = 1.5
    while True:
        bound, parts, n_active = -torch.inf, [], 0
        for i, x in enumerate(batches):
            margins = sae.margins(x)
            assert margins is not None
            flat = margins.flatten()
            rank = math.ceil(room * share * len(x)) + 64
            if i == 0 and rank < flat.numel():
                bound = float(flat.kthvalue(flat.numel() - rank + 1).values)
            n_active += int((flat > 0).sum())
            parts.append(flat[flat > bound])
        strongest = torch.cat(parts)
        if len(strongest) > n_keep or bound == -torch.inf:
            return strongest[strongest > -torch.inf], n_active  # pairs at −∞ cannot fire whatever the shift
        room *= 4


def describe(sae: SparseAutoencoder) -> dict[str, Any]:
    """The SAE's configuration as JSON values."""
    return to_json(sae.config)
