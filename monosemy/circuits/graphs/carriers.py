"""Which attention heads carry an edge from one position to another.

Place on the path: an edge of a graph → [its direct effect, by the first head that reads the source] → tables, pages.

    effect(s → t) = residual + Σ_{l, h} (g_v,l,h[position of s] W_V,l,h N_l) · write_s + linear

g_v,l,h is the target's gradient with respect to what head h of layer l reads; the heads' parts, the part that stays in
the residual stream (source and target at one position), and the part that a transcoder's linear path reads first add up
to the edge. Heads after the first are not told apart: a part says who takes the source away from its place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monosemy.circuits.graphs.ablation import context_of
from monosemy.circuits.graphs.attribution import logit_targets
from monosemy.circuits.graphs.effects import DirectEffects, Rows, Targets, head_gradients
from monosemy.circuits.graphs.graph import Graph
from monosemy.errors import UserError


@dataclass(frozen=True)
class Carriers:
    """An edge's direct effect in parts. `heads` has (layer, head, effect), the largest effect first."""

    effect: float
    residual: float
    linear: float
    heads: tuple[tuple[int, int, float], ...]


@torch.no_grad()
def edge_carriers(graph: Graph, source: int, target: int) -> Carriers:
    """The parts of the edge between two nodes, by their numbers in the graph.

    Raises UserError for numbers that are no edge: a source must be a latent, an error or a token, a target a latent or
    a logit.
    """
    effects = context_of(graph).effects
    if not 0 <= source < graph.n_sources:
        raise UserError(f"node {source} is no source; sources are nodes 0 to {graph.n_sources - 1}")
    logit = target - graph.n_sources
    if not (0 <= target < graph.n_latents or 0 <= logit < graph.n_logits):
        raise UserError(
            f"node {target} is no target; targets are the latents, 0 to {graph.n_latents - 1}, and the logits, from "
            f"{graph.n_sources}"
        )
    node = graph.nodes[source]
    write = _write(graph, effects, source)
    targets = (
        logit_targets(effects.frozen, graph.logit_ids[logit : logit + 1]) if logit >= 0 else _latent(graph, target)
    )
    parts: list[tuple[int, int, float]] = []

    def watch(layer: int, gradient: Tensor, rows: Rows) -> None:
        # A source of this layer is written behind its attention, whose heads cannot have read it.
        if layer <= node.layer or node.position >= len(gradient):
            return
        by_head = head_gradients(
            effects.frozen.layers[layer], gradient, rows.positions[: len(gradient)], rows.targets[: len(gradient)]
        )[node.position]
        attention = effects.frozen.layers[layer].attention
        W_V = attention.values.W_V.repeat_interleave(attention.n_heads // len(attention.values.W_V), dim=0)
        read = torch.einsum("hc,hcd->hd", by_head, W_V)
        norm = effects.frozen.layers[layer].before_attention
        if norm is not None:
            read = norm.transposed(read, torch.full((len(read),), node.position))
        parts.extend((layer, head, float(effect)) for head, effect in enumerate(read @ write))

    effects.rows(targets, watch=watch)
    row = target if logit < 0 else graph.n_latents + logit
    total = float(graph.effects[row, source])
    residual = _in_place(effects, targets, write) if node.position == int(targets.positions[0]) else 0.0
    carried = sum(effect for _, _, effect in parts)
    heads = tuple(sorted(parts, key=lambda part: -abs(part[2])))
    return Carriers(total, residual, total - residual - carried, heads)


def _latent(graph: Graph, row: int) -> Targets:
    """A latent node as a target."""
    effects = context_of(graph).effects
    column = (effects.entries == graph.latents[row]).all(1).nonzero()[0]
    return effects.latent_targets(column)[0]


def _write(graph: Graph, effects: DirectEffects, source: int) -> Tensor:
    """What a source adds to the stream, [d]."""
    node = graph.nodes[source]
    if node.kind == "token":
        return effects.frozen.embeddings[node.position]
    part = effects.parts[node.layer]
    if node.kind == "error":
        return part.error[node.position]
    return part.writes()[(part.positions == node.position) & (part.latents == node.number)][0]


def _in_place(effects: DirectEffects, targets: Targets, write: Tensor) -> float:
    """The effect of a write that stays in the residual stream up to the target at the same position."""
    norm = effects.norm_before(int(targets.layers[0]), targets.of_attention)
    vector = targets.vectors
    return float(((vector if norm is None else norm.transposed(vector, targets.positions)) @ write)[0])
