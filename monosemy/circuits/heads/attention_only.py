"""A transformer of attention heads alone, without norms, MLPs or biases, in which every single edge can be replaced.

Place on the path: the model of hand-compiled and small trained circuits (research/heads); methods access it through
`model_heads.AttentionOnlyHeads`.

    r_0 = W_E[token] + W_pos[position]
    o_lh = softmax(causal((r_l W_Q)(r_l W_K)ᵀ / √d_head)) r_l W_V W_O          r_{l+1} = r_l + Σ_h o_lh
    logits = r_L W_U

Each head reads its queries, keys and values from its own copy of the residual stream, so that `reads` can replace one
edge (sender → receiver's q, k or v) without changing any other. `edit` replaces the outputs of heads.

Source: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits. Deviation: no layer norm, so that
contributions add up exactly. Limits: learned absolute positions, sequences up to `n_positions`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from monosemy.circuits.heads.task import Channel, HeadEdit

Reads: TypeAlias = Callable[[int, Channel, Tensor], Tensor]
"""(layer, channel, what the heads read [B, T, H, d_model]) → its replacement. Called for q, k and v of every layer in
order, and at the end as (n_layers, "", [B, T, 1, d_model]) for what the logits read."""


@dataclass(frozen=True)
class Shape:
    """Sizes of an `AttentionOnly` model."""

    n_layers: int
    n_heads: int
    d_model: int
    d_head: int
    vocab_size: int
    n_positions: int


class AttentionOnly(nn.Module):
    """The model. Weights: W_E [V, d], W_pos [T, d], W_Q, W_K, W_V [L, H, d, d_head], W_O [L, H, d_head, d], W_U [d, V].

    All weights start at zero and are trainable; every method is differentiable in them and in `embeddings`.
    """

    def __init__(self, shape: Shape, name: str = "attention-only") -> None:
        super().__init__()
        self.shape = shape
        self.name = name
        self.n_layers, self.n_heads, self.d_model = shape.n_layers, shape.n_heads, shape.d_model
        heads = (shape.n_layers, shape.n_heads)
        self.W_E = nn.Parameter(torch.zeros(shape.vocab_size, shape.d_model))
        self.W_pos = nn.Parameter(torch.zeros(shape.n_positions, shape.d_model))
        self.W_Q = nn.Parameter(torch.zeros(*heads, shape.d_model, shape.d_head))
        self.W_K = nn.Parameter(torch.zeros(*heads, shape.d_model, shape.d_head))
        self.W_V = nn.Parameter(torch.zeros(*heads, shape.d_model, shape.d_head))
        self.W_O = nn.Parameter(torch.zeros(*heads, shape.d_head, shape.d_model))
        self.W_U = nn.Parameter(torch.zeros(shape.d_model, shape.vocab_size))

    @property
    def device(self) -> torch.device:
        return self.W_E.device

    def embed(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T d_model"]:
        """What the first layer reads, token and position embeddings: the sender `input` of the graph."""
        return self.W_E[tokens.to(self.device)] + self.W_pos[: tokens.shape[1]]

    def heads(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "B T H d_model"]:
        """The outputs of one layer's heads; q, k, v [B, T, H, d_model] (H = 1: the same for all) are what they read."""
        return torch.einsum("bhte,hed->bthd", self._attend(layer, q, k, v), self.W_O[layer])

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "B H T d_head"]:
        """What the heads collect by attention, before W_O."""
        queries, keys, values = _read(q, self.W_Q[layer]), _read(k, self.W_K[layer]), _read(v, self.W_V[layer])
        scores = queries @ keys.transpose(-1, -2) * self.shape.d_head**-0.5
        # Causal mask: True above the diagonal, where a key comes later than the query.
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        return scores.masked_fill(later, -torch.inf).softmax(-1) @ values

    def residual(
        self, embeddings: Float[Tensor, "B T d_model"], edit: HeadEdit | None = None, reads: Reads | None = None
    ) -> Float[Tensor, "B T d_model"]:
        """What the logits read, [B, T, d_model], computed from embeddings.

        Embeddings are given instead of tokens so that gradients and straight paths can start there.
        """
        residual = embeddings
        for layer in range(self.n_layers):
            # One stream for all heads (H = 1) unless `reads` may change what single heads see.
            q = k = v = residual.unsqueeze(2)
            if reads is not None:
                wide = q.expand(-1, -1, self.n_heads, -1)
                q, k, v = reads(layer, "q", wide), reads(layer, "k", wide), reads(layer, "v", wide)
            if edit is not None:
                residual = residual + edit(layer, self.heads(layer, q, k, v)).sum(2)
            else:  # the same sum without an array of every head's output
                residual = residual + torch.einsum("bhte,hed->btd", self._attend(layer, q, k, v), self.W_O[layer])
        return residual if reads is None else reads(self.n_layers, "", residual.unsqueeze(2)).squeeze(2)

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Logits at every position."""
        return self.residual(self.embed(tokens)) @ self.W_U

    def logits(
        self,
        tokens: Int[Tensor, "B T"],
        edit: HeadEdit | None = None,
        *,
        reads: Reads | None = None,
        embeddings: Float[Tensor, "B T d_model"] | None = None,
    ) -> Float[Tensor, "B V"]:
        """Logits at the last position; `embeddings`, where given, take the place of the tokens'."""
        start = self.embed(tokens) if embeddings is None else embeddings
        return self.residual(start, edit, reads)[:, -1] @ self.W_U

    def head_outputs(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T n d_model"]:
        """What each head adds to the residual stream; heads are counted layer by layer."""
        outputs_by_layer: list[Tensor] = []

        def keep(layer: int, outputs: Tensor) -> Tensor:
            outputs_by_layer.append(outputs)
            return outputs

        self.residual(self.embed(tokens), keep)
        return torch.cat(outputs_by_layer, dim=2)


def _read(read: Float[Tensor, "B T h d_model"], weight: Float[Tensor, "H d_model d_head"]) -> Tensor:
    """Each head's projection of what it reads, or of what all heads read (h = 1): [B, H, T, d_head]."""
    if read.shape[2] == 1:
        return torch.einsum("btd,hde->bhte", read.squeeze(2), weight)
    return torch.einsum("bthd,hde->bhte", read, weight)
