"""Graphs of several prompts put together: influences and effects summed, with intervals over prompts.

Place on the path: prompts → graphs → [nodes and edges of all of them] → tables.

A node stands for the same latent in every prompt (layer and number), with its influence summed over its positions, and
an edge for the sum of direct effects between two such latents; errors are put together by layer, tokens and logits by
their number in the vocabulary. With `by_position`, which needs prompts of equal length (paraphrases made word for
word), positions are kept apart. The interval is that of the mean over prompts, a 95% bootstrap that resamples prompts;
where a node or edge is missing from a prompt, it counts as zero there. Limits: a handful of prompts give a rough
interval, one of fewer than 20 prompts is too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from monosemy.circuits.graphs.graph import Graph, Node
from monosemy.errors import UserError
from monosemy.evals.intervals import bootstrap_weights

if TYPE_CHECKING:
    import pyarrow as pa

Key: TypeAlias = tuple[str, int, int, int]
"""(kind, layer, number, position); −1 for a position that is summed over."""
N_RESAMPLES = 1000


@dataclass(frozen=True)
class PromptGraphs:
    """What several prompts' graphs have in common. Rows of the arrays are prompts."""

    graphs: tuple[Graph, ...]
    nodes: tuple[Key, ...]
    """Every node that some prompt's pruning kept, by mean influence, the largest first; logits last."""
    influence: Float[ndarray, "prompt node"]
    membership: Float[ndarray, "prompt node"]
    """1 where the prompt's pruning kept the node."""
    edges: tuple[tuple[int, int], ...]
    """(source, target) of every kept edge, as places in `nodes`."""
    effects: Float[ndarray, "prompt edge"]

    def node_table(self) -> pa.Table:
        """Columns: name, kind, layer, number, position, influence (mean), low, high, kept_share, n_prompts."""
        import pyarrow as pa

        low, high = mean_intervals(self.influence)
        kinds, layers, numbers, positions = zip(*self.nodes)
        return pa.table(
            {
                "name": [key_name(key) for key in self.nodes],
                "kind": kinds,
                "layer": layers,
                "number": numbers,
                "position": positions,
                "influence": self.influence.mean(0),
                "low": low,
                "high": high,
                "kept_share": self.membership.mean(0),
                "n_prompts": [len(self.graphs)] * len(self.nodes),
            }
        )

    def edge_table(self) -> pa.Table:
        """Columns: source, target (names), effect (mean), low, high, same_sign (share of prompts), n_prompts."""
        import pyarrow as pa

        low, high = mean_intervals(self.effects)
        mean = self.effects.mean(0)
        columns: dict[str, Any] = {
            "source": [key_name(self.nodes[source]) for source, _ in self.edges],
            "target": [key_name(self.nodes[target]) for _, target in self.edges],
            "effect": mean,
            "low": low,
            "high": high,
            "same_sign": (np.sign(self.effects) == np.sign(mean)).mean(0),
            "n_prompts": [len(self.graphs)] * len(self.edges),
        }
        return pa.table(columns)


def put_together(graphs: Sequence[Graph], *, by_position: bool = False) -> PromptGraphs:
    """The graphs of several prompts as one. Raises UserError for none, and for unequal lengths with `by_position`."""
    if not graphs:
        raise UserError("no graphs to put together; give one prompt or more")
    lengths = sorted({graph.n_tokens for graph in graphs})
    if by_position and len(lengths) > 1:
        raise UserError(
            f"prompts of {lengths[0]} to {lengths[-1]} tokens cannot be compared position by position; give prompts of "
            "equal length, or sum over positions"
        )
    keys_by_graph = [[_key(node, by_position) for node in graph.nodes] for graph in graphs]
    places: dict[Key, int] = {}
    edge_places: dict[tuple[int, int], int] = {}
    for graph, keys in zip(graphs, keys_by_graph):
        for number in [*graph.pruned.sources.nonzero()[:, 0].tolist(), *range(graph.n_sources, len(graph.nodes))]:
            places.setdefault(keys[number], len(places))
        for source, target, _ in graph.kept_edges():
            edge_places.setdefault((places[keys[source]], places[keys[target]]), len(edge_places))
    influence = np.zeros((len(graphs), len(places)))
    membership, effects = np.zeros_like(influence), np.zeros((len(graphs), len(edge_places)))
    for row, (graph, keys) in enumerate(zip(graphs, keys_by_graph)):
        owners = torch.tensor([places.get(key, len(places)) for key in keys])
        columns, targets = owners[: graph.n_sources], owners[[graph.target_node(t) for t in range(len(graph.effects))]]
        influence[row] = _summed(graph.influence.double(), columns, len(places))
        membership[row] = _summed(graph.pruned.sources.double(), columns, len(places)) > 0
        by_target = torch.zeros(len(places) + 1, graph.n_sources, dtype=torch.float64)
        by_target.index_add_(0, targets, graph.effects.double().cpu())
        square = torch.zeros(len(places) + 1, len(places) + 1, dtype=torch.float64)
        square.index_add_(1, columns, by_target)
        if edge_places:
            sources, ends = torch.tensor(list(edge_places)).T
            effects[row] = square[ends, sources].numpy()
    return _sorted_parts(tuple(graphs), list(places), influence, membership, edges=(list(edge_places), effects))


def _sorted_parts(
    graphs: tuple[Graph, ...],
    keys: list[Key],
    influence: ndarray,
    membership: ndarray,
    *,
    edges: tuple[list[tuple[int, int]], ndarray],
) -> PromptGraphs:
    """The parts with nodes and edges in the order in which tables show them."""
    ranking = sorted(range(len(keys)), key=lambda place: (keys[place][0] == "logit", -influence[:, place].mean()))
    new_place = {old: new for new, old in enumerate(ranking)}
    pairs, effects = edges
    by_size = sorted(range(len(pairs)), key=lambda edge: -abs(effects[:, edge].mean()))
    return PromptGraphs(
        graphs,
        tuple(keys[place] for place in ranking),
        influence[:, ranking],
        membership[:, ranking],
        edges=tuple((new_place[pairs[edge][0]], new_place[pairs[edge][1]]) for edge in by_size),
        effects=effects[:, by_size],
    )


def mean_intervals(values: Float[ndarray, "prompt item"]) -> tuple[ndarray, ndarray]:
    """(low, high) of the mean of each column, resampling rows; NaN for a single row."""
    if len(values) < 2:
        blank = np.full(values.shape[1], np.nan)
        return blank, blank
    means = bootstrap_weights(len(values), N_RESAMPLES) @ values / len(values)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return low, high


def key_name(key: Key) -> str:
    """A node's name in tables: `L12/345`, `error L12`, `token 262`, `logit 262`, with `@position` where it has one."""
    kind, layer, number, position = key
    name = {"latent": f"L{layer}/{number}", "error": f"error L{layer}"}.get(kind, f"{kind} {number}")
    return name if position < 0 else f"{name}@{position}"


def _key(node: Node, by_position: bool) -> Key:
    return (node.kind, node.layer, node.number, node.position if by_position else -1)


def _summed(values: torch.Tensor, owners: torch.Tensor, n: int) -> ndarray:
    """Values summed by owner; those of owner n are dropped."""
    total = torch.zeros(n + 1, dtype=torch.float64)
    return total.index_add_(0, owners, values.cpu())[:n].numpy()
