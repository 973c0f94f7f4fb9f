"""The model's own units as dictionaries: its MLP's hidden units and its residual channels, with a SAE's interface.

    neurons    h = act(x W_gate) ⊙ (x W_up) of the site's own layer, x what the MLP receives; unit i adds h_i w_i to the
               residual stream, w_i its row of W_down
    channels   z = (x − mean) / standard deviation of each coordinate of the residual stream

Both are dense and signed. To go through the pipeline of a SAE's latents they get what a SAE has: each unit becomes two
latents, its positive and its negative side, and the k sides that are strongest on a token are active, by |h_i|·‖w_i‖
and by |z_i|. So the L0 is the SAEs', and a unit that means two things by sign is not held against it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monosemy.errors import UserError
from monosemy.latents import SparseLatents
from monosemy.models.adapter import LanguageModel


def sides(values: Tensor, k: int) -> SparseLatents:
    """The k entries of each row of `values` [n, m] that are largest in size; latent 2i if positive, else 2i + 1."""
    n, m = values.shape
    strongest = values.abs().topk(k, dim=1).indices.sort(dim=1).values
    strongest_values = values.gather(1, strongest)
    indices = (2 * strongest + (strongest_values < 0)).to(torch.int32)
    return SparseLatents(
        torch.arange(0, (n + 1) * k, k), indices.reshape(-1), strongest_values.abs().reshape(-1), 2 * m
    )


class Neurons(nn.Module):
    """Hidden units of a gated MLP; `encode` takes what the MLP receives."""

    source_site = None
    """As an SAE's: no other site is read than the one that they stand for."""

    def __init__(self, model: LanguageModel, layer: int, k: int) -> None:
        super().__init__()
        mlp = model.module.get_decoder().layers[layer].mlp
        if not all(hasattr(mlp, part) for part in ("gate_proj", "up_proj", "down_proj", "act_fn")):
            raise UserError(
                f"the MLP of {model.name} is no gated one; this baseline reads gate_proj, up_proj, down_proj"
            )
        self.mlp, self.k = mlp, k
        rows = mlp.down_proj.weight.detach().T.float()  # [units, d_model]
        self.length = rows.norm(dim=1)
        unit = rows / self.length[:, None]
        self.W_dec = torch.stack([unit, -unit], dim=1).reshape(-1, rows.shape[1])

    @property
    def d_sae(self) -> int:
        return len(self.W_dec)

    @torch.no_grad()
    def encode(self, x: Tensor) -> SparseLatents:
        x = x.to(self.mlp.up_proj.weight.dtype)
        hidden = self.mlp.act_fn(self.mlp.gate_proj(x)) * self.mlp.up_proj(x)
        return sides(hidden.float() * self.length, self.k)


class Channels(nn.Module):
    """Coordinates of a site, in standard deviations of `rows` [n, d]."""

    source_site = None

    def __init__(self, rows: Tensor, k: int) -> None:
        super().__init__()
        self.mean, self.spread = (nn.Parameter(v, requires_grad=False) for v in (rows.mean(0), rows.std(0)))
        unit = torch.eye(rows.shape[1])
        self.k, self.W_dec = k, torch.stack([unit, -unit], dim=1).reshape(-1, rows.shape[1])

    @property
    def d_sae(self) -> int:
        return len(self.W_dec)

    def encode(self, x: Tensor) -> SparseLatents:
        return sides((x.float() - self.mean) / self.spread, self.k)
