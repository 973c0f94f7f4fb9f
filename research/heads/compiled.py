"""Models whose circuit is known because it was written by hand: weights set number by number, every edge exact.

Place on the path: a known circuit → [model, task, true heads and edges] → the methods and their scores.

The residual stream is cut into named subspaces (one-hot token, position, "previous token", …). A head is written as
what it matches (query subspace against key subspace) and what it moves (subspace → subspace). An edge from one head
to another exists only where the first writes a subspace that the second reads: it is absent exactly, not nearly.
Attention is a softmax of finite sharpness β: a match scores β, the default (the first token, whose value is nothing)
β/2, anything else 0.

    induction     previous-token heads (layer 0) → keys of induction heads (layer 1) → output
    or_pair       two previous-token heads, of which either is enough, → an induction head: single ablations miss them
    ioi           duplicate-token (0) → keys, values of S-inhibition (1) → queries of name movers (2) and of a negative
                  mover (3), which writes against them → output

Each also has active but inert heads, whose output differs between positive and negative prompts in a subspace that
nothing on the way to the output reads, and dead heads, which write the same on every prompt.

Source: the circuits of Olsson et al. 2022 (2209.11895) and Wang et al. 2022 (2211.00593), as Tracr compiles programs
(2301.05062). Deviations: no norms, no MLPs; IOI without previous-token, induction and backup heads. Limits: effects on
attention are saturated, as in real models: gradients through queries and keys underestimate them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.circuits.heads.attention_only import AttentionOnly, Shape
from monosemy.circuits.heads.task import INPUT, OUTPUT, Channel, Edge, Head, TaskData
from monosemy.errors import unknown
from research.heads.symbolic import INDUCTION, IOI, induction_task, ioi_task

SHARPNESS = 10.0
"""β: the score of a match."""
LOGIT_GAIN = 10.0
"""Logit of a token that the heads before the output fully agree on."""
CHANNELS: tuple[Channel, ...] = ("q", "k", "v")


@dataclass(frozen=True)
class CompiledCircuit:
    """A model, its task, and the truth about both."""

    name: str
    model: AttentionOnly
    data: TaskData
    heads: frozenset[Head]
    """The circuit C: heads through which the behaviour runs (one of them may work against it)."""
    _: KW_ONLY
    edges: frozenset[Edge]
    """Edges that carry a difference between a prompt and its counterpart to the output."""
    constant_edges: frozenset[Edge]
    """Edges from the input that the circuit needs but that carry the same on both prompts (positions, markers): without
    effect when the counterpart's value is patched in, so neither right nor wrong to report."""
    inert: frozenset[Head]
    """Heads whose outputs tell positive from negative prompts and that nothing on the way to the output reads."""
    dead: frozenset[Head]
    """Heads that write the same on every prompt."""

    @property
    def all_heads(self) -> list[Head]:
        """Every head, in the order of `head_outputs`."""
        return [(layer, head) for layer in range(self.model.n_layers) for head in range(self.model.n_heads)]


class Blueprint:
    """Collects named subspaces, then heads; `build` puts them into the weights of an `AttentionOnly`.

    Heads of one layer take random places, by seed, so that nothing can be read off a head's number.
    """

    def __init__(self, spaces: Mapping[str, int], n_layers: int, n_heads: int, d_head: int, *, seed: int) -> None:
        starts = torch.tensor([0, *spaces.values()]).cumsum(0).tolist()
        self.spaces = {name: slice(a, b) for name, a, b in zip(spaces, starts, starts[1:])}
        shape = Shape(n_layers, n_heads, starts[-1], d_head, vocab_size=spaces["token"], n_positions=spaces["position"])
        self.model = AttentionOnly(shape)
        self.model.requires_grad_(False)
        self.model.W_E[:, self.spaces["token"]] = torch.eye(spaces["token"])
        self.model.W_pos[:, self.spaces["position"]] = torch.eye(spaces["position"])
        generator = torch.Generator().manual_seed(seed)
        self._free = [torch.randperm(n_heads, generator=generator).tolist() for _ in range(n_layers)]

    def size(self, space: str) -> int:
        return self.spaces[space].stop - self.spaces[space].start

    def head(self, layer: int, matches: list[Match], moves: list[Move]) -> Head:
        """Writes one head and returns its place. Raises ValueError when the layer or the head is full."""
        if not self._free[layer]:
            raise ValueError(f"layer {layer} is full")
        place = (layer, self._free[layer].pop())
        sharp = SHARPNESS * self.model.shape.d_head**0.5  # the model divides scores by √d_head
        used = 0
        for match in matches:
            columns = slice(used, used := used + match.query.shape[1])
            self.model.W_Q[*place, self.spaces[match.query_space], columns] = sharp * match.query
            self.model.W_K[*place, self.spaces[match.key_space], columns] = match.key
        if used > self.model.shape.d_head:
            raise ValueError(f"{used} dimensions of matching in heads {self.model.shape.d_head} wide")
        used = 0
        for move in moves:
            columns = slice(used, used := used + self.size(move.target))
            through = torch.eye(self.size(move.target)) if move.through is None else move.through
            self.model.W_V[*place, self.spaces[move.source], columns] = through
            self.model.W_O[*place, columns, self.spaces[move.target]] = move.gain * torch.eye(self.size(move.target))
        return place

    def unembed(self, space: str, tokens: slice, gain: float) -> None:
        """The logits of `tokens` read this subspace."""
        self.model.W_U[self.spaces[space], tokens] = gain * torch.eye(self.size(space))

    def build(self, name: str) -> tuple[AttentionOnly, frozenset[Head]]:
        """The model, and the heads that nothing was written into."""
        self.model.name = name
        return self.model, frozenset((layer, head) for layer, heads in enumerate(self._free) for head in heads)


@dataclass(frozen=True)
class Match:
    """A term of the attention score: (query-side vector · query)(key-side vector · key)ᵀ, times β."""

    query_space: str
    query: Float[Tensor, "d_query rank"]
    key_space: str
    key: Float[Tensor, "d_key rank"]


@dataclass(frozen=True)
class Move:
    """What a head copies: `source` of the attended position into `target`, times `gain`; `through` [source, target]
    selects within (default: the same size, unchanged)."""

    source: str
    target: str
    gain: float = 1.0
    through: Float[Tensor, "source target"] | None = None


def _always(blueprint: Blueprint) -> Float[Tensor, "T 1"]:
    """Reads 1 at every position."""
    return torch.ones(blueprint.size("position"), 1)


def _one_hot(size: int, *indices: int) -> Float[Tensor, "size 1"]:
    column = torch.zeros(size, 1)
    column[list(indices)] = 1.0
    return column


def _default(blueprint: Blueprint) -> Match:
    """Half a match at the first token, 0 in every task's vocabulary."""
    return Match("position", 0.5 * _always(blueprint), "token", _one_hot(blueprint.size("token"), 0))


def _selected(size: int, tokens: slice) -> Float[Tensor, "size n"]:
    """[V, n]: the identities of some tokens, nothing for the others."""
    return torch.eye(size)[:, tokens]


# --- circuits ---------------------------------------------------------------------------------------------------------


def compile_circuit(name: str, seed: int = 0, n_examples: int = 64) -> CompiledCircuit:
    """The circuit `induction`, `or_pair` or `ioi`; `seed` draws the places of heads and the prompts.

    Raises UserError for another name.
    """
    if name not in CIRCUITS:
        raise unknown("compiled circuit", name, CIRCUITS)
    return CIRCUITS[name](seed, n_examples)


def _induction(seed: int, n_examples: int) -> CompiledCircuit:
    # together the two previous-token heads make one match; without either it is no better than the default
    return _induction_circuit("induction", seed, n_examples, previous_gain=0.5, n_induction=2)


def _or_pair(seed: int, n_examples: int) -> CompiledCircuit:
    # either previous-token head alone makes twice a match, so attention is as good without the other
    return _induction_circuit("or_pair", seed, n_examples, previous_gain=2.0, n_induction=1)


def _induction_circuit(
    name: str, seed: int, n_examples: int, *, previous_gain: float, n_induction: int
) -> CompiledCircuit:
    size, length = INDUCTION.size, INDUCTION.n_positions
    spaces = {"token": size, "position": length, "previous": size, "out": size, "junk": size, "junk_place": length}
    plan = Blueprint(spaces, n_layers=3, n_heads=6, d_head=size + length + 1, seed=seed)
    identity = torch.eye(size)
    before = Match("position", torch.eye(length, length).roll(-1, 1).tril(-1), "position", torch.eye(length))
    repeats = [Match("token", identity, "previous", identity), _default(plan)]
    same = [Match("token", identity, "token", identity), _not_itself(plan), _default(plan)]

    previous = [plan.head(0, [before], [Move("token", "previous", previous_gain)]) for _ in range(2)]
    induction = [plan.head(1, repeats, [Move("token", "out", 1 / n_induction)]) for _ in range(n_induction)]
    inert = [
        plan.head(0, same, [Move("token", "junk")]),
        plan.head(1, repeats, [Move("token", "junk")]),
        plan.head(1, same, [Move("token", "junk")]),
        plan.head(2, [_itself(plan)], [Move("out", "junk")]),
        plan.head(2, repeats, [Move("token", "junk")]),
    ]
    constant = [plan.head(layer, [before], [Move("position", "junk_place")]) for layer in range(3)]
    plan.unembed("out", slice(0, size), LOGIT_GAIN)
    edges = [
        *_edges([INPUT], previous, "v"),
        *_edges(previous, induction, "k"),
        *_edges([INPUT], induction, "q"),
        *_edges(induction, [OUTPUT], ""),
    ]
    same_on_both = [*_edges([INPUT], previous, "qk"), *_edges([INPUT], induction, "kv")]
    data = induction_task(n_examples, seed)
    return _finish(
        plan,
        name,
        data,
        [*previous, *induction],
        edges=edges,
        constant_edges=same_on_both,
        inert=inert,
        constant=constant,
    )


def _ioi(seed: int, n_examples: int) -> CompiledCircuit:
    size, length, names = IOI.size, IOI.n_positions, IOI.names
    n = IOI.n_names
    spaces = {"token": size, "position": length, "duplicate": n, "inhibit": n, "out": n, "junk": n}
    plan = Blueprint(spaces | {"junk_place": length}, n_layers=4, n_heads=8, d_head=n + length + 1, seed=seed)
    name, any_name = _selected(size, names), torch.ones(n, 1)
    end = _one_hot(size, 1)
    duplicates = [Match("token", name, "token", name), _not_itself(plan), _default(plan)]
    inhibits = [Match("token", end, "duplicate", any_name), _default(plan)]
    moves_names = [
        Match("token", end, "token", name @ any_name),
        # weak enough that half the inhibition is felt
        Match("inhibit", 0.4 * torch.eye(n), "token", -name),
        _default(plan),
    ]

    duplicate = [plan.head(0, duplicates, [Move("token", "duplicate", 0.5, name)]) for _ in range(2)]
    inhibition = [plan.head(1, inhibits, [Move("duplicate", "inhibit", 0.5)]) for _ in range(2)]
    mover = [plan.head(2, moves_names, [Move("token", "out", 0.5, name)]) for _ in range(2)]
    negative = [plan.head(3, moves_names, [Move("token", "out", -0.4, name)])]
    inert = [
        plan.head(0, duplicates, [Move("token", "junk", 0.5, name)]),
        plan.head(1, inhibits, [Move("duplicate", "junk", 0.5)]),
        plan.head(2, moves_names, [Move("token", "junk", 0.5, name)]),
        plan.head(2, duplicates, [Move("token", "junk", 0.5, name)]),
        plan.head(3, moves_names, [Move("token", "junk", -0.4, name)]),
        plan.head(3, [_itself(plan)], [Move("out", "junk")]),
    ]
    constant = [plan.head(layer, [_itself(plan)], [Move("position", "junk_place")]) for layer in range(4)]
    plan.unembed("out", names, LOGIT_GAIN)
    movers = [*mover, *negative]
    edges = [
        *_edges([INPUT], duplicate, "qkv"),
        *_edges(duplicate, inhibition, "kv"),
        *_edges(inhibition, movers, "q"),
        *_edges([INPUT], movers, "kv"),
        *_edges(movers, [OUTPUT], ""),
    ]
    same_on_both = [*_edges([INPUT], inhibition, "qk"), *_edges([INPUT], movers, "q")]
    data = ioi_task(n_examples, seed)
    return _finish(
        plan,
        "ioi",
        data,
        [*duplicate, *inhibition, *movers],
        edges=edges,
        constant_edges=same_on_both,
        inert=inert,
        constant=constant,
    )


CIRCUITS: dict[str, Callable[[int, int], CompiledCircuit]] = {
    "induction": _induction,
    "or_pair": _or_pair,
    "ioi": _ioi,
}


def _itself(blueprint: Blueprint) -> Match:
    """Every position matches itself."""
    identity = torch.eye(blueprint.size("position"))
    return Match("position", identity, "position", identity)


def _not_itself(blueprint: Blueprint) -> Match:
    """Takes one match away from a position's own key."""
    identity = torch.eye(blueprint.size("position"))
    return Match("position", identity, "position", -identity)


def _edges(
    senders: Sequence[Head | Literal["input"]],
    receivers: Sequence[Head | Literal["output"]],
    channels: Literal["q", "k", "v", "qk", "kv", "qkv", ""],
) -> list[Edge]:
    selected_channels: tuple[Channel, ...] = tuple(c for c in CHANNELS if c in channels) if channels else ("",)
    return [Edge(s, r, channel) for s in senders for r in receivers for channel in selected_channels]


def _finish(
    plan: Blueprint,
    name: str,
    data: TaskData,
    heads: list[Head],
    *,
    edges: list[Edge],
    constant_edges: list[Edge],
    inert: list[Head],
    constant: list[Head],
) -> CompiledCircuit:
    model, empty = plan.build(f"compiled {name}")
    dead = empty | frozenset(constant)
    return CompiledCircuit(
        name,
        model,
        data,
        frozenset(heads),
        edges=frozenset(edges),
        constant_edges=frozenset(constant_edges),
        inert=frozenset(inert),
        dead=dead,
    )
