"""Discrete SAE codes: one small SAE shared by all heads turns what a head wrote on a prompt into one number, its code.

Place on the path: pooled head outputs x [E, n, d] → [SAE → codes [E, n]] → scores by counting (`code_scores.py`).

    f = ReLU(W_e (x − b) + b_e)       x̂ = W_d f + b       rows of W_e and W_d of unit length, b shared
    loss = mean((x̂ − x)²) + λ · mean_samples ‖f‖₁           code = argmax f

Every (example, head) is a sample. Adam, full batch. Nothing of a gradient is approximated; it is written out by hand
because one small product less per step is a quarter of the time:

    ∂/∂W_d = fᵀ g,  ∂/∂f = g W_dᵀ + λ/N,  ∂/∂pre = ∂/∂f · 1[pre > 0],  ∂/∂W_e = ∂preᵀ (x − b),  g = 2 (x̂ − x) / (N d)

Presets. `paper`: 200 latents, λ 0.02, 500 epochs, 10 training examples drawn from positives and negatives together,
codes of all examples, mean pooling; a sample with no active latent silently gets code 0. `fast`: our own: 100 latents,
outputs projected on 64 principal components (d in the loss stays that of the outputs), λ 0.03, 250 epochs at twice the
learning rate, a code of its own for "no latent active", counting on examples that were not trained on, as many
negatives as positives, ties broken. Its numbers were picked on the benchmark's own models: compiled, trained, and three
tasks of SmolLM2-135M. Outputs are not scaled: λ weighs lengths against squared lengths over d, so one λ is another one
on every model; scaled to one length they did about as well on small models and lost greater-than on SmolLM2.

Source: O'Neill and Bui 2024 (arXiv 2405.12522), their equations and public code. Deviation: rows are brought to unit
length after each step, without first projecting the gradient. Limits: the method is correlational: a head that differs
between positives and negatives gets a high score whether or not anything reads it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosemy.circuits.heads.pooled import PooledHeads, Pooling
from monosemy.config import positive
from monosemy.errors import UserError, unknown

LAMBDA_BY_TASK = {"docstring": 0.05}
"""The paper's λ where it is not 0.02."""


@dataclass(frozen=True)
class DiscreteConfig:
    """Settings of the method; the defaults are the paper's."""

    d_sae: int = 200
    l1_coef: float = 0.02
    """λ."""
    n_epochs: int = 500
    learning_rate: float = 1e-3
    n_training: int = 10
    """Examples that the SAE is trained on, each with all heads."""
    pooling: Pooling = "mean"
    n_components: int | None = None
    """Principal components that outputs are projected on first; None keeps all dimensions. What lies outside them is
    left out of the error, which is still divided by all d, so that λ means the same."""
    dead_code: bool = False
    """A code of its own for samples without an active latent, instead of code 0."""
    break_ties: bool = False
    """Heads (and pairs) with the same count are ordered by the share of positives that show such a code."""
    equal_sizes: bool = False
    """Count on as many positives as negatives."""
    held_out: bool = False
    """Count only on examples that the SAE was not trained on."""
    seed: int = 0
    """Weights, and which examples are trained on."""

    def __post_init__(self) -> None:
        positive(d_sae=self.d_sae, n_epochs=self.n_epochs, learning_rate=self.learning_rate, n_training=self.n_training)
        if self.pooling not in ("mean", "last"):
            raise unknown("pooling", self.pooling, ("mean", "last"))
        if self.l1_coef < 0:
            raise UserError(f"l1_coef must not be negative, got {self.l1_coef}")


FIXES = ("dead_code", "break_ties", "equal_sizes", "held_out")
"""The opt-in fixes beside the pooling."""
PRESETS = {
    "paper": DiscreteConfig(),
    "fast": DiscreteConfig(
        d_sae=100,
        l1_coef=0.03,
        n_epochs=250,
        learning_rate=2e-3,
        n_components=64,
        dead_code=True,
        break_ties=True,
        equal_sizes=True,
        held_out=True,
    ),
}


def preset(name: str, task: str = "", **changes: object) -> DiscreteConfig:
    """A preset's settings, with the paper's λ for the task, and changes. Raises UserError for an unknown preset."""
    if name not in PRESETS:
        raise unknown("preset of the discrete method", name, PRESETS)
    if name == "paper" and task in LAMBDA_BY_TASK:
        changes = {"l1_coef": LAMBDA_BY_TASK[task], **changes}
    return dataclasses.replace(PRESETS[name], **changes)  # type: ignore[arg-type]


def fitted(config: DiscreteConfig, n_examples: int) -> DiscreteConfig:
    """The settings for a task of few prompts: where codes are counted on held-out ones, at most a quarter trains."""
    if not config.held_out:
        return config
    return dataclasses.replace(config, n_training=min(config.n_training, max(1, n_examples // 4)))


@dataclass(frozen=True)
class Codes:
    """One code per example and head, ready to be counted."""

    codes: Int[Tensor, "E n"]
    positive: Tensor
    """[E] booleans."""
    n_codes: int
    """Codes are below this."""

    def labelled(self, positive: Tensor) -> Codes:
        """The same codes under other labels."""
        return Codes(self.codes, positive, self.n_codes)


class CodeSae:
    """The small SAE: W_e, W_d [m, d], b_e [m], b [d]. `train` returns it; `encode` gives codes."""

    def __init__(self, d_in: int, config: DiscreteConfig) -> None:
        generator = torch.Generator().manual_seed(config.seed)
        self.W_e = _unit_rows(torch.randn(config.d_sae, d_in, generator=generator))
        self.W_d = _unit_rows(torch.randn(config.d_sae, d_in, generator=generator))
        self.b_e = torch.zeros(config.d_sae)
        self.b = torch.zeros(d_in)

    def encode(self, x: Float[Tensor, "N d"], *, dead_code: bool) -> Int[Tensor, " N"]:
        """argmax of f; without an active latent code 0, or d_sae with `dead_code`."""
        strongest, code = (torch.addmm(self.b_e - self.W_e @ self.b, x, self.W_e.T)).max(1)
        silent = strongest <= 0
        return code.masked_fill(silent, len(self.b_e) if dead_code else 0)

    def loss_and_gradients(
        self, x: Float[Tensor, "N d"], l1_coef: float, n_dimensions: int | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """The loss, and its gradients by W_e, W_d, b_e, b. n_dimensions: what the squared error is divided by (d)."""
        n, d = len(x), n_dimensions or x.shape[1]
        centred = x - self.b
        f = torch.addmm(self.b_e, centred, self.W_e.T).relu_()
        residual = torch.addmm(self.b, f, self.W_d).sub_(x)
        loss = residual.square().sum() / (n * d) + l1_coef * f.sum() / n
        g = residual.mul_(2 / (n * d))
        by_pre = torch.addmm(x.new_tensor(l1_coef / n), g, self.W_d.T).mul_(f > 0)
        by_b_e = by_pre.sum(0)
        return loss, [by_pre.T @ centred, f.T @ g, by_b_e, g.sum(0) - by_b_e @ self.W_e]


def train(x: Float[Tensor, "N d"], config: DiscreteConfig, n_dimensions: int | None = None) -> CodeSae:
    """Full-batch Adam on the samples x. The same x and config give the same SAE. n_dimensions: of the outputs, where x
    is projected."""
    sae = CodeSae(x.shape[1], config)
    parameters = [sae.W_e, sae.W_d, sae.b_e, sae.b]
    first = [torch.zeros_like(p) for p in parameters]
    second = [torch.zeros_like(p) for p in parameters]
    for step in range(1, config.n_epochs + 1):
        _, gradients = sae.loss_and_gradients(x, config.l1_coef, n_dimensions)
        for p, m, v, g in zip(parameters, first, second, gradients):
            m.lerp_(g, 0.1)
            v.mul_(0.999).addcmul_(g, g, value=0.001)
            root = (v / (1 - 0.999**step)).sqrt_().add_(1e-8)
            p.addcdiv_(m, root, value=-config.learning_rate / (1 - 0.9**step))
        for rows in (sae.W_e, sae.W_d):
            rows.div_(rows.norm(dim=1, keepdim=True).clamp_min(1e-12))
    return sae


@torch.no_grad()
def discrete_codes(pooled: PooledHeads, config: DiscreteConfig) -> Codes:
    """Trains the SAE on a few examples and gives every counted example's codes.

    Raises UserError when training takes so many examples that too few are left to count on.
    """
    samples = prepared(pooled, config)
    sae = train(samples.training, config, samples.n_dimensions)
    return samples.coded(lambda x: sae.encode(x, dead_code=config.dead_code), config.d_sae + 1)


@dataclass(frozen=True)
class Samples:
    """Head outputs as a coder sees them: projected as the settings say, and which examples are for what."""

    x: Float[Tensor, "E n d"]
    n_dimensions: int
    """Of the outputs, before they were projected."""
    trained: Int[Tensor, " k"]
    """Examples to train on."""
    positive: Tensor
    """[E] booleans."""
    counted: Tensor
    """[E] booleans: examples whose codes are counted."""

    @property
    def training(self) -> Float[Tensor, "N d"]:
        return self.x[self.trained].flatten(0, 1).contiguous()

    def coded(self, encode: Callable[[Float[Tensor, "N d"]], Int[Tensor, " N"]], n_codes: int) -> Codes:
        """The codes of all counted examples."""
        n = self.x.shape[1]
        codes = torch.cat([encode(part.flatten(0, 1)).view(-1, n) for part in self.x[self.counted].split(64)])
        return Codes(codes, self.positive[self.counted], n_codes)


def prepared(pooled: PooledHeads, config: DiscreteConfig) -> Samples:
    """What the SAE, and k-means beside it, train on and count. Raises UserError when too few examples are left."""
    x = pooled.outputs(config.pooling)
    n_examples, n, d = x.shape
    generator = torch.Generator().manual_seed(config.seed)
    trained = torch.randperm(n_examples, generator=generator)[: config.n_training]
    if config.n_components is not None and config.n_components < min(d, n * len(trained)):
        x = _project(x, x[trained].flatten(0, 1), config.n_components)
    return Samples(x, d, trained, pooled.positive, counted=_counted(pooled.positive, trained, config, generator))


def _project(x: Tensor, samples: Tensor, n_components: int) -> Tensor:
    """x [E, n, d] in the principal components of the samples [N, d] about their mean."""
    mean = samples.mean(0)
    centred = samples - mean
    _, axes = torch.linalg.eigh(centred.T @ centred)
    axes = axes[:, -n_components:]
    return torch.cat([(part - mean) @ axes for part in x.split(64)])


def _counted(is_positive: Tensor, trained: Tensor, config: DiscreteConfig, generator: torch.Generator) -> Tensor:
    """[E] booleans: the examples that codes are counted on."""
    counted = torch.ones_like(is_positive)
    if config.held_out:
        counted[trained] = False
    group_sizes = [int((counted & is_positive).sum()), int((counted & ~is_positive).sum())]
    if min(group_sizes) < 1:
        raise UserError(
            f"{config.n_training} training examples leave {group_sizes[0]} positives and {group_sizes[1]} negatives to "
            "count codes on; give more prompts or a smaller n_training"
        )
    if config.equal_sizes:
        for rows in (is_positive, ~is_positive):
            group_rows = (counted & rows).nonzero()[:, 0]
            drop = group_rows[torch.randperm(len(group_rows), generator=generator)[min(group_sizes) :]]
            counted[drop] = False
    return counted


def _unit_rows(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)
