"""The measured effect of taking one latent out at its position, beside its computed influence.

Place on the path: graph → [the real model without one latent's output] → agreement of influence and measurement.

    effect of a node = Σ_k p_k |Δ(z_k − mean z)|     z: the logits in front of any cap, k: the graph's logits

Subtracted from the MLP's output at the node's position is what the latent wrote there, a W_dec, and the rest of the
model runs on: freely, or with the attention patterns held as they were. MLPs and norms answer in both, so that neither
is the linear graph again. Agreement is Spearman's rank correlation between influence and effect over the nodes, with a
95% bootstrap interval that resamples nodes.
Limits: nodes of one prompt are not independent, so the interval describes this graph's nodes, not other prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from monosemy.circuits.graphs.frozen_attention import observed
from monosemy.circuits.graphs.frozen_model import unembedding_module
from monosemy.circuits.graphs.graph import Context, Graph
from monosemy.errors import UserError
from monosemy.evals.intervals import Interval, percentiles
from monosemy.models.adapter import LanguageModel, Start
from monosemy.support.progress import stage

_PASS_TOKENS = 768
"""Tokens of prompts in one pass."""
N_RESAMPLES = 1000


@dataclass(frozen=True)
class Agreement:
    """A rank correlation over nodes, with its interval."""

    rho: float
    interval: Interval
    n: int


@dataclass(frozen=True)
class Ablations:
    """Measured effects of nodes: of the latents with these numbers in the graph."""

    nodes: Int[Tensor, " node"]
    free: Float[Tensor, " node"]
    """With attention that answers."""
    frozen: Float[Tensor, " node"]
    """With attention patterns held constant."""
    free_agreement: Agreement
    """Of influence and free effect."""
    frozen_agreement: Agreement


@torch.no_grad()
def ablate(graph: Graph, nodes: Sequence[int] | None = None) -> Ablations:
    """Measures latents of the graph one by one; without `nodes`, all that pruning kept, by influence.

    Raises UserError for a graph without its model (one that was read from a file) and for a node that is no latent.
    """
    context = context_of(graph)
    if nodes is None:
        nodes = graph.kept_latents()
    if outside := [node for node in nodes if not 0 <= node < graph.n_latents]:
        raise UserError(f"node {outside[0]} is no latent of the graph; latents are nodes 0 to {graph.n_latents - 1}")
    order = sorted(nodes, key=lambda node: int(graph.latents[node, 0]))
    effects = dict.fromkeys(order, (0.0, 0.0))
    by_layer: dict[int, list[int]] = {}
    for node in order:
        by_layer.setdefault(int(graph.latents[node, 0]), []).append(node)
    size = max(1, _PASS_TOKENS // graph.n_tokens)
    with stage("ablate", total=len(order), unit="latents") as bar:
        for layer, members in by_layer.items():
            for first in range(0, len(members), size):
                part = members[first : first + size]
                free = _logit_changes(graph, context, layer, part, frozen=False)
                frozen = _logit_changes(graph, context, layer, part, frozen=True)
                effects |= {node: (float(a), float(b)) for node, a, b in zip(part, free, frozen)}
                bar.advance(len(part))
    numbers = torch.tensor(list(nodes), dtype=torch.long)
    free, frozen = (torch.tensor([effects[node][i] for node in nodes]) for i in (0, 1))
    influence = graph.influence[numbers].double().numpy()
    return Ablations(
        numbers,
        free,
        frozen,
        free_agreement=rank_agreement(influence, free.double().numpy()),
        frozen_agreement=rank_agreement(influence, frozen.double().numpy()),
    )


def context_of(graph: Graph) -> Context:
    """What the graph was made from. Raises UserError for a graph that does not know."""
    if graph.context is None:
        raise UserError("this graph has no model; make it again with monosemy.attribute to ask more of it")
    return graph.context


def _logit_changes(
    graph: Graph, context: Context, layer: int, nodes: Sequence[int], *, frozen: bool
) -> Float[Tensor, " node"]:
    """Σ_k p_k |Δ(z_k − mean z)| of each node; all nodes lie in one layer."""
    model, effects = context.model, context.effects
    transcoder, part = context.transcoders[layer], effects.parts[layer]
    assert part.weights is not None
    latents, positions = graph.latents[list(nodes), 2], graph.latents[list(nodes), 1]
    writes = part.weights.decoders(latents) * graph.activations[list(nodes), None]
    removed = torch.zeros(len(nodes) + 1, graph.n_tokens, model.d_model, dtype=model.dtype, device=model.device)
    # The last row is the prompt itself, so that before and after come from the same pass.
    removed[torch.arange(len(nodes)), positions] = writes.to(removed)
    tokens = graph.tokens.expand(len(removed), -1).to(model.device)
    site = f"layers.{layer}.{transcoder.gives}"
    z = _last_logits(model, tokens, site, removed, patterns=effects.frozen.patterns if frozen else None)
    centred = z[:, graph.logit_ids] - z.mean(1, keepdim=True)
    changes = (centred[:-1] - centred[-1:]).abs().double().cpu()
    return changes @ graph.probabilities.double().cpu()


def _last_logits(
    model: LanguageModel, tokens: Tensor, site: str, removed: Tensor, *, patterns: list[Tensor] | None
) -> Float[Tensor, "batch vocab"]:
    """Logits behind the prompt, in front of any cap, with `taken` subtracted at a site."""
    read: list[Tensor] = []
    handle = unembedding_module(model).register_forward_hook(
        lambda module, arguments, output: read.append(output[:, -1])
    )
    start: Start | None = model.prefix(tokens[:1], site)
    if start is not None and start.resid is not None:
        start = Start(tokens, start.layer, start.resid.expand(len(tokens), -1, -1), None)
    else:
        start = None
    try:
        edits = {site: lambda y: y - removed}
        if patterns is None:
            model.logits(tokens, edits, start, last_only=True)
        else:
            # A pass that starts late runs only the later layers' attention.
            with observed(model, patterns[start.layer if start is not None else 0 :]):
                model.logits(tokens, edits, start, last_only=True)
    finally:
        handle.remove()
    return read[-1]


def rank_agreement(computed: Float[ndarray, " node"], measured: Float[ndarray, " node"], seed: int = 0) -> Agreement:
    """Spearman's rank correlation, with its bootstrap interval over nodes."""
    from scipy.stats import rankdata

    n = len(computed)
    if n < 3:
        return Agreement(float("nan"), None, n)

    def rho(rows: ndarray) -> float:
        a, b = rankdata(computed[rows]), rankdata(measured[rows])
        spread = a.std() * b.std()
        return float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread else float("nan")

    draws = np.random.default_rng(seed).integers(0, n, (N_RESAMPLES, n))
    return Agreement(rho(np.arange(n)), percentiles(np.array([rho(rows) for rows in draws])), n)
