"""The start of a dictionary whose latents are spread over ranks, from the same few thousand rows on every rank.

Place on the path: before the first sharded step; with saes/starts.py, whose measures and formulas these are, and the
`initialise` of the architectures. Whatever holds a number for every row and latent is made for a block of latents or of
rows at a time, so that a slice may be as wide as its weights allow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from monosemy.kernels import dispatch, ops
from monosemy.latents import SparseLatents
from monosemy.saes.base import SparseAutoencoder
from monosemy.saes.jumprelu import JumpRelu
from monosemy.saes.losses import variance
from monosemy.saes.starts import (
    SMALL_START,
    Anisotropy,
    distortionless_encoder,
    halfway_below,
    measure_anisotropy,
)
from monosemy.saes.topk import TopK
from monosemy.shapes import Activations, PerLatent, PreActs
from monosemy.training.distributed.ranks import LATENTS, Ranks
from monosemy.training.distributed.selection import kth_values, merged_topk
from monosemy.training.distributed.shard import Shard, bias_of
from monosemy.training.optim import Adam

BLOCK_ENTRIES = 1 << 26
"""Scores of (row, latent) pairs that are held at a time."""


@torch.no_grad()
def initialise(sae: SparseAutoencoder, x: Activations, l0: float, shard: Shard) -> None:
    """`sae.initialise` of the whole dictionary, for this rank's slice of it; x [n, d_in] is the same on all ranks."""
    ranks = shard.ranks
    sae.b_dec.copy_(ranks.from_first(x.mean(0)))
    centred, n_dense = x - sae.b_dec, 0
    if sae.W_dec.requires_grad:
        anisotropy = _measured(centred, sae.config.l0, ranks)
        directions = anisotropy.directions[: anisotropy.n_paired]
        n_dense = 2 * len(directions) if 2 * len(directions) < shard.d_sae else 0
        n_own = shard.n_within(n_dense)
        paired = torch.stack([directions, -directions], 1).flatten(0, 1)
        sae.W_dec[:n_own] = paired[shard.start : shard.start + n_own]
    width = _latents_at_a_time(2 * sae.d_in)
    for start in range(0, shard.width, width):
        block = slice(start, start + width)
        sae.W_enc[:, block] = distortionless_encoder(centred, sae.W_dec[block])
    share = SMALL_START
    if isinstance(sae, JumpRelu):
        if sae.options.threshold_start != 0:
            return  # a θ that was set stays as it is
        sae.threshold.copy_(_start_thresholds(sae, centred, l0, n_dense, shard=shard))
        share = SMALL_START if sae.steered else 1.0
    _fit_size(sae, x, shard.n_within(n_dense), share, ranks=ranks)


@torch.no_grad()
def adapt(optimizer: Adam, x: Activations, shard: Shard) -> None:
    """`optimizer.adapt` of the whole dictionary: units and dominating directions, the same on all ranks."""
    sae, ranks = optimizer.sae, shard.ranks
    optimizer.anisotropy = _measured(ops.centre(x, sae.b_dec), sae.config.l0, ranks)
    rows = x[:256]
    spread = math.sqrt(float(variance(optimizer.anisotropy.shrink(rows.T).T)))
    energy = (ops.centre(rows, sae.b_dec) @ sae.W_enc).square().mean(0)
    # torch's median: of an even number, the lower one of the two in the middle.
    (median,) = kth_values(energy, [shard.d_sae - (shard.d_sae - 1) // 2], lambda n: ranks.sum(n, LATENTS))
    response = math.sqrt(sae.d_in * median)
    units = {name: (spread if name == "b_dec" else response) or 1.0 for name in sae.scaled}
    optimizer.units = {name: unit for name, unit in units.items() if math.isfinite(unit)}


@torch.no_grad()
def calibrate(sae: SparseAutoencoder, x: Activations, shard: Shard) -> dict[str, float]:
    """`saes.base.calibrate` of the whole dictionary, on rows x [n, d_in] that all ranks have."""
    if sae.margins(x[:1]) is None:
        return {}
    ranks = shard.ranks
    n_keep, slack = round(sae.config.l0 * len(x)), 1.5
    batches = x.split(_rows_at_a_time(shard.width))
    while True:
        strongest, n_active, bound = _strongest_margins(sae, batches, slack * n_keep / len(x) / shard.d_sae, ranks)
        n_strongest = int(ranks.sum_number(len(strongest), LATENTS))
        if n_strongest > n_keep or bound == -torch.inf:
            break
        slack *= 4
    strongest = strongest[strongest > -torch.inf]
    n_keep = min(n_keep, int(ranks.sum_number(len(strongest), LATENTS)) - 1)
    shift = 0.0
    if n_keep > 0:
        shift = sum(kth_values(strongest.double(), [n_keep, n_keep + 1], lambda n: ranks.sum(n, LATENTS))) / 2
    sae.shift_margins(shift)
    n_after = sum(int((sae.encode(rows).values > 0).sum()) for rows in batches)
    l0_after = ranks.sum_number(n_after, LATENTS) / len(x)
    return {"l0_before": n_active / len(x), "l0_after": l0_after, "shift": shift, "n_tokens": float(len(x))}


def _strongest_margins(
    sae: SparseAutoencoder, batches: tuple[Tensor, ...], share: float, ranks: Ranks
) -> tuple[Tensor, float, float]:
    """The margins of this slice above a bound that all ranks share, the number of positive ones of all, the bound."""
    bound, parts, n_active = -torch.inf, [], 0
    for i, rows in enumerate(batches):
        margins = sae.margins(rows)
        assert margins is not None
        flat = margins.flatten()
        if i == 0:
            rank = math.ceil(share * flat.numel()) + 64
            own = float(flat.kthvalue(flat.numel() - rank + 1).values) if rank < flat.numel() else -torch.inf
            bound = float(ranks.least(torch.tensor(own, dtype=torch.float64, device=flat.device), LATENTS))
        n_active += int((flat > 0).sum())
        parts.append(flat[flat > bound])
    return torch.cat(parts), ranks.sum_number(n_active, LATENTS), bound


def _measured(centred: Activations, l0: float, ranks: Ranks) -> Anisotropy:
    """`measure_anisotropy`, of the first rank: a decomposition may differ in sign between processors."""
    own = measure_anisotropy(centred, l0)
    n_dominating = ranks.from_first(torch.tensor([len(own.directions), int(own.n_paired)], device=centred.device))
    directions = centred.new_zeros(int(n_dominating[0]), centred.shape[1])
    excess = centred.new_zeros(int(n_dominating[0]))
    if directions.shape == own.directions.shape:
        directions, excess = own.directions, own.excess
    return Anisotropy(ranks.from_first(directions), ranks.from_first(excess), n_dominating[1])


def _latents_at_a_time(n_rows: int) -> int:
    return max(1, BLOCK_ENTRIES // max(1, n_rows))


def _rows_at_a_time(width: int) -> int:
    return max(1, BLOCK_ENTRIES // width)


def _blocks(sae: SparseAutoencoder, centred: Activations) -> Iterator[tuple[int, PreActs]]:
    """The pre-activations of a block of latents at a time, with the block's first latent."""
    width = _latents_at_a_time(len(centred))
    b_enc = bias_of(sae)
    for start in range(0, sae.d_sae, width):
        block = slice(start, start + width)
        yield start, dispatch.pre_activations(centred, sae.W_enc[:, block], b_enc[block])


def _start_thresholds(
    sae: SparseAutoencoder, centred: Activations, l0: float, n_dense: int, *, shard: Shard
) -> PerLatent:
    """`starts.start_thresholds` of the whole dictionary, [F] of this slice."""
    n_rows, n_latents = len(centred), shard.d_sae - n_dense
    l0 -= n_dense / 2
    n_own, thresholds = shard.n_within(n_dense), sae.b_dec.new_zeros(shard.width)

    ranks = shard.ranks

    def total(counts: Tensor) -> Tensor:
        return ranks.sum(counts, LATENTS)

    n_firing = min(n_rows - 1, max(1, round(l0 * n_rows / n_latents)))
    n_above = min(n_rows * n_latents - 1, max(1, round(l0 * n_rows)))
    # The largest margins of each latent bound the common shift from below; then all above the bound decide it exactly.
    some: list[Tensor] = []
    for start, pre in _blocks(sae, centred):
        block = thresholds[start : start + pre.shape[1]]
        block.copy_(halfway_below(pre, n_firing))
        some.append((pre - block)[:, max(0, n_own - start) :].topk(min(n_rows, n_firing + 2), dim=0).values.flatten())
    n_some = int(ranks.sum_number(sum(len(margins) for margins in some), LATENTS))
    (bound,) = kth_values(torch.cat(some), [min(n_some, n_above + 1)], total)
    above: list[Tensor] = []
    for start, pre in _blocks(sae, centred):
        margins = (pre - thresholds[start : start + pre.shape[1]])[:, max(0, n_own - start) :].flatten()
        above.append(margins[margins >= bound])
    shift = sum(kth_values(torch.cat(above), [n_above, n_above + 1], total)) / 2
    thresholds[n_own:] = (thresholds[n_own:] + shift).clamp_min(0)
    thresholds[:n_own] = 0
    return thresholds


def _fit_size(sae: SparseAutoencoder, x: Activations, n_dense: int, share: float, *, ranks: Ranks) -> None:
    """`starts.fit_size` of the whole dictionary; n_dense: this slice's dense latents."""
    overlap = energy = torch.zeros((), dtype=torch.float64, device=x.device)
    for rows in x.split(_rows_at_a_time(sae.d_sae)):
        latents = _encoded(sae, rows, ranks)
        is_dense = latents.indices < n_dense
        others, dense = (
            ops.decode(replace(latents, values=torch.where(mask, latents.values, 0)), sae.W_dec, sae.b_dec * 0)
            for mask in (~is_dense, is_dense)
        )
        explained, dense_part = ranks.sum(torch.stack([others, dense]), LATENTS)
        overlap = overlap + ((rows - sae.b_dec - dense_part) * explained).sum()
        energy = energy + explained.square().sum()
    factor = float(overlap / energy.clamp_min(1e-30))
    factor = (factor if 0 < factor < 1 else 1.0) * share
    sae.W_enc[:, n_dense:] *= factor
    for name in sae.scaled:
        parameter = getattr(sae, name)
        if name != "b_dec" and parameter.ndim == 1:
            parameter[n_dense:] *= factor


def _encoded(sae: SparseAutoencoder, x: Activations, ranks: Ranks) -> SparseLatents:
    """This slice's part of the code that the whole dictionary has at inference."""
    if not isinstance(sae, TopK):
        return sae.encode(x)  # thresholds decide each latent for itself
    k = round(sae.config.l0)
    pattern, values = dispatch.encode_topk(ops.centre(x, sae.b_dec), sae.W_enc, sae.b_enc, k)
    pattern, values = merged_topk(pattern, values, k, ranks)
    return SparseLatents(pattern.offsets, pattern.indices, values, sae.d_sae)
