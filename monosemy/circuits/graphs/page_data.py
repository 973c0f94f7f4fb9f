"""A graph as its page draws and prunes it: written by `monosemy graph`, read by `monosemy browse` without torch.

Place on the path: graph, ablations → [page.json] → `monosemy.app.graphs`, the exported page.

The page prunes by itself, exactly as `influence.prune` does, so it needs more than what pruning kept: the nodes that
carry `WIDE_SHARE` of all influence (or the graph's own share, where that is more), every token and logit, and the
direct effects between them. `before` is the share of all influence that nodes with more of it carry: a node is kept at
a share above that. `size` is the sum of |effects| over all sources of the whole graph, so that an effect over it is its
share of everything that reaches its target.
Limits: the largest `MAX_LINKS` effects by their influence are written; `links_share` says how much of the influence
between the written nodes these carry. Nodes beyond WIDE_SHARE are in nodes.parquet alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosemy.circuits.graphs.layout import GraphFiles
from monosemy.errors import UserError
from monosemy.support import files
from monosemy.support.numbers import five_digits
from monosemy.support.visible import json_line

if TYPE_CHECKING:
    from monosemy.circuits.graphs.ablation import Ablations, Agreement
    from monosemy.circuits.graphs.graph import Graph

FORMAT = "monosemy-graph"
VERSION = 1
WIDE_SHARE = 0.95
MAX_LINKS = 150_000


def write_page_data(
    graph: Graph, target: GraphFiles, ablations: Ablations | None, saes: Mapping[int, tuple[str, str]]
) -> Path:
    """Writes page.json and returns its path; `saes` are the (site, name) of a run's transcoders, by layer.

    Raises UserError when it cannot be written.
    """
    files.write_text(target.page, json_line(page_data(graph, ablations, saes)))
    return target.page


def read_page_data(target: GraphFiles) -> dict[str, Any]:
    """The content of page.json. Raises UserError when it is missing, damaged or of another version."""
    again = "make it again: monosemy graph TEXT --run RUN"
    data = files.read_json(target.page, fix=again)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(f"{target.page} is no graph of monosemy; {again}")
    if data.get("version") != VERSION:
        raise UserError(f"{target.page} has version {data.get('version')!r}, not {VERSION}; make the graph again")
    return data


def read_neuronpedia(target: GraphFiles) -> bytes:
    """The content of graph.json, for a download. Raises UserError when it is missing."""
    try:
        return target.neuronpedia.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {target.neuronpedia} ({error.strerror}); make the graph again") from error


def page_data(graph: Graph, ablations: Ablations | None, saes: Mapping[int, tuple[str, str]]) -> dict[str, Any]:
    """The content of page.json (`monosemy.app.graph_schema.GraphPage` without labels)."""
    settings = graph.context.settings if graph.context is not None else None
    node_share = settings.node_share if settings is not None else 0.8
    wide_share = max(WIDE_SHARE, node_share)
    numbers = _wide_nodes(graph, wide_share)
    links, links_share = _links(graph, numbers)
    return {
        "format": FORMAT,
        "version": VERSION,
        "prompt": graph.prompt or "".join(graph.pieces[1:]),
        "model": graph.model,
        "n_layers": graph.n_layers,
        "tokens": list(graph.pieces),
        "token_ids": graph.tokens.tolist(),
        "transcoders": [
            {"layer": layer, "site": site, "name": name, "fvu": _number(graph.fvu.get(layer))}
            for layer, (site, name) in sorted(saes.items())
        ],
        "bare_layers": list(graph.bare_layers),
        "n_active": graph.n_active,
        "n_latents": graph.n_latents,
        "replacement": _number(graph.replacement_score),
        "completeness": _number(graph.completeness_score),
        "node_share": node_share,
        "edge_share": settings.edge_share if settings is not None else 0.98,
        "wide_share": wide_share,
        "links_share": five_digits(links_share),
        "agreement": None
        if ablations is None
        else {"free": _agreement(ablations.free_agreement), "frozen": _agreement(ablations.frozen_agreement)},
        "nodes": _nodes(graph, numbers, ablations),
        "links": links,
    }


def _wide_nodes(graph: Graph, share: float) -> list[int]:
    """The nodes that are written, in the order of the graph: sources with the share of influence, tokens, logits."""
    from monosemy.circuits.graphs.influence import threshold

    keep = graph.influence >= threshold(graph.influence, share)
    keep &= graph.influence > 0
    keep[-graph.n_tokens :] = True
    return [*keep.nonzero()[:, 0].tolist(), *range(graph.n_sources, len(graph.nodes))]


def _links(graph: Graph, numbers: list[int]) -> tuple[dict[str, list[Any]], float]:
    """The effects between the nodes as columns, with places in `numbers`, and the share of influence they carry."""
    import torch

    from monosemy.circuits.graphs.influence import edge_influence

    sources = torch.tensor([number for number in numbers if number < graph.n_sources])
    latents = sources[sources < graph.n_latents]
    rows = torch.cat([latents, torch.arange(graph.n_latents, len(graph.effects))])
    within = torch.zeros_like(graph.effects)
    within[rows[:, None], sources] = graph.effects[rows[:, None], sources]
    weight = edge_influence(within, graph.probabilities)
    n_links = min(MAX_LINKS, int((within != 0).sum()))
    order = weight.flatten().topk(n_links).indices.sort().values
    targets, columns = order // graph.n_sources, order % graph.n_sources
    place = {number: i for i, number in enumerate(numbers)}
    total = float(weight.double().sum())
    links: dict[str, list[Any]] = {
        "source": [place[column] for column in columns.tolist()],
        "target": [place[graph.target_node(row)] for row in targets.tolist()],
        "effect": [five_digits(effect) for effect in within[targets, columns].tolist()],
    }
    return links, float(weight.flatten()[order].double().sum()) / total if total else 1.0


def _nodes(graph: Graph, numbers: list[int], ablations: Ablations | None) -> dict[str, list[Any]]:
    """The nodes as columns; null where a node has no such thing."""
    n, n_sources = graph.n_latents, graph.n_sources
    rank, influence, sizes = graph.rank_order(), graph.influence, graph.effects.abs().sum(1)
    total = float(influence.double().sum()) or 1.0
    measured = [] if ablations is None else ablations.nodes.tolist()
    free = {} if ablations is None else dict(zip(measured, ablations.free.tolist()))
    frozen = {} if ablations is None else dict(zip(measured, ablations.frozen.tolist()))
    nodes = [graph.nodes[number] for number in numbers]
    shares = [float(influence[number]) / total if number < n_sources else None for number in numbers]
    row_of = [number if number < n else number - n_sources + n for number in numbers]
    return {
        "kind": [node.kind for node in nodes],
        "layer": [node.layer for node in nodes],
        "position": [node.position for node in nodes],
        "number": [node.number for node in nodes],
        "piece": [
            graph.pieces[node.position] if number < n_sources else graph.logit_pieces[number - n_sources]
            for number, node in zip(numbers, nodes)
        ],
        "activation": [float(graph.activations[number]) if number < n else None for number in numbers],
        "influence": [_number(share) for share in shares],
        "before": [
            None if share is None else _number(max(0.0, float(rank[number]) - share))
            for number, share in zip(numbers, shares)
        ],
        "size": [
            five_digits(float(sizes[row])) if number < n or number >= n_sources else None
            for number, row in zip(numbers, row_of)
        ],
        "probability": [
            five_digits(float(graph.probabilities[number - n_sources])) if number >= n_sources else None
            for number in numbers
        ],
        "free": [_number(free.get(number)) for number in numbers],
        "frozen": [_number(frozen.get(number)) for number in numbers],
    }


def _agreement(agreement: Agreement) -> dict[str, Any]:
    ends = agreement.interval
    return {
        "rho": _number(agreement.rho),
        "interval": None if ends is None else [_number(end) for end in ends],
        "n": agreement.n,
    }


def _number(value: float | None) -> float | None:
    """Five digits; None for what is missing, and for NaN, which JSON lacks."""
    return None if value is None or value != value else five_digits(value)
