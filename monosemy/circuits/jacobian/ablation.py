"""Does the Jacobian predict what ablating an input latent does to the output latents?

Place on the path: tokens, a LatentMap and the Jacobian's slices → [ablation] → correlation with intervals.

On each token, every active input latent j is set to 0 in turn, and the drop in every active output latent i measured:

  Δ_ij = f_s,i(s) − f_s,i(s with s_j = 0)      predicted: J_ij s_j, exact where f_s,i is linear in s_j

Prediction and effect are compared over all pairs of all sampled tokens: by Spearman's rank correlation, by Pearson's
correlation, and by R² = 1 − Σ(Δ − J s)² / Σ(Δ − Δ̄)² of the prediction itself, without a fitted slope. Pairs in which
both are exactly 0 count too: that a zero Jacobian means no effect is part of the claim.

Intervals resample documents; Spearman's uses the ranks within the whole sample on every resample. Limits: an output
latent that ablation pushes out of the top k falls to 0, which no derivative can predict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from monosemy.circuits.jacobian.latent_map import LatentMap
from monosemy.circuits.jacobian.measures import Estimate, Sums, estimated
from monosemy.circuits.jacobian.mlp_rows import Rows
from monosemy.circuits.jacobian.slices import JacobianSlices
from monosemy.errors import UserError
from monosemy.evals.intervals import Blocks, bootstrap_weights


@dataclass(frozen=True)
class AblationRecord:
    """How well J_ij s_j agrees with the effect of ablation, over all active pairs of the sampled tokens."""

    rank_correlation: Estimate
    r_squared: Estimate
    correlation: Estimate
    n_pairs: int
    n_tokens: int
    n_documents: int


def measure_ablation(
    latent_map: LatentMap,
    slices_of: Callable[[Rows], JacobianSlices],
    batches: Iterable[Rows],
    *,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> AblationRecord:
    """Ablates every active input latent of every row in `batches`; `slices_of` returns the rows' Jacobians.

    Raises UserError when no pair of latents is active.
    """
    blocks = Blocks()
    predicted, measured, block, n_tokens = [], [], [], 0
    for rows in batches:
        slices = slices_of(rows)
        effects = ablation_effects(latent_map, rows.x.to(slices.in_values), slices)
        pairs = slices.active
        predicted.append((slices.values * slices.in_values[:, None, :])[pairs].double().cpu().numpy())
        measured.append(effects[pairs].double().cpu().numpy())
        of_row = blocks.rows(rows.documents).to(pairs.device)
        block.append(of_row[:, None, None].expand_as(pairs)[pairs].cpu().numpy())
        n_tokens += len(rows)
    x, y, b = (np.concatenate(parts) if parts else np.empty(0) for parts in (predicted, measured, block))
    if not len(x):
        raise UserError("no pair of latents is active on these tokens, so there is nothing to ablate")
    weights = bootstrap_weights(blocks.n, n_bootstrap, seed) if blocks.n > 1 else np.zeros((0, blocks.n))
    # Spearman's correlation is Pearson's of the ranks, so both come from the same kind of sums.
    sums, ranked = _sums(x, y, b, blocks.n), _sums(ranks(x), ranks(y), b, blocks.n)
    return AblationRecord(
        rank_correlation=estimated(_correlation, ranked, weights, confidence),
        r_squared=estimated(_r_squared, sums, weights, confidence),
        correlation=estimated(_correlation, sums, weights, confidence),
        n_pairs=len(x),
        n_tokens=n_tokens,
        n_documents=blocks.n_documents,
    )


def ablation_effects(latent_map: LatentMap, x: Float[Tensor, "n d"], slices: JacobianSlices) -> Float[Tensor, "n i j"]:
    """Δ_ij of every pair of the slices, [N, Ky, Kx]; 0 on padding."""
    # Padding (−1) is read as latent 0, whose results the mask at the end removes. One pass ablates the latent at one
    # place of every row.
    base = latent_map.base(x)
    effects = torch.zeros_like(slices.values)
    outputs = slices.out_indices.clamp_min(0).long()
    before = latent_map.outputs(base).gather(1, outputs)
    for place in range(slices.in_indices.shape[1]):
        latents = slices.in_indices[:, place].clamp_min(0).long()
        after = latent_map.outputs(latent_map.moved(base, latents, -slices.in_values[:, place]))
        effects[:, :, place] = (before - after.gather(1, outputs)).to(effects.dtype)
    return effects.masked_fill(~slices.active, 0)


def ranks(values: Float[ndarray, " n"]) -> Float[ndarray, " n"]:
    """Ranks from 1; tied values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    # Tied values occupy the places last − counts + 1 … last; their rank is the mean of the two ends.
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2)[inverse]


def _sums(x: ndarray, y: ndarray, block: ndarray, n_blocks: int) -> Sums:
    """Sums over the pairs of each block of documents, from which correlations and R² follow.

    x and y are centred first: no result depends on it, and differences of large sums would lose digits.
    """
    error = (y - x) ** 2
    x, y = x - x.mean(), y - y.mean()
    parts = {"n": np.ones_like(x), "x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y, "error": error}
    return {name: np.bincount(block, part, minlength=n_blocks) for name, part in parts.items()}


def _correlation(sums: Sums) -> ndarray:
    n = sums["n"]
    covariance = sums["xy"] / n - sums["x"] / n * sums["y"] / n
    variances = (sums["xx"] / n - (sums["x"] / n) ** 2) * (sums["yy"] / n - (sums["y"] / n) ** 2)
    return covariance / np.sqrt(variances)


def _r_squared(sums: Sums) -> ndarray:
    return 1 - sums["error"] / (sums["yy"] - sums["y"] ** 2 / sums["n"])
