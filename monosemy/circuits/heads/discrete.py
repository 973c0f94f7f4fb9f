"""Discrete SAE codes: one small SAE, shared by all heads, turns a head's output on a prompt into one number, its code.

Place on the path: pooled head outputs x [E, n, d] → [SAE → codes [E, n]] → scores by counting (`code_scores.py`).

    f = ReLU(W_e (x − b) + b_e)       x̂ = W_d f + b       rows of W_e and W_d of unit length, b shared
    loss = mean((x̂ − x)²) + λ · mean_samples ‖f‖₁           code = argmax f

Every (example, head) is one sample. Training is full-batch Adam. The gradients are exact. They are written out by hand
because that saves one small product per step, a quarter of the time:

    ∂/∂W_d = fᵀ g,  ∂/∂f = g W_dᵀ + λ/N,  ∂/∂pre = ∂/∂f · 1[pre > 0],  ∂/∂W_e = ∂preᵀ (x − b),  g = 2 (x̂ − x) / (N d)

Preset `paper`: 200 latents, λ 0.02, 500 epochs, 10 training examples drawn from positives and negatives together, codes
counted on all examples, mean pooling. A sample with no active latent gets code 0 without notice. Preset `fast`, ours:
100 latents, outputs projected on 64 principal components (d in the loss stays that of the outputs), λ 0.03, 250 epochs
at twice the learning rate, a code of its own for "no latent active", counting only on examples outside the training
set, as many negatives as positives, ties broken. Its numbers were chosen on the benchmark's own models: compiled ones,
trained ones, and three tasks of SmolLM2-135M.

Outputs are not scaled. λ weighs lengths against squared lengths over d, so the same λ means something else on every
model. Outputs scaled to one length did about as well on small models, but lost greater-than on SmolLM2.

Source: O'Neill and Bui 2024 (arXiv 2405.12522), their equations and public code. Deviation: rows are normalised after
each step without projecting the gradient first. Limits: the method is correlational. A head that differs between
positives and negatives gets a high score whether or not anything reads its output.
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

LAMBDA_BY_TASK = {"docstring": 0.05, "docstring-source": 0.05}
"""The paper's λ for the tasks where it is not 0.02."""


@dataclass(frozen=True)
class DiscreteConfig:
    """Settings of the method; the defaults are the paper's."""

    d_sae: int = 200
    l1_coef: float = 0.02
    """λ, the weight of the L1 penalty."""
    n_epochs: int = 500
    learning_rate: float = 1e-3
    n_training: int = 10
    """Number of examples that the SAE is trained on, each with all its heads."""
    pooling: Pooling = "mean"
    n_components: int | None = None
    """Number of principal components that outputs are projected on first; None keeps all dimensions. The error leaves
    out what lies outside them, but is still divided by all d, so that λ keeps its meaning."""
    dead_code: bool = False
    """Whether samples without an active latent get a code of their own instead of code 0."""
    break_ties: bool = False
    """Whether heads (and pairs) with the same count are ordered by the share of positives that show such a code."""
    equal_sizes: bool = False
    """Whether as many positives as negatives are counted."""
    held_out: bool = False
    """Whether only examples that the SAE was not trained on are counted."""
    seed: int = 0
    """Seed of the initial weights and of the choice of training examples."""

    def __post_init__(self) -> None:
        positive(d_sae=self.d_sae, n_epochs=self.n_epochs, learning_rate=self.learning_rate, n_training=self.n_training)
        if self.pooling not in ("mean", "last"):
            raise unknown("pooling", self.pooling, ("mean", "last"))
        if self.l1_coef < 0:
            raise UserError(f"l1_coef must not be negative, got {self.l1_coef}")


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
    """A preset's settings with `changes`. The preset `paper` takes the paper's λ for the task.

    Raises UserError for an unknown preset.
    """
    if name not in PRESETS:
        raise unknown("preset of the discrete method", name, PRESETS)
    if name == "paper" and task in LAMBDA_BY_TASK:
        changes = {"l1_coef": LAMBDA_BY_TASK[task], **changes}
    return dataclasses.replace(PRESETS[name], **changes)  # type: ignore[arg-type]


def fitted(config: DiscreteConfig, n_examples: int) -> DiscreteConfig:
    """The settings adapted to a task of few prompts.

    Where codes are counted on held-out examples, at most a quarter of the examples is used for training.
    """
    if not config.held_out:
        return config
    return dataclasses.replace(config, n_training=min(config.n_training, max(1, n_examples // 4)))


@dataclass(frozen=True)
class Codes:
    """One code per example and head, ready to be counted."""

    codes: Int[Tensor, "E n"]
    positive: Tensor
    """[E] booleans: whether the example is a positive."""
    n_codes: int
    """Upper bound: every code is below it."""

    def labelled(self, positive: Tensor) -> Codes:
        """The same codes with other labels."""
        return Codes(self.codes, positive, self.n_codes)


class CodeSae:
    """The small SAE, with W_e, W_d [m, d], b_e [m] and b [d]. `train` returns it trained, `encode` computes codes."""

    def __init__(self, d_in: int, config: DiscreteConfig) -> None:
        generator = torch.Generator().manual_seed(config.seed)
        self.W_e = _unit_rows(torch.randn(config.d_sae, d_in, generator=generator))
        self.W_d = _unit_rows(torch.randn(config.d_sae, d_in, generator=generator))
        self.b_e = torch.zeros(config.d_sae)
        self.b = torch.zeros(d_in)

    def encode(self, x: Float[Tensor, "N d"], *, dead_code: bool) -> Int[Tensor, " N"]:
        """argmax f of every sample. Without an active latent the code is 0, or d_sae with `dead_code`."""
        # The centring x − b is folded into the bias, which saves a pass over the samples.
        strongest, code = (torch.addmm(self.b_e - self.W_e @ self.b, x, self.W_e.T)).max(1)
        silent = strongest <= 0
        return code.masked_fill(silent, len(self.b_e) if dead_code else 0)

    def loss_and_gradients(
        self, x: Float[Tensor, "N d"], l1_coef: float, n_dimensions: int | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """The loss and its gradients with respect to W_e, W_d, b_e and b, in this order.

        n_dimensions: the d that the squared error is divided by, where it is not that of x.
        """
        n, d = len(x), n_dimensions or x.shape[1]
        centred = x - self.b
        f = torch.addmm(self.b_e, centred, self.W_e.T).relu_()
        residual = torch.addmm(self.b, f, self.W_d).sub_(x)
        loss = residual.square().sum() / (n * d) + l1_coef * f.sum() / n
        # g takes the residual's memory; ∂f and ∂pre share theirs.
        g = residual.mul_(2 / (n * d))
        by_pre = torch.addmm(x.new_tensor(l1_coef / n), g, self.W_d.T).mul_(f > 0)
        by_b_e = by_pre.sum(0)
        # b enters twice: added to x̂, and subtracted from x before W_e.
        return loss, [by_pre.T @ centred, f.T @ g, by_b_e, g.sum(0) - by_b_e @ self.W_e]


def train(x: Float[Tensor, "N d"], config: DiscreteConfig, n_dimensions: int | None = None) -> CodeSae:
    """Trains the SAE by full-batch Adam on the samples x. The same x and config give the same SAE.

    n_dimensions: the dimensions of the outputs, where x is projected.
    """
    sae = CodeSae(x.shape[1], config)
    parameters = [sae.W_e, sae.W_d, sae.b_e, sae.b]
    first = [torch.zeros_like(p) for p in parameters]
    second = [torch.zeros_like(p) for p in parameters]
    for step in range(1, config.n_epochs + 1):
        _, gradients = sae.loss_and_gradients(x, config.l1_coef, n_dimensions)
        for p, m, v, g in zip(parameters, first, second, gradients):
            # Adam with β₁ 0.9 and β₂ 0.999; the bias corrections are folded into the root and the step size.
            m.lerp_(g, 0.1)
            v.mul_(0.999).addcmul_(g, g, value=0.001)
            root = (v / (1 - 0.999**step)).sqrt_().add_(1e-8)
            p.addcdiv_(m, root, value=-config.learning_rate / (1 - 0.9**step))
        # Back to unit rows: without this, the L1 penalty would shrink f and grow W_d instead of sparsifying.
        for rows in (sae.W_e, sae.W_d):
            rows.div_(rows.norm(dim=1, keepdim=True).clamp_min(1e-12))
    return sae


@torch.no_grad()
def discrete_codes(pooled: PooledHeads, config: DiscreteConfig) -> Codes:
    """Trains the SAE on a few examples and encodes every example that is counted.

    Raises UserError when the training examples leave too few to count codes on.
    """
    samples = prepared(pooled, config)
    sae = train(samples.training, config, samples.n_dimensions)
    return samples.coded(lambda x: sae.encode(x, dead_code=config.dead_code), config.d_sae + 1)


@dataclass(frozen=True)
class Samples:
    """Head outputs, projected as the settings say, and which examples are for training and which for counting."""

    x: Float[Tensor, "E n d"]
    n_dimensions: int
    """Dimensions of the outputs before they were projected."""
    trained: Int[Tensor, " k"]
    """Indices of the examples to train on."""
    positive: Tensor
    """[E] booleans: whether the example is a positive."""
    counted: Tensor
    """[E] booleans: whether the example's codes are counted."""

    @property
    def training(self) -> Float[Tensor, "N d"]:
        """The training samples: every head of every training example."""
        return self.x[self.trained].flatten(0, 1).contiguous()

    def coded(self, encode: Callable[[Float[Tensor, "N d"]], Int[Tensor, " N"]], n_codes: int) -> Codes:
        """The codes that `encode` gives to all heads of the counted examples."""
        n = self.x.shape[1]
        codes = torch.cat([encode(part.flatten(0, 1)).view(-1, n) for part in self.x[self.counted].split(64)])
        return Codes(codes, self.positive[self.counted], n_codes)


def prepared(pooled: PooledHeads, config: DiscreteConfig) -> Samples:
    """The samples that the SAE, and its k-means control, train on and count.

    Raises UserError when too few examples are left to count.
    """
    x = pooled.outputs(config.pooling)
    n_examples, n, d = x.shape
    generator = torch.Generator().manual_seed(config.seed)
    trained = torch.randperm(n_examples, generator=generator)[: config.n_training]
    if config.n_components is not None and config.n_components < min(d, n * len(trained)):
        x = _project(x, x[trained].flatten(0, 1), config.n_components)
    return Samples(x, d, trained, pooled.positive, counted=_counted(pooled.positive, trained, config, generator))


def _project(x: Tensor, samples: Tensor, n_components: int) -> Tensor:
    """x [E, n, d] in the leading principal components of the samples [N, d], about their mean."""
    mean = samples.mean(0)
    centred = samples - mean
    _, axes = torch.linalg.eigh(centred.T @ centred)
    axes = axes[:, -n_components:]  # eigh sorts eigenvalues in ascending order
    return torch.cat([(part - mean) @ axes for part in x.split(64)])


def _counted(is_positive: Tensor, trained: Tensor, config: DiscreteConfig, generator: torch.Generator) -> Tensor:
    """[E] booleans: the examples whose codes are counted."""
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
        # Counts of distinct codes grow with the number of prompts, so unequal groups would bias the difference.
        for rows in (is_positive, ~is_positive):
            group_rows = (counted & rows).nonzero()[:, 0]
            drop = group_rows[torch.randperm(len(group_rows), generator=generator)[min(group_sizes) :]]
            counted[drop] = False
    return counted


def _unit_rows(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)
