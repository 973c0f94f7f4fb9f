"""Loss terms shared by the architectures. Squared errors are *summed* over d_in and averaged over tokens: at
E‖x‖² = 1 they are of the size of the FVU, and papers that average over d_in quote coefficients d_in times smaller.
"""

from __future__ import annotations

import torch

from monosemy.kernels import dispatch, ops
from monosemy.kernels.reference import Pattern
from monosemy.shapes import Activations, DecoderMatrix, EncoderMatrix, LatentMask, PerInput, PerLatent, Scalar


def squared_error(x: Activations, reconstruction: Activations) -> Scalar:
    """mean_n ‖x_n − x̂_n‖², a scalar."""
    return ops.squared_error(x, reconstruction)


def variance(x: Activations) -> Scalar:
    """mean_n ‖x_n − x̄‖² of a batch, a scalar without gradient."""
    with torch.no_grad():
        return (x - x.mean(0)).square().sum() / x.shape[0]


def dead_latent_error(
    x: Activations,
    reconstruction: Activations,
    W_enc: EncoderMatrix,
    W_dec: DecoderMatrix,
    b_enc: PerLatent,
    b_dec: PerInput,
    dead: LatentMask,
    k_aux: int,
) -> Scalar:
    """AuxK (Gao et al. 2024): ‖e − ê‖² / ‖e‖², the error of reconstructing the residual e = x − x̂ (no gradient) from
    the k_aux strongest dead latents; a scalar of order 1, normalised by the residual's own energy.

    Gradient to W_enc, b_enc, b_dec (through the pre-activations) and W_dec, of dead latents only.
    """
    residual = (x - reconstruction).detach()
    centred, latents = ops.centre(x, b_dec), dead.nonzero()[:, 0]
    W_dead = W_enc.detach().T[latents].T  # the product again, but of the dead alone: the first one's is not kept
    pattern, values = dispatch.encode_topk(centred, W_dead, b_enc.detach()[latents], k_aux)
    pattern = Pattern(pattern.offsets, latents.to(torch.int32)[pattern.indices.long()])
    selection = ops.Selection(pattern, values, centred, x=x, W_enc=W_enc, b_enc=b_enc, b_dec=b_dec)
    estimate = selection.decode(selection.pre_acts, W_dec, torch.zeros_like(b_dec))
    return (residual - estimate).square().sum() / residual.square().sum().clamp_min(1e-30)
