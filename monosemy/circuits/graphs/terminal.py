"""What `monosemy graph` prints: the graph in a line, its nodes with their measured effects, controls, heads, scores."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence

from monosemy.circuits.graphs.ablation import Ablations, Agreement, ablate
from monosemy.circuits.graphs.attention_scores import score_parts
from monosemy.circuits.graphs.attribution import graph_bytes
from monosemy.circuits.graphs.carriers import edge_carriers
from monosemy.circuits.graphs.controls import CONTROLS, control_graph, trained_control
from monosemy.circuits.graphs.graph import Graph, Node
from monosemy.circuits.graphs.several import PromptGraphs, key_name, mean_intervals
from monosemy.errors import UserError
from monosemy.saes.base import SparseAutoencoder
from monosemy.support.numbers import (
    count_text,
    duration_text,
    exponent_text,
    fixed_text,
    interval_text,
    percent_text,
    significant_text,
    size_text,
)
from monosemy.support.visible import visible

N_ROWS = 20
"""Rows of a table."""
_SCORE = re.compile(r"(\d+)\.(\d+):(\d+),(\d+)")


def print_graph(graph: Graph, seconds: float) -> None:
    """The prompt, what the model says next, sizes, scores, and the self-check."""
    answers = ", ".join(
        f"{visible(piece)!r} {percent_text(float(p))}" for piece, p in zip(graph.logit_pieces, graph.probabilities)
    )
    print(f"{visible(graph.prompt)!r} on {graph.model}: {answers}")
    n_kept = graph.pruned.n_latents(graph.n_latents)
    print(
        f"{count_text(graph.n_tokens)} tokens, {count_text(graph.n_active)} active latents, "
        f"{count_text(graph.n_latents)} of them nodes, {count_text(n_kept)} kept with "
        f"{count_text(int(graph.pruned.edges.sum()))} edges; {duration_text(seconds)}, "
        f"at most {size_text(graph_bytes(graph))}"
    )
    print(
        f"replacement score {fixed_text(graph.replacement_score, 3)}, completeness score "
        f"{fixed_text(graph.completeness_score, 3)}; latents that are no nodes: "
        f"{percent_text(graph.left_out_share)} of the logits' inputs"
    )
    print(
        f"self-check: rows sum to their targets up to {exponent_text(float(graph.residuals.max()))} of each "
        f"(median {exponent_text(float(graph.residuals.median()))})"
    )
    missed = statistics.median(graph.fvu.values())
    print(
        f"the transcoders miss {percent_text(missed)} of the variance of MLP outputs on this prompt (median of layers)"
    )
    if missed >= 1:
        print("that is no better than nothing: are they transcoders of this model?")
    if graph.bare_layers:
        layers = ", ".join(str(layer) for layer in graph.bare_layers)
        print(f"no transcoder for layer {layers}: the whole output of that MLP is an error node")


def print_ablations(graph: Graph, ablations: Ablations | None) -> None:
    """The kept latents by influence, with their measured effects where there are any, and the agreement of both."""
    from rich.console import Console
    from rich.table import Table

    table = Table("latent", "token", "activation", "influence", "ablated: free", "frozen attention")
    places = {} if ablations is None else {node: place for place, node in enumerate(ablations.nodes.tolist())}
    for node in graph.kept_latents()[:N_ROWS]:
        measured = ["", ""]
        if ablations is not None and node in places:
            measured = [significant_text(float(part[places[node]])) for part in (ablations.free, ablations.frozen)]
        table.add_row(
            graph.nodes[node].name,
            _piece(graph, graph.nodes[node]),
            significant_text(float(graph.activations[node])),
            significant_text(float(graph.influence[node])),
            *measured,
        )
    Console().print(table)
    if ablations is not None:
        print(
            "influence against the measured change of the logits, rank correlation: free "
            f"{_agreement_text(ablations.free_agreement)}, frozen attention "
            f"{_agreement_text(ablations.frozen_agreement)}, over {count_text(ablations.free_agreement.n)} latents"
        )


def print_controls(
    graph: Graph, ablations: Ablations | None, seed: int, trained: Sequence[SparseAutoencoder] = ()
) -> None:
    """Scores and agreement beside those of transcoders that learned nothing; `trained` are a run's own controls."""
    from rich.console import Console
    from rich.table import Table

    table = Table("transcoders", "replacement", "completeness", "agreement with ablation (free)")
    n_ablations = 0 if ablations is None else len(ablations.nodes)
    graphs: dict[str, tuple[Graph, Ablations | None]] = {"as given": (graph, ablations)}
    others: dict[str, Graph] = {control: control_graph(graph, control, seed=seed) for control in CONTROLS}
    if trained:
        others["frozen random decoder"] = trained_control(graph, trained)
    for control, other in others.items():
        latents = other.kept_latents()[:n_ablations]
        graphs[control] = other, ablate(other, latents) if latents else None
    for name, (other, measured) in graphs.items():
        agreement = "" if measured is None else _agreement_text(measured.free_agreement)
        table.add_row(name, fixed_text(other.replacement_score, 3), fixed_text(other.completeness_score, 3), agreement)
    Console().print(table)


def print_heads(graph: Graph, n_edges: int) -> None:
    """The heads that carry the strongest kept edges between positions."""
    from rich.console import Console
    from rich.table import Table

    edges = [
        (source, target, effect)
        for source, target, effect in graph.kept_edges()
        if graph.nodes[source].position != graph.nodes[target].position and graph.nodes[source].kind != "error"
    ]
    table = Table("edge between positions", "effect", "heads that read the source first")
    for source, target, effect in sorted(edges, key=lambda edge: -abs(edge[2]))[:n_edges]:
        carriers = edge_carriers(graph, source, target)
        heads = ", ".join(f"{layer}.{head} {significant_text(part)}" for layer, head, part in carriers.heads[:4])
        table.add_row(f"{_name(graph, source)} → {_name(graph, target)}", significant_text(effect), heads)
    if edges and n_edges:
        Console().print(table)


def print_score(graph: Graph, place: str) -> None:
    """The parts of one attention score; `place` is LAYER.HEAD:QUERY,KEY. Raises UserError for anything else."""
    from rich.console import Console
    from rich.table import Table

    match = _SCORE.fullmatch(place)
    if match is None:
        raise UserError(f"--score {place!r} must be LAYER.HEAD:QUERY,KEY, e.g. 12.3:9,4")
    layer, head, query, key = (int(part) for part in match.groups())
    parts = score_parts(graph, layer, head, query=query, key=key)
    print(
        f"head {layer}.{head} from {query} to {key}: score {significant_text(parts.score)}, weight "
        f"{percent_text(parts.weight)}; biases of the query {significant_text(parts.query_bias)}, of the key "
        f"{significant_text(parts.key_bias)}"
    )
    table = Table("at the query", "part", "at the key", "part", "pair", "part")
    for (source, part), (other, other_part), (left, right, pair) in zip(
        parts.by_query[:N_ROWS], parts.by_key, parts.pairs
    ):
        names = (source.name, other.name, f"{left.name} × {right.name}")
        sizes = (significant_text(value) for value in (part, other_part, pair))
        table.add_row(*(cell for row in zip(names, sizes) for cell in row))
    Console().print(table)


def print_prompts(together: PromptGraphs) -> None:
    """The nodes and edges that several prompts share, with intervals over prompts."""
    from rich.console import Console
    from rich.table import Table

    n = len(together.graphs)
    low, high = mean_intervals(together.influence)
    table = Table("node", f"influence, mean of {n} prompts", "kept in", title="nodes", title_justify="left")
    latents = [place for place, key in enumerate(together.nodes) if key[0] == "latent"]
    for place in latents[:N_ROWS]:
        mean = float(together.influence[:, place].mean())
        share = percent_text(float(together.membership[:, place].mean()))
        table.add_row(key_name(together.nodes[place]), interval_text(mean, low[place], high[place]), share)
    Console().print(table)
    low, high = mean_intervals(together.effects)
    table = Table("edge", f"effect, mean of {n} prompts", title="edges", title_justify="left")
    for place, (source, target) in enumerate(together.edges[:N_ROWS]):
        name = f"{key_name(together.nodes[source])} → {key_name(together.nodes[target])}"
        mean = float(together.effects[:, place].mean())
        table.add_row(name, interval_text(mean, low[place], high[place]))
    Console().print(table)


def _agreement_text(agreement: Agreement) -> str:
    low, high = agreement.interval or (float("nan"), float("nan"))
    return interval_text(agreement.rho, low, high)


def _name(graph: Graph, number: int) -> str:
    node = graph.nodes[number]
    return f"{node.name} {_piece(graph, node)}"


def _piece(graph: Graph, node: Node) -> str:
    """The token at a node's position; a logit's own token."""
    if node.kind == "logit":
        return repr(visible(graph.logit_pieces[graph.logit_ids.tolist().index(node.number)]))
    return repr(visible(graph.pieces[node.position]))
