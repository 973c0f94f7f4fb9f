"""Circuits that papers report, found by hand by several authors: constants with their sources, one entry per version.

Place on the path: a task and a model's name → [heads, edges by group] → scores.

Where sources disagree there are several versions; the first is the one that most papers score against. Edges go from
every head of one group to every head of another in a later layer. Where the paper's path runs through MLPs, which are
not nodes here, edges are left out.

Limits: an accepted circuit is an opinion with evidence, not truth. Heads outside it can matter, and backups inside it
need not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePath

from monosemy.circuits.heads.task import INPUT, OUTPUT, Channel, Edge, Head

IOI_GROUPS: dict[str, tuple[Head, ...]] = {
    "previous token": ((2, 2), (4, 11)),
    "duplicate token": ((0, 1), (0, 10), (3, 0)),
    "induction": ((5, 5), (5, 8), (5, 9), (6, 9)),
    "S-inhibition": ((7, 3), (7, 9), (8, 6), (8, 10)),
    "name mover": ((9, 9), (10, 0), (9, 6)),
    "backup name mover": ((10, 10), (10, 6), (10, 2), (10, 1), (11, 2), (9, 7), (9, 0), (11, 9)),
    "negative name mover": ((10, 7), (11, 10)),
}
_MOVERS = ("name mover", "backup name mover", "negative name mover")
IOI_LINKS: tuple[tuple[str, str, str], ...] = (
    (INPUT, "previous token", "qkv"),
    (INPUT, "duplicate token", "qkv"),
    (INPUT, "S-inhibition", "q"),
    *((INPUT, mover, "kv") for mover in _MOVERS),
    ("previous token", "induction", "kv"),
    ("induction", "S-inhibition", "kv"),
    ("duplicate token", "S-inhibition", "kv"),
    *(("S-inhibition", mover, "q") for mover in _MOVERS),
    *((mover, OUTPUT, "") for mover in _MOVERS),
)


@dataclass(frozen=True)
class PublishedCircuit:
    """One circuit as one source reports it."""

    task: str
    version: str
    models: tuple[str, ...]
    """The names of the model on the hub."""
    source: str
    groups: dict[str, tuple[Head, ...]]
    links: tuple[tuple[str, str, str], ...] = field(default=())
    """(sending group or input, receiving group or output, channels such as "kv"); empty where the source gives none."""

    @property
    def heads(self) -> frozenset[Head]:
        """The heads of all groups."""
        return frozenset(head for group in self.groups.values() for head in group)

    @property
    def edges(self) -> frozenset[Edge]:
        """All edges of the links; a sender is always in an earlier layer than its receiver."""
        edges = set()
        for start, end, channels in self.links:
            for sender in self.groups.get(start, (INPUT,)):
                for receiver in self.groups.get(end, (OUTPUT,)):
                    if isinstance(sender, str) or isinstance(receiver, str) or sender[0] < receiver[0]:
                        edges |= {Edge(sender, receiver, channel) for channel in _channels(channels)}
        return frozenset(edges)


def _channels(text: str) -> tuple[Channel, ...]:
    """The channels that a text such as "kv" names; ("",) for an edge into the output."""
    return tuple(c for c in ("q", "k", "v") if c in text) or ("",)


_GPT2 = ("gpt2", "openai-community/gpt2")
_EARLY: tuple[Head, ...] = ((0, 1), (0, 3), (0, 5))
_YEAR_LINKS = ((INPUT, "early", "qkv"), ("early", "middle", "qkv"), ("middle", OUTPUT, ""))

PUBLISHED: tuple[PublishedCircuit, ...] = (
    PublishedCircuit(
        "ioi",
        "26 heads",
        _GPT2,
        "Wang et al. 2022, arXiv 2211.00593; edges by group as Conmy et al. 2023, arXiv 2304.14997, read them",
        groups=IOI_GROUPS,
        links=IOI_LINKS,
    ),
    PublishedCircuit(
        "greater-than",
        "as scored by later papers",
        _GPT2,
        "Hanna et al. 2023, arXiv 2305.00586, as listed by Conmy et al. 2023; its MLPs 0 to 3 and 8 to 11 left out",
        groups={"early": _EARLY, "middle": ((5, 5), (6, 1), (6, 9), (7, 10), (8, 11), (9, 1))},
        links=_YEAR_LINKS,
    ),
    PublishedCircuit(
        "greater-than",
        "as in the authors' code",
        _GPT2,
        "code of Hanna et al. 2023: 5.1 and 8.8 in place of 6.1; its MLPs left out",
        groups={"early": _EARLY, "middle": ((5, 1), (5, 5), (6, 9), (7, 10), (8, 8), (8, 11), (9, 1))},
        links=_YEAR_LINKS,
    ),
    PublishedCircuit(
        "docstring",
        "as by its authors",
        ("attn-only-4l",),
        "Heimersheim and Janiak 2023, A circuit for Python docstrings in a 4-layer attention-only transformer",
        groups={"heads": ((0, 5), (1, 2), (1, 4), (2, 0), (3, 0), (3, 6))},
    ),
    PublishedCircuit(
        "docstring",
        "as in the discrete-SAE paper",
        ("attn-only-4l",),
        "O'Neill and Bui 2024, arXiv 2405.12522: 1.0 in place of 1.2",
        groups={"heads": ((0, 5), (1, 0), (1, 4), (2, 0), (3, 0), (3, 6))},
    ),
    PublishedCircuit(
        "induction",
        "two layers",
        ("redwood_attn_2l",),
        "Conmy et al. 2023, arXiv 2304.14997",
        groups={"previous token": ((0, 0),), "induction": ((1, 5), (1, 6))},
    ),
)


def published(task: str, model: str) -> tuple[PublishedCircuit, ...]:
    """The reported circuits of a task in a model, the usual version first; empty where none is known.

    A model is recognised by its hub id or by the name of its folder.
    """
    names = {model, PurePath(model).name}
    return tuple(circuit for circuit in PUBLISHED if circuit.task == task and names & set(circuit.models))
