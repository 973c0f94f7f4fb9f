"""Which latents at query and key make a head look where it looks.

Place on the path: a head and two positions of a graph → [score by sources, and by pairs of them] → tables, pages.

    score = scaling · q · k,   q = Σ_i q_i + q_0,   k = Σ_j k_j + k_0

q_i is what source i adds to the query through the frozen model (its direct effects on the components of q), k_j what
source j adds to the key, and q_0, k_0 are biases. The score is bilinear, so its parts are exact: pairs
scaling · q_i · k_j, and for one side alone scaling · q_i · k with the whole key. Rotary positions are in both; where
queries and keys are normalised, that norm's scale is held constant. Soft caps, ALiBi and masks act on the score
afterwards and are left out. Source: the QK part that circuit-tracer's graphs leave open.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosemy.circuits.graphs.ablation import context_of
from monosemy.circuits.graphs.effects import Targets
from monosemy.circuits.graphs.frozen_attention import AttentionCall, observed
from monosemy.circuits.graphs.graph import Graph, Node
from monosemy.errors import UserError
from monosemy.models.adapter import LanguageModel


@dataclass(frozen=True)
class ScoreParts:
    """One attention score in parts, in units of the score (before the softmax)."""

    layer: int
    head: int
    query: int
    key: int
    score: float
    weight: float
    """The attention weight behind the softmax."""
    by_query: tuple[tuple[Node, float], ...]
    """Sources at the query's side with their part of the score, the largest first."""
    by_key: tuple[tuple[Node, float], ...]
    query_bias: float
    """The part of q_0."""
    key_bias: float
    pairs: tuple[tuple[Node, Node, float], ...]
    """(source at the query's side, source at the key's side, part of the score), the largest first."""


def score_parts(graph: Graph, layer: int, head: int, *, query: int, key: int, n_parts: int = 20) -> ScoreParts:
    """The parts of a head's score between two positions: the `n_parts` largest by side, and of their pairs.

    Raises UserError for a layer or head that the model lacks, and for positions outside the prompt or a key behind the
    query.
    """
    context = context_of(graph)
    effects = context.effects
    if not 0 <= layer < graph.n_layers:
        raise UserError(f"layer {layer} is out of range: this model has layers 0 to {graph.n_layers - 1}")
    n_heads = effects.frozen.layers[layer].attention.n_heads
    if not 0 <= head < n_heads:
        raise UserError(f"head {head} is out of range: layer {layer} has heads 0 to {n_heads - 1}")
    if not 0 <= key <= query < graph.n_tokens:
        raise UserError(
            f"positions {query} (query) and {key} (key) must lie in the prompt, 0 to {graph.n_tokens - 1}, the key at "
            "or before the query"
        )
    J_q, q, J_k, k, scaling = _maps(context.model, graph, layer, head, places=(query, key))
    sides = []
    for jacobian, position, whole in ((J_q, query, q), (J_k, key, k)):
        n = len(jacobian)
        targets = Targets(torch.full((n,), layer), torch.full((n,), position), jacobian.to(q), of_attention=True)
        parts, _ = effects.rows(targets)
        sides.append((parts, whole - parts.sum(1)))
    (queries, q_0), (keys, k_0) = sides
    query_side, key_side = scaling * (k @ queries), scaling * (q @ keys)
    names = _sources(graph)
    top_q = query_side.abs().topk(min(n_parts, len(query_side))).indices.tolist()
    top_k = key_side.abs().topk(min(n_parts, len(key_side))).indices.tolist()
    pair_parts = scaling * queries[:, top_q].T @ keys[:, top_k]
    pairs = [(names[i], names[j], float(pair_parts[a, b])) for a, i in enumerate(top_q) for b, j in enumerate(top_k)]
    return ScoreParts(
        layer,
        head,
        query,
        key,
        score=float(scaling * (q @ k)),
        weight=float(effects.frozen.layers[layer].attention.pattern[head, query, key]),
        by_query=tuple((names[i], float(query_side[i])) for i in top_q),
        by_key=tuple((names[j], float(key_side[j])) for j in top_k),
        query_bias=float(scaling * (q_0 @ k)),
        key_bias=float(scaling * (k_0 @ q)),
        pairs=tuple(sorted(pairs, key=lambda pair: -abs(pair[2]))[:n_parts]),
    )


def _sources(graph: Graph) -> list[Node]:
    """The node that each column of `DirectEffects` is, whether or not it is one of the graph."""
    effects = context_of(graph).effects
    return [
        *(Node("latent", *row) for row in effects.entries.tolist()),
        *graph.nodes[graph.n_latents : graph.n_sources],
    ]


def _maps(
    model: LanguageModel, graph: Graph, layer: int, head: int, *, places: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """(∂q/∂x, q, ∂k/∂x, k, scaling) at the query's and the key's position; x is what the attention reads."""
    query, key = places
    entered: list[Tensor] = []
    maps: dict[str, tuple[Tensor, Tensor]] = {}
    scaling = 1.0

    def enter(module: nn.Module, arguments: Any, keywords: dict[str, Any]) -> Any:
        x = keywords["hidden_states"] if "hidden_states" in keywords else arguments[0]
        entered.append(x.detach().requires_grad_())
        if "hidden_states" in keywords:
            return arguments, {**keywords, "hidden_states": entered[-1]}
        return (entered[-1], *arguments[1:]), keywords

    def differentiate(call: AttentionCall) -> None:
        nonlocal scaling
        if call.module is not module:
            return
        n_group = call.query.shape[1] // call.key.shape[1]
        vectors = (call.query[0, head, query], call.key[0, head // n_group, key])
        for name, vector, position in zip(("q", "k"), vectors, (query, key)):
            basis = torch.eye(len(vector), dtype=vector.dtype, device=vector.device)
            (jacobian,) = torch.autograd.grad(vector, entered[-1], basis, retain_graph=True, is_grads_batched=True)
            maps[name] = jacobian[:, 0, position], vector.detach()
        scaling = float(call.scaling) if call.scaling is not None else call.query.shape[-1] ** -0.5

    with observed(model) as observer:
        model.logits(graph.tokens[None].to(model.device), last_only=True)
    module = observer.calls[layer].module
    handle = module.register_forward_pre_hook(enter, with_kwargs=True)
    try:
        with observed(model) as observer, _frozen_inner_norms(module):
            observer.on_call = differentiate
            model.logits(graph.tokens[None].to(model.device), last_only=True, gradients=True)
    finally:
        handle.remove()
    kind = context_of(graph).effects.values.dtype
    (J_q, q), (J_k, k) = maps["q"], maps["k"]
    return J_q.to(kind), q.to(kind), J_k.to(kind), k.to(kind), scaling


@contextmanager
def _frozen_inner_norms(attention: nn.Module) -> Iterator[None]:
    """Within the block, norms inside an attention module (of queries and keys) hold what they multiply by constant."""

    def freeze(module: nn.Module, arguments: Any, output: Float[Tensor, ...]) -> Tensor:
        x = arguments[0]
        return x * torch.where(x == 0, torch.zeros_like(output), output / x).detach()

    inner = [part for part in attention.modules() if "norm" in type(part).__name__.lower()]
    handles = [part.register_forward_hook(freeze) for part in inner]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
