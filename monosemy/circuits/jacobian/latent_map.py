"""The map from input latents to output latents, f_s = encode_y ∘ MLP ∘ decode_x, evaluated at changed input latents.

Place on the path: two SAEs and the MLP between them → [the map] → linearity.py, ablation.py, graph.py, which compare it
with the Jacobian that mlp.py computes.

  at="input"           s ↦ encode_y(MLP(decode_x(s) + (x − x̂)))    keeps the SAE's error: at s = s(x) the MLP reads x
  at="reconstruction"  s ↦ encode_y(MLP(decode_x(s)))

In both, changing latent j from s_j to t moves the MLP's input by (t − s_j) W_dec[j]. Latents are in the units of
slices.py, those of SAEs at E‖x‖² = E‖y‖² = 1, although the rows x and the SAEs of a finished run are in raw units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosemy.circuits.jacobian.slices import At
from monosemy.latents import SparseLatents
from monosemy.saes.base import SparseAutoencoder


@dataclass(frozen=True)
class LatentMap:
    """Two SAEs around one MLP. `mlp` is differentiable and maps rows [n, d_x] to rows [n, d_y]."""

    sae_in: SparseAutoencoder
    sae_out: SparseAutoencoder
    mlp: Callable[[Tensor], Tensor]
    at: At = "input"

    @torch.no_grad()
    def base(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The MLP inputs at which the map is evaluated: x itself, or its reconstruction; without gradient."""
        return x if self.at == "input" else self.sae_in.decode(self.sae_in.encode(x))

    def inputs(self, x: Float[Tensor, "n d"]) -> SparseLatents:
        """The input latents of rows x, as a sparse code."""
        return self.sae_in.encode(x).scaled(1 / self.sae_in.config.scale)

    def codes_of(self, y: Float[Tensor, "n d"]) -> SparseLatents:
        """The output latents of MLP outputs y, as a sparse code."""
        return self.sae_out.encode(y).scaled(1 / self.sae_out.config.scale)

    @torch.no_grad()
    def outputs(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n m"]:
        """The output latents of MLP inputs, as a dense code; without gradient."""
        return self.codes_of(self.mlp(rows)).to_dense()

    def moved(
        self, base: Float[Tensor, "n d"], latents: Int[Tensor, " n"], change: Float[Tensor, " n"]
    ) -> Float[Tensor, "n d"]:
        """MLP inputs in which one input latent per row, `latents`, is changed by `change`."""
        # From latents at unit mean squared norm back to the raw units of W_dec.
        step = (change * self.sae_in.config.scale).to(base.dtype)
        return base + step[:, None] * self.sae_in.W_dec.detach()[latents]


def padded(latents: SparseLatents) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """The indices and values of each row's positive latents, padded to one width with −1 and 0."""
    positive = latents.values > 0
    rows, indices, values = latents.rows()[positive], latents.indices[positive].long(), latents.values[positive]
    counts = torch.bincount(rows, minlength=latents.n_tokens)
    width = int(counts.max()) if len(rows) else 0
    first = torch.cumsum(counts, 0) - counts
    # A latent's column is its position among all entries minus that of its row's first entry.
    place = torch.arange(len(rows), device=rows.device) - first[rows]
    padded_indices = indices.new_full((latents.n_tokens, width), -1)
    padded_values = values.new_zeros(latents.n_tokens, width)
    padded_indices[rows, place], padded_values[rows, place] = indices, values
    return padded_indices, padded_values
