"""An attribution graph of one prompt: nodes, direct effects between them, influences, scores.

Place on the path: `attribution.attribute` → [graph] → tables, ablations, heads, exports, pages.

Nodes, in this order: latents (by layer, position, number), errors (layer by layer, position by position), tokens,
logits. `effects[t, s]` is the direct effect of source s on target t; targets are the latents and the logits, sources
the latents, errors and tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosemy.circuits.graphs.effects import DirectEffects
from monosemy.circuits.graphs.influence import Pruned, influence, scores, shares
from monosemy.circuits.graphs.transcoders import Transcoder
from monosemy.errors import UserError
from monosemy.models.adapter import LanguageModel
from monosemy.support.notebook import facts_html, facts_line
from monosemy.support.numbers import count_text, fixed_text

if TYPE_CHECKING:
    import pyarrow as pa

Kind: TypeAlias = Literal["latent", "error", "token", "logit"]


class Node(NamedTuple):
    """A node of a graph. `number` is a latent's, or a token's in the vocabulary; −1 for an error."""

    kind: Kind
    layer: int
    """−1 for a token; the number of layers for a logit."""
    position: int
    number: int

    @property
    def name(self) -> str:
        """Its name in tables and on the command line: `L12/345@7`, `error L12@7`, `token@3`, `logit 262`."""
        if self.kind == "latent":
            return f"L{self.layer}/{self.number}@{self.position}"
        if self.kind == "error":
            return f"error L{self.layer}@{self.position}"
        return f"token@{self.position}" if self.kind == "token" else f"logit {self.number}"


@dataclass(frozen=True)
class GraphSettings:
    """How a graph is made."""

    max_latents: int = 2000
    """The most latents that become nodes."""
    logit_share: float = 0.95
    """The probability that the logits must reach together."""
    max_logits: int = 10
    node_share: float = 0.8
    """The share of all influence that pruned nodes must carry."""
    edge_share: float = 0.98
    """The share of the influence between them that pruned edges must carry."""


@dataclass(frozen=True)
class Context:
    """What a graph was made from, for further questions to it."""

    model: LanguageModel
    transcoders: dict[int, Transcoder]
    effects: DirectEffects
    settings: GraphSettings


@dataclass(frozen=True)
class Graph:
    """The attribution graph of one prompt; `monosemy.attribute` makes one."""

    prompt: str
    model: str
    tokens: Int[Tensor, " position"]
    pieces: tuple[str, ...]
    """The tokens as text."""
    logit_pieces: tuple[str, ...]
    """The logits' tokens as text."""
    n_layers: int
    latents: Int[Tensor, "latent 3"]
    """(layer, position, number) of each latent that is a node."""
    activations: Float[Tensor, " latent"]
    logit_ids: Int[Tensor, " logit"]
    probabilities: Float[Tensor, " logit"]
    """The probabilities of the logits' tokens behind the prompt; they weigh the logits."""
    effects: Float[Tensor, "target source"]
    constants: Float[Tensor, " target"]
    """The share of all biases in each target."""
    left_out: Float[Tensor, " target"]
    """The sum of the effects of active latents that are no nodes, on each target."""
    values: Float[Tensor, " target"]
    """The latents' pre-activations and the centred logits, as the model computed them."""
    pruned: Pruned
    n_active: int
    """Active latents on the prompt, nodes or not, without those of the first position."""
    bare_layers: tuple[int, ...]
    """Layers without a transcoder, whose whole MLP output is an error."""
    fvu: Mapping[int, float]
    """By layer, the share of the variance of the MLP's outputs on this prompt that its transcoder misses."""
    context: Context | None = field(default=None, compare=False, repr=False)

    def __repr__(self) -> str:
        return facts_line("Graph", self._facts())

    def _repr_html_(self) -> str:
        return facts_html("Graph", self._facts())

    def _facts(self) -> dict[str, str]:
        return {
            "tokens": count_text(self.n_tokens),
            "latents": f"{count_text(self.n_latents)} of {count_text(self.n_active)} active",
            "kept": count_text(self.pruned.n_latents(self.n_latents)),
            "edges kept": count_text(int(self.pruned.edges.sum())),
            "replacement": fixed_text(self.replacement_score, 3),
            "completeness": fixed_text(self.completeness_score, 3),
        }

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    @property
    def n_latents(self) -> int:
        return len(self.latents)

    @property
    def n_sources(self) -> int:
        return self.effects.shape[1]

    @property
    def n_logits(self) -> int:
        return len(self.logit_ids)

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes: the sources in the order of the columns of `effects`, then the logits."""
        errors = ((layer, position) for layer in range(self.n_layers) for position in range(self.n_tokens))
        return (
            *(Node("latent", *row) for row in self.latents.tolist()),
            *(Node("error", layer, position, -1) for layer, position in errors),
            *(Node("token", -1, position, token) for position, token in enumerate(self.tokens.tolist())),
            *(Node("logit", self.n_layers, self.n_tokens - 1, token) for token in self.logit_ids.tolist()),
        )

    def target_node(self, row: int) -> int:
        """The number of the node that a row of `effects` belongs to."""
        return row if row < self.n_latents else row + self.n_sources - self.n_latents

    @cached_property
    def influence(self) -> Float[Tensor, " source"]:
        """The influence of every source on the logits (influence.py)."""
        return influence(shares(self.effects), self.probabilities)

    @cached_property
    def _scores(self) -> tuple[float, float]:
        return scores(self.effects, self.probabilities, n_tokens=self.n_tokens)

    @property
    def replacement_score(self) -> float:
        """The influence of tokens over that of tokens and errors."""
        return self._scores[0]

    @property
    def completeness_score(self) -> float:
        """The weighted share of inputs that come from no error."""
        return self._scores[1]

    @cached_property
    def residuals(self) -> Float[Tensor, " target"]:
        """|sum of a target's row, left-out latents and biases − its value|, over the value's size."""
        gaps = (self.effects.double().sum(1) + self.left_out + self.constants - self.values).abs()
        return gaps / self.values.abs().clamp_min(1e-30)

    @cached_property
    def left_out_share(self) -> float:
        """The mean share, by size, that active latents which are no nodes have in the inputs of logits."""
        rows = slice(self.n_latents, None)
        sizes = self.effects[rows].abs().sum(1) + self.left_out[rows].abs()
        return float((self.left_out[rows].abs() / sizes.clamp_min(1e-30)).mean())

    def rank_order(self) -> Float[Tensor, " source"]:
        """For every source, the share of all influence that the sources down to it carry, the largest first."""
        order = self.influence.argsort(descending=True)
        running = self.influence[order].double().cumsum(0)
        shares_so_far = torch.empty_like(running)
        shares_so_far[order] = running / running[-1].clamp_min(1e-300)
        return shares_so_far

    def node_table(self, measured: Mapping[str, Mapping[int, float]] | None = None) -> pa.Table:
        """All nodes as an Arrow table; `measured` adds columns, each with values by the number of the node.

        Columns: node, name, kind, layer, position, number, token (as text, at the node's position; a logit's own),
        activation, influence, kept. Null where a node has no such thing.
        """
        import pyarrow as pa

        n, n_sources = self.n_latents, self.n_sources
        blank = len(self.nodes) - n
        pieces = [self.pieces[node.position] for node in self.nodes[:n_sources]]
        columns: dict[str, Any] = {
            "node": range(len(self.nodes)),
            "name": [node.name for node in self.nodes],
            "kind": [node.kind for node in self.nodes],
            "layer": [node.layer for node in self.nodes],
            "position": [node.position for node in self.nodes],
            "number": [node.number for node in self.nodes],
            "token": [*pieces, *self.logit_pieces],
            "activation": [*self.activations.tolist(), *[None] * blank],
            "influence": [*self.influence.tolist(), *[None] * self.n_logits],
            "kept": [*self.pruned.sources.tolist(), *[True] * self.n_logits],
        }
        for name, values in (measured or {}).items():
            columns[name] = [values.get(node) for node in range(len(self.nodes))]
        return pa.table(columns)

    def edge_table(self, *, pruned: bool = True) -> pa.Table:
        """Edges as an Arrow table of source node, target node and direct effect: the pruned ones, or all but zeros."""
        import pyarrow as pa

        mask = self.pruned.edges if pruned else self.effects != 0
        rows, columns = (part.numpy() for part in mask.nonzero(as_tuple=True))
        shift = self.n_sources - self.n_latents
        targets = rows + shift * (rows >= self.n_latents)
        return pa.table({"source": columns, "target": targets, "effect": self.effects[mask].numpy()})

    def to_networkx(self) -> Any:
        """The kept nodes and edges as a networkx.DiGraph; nodes are named as in `node_table`, weights are effects.

        Raises UserError when networkx is not installed.
        """
        try:
            import networkx
        except ImportError:
            raise UserError("to_networkx needs networkx; pip install networkx") from None
        result = networkx.DiGraph()
        for row in self.node_table().to_pylist():
            if row["kept"]:
                result.add_node(row["name"], **{key: value for key, value in row.items() if key != "name"})
        for source, target, effect in self.kept_edges():
            result.add_edge(self.nodes[source].name, self.nodes[target].name, weight=effect)
        return result

    def kept_latents(self) -> list[int]:
        """The kept latents, by influence, largest first."""
        numbers = self.pruned.sources[: self.n_latents].nonzero()[:, 0]
        return numbers[self.influence[numbers].argsort(descending=True)].tolist()

    def kept_edges(self) -> Iterator[tuple[int, int, float]]:
        """(source node, target node, effect) of every kept edge."""
        for row, column in self.pruned.edges.nonzero().tolist():
            yield column, self.target_node(row), float(self.effects[row, column])
