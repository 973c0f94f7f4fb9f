"""ACDC and subnetwork probing over heads: which heads can be replaced without changing the model's predictions.

Place on the path: `Contrast` → [search over sets of heads] → a score per head.

    d(K) = mean over prompts of KL(p_clean ‖ p with the heads outside K replaced)

    ACDC   K = all; from the last layer to the first: drop a head if d rises by less than τ. Score: the largest τ of a
           grid at which the head is still kept (0 if at none).
    SP     minimise d(z) + λ · mean P(z_h > 0) over hard-concrete gates z_h, by Adam; score: the gate's opening.

    gate   s = sigmoid((log u − log(1 − u) + a) / β),  z = clip(γ + s (ζ − γ), 0, 1),
           P(z > 0) = sigmoid(a − β log(−γ/ζ)),
           value → replacement + z · (value − replacement),  β 2/3, γ −0.1, ζ 1.1

Neither method distinguishes a head that supports the behaviour from one that works against it: both kinds move the
distribution. Scores are ≥ 0 and unsigned.

Source: Conmy et al. 2023 (2304.14997), Cao et al. 2021 (2104.03514), Louizos et al. 2018 (1712.01312). Deviations:
heads instead of edges, a grid of τ in one score. Limits: ACDC is greedy and
tries the heads of a layer from the last to the first, so among heads that stand in for each other their numbering
decides.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.circuits.heads.contrast import Ablation, Batch, Contrast, layers_of, passes_of
from monosemy.circuits.heads.model_heads import mask_edit, n_all, replace_edit
from monosemy.circuits.heads.scores import HeadScores
from monosemy.support import progress

THRESHOLDS = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1)
"""The grid of τ for ACDC, in nats."""
BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1


def acdc(contrast: Contrast, thresholds: Sequence[float] = THRESHOLDS, ablation: Ablation = "resample") -> HeadScores:
    """ACDC: greedy pruning of heads at every threshold, n passes for each, every pass from the head's layer on."""
    began = time.perf_counter()
    heads, n = contrast.heads, n_all(contrast.heads)
    replacements = contrast.replacements(ablation)
    score = torch.zeros(n, dtype=torch.float64)

    def divergence(dropped: list[int]) -> float:
        total = 0.0
        for batch, replacement in zip(contrast.batches, replacements):
            edit = replace_edit(replacement, dropped, heads.n_heads)
            layers = layers_of(heads, dropped)
            total += float(kl(batch, heads.logits(batch.clean.tokens, edit, layers=layers, clean=batch.clean)).sum())
        return total / contrast.n_examples

    with progress.stage("ACDC", total=n * len(thresholds), unit="heads") as bar:
        for threshold in sorted(thresholds):  # rising, so the largest τ that keeps a head is written last
            for index in prune(range(n - 1, -1, -1), divergence, threshold, bar.advance):
                score[index] = threshold
    passes = len(thresholds) * passes_of(heads, range(n))
    return HeadScores(
        "ACDC", score, False, time.perf_counter() - began, reading_seconds=contrast.seconds, n_passes=passes
    )


def prune(
    order: Sequence[int], divergence: Callable[[list[int]], float], threshold: float, advance: Callable[[], None]
) -> list[int]:
    """The indices that are kept when each of `order`, in turn, is dropped unless that raises the divergence too much.

    The limit is a rise by `threshold` over the divergence after the last drop. advance: called once per index.
    """
    dropped: list[int] = []
    remaining = []
    current = 0.0
    for index in order:
        # The rise counts from the last accepted state, so many small rises may add up to more than the threshold.
        raised = divergence([*dropped, index])
        if raised - current < threshold:
            dropped.append(index)
            current = raised
        else:
            remaining.append(index)
        advance()
    return remaining


@dataclass(frozen=True)
class ProbeConfig:
    """Settings of subnetwork probing."""

    l0_coef: float = 0.3
    """λ in nats: the penalty for keeping all heads."""
    n_steps: int = 150
    learning_rate: float = 0.1
    seed: int = 0


def subnetwork_probing(
    contrast: Contrast, config: ProbeConfig | None = None, ablation: Ablation = "resample"
) -> HeadScores:
    """Subnetwork probing: each step is a forward and a backward pass over one batch of prompts."""
    config = config or ProbeConfig()
    began = time.perf_counter()
    heads = contrast.heads
    replacements = contrast.replacements(ablation)

    def loss(batch: int, gates: Tensor) -> Tensor:
        edit = mask_edit(gates, replacements[batch], heads.n_heads)
        logits = heads.logits(contrast.batches[batch].clean.tokens, edit, gradients=True)
        return kl(contrast.batches[batch], logits).mean()

    openings = train_gates(n_all(heads), len(contrast.batches), loss, config, device=heads.device)
    # A step runs one batch forward and back, three passes' worth over 1 / n_batches of the prompts.
    passes = 3 * config.n_steps / len(contrast.batches)
    return HeadScores(
        "SP", openings, False, time.perf_counter() - began, reading_seconds=contrast.seconds, n_passes=passes
    )


def train_gates(
    n: int,
    n_batches: int,
    loss: Callable[[int, Float[Tensor, " n"]], Tensor],
    config: ProbeConfig,
    *,
    device: torch.device,
) -> Float[Tensor, " n"]:
    """P(open) of n gates after training; `loss(batch, gates)` is the divergence to be kept small."""
    generator = torch.Generator().manual_seed(config.seed)
    a = torch.full((n,), 2.0, device=device, requires_grad=True)  # nearly all gates open at first
    optimizer = torch.optim.Adam([a], lr=config.learning_rate)
    with progress.stage("subnetwork probing", total=config.n_steps) as bar, torch.enable_grad():
        for step in range(config.n_steps):
            u = torch.rand(n, generator=generator).clamp(1e-6, 1 - 1e-6).to(device)
            # One sample of the gates per step, reparameterised so that gradients reach a.
            s = torch.sigmoid((u.log() - (-u).log1p() + a) / BETA)
            gates = (GAMMA + s * (ZETA - GAMMA)).clamp(0, 1)
            total = loss(step % n_batches, gates) + config.l0_coef * opening(a).mean()
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            bar.advance()
    return opening(a).detach().cpu().double()


def opening(a: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """P(z > 0) of hard-concrete gates with parameters a."""
    return torch.sigmoid(a - BETA * math.log(-GAMMA / ZETA))


def kl(batch: Batch, logits: Float[Tensor, "B V"]) -> Float[Tensor, " B"]:
    """KL(p_clean ‖ p) of the next token's distribution, in nats per prompt."""
    with torch.set_grad_enabled(logits.requires_grad):
        clean = batch.clean.logits.log_softmax(1)
        return (clean.exp() * (clean - logits.log_softmax(1))).sum(1)
