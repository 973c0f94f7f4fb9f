"""Controls that any score of heads must beat: scores that know nothing of circuits, or nothing of SAEs.

Place on the path: pooled head outputs x [E, n, d], labels → [controls] → the same table as the methods.

    random             random numbers from a seed
    shuffled labels    the code method's node scores with the labels of positives and negatives shuffled
    distinct codes     how many codes a head has at all
    k-means codes      node scores with the nearest of k centres as the code, without an SAE; projected and counted as
                       the preset says (every sample has a nearest centre, so there is no code for silence)
    mean difference    ‖mean x⁺ − mean x⁻‖ per head
    linear probe       held-out accuracy of ridge regression on a head's outputs

All are unsigned. Source: ours, for the comparison; k-means by Lloyd's steps from k-means++ seeds. Limits: the probe
reads values instead of outputs (W_O is one to one in practice), and has only two folds: each half of the prompts is
tested with the other half's fit.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosemy.circuits.heads.code_scores import node_scores
from monosemy.circuits.heads.discrete import Codes, DiscreteConfig, prepared
from monosemy.circuits.heads.pooled import PooledHeads
from monosemy.circuits.heads.scores import HeadScores
from monosemy.errors import UserError

N_STEPS = 10
"""Number of Lloyd's steps of k-means."""
ROUNDING = 64 * torch.finfo(torch.float32).eps
"""How far apart outputs that should be equal may lie, as a share of the norm of the head's mean output."""


def random_scores(n: int, seed: int = 0) -> HeadScores:
    """Uniform random scores of n heads."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(n, generator=generator, dtype=torch.float64)
    return HeadScores("random (control)", scores, False, 0.0)


def shuffled_labels(codes: Codes, config: DiscreteConfig, seed: int = 0) -> Float[Tensor, " n"]:
    """Node scores of the same codes with permuted labels."""
    generator = torch.Generator().manual_seed(seed)
    mixed = codes.labelled(codes.positive[torch.randperm(len(codes.positive), generator=generator)])
    return node_scores(mixed, break_ties=config.break_ties)


def mean_difference(pooled: PooledHeads, config: DiscreteConfig) -> Float[Tensor, " n"]:
    """‖mean x⁺ − mean x⁻‖ of every head's outputs."""
    x, positive = pooled.outputs(config.pooling), pooled.positive
    return (x[positive].mean(0) - x[~positive].mean(0)).norm(dim=-1).double()


def probe_accuracy(
    pooled: PooledHeads, config: DiscreteConfig, seed: int = 0, penalty: float = 0.1
) -> Float[Tensor, " n"]:
    """The share of held-out prompts that ridge regression on labels ±1 classifies correctly, in two random halves.

    Solved in the space of prompts: with K = x xᵀ of centred x, it predicts K_test (K_train + penalty · tr K / E)⁻¹ y.
    A prediction of exactly 0, from a head that carries no information, counts as half right. A head whose outputs
    differ only by rounding is treated as such: otherwise the processor would decide on which prompts it is right.
    Raises UserError when a half of the prompts has labels of one kind only.
    """
    values = pooled.values[config.pooling].float()
    y = torch.where(pooled.positive, 1.0, -1.0)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    halves = order[: len(y) // 2], order[len(y) // 2 :]
    if any(len(set(y[half].tolist())) < 2 for half in halves):
        raise UserError(f"{len(y)} prompts are too few for a probe: a half of them has labels of one kind")
    right = torch.zeros(values.shape[1], dtype=torch.float64)
    # Float64, all heads at once: one E/2 × E/2 system per head.
    for fitted, tested in (halves, halves[::-1]):
        mean = values[fitted].double().mean(0)
        a, b = ((values[half] - mean).transpose(0, 1) for half in (fitted, tested))  # [n, E/2, d_value]
        size = a.square().sum((1, 2), keepdim=True) / len(fitted)
        # Spread below rounding counts as none.
        size = torch.where(size > ROUNDING**2 * mean.square().sum(1)[:, None, None], size, 0.0)
        a, b = (torch.where(size > 0, part, 0.0) for part in (a, b))
        # One scale for all heads, so that one penalty fits them; heads without information stay 0.
        a = a / torch.where(size > 0, size, 1.0).sqrt()
        ridge = penalty * torch.eye(len(fitted), dtype=torch.float64)
        offset = y[fitted].mean().double()
        targets = (y[fitted].double() - offset)[:, None].repeat(len(a), 1, 1)
        weights = torch.cholesky_solve(targets, torch.linalg.cholesky(a @ a.transpose(1, 2) + ridge))
        predicted = (b @ (a.transpose(1, 2) @ weights))[..., 0] / torch.where(size > 0, size, 1.0)[:, 0].sqrt() + offset
        agreement = (predicted * y[tested]).sign()
        right += ((agreement + 1) / 2).sum(1)
    return right / len(y)


def kmeans_scores(pooled: PooledHeads, config: DiscreteConfig) -> Float[Tensor, " n"]:
    """Node scores with codes from k-means."""
    return node_scores(kmeans_codes(pooled, config), break_ties=config.break_ties)


def kmeans_codes(pooled: PooledHeads, config: DiscreteConfig) -> Codes:
    """Codes argmin_c ‖x − μ_c‖, with as many centres as the SAE has latents.

    The centres are fitted on the samples that the SAE would be trained on, and the codes are those of the examples on
    which its codes would be counted.
    """
    # The same random choices as for the SAE (`config.seed`), so only the coder differs.
    prepared_samples = prepared(pooled, config)
    samples = prepared_samples.training
    generator = torch.Generator().manual_seed(config.seed)
    centres = _seeds(samples, min(config.d_sae, len(samples)), generator)
    for _ in range(N_STEPS):
        nearest = _nearest(samples, centres)
        total = torch.zeros_like(centres).index_add_(0, nearest, samples)
        size = torch.bincount(nearest, minlength=len(centres)).float()[:, None]
        # A centre without samples stays where it is.
        centres = torch.where(size > 0, total / size.clamp_min(1), centres)
    return prepared_samples.coded(lambda x: _nearest(x, centres), len(centres))


def _seeds(samples: Float[Tensor, "N d"], k: int, generator: torch.Generator) -> Float[Tensor, "k d"]:
    """k-means++: further centres are drawn with probability proportional to the squared distance to the nearest one."""
    first = int(torch.randint(len(samples), (1,), generator=generator))
    centres = [first]
    distance = (samples - samples[first]).square().sum(1)
    for _ in range(k - 1):
        if float(distance.max()) <= 0:  # fewer distinct samples than centres
            break
        index = int(torch.multinomial(distance.double(), 1, generator=generator))
        centres.append(index)
        distance = torch.minimum(distance, (samples - samples[index]).square().sum(1))
    return samples[centres].clone()


def _nearest(x: Float[Tensor, "N d"], centres: Float[Tensor, "k d"]) -> Int[Tensor, " N"]:
    # ‖x − μ‖² without ‖x‖², which does not change the argmin.
    return (centres.square().sum(1) - 2 * x @ centres.T).argmin(1)
