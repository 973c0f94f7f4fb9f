"""From a prompt to its attribution graph: freeze, replace, choose nodes by influence, prune.

Place on the path: model, transcoders, text → [attribute] → `graph.Graph`.

Targets are the fewest logits with `logit_share` of the probability, at most `max_logits`, each less the mean logit.
Latents become nodes in rounds: the logits' rows first, then again and again the rows of those active latents that have
the most influence by the rows so far, up to `max_latents`. Source: Ameisen et al., Circuit Tracing (2025), and
circuit-tracer.

Memory: (max_latents + logits) × (active latents + (layers + 1) · T) numbers for the rows, and what a round's gradients
take; both are reckoned beforehand. Half of the free memory is the limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosemy.circuits.graphs.effects import DirectEffects, Targets
from monosemy.circuits.graphs.frozen_attention import ValueMap, observe_values
from monosemy.circuits.graphs.frozen_model import FrozenModel, freeze_model
from monosemy.circuits.graphs.graph import Context, Graph, GraphSettings
from monosemy.circuits.graphs.influence import partial_influence, prune
from monosemy.circuits.graphs.opening import open_transcoders
from monosemy.circuits.graphs.prompt import prompt_tokens, token_pieces
from monosemy.circuits.graphs.replacement import replace_mlps
from monosemy.circuits.graphs.transcoders import Transcoder, match_layers
from monosemy.errors import UserError
from monosemy.models.adapter import LanguageModel
from monosemy.saes.base import SparseAutoencoder
from monosemy.support.estimates import available_memory
from monosemy.support.numbers import count_text, number_text, size_text
from monosemy.support.progress import stage

N_ROUNDS = 8
"""Rounds in which nodes are chosen: each takes an eighth of them."""
_ROUND_BYTES = 256 << 20
"""What the gradients of one sweep may take."""

_VALUE_MAPS: WeakKeyDictionary[LanguageModel, list[ValueMap]] = WeakKeyDictionary()
Transcoders: TypeAlias = Mapping[int, Transcoder] | Iterable[SparseAutoencoder | str | Path] | str | Path


def attribute(
    model: LanguageModel,
    transcoders: Transcoders,
    text: str | Sequence[int] | Tensor,
    *,
    max_latents: int = 2000,
    logit_share: float = 0.95,
    max_logits: int = 10,
    node_share: float = 0.8,
    edge_share: float = 0.98,
) -> Graph:
    """The attribution graph of a text, or of token ids.

    transcoders: SAEs with different input and output sites, one for each MLP that is to be replaced; or a run folder, a
    folder of a circuit-tracer set, or a list of their files. A layer without one has its MLP's output as an error.
    Raises UserError, one line, for no transcoders, transcoders of another model, a prompt that is too long, a prompt on
    which nothing is active, a model that cannot be frozen, and where the rows would not fit in memory.
    """
    by_layer = _by_layer(model, transcoders)
    settings = GraphSettings(max_latents, logit_share, max_logits, node_share=node_share, edge_share=edge_share)
    check_settings(settings)
    frozen = freeze_model(model, prompt_tokens(model, text), value_maps(model))
    effects = DirectEffects(frozen, replace_mlps(frozen, by_layer))
    context = Context(model, by_layer, effects, settings)
    return build_graph(context, text if isinstance(text, str) else "")


def _by_layer(model: LanguageModel, transcoders: Transcoders) -> dict[int, Transcoder]:
    """The transcoders, opened where they are places, checked and by layer."""
    if isinstance(transcoders, str | Path):
        return match_layers(model, open_transcoders(transcoders))
    members = list(transcoders.values()) if isinstance(transcoders, Mapping) else list(transcoders)
    if members and all(isinstance(member, Transcoder) for member in members):
        return {member.layer: member for member in members if isinstance(member, Transcoder)}
    saes: list[SparseAutoencoder] = []
    for member in members:
        saes += open_transcoders(member) if isinstance(member, str | Path) else [member]  # type: ignore[list-item]
    return match_layers(model, saes)


def check_settings(settings: GraphSettings) -> None:
    """Raises UserError for a number outside its range."""
    for name in ("max_latents", "max_logits"):
        if getattr(settings, name) < 1:
            raise UserError(f"{name} {getattr(settings, name)} must be at least 1")
    for name in ("logit_share", "node_share", "edge_share"):
        if not 0 < getattr(settings, name) <= 1:
            raise UserError(f"{name} {number_text(getattr(settings, name))} is a share; it must be above 0, at most 1")


def value_maps(model: LanguageModel) -> list[ValueMap]:
    """`observe_values`, read once a model."""
    if model not in _VALUE_MAPS:
        _VALUE_MAPS[model] = observe_values(model)
    return _VALUE_MAPS[model]


def salient_logits(
    frozen: FrozenModel, share: float, most: int
) -> tuple[Int[Tensor, " logit"], Float[Tensor, " logit"]]:
    """(token ids, probabilities) of the fewest likeliest tokens that reach `share`, at most `most`."""
    probabilities, ids = frozen.probabilities.topk(min(most, len(frozen.probabilities)))
    n = int((probabilities.cumsum(0) < share).sum()) + 1
    return ids[:n], probabilities[:n].to(frozen.final)


def logit_targets(frozen: FrozenModel, ids: Int[Tensor, " logit"]) -> Targets:
    """The logits of some tokens, each less the mean logit, as targets at the last position."""
    directions = frozen.unembedding[ids] - frozen.unembedding.mean(0)
    n, last = len(ids), frozen.n_positions - 1
    return Targets(torch.full((n,), len(frozen.layers)), torch.full((n,), last), directions)


def build_graph(context: Context, prompt: str) -> Graph:
    """The graph of replaced MLPs: the nodes by influence, their rows, and what is kept of them."""
    effects, settings = context.effects, context.settings
    ids, probabilities = salient_logits(effects.frozen, settings.logit_share, settings.max_logits)
    frozen = effects.frozen
    n_nodes = min(settings.max_latents, effects.n_latents)
    require_memory(effects, n_nodes + len(ids))
    targets = logit_targets(frozen, ids)
    rows, constants, columns = choose_nodes(effects, targets, probabilities, n_nodes)
    order = columns.argsort()
    columns = columns[order]
    chosen_rows = torch.cat([rows[len(ids) :][order], rows[: len(ids)]])
    constants = torch.cat([constants[len(ids) :][order], constants[: len(ids)]])
    others = torch.ones(effects.n_latents, dtype=torch.bool)
    others[columns] = False
    node_columns = torch.cat([columns, torch.arange(effects.n_latents, effects.n_columns)])
    left_out = chosen_rows[:, : effects.n_latents][:, others].double().sum(1)
    within = chosen_rows[:, node_columns].contiguous()
    logit_values = (targets.vectors * frozen.final[-1]).sum(1)
    return Graph(
        prompt,
        context.model.name,
        frozen.tokens,
        tuple(token_pieces(context.model, frozen.tokens.tolist())),
        logit_pieces=tuple(token_pieces(context.model, ids.tolist())),
        n_layers=effects.n_layers,
        latents=effects.entries[columns],
        activations=effects.values[columns],
        logit_ids=ids,
        probabilities=probabilities,
        effects=within,
        constants=constants,
        left_out=left_out,
        values=torch.cat([effects.values[columns], logit_values]),
        pruned=prune(
            within,
            probabilities,
            n_tokens=frozen.n_positions,
            node_share=settings.node_share,
            edge_share=settings.edge_share,
        ),
        n_active=effects.n_latents,
        bare_layers=tuple(part.layer for part in effects.parts if part.weights is None),
        fvu={part.layer: layer_fvu(effects, part.layer) for part in effects.parts if part.weights is not None},
        context=context,
    )


def layer_fvu(effects: DirectEffects, layer: int) -> float:
    """The share of the variance of an MLP's contributions that its error nodes carry, behind the first position."""
    contribution = effects.frozen.layers[layer].contribution[1:]
    variance = (contribution - contribution.mean(0)).square().sum()
    return float(effects.parts[layer].error[1:].square().sum() / variance.clamp_min(1e-30))


def choose_nodes(
    effects: DirectEffects, targets: Targets, probabilities: Float[Tensor, " logit"], n_nodes: int
) -> tuple[Float[Tensor, "target column"], Float[Tensor, " target"], Int[Tensor, " latent"]]:
    """(rows, constants, columns of the nodes): the logits' rows first, then the nodes' in the order of choice."""
    n_logits = len(targets)
    rows = effects.values.new_zeros(n_logits + n_nodes, effects.n_columns)
    constants = effects.values.new_zeros(n_logits + n_nodes)
    rows[:n_logits], constants[:n_logits] = effects.rows(targets)
    columns = torch.zeros(0, dtype=torch.long)
    per_sweep = max(1, _ROUND_BYTES // (4 * effects.n_positions * effects.frozen.d_model * rows.element_size()))
    with stage("graph", total=n_nodes, unit="latents") as bar:
        while (n_so_far := len(columns)) < n_nodes:
            filled = slice(0, n_logits + n_so_far)
            ranking = partial_influence(rows[filled], probabilities, columns)[: effects.n_latents]
            ranking[columns] = -1
            n_round = min(max(1, n_nodes // N_ROUNDS), n_nodes - n_so_far, per_sweep)
            new = ranking.topk(n_round).indices
            first = n_logits + n_so_far
            latent_targets, offsets = effects.latent_targets(new)
            rows[first : first + n_round], biases = effects.rows(latent_targets)
            constants[first : first + n_round] = biases + offsets
            columns = torch.cat([columns, new])
            bar.advance(n_round)
    return rows, constants, columns


def memory_bytes(effects: DirectEffects, n_rows: int) -> int:
    """The most that making a graph takes: its rows, their copy when nodes are put in order, and a round's gradients."""
    return 2 * n_rows * effects.n_columns * effects.values.element_size() + _ROUND_BYTES


def graph_bytes(graph: Graph) -> int:
    """The most that making this graph took beside the model and the transcoders."""
    if graph.context is None:
        return graph.effects.numel() * graph.effects.element_size()
    return memory_bytes(graph.context.effects, len(graph.effects))


def require_memory(effects: DirectEffects, n_rows: int) -> None:
    """Raises UserError where the rows would take more than half of the free memory."""
    needed, free = memory_bytes(effects, n_rows), available_memory()
    if needed > free // 2:
        raise UserError(
            f"the rows of {count_text(n_rows)} nodes over {count_text(effects.n_columns)} sources take "
            f"{size_text(needed)}, more than half of the free {size_text(free)}; ask for fewer nodes (--nodes) or give "
            "a shorter prompt"
        )
