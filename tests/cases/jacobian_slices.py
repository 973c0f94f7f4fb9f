"""Synthetic Jacobian slices, and a tiny pair of SAEs around a known map, for the tests of the measures."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from monosemy.circuits.jacobian.latent_map import LatentMap
from monosemy.circuits.jacobian.slices import JacobianSlices
from monosemy.saes.base import SaeConfig, SparseAutoencoder
from monosemy.saes.registry import build_sae


def make_slices(
    values: Tensor, out_indices: Tensor | None = None, in_indices: Tensor | None = None, in_values: Tensor | None = None
) -> JacobianSlices:
    """Slices with these values [N, Ky, Kx]; latents 0, 1, 2, … and activations 1 unless given."""
    n, k_out, k_in = values.shape
    out_indices = torch.arange(k_out).expand(n, -1) if out_indices is None else out_indices
    in_indices = torch.arange(k_in).expand(n, -1) if in_indices is None else in_indices
    in_values = (in_indices >= 0).to(values.dtype) if in_values is None else in_values
    active = (out_indices >= 0)[:, :, None] & (in_indices >= 0)[:, None, :]
    out_values = (out_indices >= 0).to(values.dtype)
    return JacobianSlices(values.masked_fill(~active, 0), out_indices, in_indices, out_values, in_values=in_values)


def one_hot_sae(d: int, k: int, scale: float = 1.0, bias: float = 0.0) -> SparseAutoencoder:
    """A TopK SAE whose latent f is ReLU(x_f + bias), of the k largest, folded at `scale`."""
    sae = build_sae(SaeConfig("topk", d, d, float(k)))
    with torch.no_grad():
        sae.W_dec.copy_(torch.eye(d))
        sae.W_enc.copy_(torch.eye(d))
        sae.b_dec.zero_()
        sae.get_parameter("b_enc").fill_(bias)
    sae.fold_scale(scale)
    return sae.eval()


def one_hot_map(mlp: Callable[[Tensor], Tensor], d: int, k: int, **scales: float) -> LatentMap:
    """f_s = ReLU(TopK_k(mlp(s))): latents are coordinates."""
    return LatentMap(
        one_hot_sae(d, k, scales.get("scale_in", 1.0)), one_hot_sae(d, k, scales.get("scale_out", 1.0)), mlp
    )


def autograd_slices(latent_map: LatentMap, x: Tensor) -> JacobianSlices:
    """The slices of a one-hot map by automatic differentiation."""
    d = x.shape[1]
    c_in, c_out = latent_map.sae_in.config.scale, latent_map.sae_out.config.scale
    s, f = latent_map.inputs(x).to_dense(), latent_map.outputs(x)
    J = torch.func.vmap(torch.func.jacrev(lambda row: latent_map.mlp(row[None])[0]))(x)
    J = J * c_in / c_out * (f > 0)[:, :, None] * (s > 0)[:, None, :]
    order = torch.arange(d).expand(len(x), -1)
    return JacobianSlices(J, order.masked_fill(f <= 0, -1), order.masked_fill(s <= 0, -1), f, in_values=s)


class Linear(nn.Module):
    """x ↦ x W."""

    def __init__(self, W: Tensor) -> None:
        super().__init__()
        self.W = W

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.W
