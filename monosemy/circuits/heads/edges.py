"""Edges of attention-only models: masks on all of them, and the exact effect of each.

Place on the path: `Contrast` of an attention-only model → [a mask on every edge] → a score per edge.

    receiver r (a head's q, k or v, or the output) reads   x_r − Σ_s (1 − z_sr) (o_s − o'_s)

x_r is the residual stream of the running pass, o_s what sender s (the embeddings or an earlier head) writes in it, and
o'_s what s writes on the counterpart (or the mean of that, or nothing, by `ablation`). z is the mask: z = 1 is the
model itself, z_sr = 0 cuts one edge, and with resampling z = 0 everywhere is the counterpart. An edge's score is
m(1) − m(z_sr = 0) = m(clean) − m(edge replaced), and takes one pass.

Source: path patching (Goldowsky-Dill et al. 2023, 2304.05969). Limits: needs a model in which every read can be
replaced (`attention_only.py`); for real models see `member_edges.py`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.circuits.heads.attention_only import AttentionOnly
from monosemy.circuits.heads.contrast import ABLATIONS, Ablation, Batch, Contrast
from monosemy.circuits.heads.model_heads import AttentionOnlyHeads, Pass
from monosemy.circuits.heads.scores import EdgeScores, edges_from_examples
from monosemy.circuits.heads.task import INPUT, OUTPUT, Channel, Edge, Head
from monosemy.errors import UserError, unknown
from monosemy.support import progress

CHANNELS: tuple[Channel, ...] = ("q", "k", "v")


class EdgeGraph:
    """All edges of an attention-only model, in topological order of their receivers, and passes with masks on them.

    Masks are [.., edges], in the order of `edges`. Raises UserError for any other kind of model.
    """

    def __init__(self, contrast: Contrast, ablation: Ablation = "resample") -> None:
        if not isinstance(contrast.heads, AttentionOnlyHeads):
            raise UserError(
                f"edges of the whole graph need an attention-only model, {contrast.heads.name} is not one; "
                "ask for edges among the heads that are kept"
            )
        self.contrast = contrast
        self.model: AttentionOnly = contrast.heads.model
        self.edges = all_edges(self.model.n_layers, self.model.n_heads)
        # Where each layer's edges begin in a mask: a layer has 3 channels × H receivers × all senders before it.
        sizes = [3 * self.model.n_heads * (1 + layer * self.model.n_heads) for layer in range(self.model.n_layers)]
        self._starts = [0, *accumulate(sizes)]
        self._fixed = _fixed(self.model, contrast, ablation)

    def replaced(self, batch: Batch) -> Float[Tensor, "B T senders d_model"]:
        """What every sender, embeddings and heads, writes along a cut edge."""
        if self._fixed is not None:
            return self._fixed.expand(len(batch.examples), -1, -1, -1)
        return written(self.model, batch.corrupted)

    def metric(self, batch: Batch, mask: Tensor) -> Float[Tensor, " B"]:
        """m under the mask; differentiable in the mask where that requires a gradient."""
        return batch.measure(self.logits(batch, mask))

    def logits(self, batch: Batch, mask: Float[Tensor, "*B edges"]) -> Tensor:
        """Logits at the last position under one mask for all prompts, or one for each."""
        tokens = batch.clean.tokens
        with torch.no_grad():
            start, replacement = self.model.embed(tokens), self.replaced(batch)
        # Grows layer by layer while the pass runs: `read` of a layer sees exactly the senders before it.
        written_so_far = [start.unsqueeze(2)]

        def keep(layer: int, outputs: Tensor) -> Tensor:
            written_so_far.append(outputs)
            return outputs

        def read(layer: int, channel: Channel, wide: Tensor) -> Tensor:
            # [.., receivers, senders]: the share of each edge that is cut.
            missing = (1 - self._block(mask, layer, channel)).transpose(-1, -2)
            if not missing.requires_grad and not bool(missing.any()):
                return wide  # no edge is cut here: most of the graph, when one is patched
            senders = torch.cat(written_so_far, dim=2)
            difference = senders - replacement[:, :, : senders.shape[2]]
            return wide - (missing[:, None] if mask.ndim == 2 else missing) @ difference

        return self.model.logits(tokens, keep, reads=read, embeddings=start)

    def _block(self, mask: Tensor, layer: int, channel: Channel) -> Tensor:
        """The part of the mask for one layer and channel, [.., senders, receivers]; channel "" is the output."""
        n_senders = 1 + layer * self.model.n_heads
        if channel == "":
            return mask[..., self._starts[layer] :].unflatten(-1, (n_senders, 1))
        width = n_senders * self.model.n_heads
        start = self._starts[layer] + CHANNELS.index(channel) * width
        return mask[..., start : start + width].unflatten(-1, (n_senders, self.model.n_heads))


@torch.no_grad()
def written(model: AttentionOnly, side: Pass) -> Float[Tensor, "B T senders d_model"]:
    """What the embeddings and all heads write in a plain pass, embeddings first."""
    return torch.cat([model.embed(side.tokens).unsqueeze(2), side.values], dim=2)


def _fixed(model: AttentionOnly, contrast: Contrast, ablation: Ablation) -> Float[Tensor, "1 T senders d_model"] | None:
    """The replacement that is the same for every prompt: the mean over counterparts, or zeros; None for `resample`."""
    if ablation not in ABLATIONS:
        raise unknown("ablation", ablation, ABLATIONS)
    if ablation == "resample":
        return None
    sides = [written(model, batch.corrupted) for batch in contrast.batches]
    mean = torch.stack([side.sum(0) for side in sides]).sum(0, keepdim=True) / contrast.n_examples
    return mean if ablation == "mean" else torch.zeros_like(mean)


def all_edges(n_layers: int, n_heads: int) -> list[Edge]:
    """Every edge, ordered by the receiver's layer, channel, sender and receiving head; edges into the output last."""
    edges: list[Edge] = []
    senders: list[Head | Literal["input"]] = [INPUT]
    for layer in range(n_layers):
        edges += [Edge(s, (layer, h), channel) for channel in CHANNELS for s in senders for h in range(n_heads)]
        senders += [(layer, head) for head in range(n_heads)]
    return edges + [Edge(sender, OUTPUT) for sender in senders]


def patch_edges(
    contrast: Contrast, indices: Sequence[int] | None = None, ablation: Ablation = "resample"
) -> EdgeScores:
    """The exact effect of every edge, one pass each; with `indices`, of these only, and the others get 0."""
    began = time.perf_counter()
    graph = EdgeGraph(contrast, ablation)
    edge_numbers = list(range(len(graph.edges)) if indices is None else indices)
    effects = torch.zeros(contrast.n_examples, len(graph.edges), dtype=torch.float64)
    n_done = 0
    with torch.no_grad(), progress.stage("patch edges", total=len(edge_numbers) * len(contrast.batches)) as bar:
        for batch in contrast.batches:
            rows = slice(n_done, n_done := n_done + len(batch.examples))
            for index in edge_numbers:  # a mask of ones with one zero: a single cut edge
                mask = torch.ones(len(graph.edges), device=contrast.heads.device)
                mask[index] = 0
                effects[rows, index] = (batch.m_clean - graph.metric(batch, mask)).cpu().double()
                bar.advance()
    return edges_from_examples("patching", contrast, graph.edges, effects, began=began)
