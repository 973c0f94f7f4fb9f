"""Every MLP of a prompt taken apart: its transcoder's active latents, its linear path, a constant, and the error.

Place on the path: frozen model and transcoders → [replacement by layer] → direct effects (`effects.py`).

    contribution_t = Σ_i a_i,t P_t(W_dec[i]) + S_t(stream_t) + constant_t + error_t

P is the norm behind the MLP (its linear part; identity in most families) and S the transcoder's linear path from the
stream. The first position holds no latents and no error: models park their massive activations there, which no
dictionary describes, so its MLP outputs are constants, as in circuit-tracer. A layer without a transcoder has only its
error: the whole contribution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosemy.circuits.graphs.frozen_model import FrozenLayer, FrozenModel, behind
from monosemy.circuits.graphs.frozen_norm import FrozenNorm
from monosemy.circuits.graphs.transcoders import Transcoder, Weights
from monosemy.errors import UserError
from monosemy.support.numbers import exponent_text


@dataclass(frozen=True)
class LayerReplacement:
    """One MLP on T positions, taken apart. Entries are sorted by position, then by latent."""

    layer: int
    positions: Int[Tensor, " entry"]
    latents: Int[Tensor, " entry"]
    values: Float[Tensor, " entry"]
    weights: Weights | None
    """None for a layer without a transcoder."""
    skip: Float[Tensor, "d_out d_in"] | None
    norm_in: FrozenNorm | None
    """Between the stream and what the latents read."""
    norm_out: FrozenNorm | None
    """Between what the latents write and the stream."""
    constant: Float[Tensor, "position d_model"]
    """What the layer adds where stream and latents are zero."""
    error: Float[Tensor, "position d_model"]

    @property
    def n_entries(self) -> int:
        return len(self.positions)

    def writes(self) -> Float[Tensor, "entry d_model"]:
        """What every active latent adds to the stream: its value times its output vector."""
        if self.weights is None:
            return self.error.new_zeros(0, self.error.shape[1])
        rows = self.weights.decoders(self.latents).to(self.error) * self.values[:, None]
        return rows if self.norm_out is None else self.norm_out.linear(rows, self.positions)

    def reads(self, entries: Int[Tensor, " n"]) -> tuple[Float[Tensor, "n d_model"], Float[Tensor, " n"]]:
        """v and c of some entries' latents: π = x · v + c for what the transcoder reads, x."""
        assert self.weights is not None
        latents = self.latents[entries]
        return self.weights.encoders(latents).to(self.error), self.weights.offset[latents].to(self.error)

    def skip_gradient(self, gradient: Float[Tensor, "row d"], positions: Int[Tensor, " row"]) -> Tensor | None:
        """The gradient that the linear path passes from the contribution back to the stream; None without one."""
        if self.skip is None:
            return None
        if self.norm_out is not None:
            gradient = self.norm_out.transposed(gradient, positions)
        gradient = gradient @ self.skip.to(gradient)
        return gradient if self.norm_in is None else self.norm_in.transposed(gradient, positions)


@torch.no_grad()
def replace_mlps(frozen: FrozenModel, transcoders: Mapping[int, Transcoder]) -> tuple[LayerReplacement, ...]:
    """Every layer's MLP taken apart. Raises UserError where no latent is active on the whole prompt."""
    parts = []
    for index, layer in enumerate(frozen.layers):
        transcoder = transcoders.get(index)
        parts.append(bare_layer(index, layer) if transcoder is None else _replace(index, layer, transcoder, frozen))
    if not any(part.n_entries for part in parts):
        raise UserError(
            f"no latent of the {len(transcoders)} transcoders is active behind the first token of this prompt; give "
            "a longer text, or transcoders of this model"
        )
    return tuple(parts)


def bare_layer(index: int, layer: FrozenLayer) -> LayerReplacement:
    """A layer without a transcoder: its contribution is error, except at the first position."""
    constant, error = torch.zeros_like(layer.contribution), layer.contribution.clone()
    constant[0], error[0] = layer.contribution[0], 0
    none = torch.zeros(0, dtype=torch.long, device=error.device)
    return LayerReplacement(
        index,
        none,
        none,
        error.new_zeros(0),
        weights=None,
        skip=None,
        norm_in=layer.before_mlp,
        norm_out=layer.behind_mlp,
        constant=constant,
        error=error,
    )


def _replace(index: int, layer: FrozenLayer, transcoder: Transcoder, frozen: FrozenModel) -> LayerReplacement:
    """A layer whose transcoder encodes the prompt, with its affine form checked against its own codes and outputs."""
    stream = layer.resid_pre if layer.parallel else layer.resid_mid
    if transcoder.reads == "resid_mid":
        x, norm_in = layer.resid_mid, None
        if layer.parallel:
            raise UserError(f"layer {index} has no resid_mid, which its transcoder reads; give one that reads mlp_in")
    else:
        x, norm_in = layer.mlp_in, layer.before_mlp
    code = transcoder.encode(x)
    positions, latents, values = code.rows().long(), code.indices.long(), code.values.to(x)
    order = (positions * code.d_sae + latents).argsort()
    positions, latents, values = positions[order], latents[order], values[order]
    expected = (transcoder.weights.encoders(latents).to(x) * x[positions]).sum(1) + transcoder.weights.offset[latents]
    _require(expected, values, index, "its latents' pre-activations")
    # What is left of the output without latents and linear path must be the same at every position: the bias.
    writes = torch.zeros_like(x).index_add_(0, positions, transcoder.weights.decoders(latents).to(x) * values[:, None])
    linear = torch.zeros_like(x) if transcoder.skip is None else x @ transcoder.skip.to(x).T
    output = transcoder.output(x)
    bias = (output - writes - linear).mean(0)
    _require(writes + linear + bias, output, index, "its output")
    norm_out = layer.behind_mlp if transcoder.gives == "mlp_out" else None
    return assemble(
        index,
        layer,
        (positions, latents, values),
        stream,
        weights=transcoder.weights,
        skip=transcoder.skip,
        norms=(norm_in, norm_out),
        bias=bias,
    )


def assemble(
    index: int,
    layer: FrozenLayer,
    entries: tuple[Tensor, Tensor, Tensor],
    stream: Float[Tensor, "position d_model"],
    *,
    weights: Weights,
    skip: Tensor | None,
    norms: tuple[FrozenNorm | None, FrozenNorm | None],
    bias: Float[Tensor, " d_out"],
) -> LayerReplacement:
    """A layer's parts from its code (positions, latents, values), the stream that it reads, and its output's bias.

    `norms` stand between the stream and the latents' input, and between their output and the stream.
    """
    norm_in, norm_out = norms
    keep = entries[0] > 0
    positions, latents, values = (part[keep] for part in entries)
    # The constant: the bias, and what the linear path makes of the bias of the norm before it.
    constant = bias if skip is None or norm_in is None or norm_in.bias is None else bias + skip.to(bias) @ norm_in.bias
    constant = behind(norm_out, constant.expand_as(stream)).clone()
    linear = torch.zeros_like(stream)
    if skip is not None:
        linear = (stream if norm_in is None else norm_in.linear(stream)) @ skip.to(stream).T
        linear = linear if norm_out is None else norm_out.linear(linear)
    constant[0] = layer.contribution[0] - linear[0]
    part = LayerReplacement(
        index,
        positions,
        latents,
        values,
        weights=weights,
        skip=skip,
        norm_in=norm_in,
        norm_out=norm_out,
        constant=constant,
        error=torch.zeros_like(stream),
    )
    predicted = (constant + linear).index_add_(0, positions, part.writes())
    part.error.copy_(layer.contribution - predicted)
    part.error[0] = 0
    return part


def _require(ours: Tensor, theirs: Tensor, layer: int, claim: str) -> None:
    gap = float((ours - theirs).norm() / theirs.norm().clamp_min(1e-30)) if theirs.numel() else 0.0
    if not gap <= 1e-3:
        raise UserError(
            f"the transcoder of layer {layer} is not the affine map that a graph needs: {claim} are off by "
            f"{exponent_text(gap)} of their norm; give another"
        )
