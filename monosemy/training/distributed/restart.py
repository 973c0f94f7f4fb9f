"""Restarts of dead latents that are spread over ranks: training/revival.py's, with sums over ranks.

Place on the path: at the end of a sharded training step. All ranks draw the same latents and the same rows. A rank
makes new weights for its own latents; it is given the drawn rows' errors by the ranks that hold these rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from monosemy.kernels import ops
from monosemy.saes.base import Restart, SparseAutoencoder, StepOutput
from monosemy.saes.jumprelu import RESTART_THRESHOLD, JumpRelu
from monosemy.saes.starts import Anisotropy, scaled_restart
from monosemy.saes.topk import TopK
from monosemy.shapes import LatentMask, Outputs
from monosemy.training.distributed.losses import Rows, mean_threshold
from monosemy.training.distributed.ranks import LATENTS, TOKENS, Ranks
from monosemy.training.distributed.selection import halfway_below
from monosemy.training.distributed.shard import Shard, bias_of
from monosemy.training.optim import Adam
from monosemy.training.revival import restart_order


class Drawn(NamedTuple):
    """The latents that restart in a step."""

    latents: Int64[Tensor, " r"]
    """Those of this slice, counted from its first."""
    places: Int64[Tensor, " r"]
    """Where they stand among all that restart."""
    n_all: int


def drawn_latents(dead: LatentMask, share: float, generator: torch.Generator, shard: Shard) -> Drawn:
    """`revival.drawn_latents` of the whole dictionary; `dead` [F] are this slice's."""
    own, ranks = dead.nonzero()[:, 0], shard.ranks
    counts = [int(n) for n in ranks.gather(torch.tensor(len(own), device=dead.device), LATENTS)]
    first = sum(counts[: ranks.latent_shard])
    order = restart_order(sum(counts), shard.d_sae, share, generator)
    mine = ((order >= first) & (order < first + len(own))).nonzero()[:, 0]
    return Drawn(own[(order[mine] - first).to(dead.device)], mine.to(dead.device), len(order))


@torch.no_grad()
def new_weights(
    sae: SparseAutoencoder,
    drawn: Drawn,
    rows: Rows,
    residual: Outputs,
    *,
    anisotropy: Anisotropy,
    generator: torch.Generator,
    shard: Shard,
) -> Restart:
    """`revival.new_weights` for this slice's latents; the error e [N, d_in] is that of this rank's rows."""
    ranks = shard.ranks
    centred, decoder = ops.centre(rows.x, sae.b_dec), sae.W_dec[drawn.latents]
    if sae.W_dec.requires_grad:
        decoder = normalize(_drawn_errors(drawn, rows, residual, generator=generator, ranks=ranks), dim=1)
    filters = anisotropy.shrink(anisotropy.shrink(decoder.T))
    filters = filters / (filters * decoder.T).sum(0).clamp_min(1e-12)
    answers = centred @ filters
    n_firing = min(rows.n_all - 1, max(1, round(sae.config.l0 * rows.n_all / shard.d_sae)))
    thresholds = halfway_below(answers, n_firing, ranks).clamp_min(0)
    values = torch.where(answers > thresholds, answers, 0)
    gained = ranks.sum((values * (residual @ decoder.T)).sum(0), TOKENS)
    size = gained / ranks.sum(values.square().sum(0), TOKENS).clamp_min(1e-30)
    size = size.clamp(0.1, 1.0)
    # What all that restart add together, on this rank's rows.
    added = ranks.sum((values * size) @ decoder, LATENTS)
    square = ranks.sum(added.square().sum(), TOKENS).clamp_min(1e-30)
    together = (ranks.sum((gained * size).sum(), LATENTS) / square).clamp(0.01, 1.0)
    size = size * together
    encoder = filters * size
    gains = (encoder * decoder.T).sum(0).clamp_min(1e-12)
    return Restart(decoder, encoder, gains, answers * size, thresholds=thresholds * size)


def _drawn_errors(
    drawn: Drawn, rows: Rows, residual: Outputs, *, generator: torch.Generator, ranks: Ranks
) -> Float[Tensor, "r d_out"]:
    """The errors of the rows that are drawn for this slice's latents, [r, d_in], from whichever ranks have them."""
    energy = torch.cat(ranks.gather(residual.square().sum(1).double(), TOKENS)).cpu() + 1e-30
    numbers = torch.multinomial(energy, drawn.n_all, replacement=drawn.n_all > rows.n_all, generator=generator)
    # The first rank's, since energies may differ in their last digits between processors.
    numbers = ranks.from_first(numbers.to(residual.device))[drawn.places] - rows.first
    here = (numbers >= 0) & (numbers < len(residual))
    errors = residual.new_zeros(len(numbers), residual.shape[1])
    errors[here] = residual[numbers[here]]
    return ranks.sum(errors, TOKENS)


@torch.no_grad()
def restart(
    sae: SparseAutoencoder, drawn: Drawn, new: Restart, output: StepOutput, *, rows: Rows, shard: Shard
) -> None:
    """`sae.restart` where what it compares with is spread over ranks."""
    latents, ranks = drawn.latents, shard.ranks
    if isinstance(sae, TopK):
        codes = output.latents
        own = torch.segment_reduce(codes.values, "min", lengths=codes.offsets.diff(), initial=torch.inf)
        weakest = ranks.least(own, LATENTS)
        weakest = torch.where(weakest.isfinite(), weakest, weakest.new_zeros(()))
        ratios = new.answers / weakest.clamp_min(1e-12)[:, None]
        # How often the first of all that restart fires; its rank says it to the others.
        is_first = drawn.places == 0
        n_firing = ranks.sum_all((new.answers > new.thresholds)[:, is_first].sum())
        cut = halfway_below(ratios, int(n_firing.clamp(1, rows.n_all - 1)), ranks)
        new = scaled_restart(new, 1 / cut.clamp_min(1e-12))
    elif isinstance(sae, JumpRelu):
        level = RESTART_THRESHOLD * mean_threshold(sae, shard)
        new = scaled_restart(new, level / new.thresholds.clamp_min(1e-12))
        sae.threshold[latents] = new.thresholds
    else:
        assert output.statistic is not None
        new = scaled_restart(new, output.statistic / new.thresholds.clamp_min(1e-12))
    SparseAutoencoder.restart(sae, latents, new, output)
    bias_of(sae)[latents] = 0


@torch.no_grad()
def forget(optimizer: Adam, latents: Int64[Tensor, " r"], living: LatentMask, ranks: Ranks) -> None:
    """`revival.forget`, with the average over the living latents of all ranks."""
    for name, second in optimizer.second.items():
        if name == "b_dec":  # not of any latent
            continue
        dim = 1 if name == "W_enc" else 0
        by_latent = second.movedim(dim, 0).reshape(len(living), -1).mean(1)
        counted = torch.stack([by_latent[living].sum(), living.sum().to(by_latent), by_latent.sum()])
        total = ranks.sum(counted.double(), LATENTS)
        n_latents = ranks.sum_number(len(living), LATENTS)
        average = total[0] / total[1] if total[1] > 0 else total[2] / n_latents
        optimizer.first[name].index_fill_(dim, latents, 0)
        second.index_fill_(dim, latents, float(average))
