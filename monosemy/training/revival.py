"""Revival: dead latents start afresh in the direction of what the SAE leaves over.

A latent is dead after `FiringTracker.dead_after_tokens` silent tokens. In every step some of the dead restart. For
each, a row n of the batch is drawn with probability in proportion to ‖e_n‖², e = x − x̂, and with `Anisotropy`'s M

    d = e_n / ‖e_n‖,   w = M² d / (dᵀ M² d),   θ so that (x − b_dec)·w > θ on L0·N/F of the batch's N rows,

both times the factor at which the latent reduces the error of those rows most, and then times the factor, at most 1, at
which all that restart reduce it most together. So each fires as often as an average one and helps from the next
step on. The step has computed e anyway, so restarts cost next to nothing.

A transcoder's error lies in another space than its input. Its latent is made for inputs like that of the drawn row,
w ∝ M² (x_n − b_in), and d is the direction of the error that goes with it: d ∝ Σ_n f_n e_n over the rows where it
fires.
Source: this project, after the resampling of Bricken et al. 2023 (Towards Monosemanticity), which restarts all dead
latents at a few fixed steps, with a small encoder and without regard to how often it fires.
"""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn.functional import normalize

from monosemy.kernels import ops
from monosemy.saes.base import Restart, SparseAutoencoder
from monosemy.saes.starts import Anisotropy, halfway_below
from monosemy.shapes import Activations, LatentMask, Outputs
from monosemy.training.optim import Adam

LAST_RESTART = 0.97
"""Share of the steps after which none restarts: the learning rate is then nearly zero, and nothing new would learn."""

MOST_RESTARTS = 4096
"""The most latents that restart in one step, however wide the dictionary: the answers of each to every row are held."""


@torch.no_grad()
def drawn_latents(dead: LatentMask, share: float, generator: torch.Generator) -> Int64[Tensor, " r"]:
    """The numbers of the dead latents that restart now: at most `share` of all latents and
    `MOST_RESTARTS`, but at least one."""
    latents = dead.nonzero()[:, 0]
    return latents[restart_order(len(latents), len(dead), share, generator).to(latents.device)]


def restart_order(n_dead: int, n_latents: int, share: float, generator: torch.Generator) -> Int64[Tensor, " r"]:
    """Which of the dead latents restart, by their places among the dead, in the order in which rows are drawn."""
    most = min(MOST_RESTARTS, max(1, int(share * n_latents)))
    return torch.randperm(n_dead, generator=generator)[:most]


@torch.no_grad()
def new_weights(
    sae: SparseAutoencoder,
    latents: Int64[Tensor, " r"],
    x: Activations,
    residual: Outputs,
    *,
    anisotropy: Anisotropy,
    generator: torch.Generator,
) -> Restart:
    """Weights with which `latents` [R] restart, from a batch x [N, d_in] and the error e that is left of its target.

    A frozen decoder keeps its rows. Deterministic given the generator's seed.
    """
    centred, decoder = ops.centre(x, sae.b_in), sae.W_dec[latents]
    transcoder = sae.config.transforms.transcoder
    if transcoder or sae.W_dec.requires_grad:
        # On the CPU and in float64, where the draw depends on the seed and the weights alone.
        energy = residual.square().sum(1).double().cpu() + 1e-30
        rows = torch.multinomial(energy, len(latents), replacement=len(latents) > len(x), generator=generator)
        rows = rows.to(x.device)
    if sae.W_dec.requires_grad:
        decoder = normalize(residual[rows], dim=1)
    directions = normalize(centred[rows], dim=1) if transcoder else decoder
    filters = anisotropy.shrink(anisotropy.shrink(directions.T))
    filters = filters / (filters * directions.T).sum(0).clamp_min(1e-12)
    answers = centred @ filters
    n_firing = min(len(x) - 1, max(1, round(sae.config.l0 * len(x) / sae.d_sae)))
    thresholds = halfway_below(answers, n_firing).clamp_min(0)
    # Least squares over the rows on which each latent fires: Σ f (e·d) / Σ f².
    values = torch.where(answers > thresholds, answers, 0)
    if transcoder and sae.W_dec.requires_grad:
        decoder = normalize(values.T @ residual, dim=1)
    gained = (values * (residual @ decoder.T)).sum(0)
    best = gained / values.square().sum(0).clamp_min(1e-30)
    # An SAE's filter answers its decoder row with 1, which bounds the size; a transcoder's has no such unit.
    size = best.clamp_min(1e-6) if transcoder else best.clamp(0.1, 1.0)
    # Then least squares for all of them together, many of which may answer the same part of the error: (A·e) / ‖A‖²
    # with A what they add in all. Products between latents give ‖A‖² for less work than A itself.
    sizes = torch.outer(size, size)
    square = ((values.T @ values) * (decoder @ decoder.T) * sizes).sum().clamp_min(1e-30)
    together = ((gained * size).sum() / square).clamp(0.01, 1.0)
    size = size * together
    encoder = filters * size
    gains = together.expand_as(size) if transcoder else (encoder * decoder.T).sum(0).clamp_min(1e-12)
    return Restart(decoder, encoder, gains, answers * size, thresholds=thresholds * size)


@torch.no_grad()
def forget(optimizer: Adam, latents: Int64[Tensor, " r"], living: LatentMask) -> None:
    """Gives restarted `latents` [R] no first moment, and the second moment of an average living latent.

    A second moment of zero would make their first steps as large as Adam's bound.
    """
    for name, second in optimizer.second.items():
        if name in ("b_dec", "W_skip"):  # not of any latent
            continue
        # W_enc has its latents in columns, all others in rows.
        dim = 1 if name == "W_enc" else 0
        # Latent by latent first, since picking the living ones out of a matrix would copy most of it.
        by_latent = second.movedim(dim, 0).reshape(len(living), -1).mean(1)
        average = by_latent[living].mean() if bool(living.any()) else by_latent.mean()
        optimizer.first[name].index_fill_(dim, latents, 0)
        second.index_fill_(dim, latents, float(average))
