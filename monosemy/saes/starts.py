"""Starts that suit the data: latents for dominating directions, an encoder that looks past them, one firing rate.

Activations of language models are far from isotropic: a few directions may carry most of the variance. Under random
encoder rows every latent then answers to them and to little else, and most die before they learn. Three measures, all
taken from the mean and the covariance of a few thousand training rows:
- a direction that carries more of the variance than an average latent could gets two latents of its own, one for each
  sign, so that the others need not share it;
- the encoder starts as the filter that answers each decoder row with 1 and everything else as little as it can;
- thresholds start where all other latents fire equally often, and sizes where they reconstruct best.
A transcoder's encoder and decoder stand in two spaces, so its encoder starts as the regression of the outputs along its
random decoder rows (`regressed_encoder`).
`Anisotropy` serves training too: steps and restarts of encoders are shrunk along the same directions.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosemy.shapes import Activations, DecoderMatrix, EncoderMatrix, OutputMatrix, Outputs, PerLatent, PreActs

if TYPE_CHECKING:
    from monosemy.saes.base import Restart, SparseAutoencoder

SHRINKAGE = 1.0
"""The share of the mean variance per direction that is added to every direction's, so that W_enc stays near W_decᵀ."""
DOMINATING = 10.0
"""How many times the mean variance of the directions after it a dominating direction has at least."""

SMALL_START = 0.3
"""The share of the best size at which latents start that are selected by comparison, whatever their size: at first few
of them then add much, and those that are useful grow. Middle layer of the embedded model, 100k tokens: 2 to 4% less FVU
for JumpReLU, TopK and BatchTopK; Gated loses 4%, and it and ReLU start at the best size. On planted features that are
sparse and even, short runs of JumpReLU lose by it."""


class Anisotropy(NamedTuple):
    """The directions that dominate the data, and how much less of them encoders should see than of others.

    directions: orthonormal rows u_k, [K, d_in]; K is 0 where none dominates. excess: 1 − s_k, [K], where
    s_k² = (mean variance of the other directions) / (variance along u_k). n_paired: int64 [], how many of them, the
    first, get two dense latents each.
    """

    directions: Float[Tensor, "k d_in"]
    excess: Float[Tensor, " k"]
    n_paired: Int64[Tensor, ""]

    def shrink(self, columns: Float[Tensor, "d_in n"]) -> Float[Tensor, "d_in n"]:
        """M w for every column w: M = I − Σ_k (1 − s_k) u_k u_kᵀ makes the variance along u_k that of the others."""
        return columns - self.directions.T @ (self.excess[:, None] * (self.directions @ columns))


def no_anisotropy(like: DecoderMatrix) -> Anisotropy:
    """That of data without dominating directions, as wide as the rows of `like` [F, d_in]."""
    none = torch.zeros((), dtype=torch.int64, device=like.device)
    return Anisotropy(like.new_zeros(0, like.shape[1]), like.new_zeros(0), none)


@torch.no_grad()
def measure_anisotropy(centred: Activations, l0: float) -> Anisotropy:
    """Finds the dominating directions of centred rows x [N, d_in].

    A direction dominates when it carries more than `DOMINATING` times the mean variance of the directions after it, and
    all those before it do. It is paired when it also carries more than 1/l0 of all variance, which is more than an
    average active latent can. l0/4 of them are paired at most, so that most active latents are others.
    """
    # In float64: the spectrum may span many orders of magnitude.
    rows = centred.double()
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    shares = values.flip(0).clamp_min(0) / values.sum().clamp_min(1e-300)
    d_in = centred.shape[1]
    after = (1 - shares.cumsum(0)).clamp_min(0) / torch.arange(d_in - 1, -1, -1).clamp_min(1).to(shares)
    n_dominating = min(int((shares > DOMINATING * after).cumprod(0).sum()), d_in - 1)
    shares = shares[:n_dominating]
    n_paired = (shares > 1 / l0).sum().clamp_max(int(l0 / 4))
    others = (1 - shares.sum()).clamp_min(0) / max(1, d_in - n_dominating)
    # Contiguous, as they come back from a checkpoint: the order of summation depends on the layout.
    directions = vectors.flip(1).T[:n_dominating].to(centred).contiguous()
    return Anisotropy(directions, (1 - (others / shares).sqrt()).to(centred), n_paired)


@torch.no_grad()
def start_weights(sae: SparseAutoencoder, x: Activations, y: Outputs | None = None) -> int:
    """Sets b_dec to the mean of rows x [N, d_in], then W_enc, and returns the number of dense latents.

    Dense latents come first. Two of them, one for each sign, share a dominating direction. A frozen decoder has none,
    nor has a transcoder, whose outputs y [N, d_out] are given.
    """
    if y is not None:
        sae.input_mean.copy_(x.mean(0))
        sae.b_dec.copy_(y.mean(0))
        sae.W_enc.copy_(regressed_encoder(x - sae.input_mean, y - sae.b_dec, sae.W_dec))
        return 0
    sae.b_dec.copy_(x.mean(0))
    centred, n_dense = x - sae.b_dec, 0
    if sae.W_dec.requires_grad:
        anisotropy = measure_anisotropy(centred, sae.config.l0)
        directions = anisotropy.directions[: anisotropy.n_paired]
        n_dense = 2 * len(directions) if 2 * len(directions) < sae.d_sae else 0
        sae.W_dec[:n_dense] = torch.stack([directions, -directions], 1).flatten(0, 1)[:n_dense]
    sae.W_enc.copy_(distortionless_encoder(centred, sae.W_dec))
    return n_dense


@torch.no_grad()
def regressed_encoder(inputs: Activations, outputs: Outputs, W_dec: OutputMatrix) -> EncoderMatrix:
    """The encoder that guesses the outputs along each decoder row from the inputs, both centred: [d_in, F].

        w_i = (Σ_x + SHRINKAGE · (tr Σ_x / d_in) · I)⁻¹ Σ_xy d_i

    It is a transcoder's start: its latents then say what is linear in the map, the strongest ones most of it.
    """
    # In float64: the covariance of a long-tailed spectrum is ill-conditioned.
    rows = inputs.double()
    covariance = rows.T @ rows / len(rows)
    mean_variance = covariance.diagonal().mean().clamp_min(1e-30)  # constant rows get an encoder of zeros
    covariance.diagonal().add_(SHRINKAGE * mean_variance)
    linear_map = torch.linalg.solve(covariance, rows.T @ outputs.double() / len(rows))
    return (linear_map @ W_dec.detach().double().T).to(W_dec)


@torch.no_grad()
def fit_size(
    sae: SparseAutoencoder, x: Activations, n_dense: int, y: Outputs | None = None, *, share: float = 1.0
) -> None:
    """Scales W_enc, biases and thresholds of all but the first `n_dense` latents to a share of the best size for x.

    Each answers its own decoder row with 1, but several of them share what they answer to: together they overshoot,
    the more the wider the dictionary is for its data. The same latents fire as before. A transcoder should give y, and
    starts at the best size itself.
    """
    latents = sae.encode(x)
    is_dense = latents.indices < n_dense
    others = replace(latents, values=torch.where(is_dense, 0, latents.values))
    explained = sae.decode(others) - sae.b_dec
    rest = (x if y is None else y) - sae.decode(replace(latents, values=torch.where(is_dense, latents.values, 0)))
    factor = float((rest * explained).sum() / explained.square().sum().clamp_min(1e-30))
    factor = factor if 0 < factor < 1 else 1.0
    factor *= share if y is None else 1.0
    sae.W_enc[:, n_dense:] *= factor
    for name in sae.scaled:
        parameter = getattr(sae, name)
        if name != "b_dec" and parameter.ndim == 1:
            parameter[n_dense:] *= factor


@torch.no_grad()
def distortionless_encoder(centred: Activations, W_dec: DecoderMatrix) -> EncoderMatrix:
    """The encoder that answers each decoder row with 1 and everything else in the data as little as it can, [d_in, F].

        w_i = S⁻¹ d_i / (d_iᵀ S⁻¹ d_i),  S = Σ + SHRINKAGE · (tr Σ / d_in) · I,  Σ = mean x xᵀ over the centred rows

    It minimises wᵀ S w subject to wᵀ d_i = 1, so variance along dominating directions no longer drives the latents. On
    isotropic data w_i = d_i. Source: the minimum-variance distortionless response filter (Capon 1969).
    """
    # In float64: S of a long-tailed spectrum is ill-conditioned.
    rows = centred.double()
    covariance = rows.T @ rows / len(rows)
    mean_variance = covariance.diagonal().mean()
    if not mean_variance > 0:  # constant rows tell nothing
        return W_dec.T.clone()
    covariance.diagonal().add_(SHRINKAGE * mean_variance)
    directions = W_dec.detach().double().T
    filters = torch.linalg.solve(covariance, directions)
    return (filters / (filters * directions).sum(0)).to(W_dec)


@torch.no_grad()
def start_thresholds(pre: PreActs, l0: float, n_dense: int) -> PerLatent:
    """Thresholds [F] at which `l0` latents fire on an average row of pre [N, F].

    Zero for the first `n_dense`, of which half fire on every row; one firing rate for all others.
    """
    thresholds = pre.new_zeros(pre.shape[1])
    thresholds[n_dense:] = thresholds_of_equal_rate(pre[:, n_dense:], l0 - n_dense / 2)
    return thresholds


@torch.no_grad()
def thresholds_of_equal_rate(pre: PreActs, l0: float) -> PerLatent:
    """The threshold of each latent, [F], at which all fire equally often and `l0` of them on an average row.

    Each lies at its latent's own quantile of pre [N, F], and none below zero; a common shift then sets the L0, because
    a latent fires on a whole number of rows. All lie halfway between two neighbouring values: on a pre-activation
    itself, rounding would decide whether it fires.
    """
    n_rows, n_latents = pre.shape
    n_firing = min(n_rows - 1, max(1, round(l0 * n_rows / n_latents)))
    if n_firing < 1:  # a single row has no quantiles
        return pre.new_full((n_latents,), max(0.0, quantile_of_l0(pre, l0)))
    thresholds = halfway_below(pre, n_firing)
    margins = (pre - thresholds).flatten()
    n_above = min(margins.numel() - 1, max(1, round(l0 * n_rows)))
    return (thresholds + halfway_below(margins, n_above)).clamp_min(0)


def scaled_restart(new: Restart, factors: PerLatent) -> Restart:
    """The restart with encoders and thresholds times `factors` [R], bounded so that their gains are .05 to 2."""
    factors = (factors * new.gains).clamp(0.05, 2) / new.gains
    return new._replace(encoder=new.encoder * factors, thresholds=new.thresholds * factors)


def halfway_below(scores: Tensor, n_above: int) -> Tensor:
    """The value halfway between the `n_above`-th largest of scores, along their first dimension, and the next."""
    # kthvalue counts from the smallest, starting at 1.
    rank = len(scores) - n_above
    return (scores.kthvalue(rank, dim=0).values + scores.kthvalue(rank + 1, dim=0).values) / 2


def quantile_of_l0(scores: PreActs, l0: float) -> float:
    """The score that l0 entries per row reach on average, over all of scores [N, F]: the (l0·N)-th largest entry."""
    n_above = min(scores.numel(), max(1, math.ceil(l0 * scores.shape[0])))
    # kthvalue counts from the smallest, starting at 1.
    return float(scores.flatten().kthvalue(scores.numel() - n_above + 1).values)
