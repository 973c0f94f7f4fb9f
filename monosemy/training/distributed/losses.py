"""The loss of a step on a dictionary whose latents, and a batch whose rows, are spread over ranks.

    x̂_n = b_dec + Σ_ranks Σ_f f_n W_dec,   L as in saes/topk.py, batch_topk.py and jumprelu.py

Place on the path: within a sharded training step, where one process has the SAE's own `losses`. Every rank selects
among its own latents, agrees with the others on the common cut (selection.py), decodes its part, and adds the parts up.
All else is a sum over ranks: the batch's size and variance, the sparsity terms, the factor on thresholds.
Equal to the SAE's own losses up to the order of sums; tests/unit/training/test_sharded.py holds it to that, value and
gradient, so that the two cannot drift apart.

Gradients: every parameter of this rank's latents receives what this rank's rows give it (trainee.py then sums over the
tokens' axis); b_dec receives the sum over the latents' axis.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from monosemy.kernels import dispatch, ops
from monosemy.kernels.reference import Pattern
from monosemy.saes.base import SparseAutoencoder, StepInfo, StepOutput
from monosemy.saes.batch_topk import BatchTopK
from monosemy.saes.jumprelu import FACTOR_BOUNDS, JumpRelu, JumpReluFunction, StepFunction, frequency_weight
from monosemy.saes.losses import Target
from monosemy.saes.topk import TopK
from monosemy.shapes import Activations, PerEntry, Scalar
from monosemy.training.distributed.ranks import LATENTS, TOKENS, Ranks, shared, summed, summed_all
from monosemy.training.distributed.selection import kth_values, merged_batch_topk, merged_topk
from monosemy.training.distributed.shard import Shard, bias_of


class Rows(NamedTuple):
    """This rank's rows of a batch, and what they are a part of."""

    x: Activations
    n_all: int
    """Rows of the whole batch, on all ranks of the tokens' axis."""
    first: int
    """How many of these come before this rank's."""
    variance: Scalar
    """mean_n ‖x_n − x̄‖² of the whole batch."""

    @property
    def target(self) -> Target:
        return Target(self.x, self.variance)


@torch.no_grad()
def rows_of_batch(x: Activations, ranks: Ranks) -> Rows:
    """The rows x [n, d_in] that this rank has of a batch, with the sums over it."""
    counts = [int(n) for n in ranks.gather(torch.tensor(len(x), device=x.device), TOKENS)]
    n_all = sum(counts)
    centred = x - ranks.sum(x.sum(0), TOKENS) / n_all
    variance = ranks.sum(centred.square().sum(), TOKENS) / n_all
    return Rows(x, n_all, sum(counts[: ranks.token_shard]), variance)


def sharded_losses(sae: SparseAutoencoder, rows: Rows, step: StepInfo, shard: Shard) -> StepOutput:
    """`sae.losses` of the whole dictionary on the whole batch.

    sae: this rank's slice. The output's reconstruction and code are of this rank's rows, and the code of its latents
    alone; total, terms, statistic and slope are those of all ranks. `step.dead` are dead latents of this slice.
    """
    if isinstance(sae, JumpRelu):
        return _jumprelu(sae, rows, step, shard)
    assert isinstance(sae, TopK | BatchTopK)
    x, cut, ranks = rows.x, None, shard.ranks
    centred = ops.centre(x, sae.b_dec)
    W_enc, b_enc = sae.W_enc, sae.b_enc
    if isinstance(sae, TopK):
        k = round(step.l0)
        pattern, values = dispatch.encode_topk(centred, W_enc, b_enc, k)
        pattern, values = merged_topk(pattern, values, k, ranks)
    else:
        n_keep = round(step.l0 * rows.n_all)
        pattern, values, _ = dispatch.encode_batch_topk(centred, W_enc, b_enc, n_keep)
        where = {"first_row": rows.first, "first_latent": shard.start, "d_sae": shard.d_sae}
        pattern, values, cut = merged_batch_topk(pattern, values, n_keep, ranks=ranks, **where)
    selection = _selection(sae, pattern, values, centred, x=x, ranks=ranks)
    reconstruction = _decoded(selection, selection.pre_acts, sae, ranks)
    error = _squared_error(rows, reconstruction, ranks) / rows.variance
    terms, total = {"error": error.detach()}, error
    if sae.options.aux_coef > 0 and step.dead is not None:
        aux = _dead_latent_error(sae, rows, (x - reconstruction).detach(), step.dead, ranks=ranks)
        terms["aux"] = aux.detach()
        total = total + sae.options.aux_coef * aux
    latents = selection.latents(selection.pre_acts.detach())
    return StepOutput(total, terms, reconstruction.detach(), latents, statistic=cut)


def _jumprelu(sae: JumpRelu, rows: Rows, step: StepInfo, shard: Shard) -> StepOutput:
    options, x, ranks = sae.options, rows.x, shard.ranks
    bandwidth = max(_bandwidth(sae, shard), 1e-12)
    centred = ops.centre(x, sae.b_dec)
    lower_edge = sae.threshold.detach() - bandwidth / 2
    window, pre_acts = dispatch.encode_above(centred, sae.W_enc, sae.b_enc, lower_edge)
    selection = _selection(sae, window, pre_acts, centred, x=x, ranks=ranks)
    threshold = selection.per_latent(sae.threshold)
    factor = None
    if sae.steered:
        factor = threshold_factor(selection.pre_acts, threshold, round(step.l0 * rows.n_all), ranks)
        threshold = threshold * factor
    values = JumpReluFunction.apply(selection.pre_acts, threshold, bandwidth)
    reconstruction = _decoded(selection, values, sae, ranks)
    error = _squared_error(rows, reconstruction, ranks) / rows.variance
    fires = StepFunction.apply(selection.pre_acts, threshold, bandwidth)
    entries = fires if options.recipe == "step" else torch.tanh(options.tanh_scale * values)
    sparsity = summed_all(entries.sum(), ranks) / rows.n_all
    terms = {"error": error.detach(), "sparsity": sparsity.detach()}
    total = error + step.sparsity_coef * sparsity
    if options.recipe == "step" and options.frequency_coef > 0:
        frequency = _frequency(sae, fires, selection, step.l0, rows=rows, shard=shard)
        terms["frequency"] = frequency.detach()
        total = total + frequency_weight(options, error) * frequency
    slope = None
    if factor is not None:
        near = (selection.pre_acts - threshold).detach().abs() < bandwidth / 2
        level = torch.where(near, threshold.detach(), 0.0).sum()
        slope = -float(ranks.sum_all(level)) / (bandwidth * rows.n_all)
    latents = selection.latents(values.detach())
    return StepOutput(total, terms, reconstruction.detach(), latents, statistic=factor, l0_slope=slope)


@torch.no_grad()
def threshold_factor(pre: PerEntry, threshold: PerEntry, n_firing: int, ranks: Ranks) -> float:
    """saes/jumprelu.py's `threshold_factor` of the entries of all ranks."""
    ratios = pre / threshold.clamp_min(1e-12)
    n_entries = int(ranks.sum_all(torch.tensor(len(ratios), device=pre.device)))
    low, high = FACTOR_BOUNDS
    if n_entries - n_firing < 1:
        if n_entries == 0:
            return low
        (smallest,) = kth_values(ratios, [n_entries], ranks.sum_all)
        return min(high, max(low, 0.999 * smallest))
    below, above = kth_values(ratios, [n_firing + 1, max(1, n_firing)], ranks.sum_all)
    return min(high, max(low, (below + above) / 2))


def balanced_coef(sae: JumpRelu, output: StepOutput, step: StepInfo, ranks: Ranks) -> float | None:
    """`JumpRelu.balanced_coef` of all ranks; gradients are summed over the tokens' axis already."""
    if output.l0_slope is None:
        return None
    if output.l0_slope == 0 or sae.threshold.grad is None:
        return step.sparsity_coef
    pull = float(ranks.sum((sae.threshold.detach() * sae.threshold.grad).sum(), LATENTS))
    return max(0.0, step.sparsity_coef - pull / output.l0_slope)


def mean_threshold(sae: JumpRelu, shard: Shard) -> float:
    """The mean threshold of all latents."""
    return float(shard.ranks.sum(sae.threshold.detach().sum(), LATENTS)) / shard.d_sae


def _bandwidth(sae: JumpRelu, shard: Shard) -> float:
    relative = sae.options.bandwidth_relative
    return relative * mean_threshold(sae, shard) if relative > 0 else sae.options.bandwidth


def _frequency(
    sae: JumpRelu, fires: PerEntry, selection: ops.Selection, l0: float, *, rows: Rows, shard: Shard
) -> Scalar:
    """`JumpRelu._frequency` over the latents of all ranks and the rows of all ranks."""
    own = fires.new_zeros(sae.d_sae).index_add(0, selection.pattern.indices.long(), fires)
    rates = summed(own, shard.ranks, TOKENS) / rows.n_all
    limit = max(sae.options.frequency_limit, 3 * l0 / shard.d_sae)
    excess = (rates - limit).clamp_min(0).square()
    return summed(torch.where(rates.detach() < 3 * limit, excess, 0).sum(), shard.ranks, LATENTS)


def _selection(
    sae: SparseAutoencoder, pattern: Pattern, values: PerEntry, centred: Activations, *, x: Tensor, ranks: Ranks
) -> ops.Selection:
    b_dec = shared(sae.b_dec, ranks)
    return ops.Selection(pattern, values, centred, x=x, W_enc=sae.W_enc, b_enc=bias_of(sae), b_dec=b_dec)


def _decoded(selection: ops.Selection, values: PerEntry, sae: SparseAutoencoder, ranks: Ranks) -> Activations:
    """x̂ of this rank's rows: the parts of all ranks of the latents' axis, and b_dec once."""
    part = selection.decode(values, sae.W_dec, torch.zeros_like(sae.b_dec))
    return summed(part, ranks, LATENTS) + sae.b_dec


def _squared_error(rows: Rows, reconstruction: Activations, ranks: Ranks) -> Scalar:
    own = ops.squared_error(rows.x, reconstruction) * (len(rows.x) / rows.n_all)
    return summed(own, ranks, TOKENS)


def _dead_latent_error(
    sae: TopK | BatchTopK, rows: Rows, residual: Activations, dead: Tensor, *, ranks: Ranks
) -> Scalar:
    """AuxK (`saes.losses.dead_latent_error`) over the dead latents of all ranks."""
    k_aux = sae.options.k_aux
    centred, latents = ops.centre(rows.x, sae.b_dec), dead.nonzero()[:, 0]
    if len(latents):
        W_dead = sae.W_enc.detach().T[latents].T
        pattern, values = dispatch.encode_topk(centred, W_dead, sae.b_enc.detach()[latents], k_aux)
        pattern = Pattern(pattern.offsets, latents.to(torch.int32)[pattern.indices.long()])
    else:
        no_entry = torch.zeros(0, dtype=torch.int32, device=centred.device)
        pattern = Pattern(torch.zeros(len(centred) + 1, dtype=torch.int64, device=centred.device), no_entry)
        values = centred.new_zeros(0)
    pattern, values = merged_topk(pattern, values, k_aux, ranks)
    selection = _selection(sae, pattern, values, centred, x=rows.x, ranks=ranks)
    estimate = summed(selection.decode(selection.pre_acts, sae.W_dec, torch.zeros_like(sae.b_dec)), ranks, LATENTS)
    error = summed((residual - estimate).square().sum(), ranks, TOKENS)
    return error / ranks.sum(residual.square().sum(), TOKENS).clamp_min(1e-30)
