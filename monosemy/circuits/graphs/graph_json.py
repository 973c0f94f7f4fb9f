"""Writes a graph as the JSON that Neuronpedia's and circuit-tracer's frontends read.

Place on the path: graph → [graph JSON] → Neuronpedia's upload, circuit-tracer's local server.

    metadata   slug, scan (the model), prompt_tokens, prompt, node_threshold, info.generator, settings
    qParams    a view's state: empty
    nodes      node_id, feature (Cantor's pairing of layer and latent), layer, ctx_idx, feature_type, jsNodeId, clerp,
               influence (cumulative, as the frontend's slider reads it), activation
    links      source, target (node ids), weight (direct effect)

Only what pruning kept is written. Source: Neuronpedia's graph schema 1.0.0 and circuit-tracer's frontend models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monosemy import __version__
from monosemy.circuits.graphs.graph import Graph, Node
from monosemy.features.export.circuit_tracer import cantor, with_signs
from monosemy.support import files
from monosemy.support.numbers import five_digits, fixed_text
from monosemy.support.visible import json_line


def write_graph_json(graph: Graph, path: Path, slug: str) -> Path:
    """Writes the file and returns its path. Raises UserError when it cannot be written."""
    files.write_text(path, json_line(graph_json(graph, slug)))
    return path


def graph_json(graph: Graph, slug: str) -> dict[str, Any]:
    """The kept graph as a JSON object of the schema."""
    cumulative = graph.rank_order().tolist()
    sources = graph.pruned.sources.nonzero()[:, 0].tolist()
    nodes = [_source(graph, number, cumulative[number]) for number in sources]
    nodes += [_logit(graph, place) for place in range(graph.n_logits)]
    links = [
        {"source": _id(graph.nodes[source]), "target": _id(graph.nodes[target]), "weight": five_digits(effect)}
        for source, target, effect in graph.kept_edges()
    ]
    return {
        "metadata": _metadata(graph, slug),
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": nodes,
        "links": links,
    }


def _metadata(graph: Graph, slug: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "slug": slug,
        "scan": graph.model.rpartition("/")[2],
        "transcoder_list": [],
        "prompt_tokens": [with_signs(piece) for piece in graph.pieces],
        "prompt": graph.prompt or "".join(graph.pieces),
        "info": {"generator": {"name": "monosemy", "version": __version__}},
        "schema_version": 1,
    }
    if graph.context is not None:
        settings = graph.context.settings
        metadata |= {
            "node_threshold": settings.node_share,
            "generation_settings": {
                "max_n_logits": settings.max_logits,
                "desired_logit_prob": settings.logit_share,
                "max_feature_nodes": settings.max_latents,
            },
            "pruning_settings": {"node_threshold": settings.node_share, "edge_threshold": settings.edge_share},
        }
    return metadata


def _id(node: Node) -> str:
    """A node's id: layer, number and position; E stands for the embedding, layers + 1 for logits."""
    layer = {"token": "E", "logit": str(node.layer + 1)}.get(node.kind, str(node.layer))
    return f"{layer}_{node.number}_{node.position}"


def _source(graph: Graph, number: int, influence: float) -> dict[str, Any]:
    node = graph.nodes[number]
    base = {
        "node_id": _id(node),
        "layer": str(node.layer),
        "ctx_idx": node.position,
        "clerp": "",
        "influence": five_digits(influence),
    }
    if node.kind == "latent":
        kind = {
            "feature": cantor(node.layer, node.number),
            "feature_type": "cross layer transcoder",
            "jsNodeId": f"{node.layer}_{node.number}-0",
            "activation": five_digits(float(graph.activations[number])),
        }
    elif node.kind == "error":
        kind = {
            "feature": -1,
            "feature_type": "mlp reconstruction error",
            "jsNodeId": f"{node.layer}_-1-{node.position}",
        }
    else:
        kind = {
            "layer": "E",
            "feature": node.position,
            "feature_type": "embedding",
            "jsNodeId": f"E_{node.number}-{node.position}",
            "clerp": with_signs(graph.pieces[node.position]),
        }
    return base | kind


def _logit(graph: Graph, place: int) -> dict[str, Any]:
    node, probability = graph.nodes[graph.n_sources + place], float(graph.probabilities[place])
    return {
        "node_id": _id(node),
        "feature": node.number,
        "layer": str(node.layer + 1),
        "ctx_idx": node.position,
        "feature_type": "logit",
        "token_prob": five_digits(probability),
        "is_target_logit": place == 0,
        "jsNodeId": f"L_{node.number}-{node.position}",
        "clerp": f'Output "{with_signs(graph.logit_pieces[place])}" (p={fixed_text(probability, 3)})',
    }
