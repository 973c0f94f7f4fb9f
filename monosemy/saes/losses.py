"""Loss terms shared by the architectures.

Squared errors are *summed* over d_in and averaged over tokens, so that at E‖x‖² = 1 they are about as large as the FVU.
Papers that average over d_in as well quote sparsity coefficients that are d_in times smaller.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from monosemy.kernels import dispatch, ops
from monosemy.kernels.reference import Pattern
from monosemy.shapes import (
    Activations,
    EncoderMatrix,
    LatentMask,
    OutputMatrix,
    Outputs,
    PerInput,
    PerLatent,
    Scalar,
)


class Target(NamedTuple):
    """What the output of a step should be, and the squared error that counts as 1."""

    rows: Outputs
    """The input itself; for a transcoder the other site's rows less its linear path, with gradient to that."""
    variance: Scalar
    """mean_n ‖y_n − ȳ‖² of the batch, without gradient: the error is then the batch's FVU, and λ has no unit."""

    @classmethod
    def of(cls, rows: Outputs) -> Target:
        return cls(rows, variance(rows))


def squared_error(x: Activations, reconstruction: Activations) -> Scalar:
    """mean_n ‖x_n − x̂_n‖², a scalar. Gradient: to both arguments."""
    return ops.squared_error(x, reconstruction)


def variance(x: Activations) -> Scalar:
    """mean_n ‖x_n − x̄‖² of a batch, a scalar without gradient."""
    with torch.no_grad():
        return (x - x.mean(0)).square().sum() / x.shape[0]


def dead_latent_error(
    x: Activations,
    residual: Outputs,
    *,
    W_enc: EncoderMatrix,
    W_dec: OutputMatrix,
    b_enc: PerLatent,
    b_in: PerInput | None,
    dead: LatentMask,
    k_aux: int,
) -> Scalar:
    """AuxK (Gao et al. 2024): the loss that revives dead latents, ‖e − ê‖² / ‖e‖², a scalar of order 1.

    e is the residual that the living latents leave of the target, taken without gradient; ê reconstructs it from each
    token's k_aux dead latents with the largest pre-activations. Dividing by the residual's own energy keeps the term's
    weight steady. Gradient: to W_enc, b_enc and W_dec of dead latents only, and to b_in through the pre-activations.
    """
    residual = residual.detach()
    centred, latents = ops.centre(x, b_in), dead.nonzero()[:, 0]
    # A second product, of the dead latents alone: the main step does not keep its pre-activations.
    W_dead = W_enc.detach().T[latents].T
    pattern, values = dispatch.encode_topk(centred, W_dead, b_enc.detach()[latents], k_aux)
    # The selection counts among the dead latents; the gradient needs their numbers in the whole dictionary.
    pattern = Pattern(pattern.offsets, latents.to(torch.int32)[pattern.indices.long()])
    selection = ops.Selection(pattern, values, centred, x=x, W_enc=W_enc, b_enc=b_enc, b_dec=b_in)
    # Without a bias: b_dec is part of the output already, and the residual is what is left after it.
    estimate = selection.decode(selection.pre_acts, W_dec, W_dec.new_zeros(W_dec.shape[1]))
    return (residual - estimate).square().sum() / residual.square().sum().clamp_min(1e-30)
