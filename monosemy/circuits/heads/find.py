"""`find_circuit`: a model and a task in, ranked heads and edges with intervals out.

Place on the path: model, task → [method → members → edges] → page, drawing, JSON.

A head is a member when its effect is at least `share` of m(clean) − m(corrupt) and its 95% interval excludes 0; methods
without signs or intervals have a ranking and no members. What the members carry alone, and what is left without them,
is measured on the same prompts. Edges are measured exactly among the members (the strongest `MAX_KEPT` of them). Where
papers report a circuit of this task in this model, every method is scored on it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from monosemy import __version__
from monosemy.circuits.heads.code_scores import edge_scores, pair_counts
from monosemy.circuits.heads.contrast import MEMBER_SHARE, Ablation, EdgeScores, HeadScores, metric_difference
from monosemy.circuits.heads.ground_truth import PublishedCircuit, published
from monosemy.circuits.heads.member_edges import kept_edges
from monosemy.circuits.heads.methods import (
    CODE_PRESETS,
    METHODS,
    NEEDS_NEGATIVES,
    Bench,
    check_methods,
    check_seed,
    expected_seconds,
)
from monosemy.circuits.heads.model_heads import Heads, LanguageModelHeads, as_heads
from monosemy.circuits.heads.scores import Agreement, Carried, agreement, carried, labels_of
from monosemy.circuits.heads.task import Edge, TaskData, without_copies
from monosemy.circuits.heads.tasks import N_EXAMPLES, TaskAccuracy, build_task, task_accuracy
from monosemy.errors import UserError

if TYPE_CHECKING:
    from monosemy.circuits.heads.attention_only import AttentionOnly
    from monosemy.models.adapter import LanguageModel

TOLD_MINUTES = 3
"""Methods expected to take longer are announced with the time."""
MAX_KEPT = 12
"""Heads between which edges are measured, at most: edges grow with the square."""
EDGE_PROMPTS = 16
"""Prompts that edges are measured on, at most: there are several times more of them than heads that were checked."""


@dataclass(frozen=True)
class Circuit:
    """What one method found, and what other methods say."""

    model: str
    fingerprint: str
    """Of the model's weights."""
    task: TaskData
    ablation: Ablation
    seed: int
    n_layers: int
    n_heads: int
    accuracy: TaskAccuracy
    m_clean: float
    m_corrupt: float
    """The metric on prompts and on their counterparts, means."""
    n_prompts: int
    heads: HeadScores
    members: list[int]
    """Heads of the circuit by number, strongest first; empty where the method cannot say."""
    carried: Carried | None
    """What the members carry of the behaviour; None where there are none."""
    edges: EdgeScores | None
    n_edge_prompts: int
    """Prompts that edges were measured on."""
    no_edges: str
    """Why there are none, where that is no choice of the caller's."""
    code_edges: EdgeScores | None
    """Edges between members scored by the co-occurrence of their codes; where codes rank the heads and name no members,
    between the first `MAX_KEPT` of them."""
    others: list[HeadScores]
    """The methods asked for in comparison, the main one not among them."""
    known: tuple[PublishedCircuit, ...]
    """What papers report for this task in this model."""
    left_out: str = ""
    """Which layers are left out, and why; empty where none is."""

    @property
    def shown_edges(self) -> EdgeScores | None:
        """Measured edges; without them those that codes give."""
        return self.code_edges if self.edges is None else self.edges

    def name_of(self, index: int) -> str:
        """`7.3`"""
        return f"{index // self.n_heads}.{index % self.n_heads}"

    def ranked(self) -> list[int]:
        """All heads by number, most important first."""
        return self.heads.importance.argsort(descending=True, stable=True).tolist()

    def agreement_with(self, known: PublishedCircuit, scores: HeadScores) -> Agreement:
        """Of a method's ranking with a reported circuit."""
        return agreement(scores.importance, labels_of(known.heads, self.n_layers, self.n_heads))

    def to_json(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "task": self.task.name,
            "ablation": self.ablation,
            "seed": self.seed,
            "provenance": list(self.task.provenance),
            "metric": self.task.metric,
            "n_prompts": self.n_prompts,
            "accuracy": str(self.accuracy),
            "m_clean": self.m_clean,
            "m_corrupt": self.m_corrupt,
            "members": [self.name_of(i) for i in self.members],
            "carried": None if self.carried is None else asdict(self.carried),
            "methods": [self._method(scores) for scores in (self.heads, *self.others)],
            "published": [self._published(known) for known in self.known],
            "edges": _edges(self.edges),
            "n_edge_prompts": self.n_edge_prompts,
            "no_edges": self.no_edges or None,
            "left_out": self.left_out or None,
            "edges_by_codes": _edges(self.code_edges),
        }

    def _method(self, scores: HeadScores) -> dict[str, Any]:
        return {
            "method": scores.method,
            "signed": scores.signed,
            "seconds": scores.seconds,
            "reading_seconds": scores.reading_seconds,
            "n_passes": scores.n_passes,
            "checked": None if scores.checked is None else [self.name_of(i) for i in sorted(scores.checked)],
            "restored_and_replaced": {
                self.name_of(i): {"restored": float(scores.scores[i]), "replaced": v}
                for i, v in scores.replaced.items()
            },
            "scores": {self.name_of(i): float(v) for i, v in enumerate(scores.scores)},
            "intervals": None
            if scores.intervals is None
            else {self.name_of(i): pair for i, pair in enumerate(scores.intervals.tolist())},
        }

    def _published(self, known: PublishedCircuit) -> dict[str, Any]:
        found = [(scores.method, self.agreement_with(known, scores)) for scores in (self.heads, *self.others)]
        return {
            "version": known.version,
            "source": known.source,
            "heads": [f"{layer}.{head}" for layer, head in sorted(known.heads)],
            "agreement": {
                method: {"auc": a.auc, "interval": a.auc_interval, "average_precision": a.average_precision}
                for method, a in found
            },
        }


def find_circuit(
    model: LanguageModel | AttentionOnly | Heads,
    task: str | TaskData,
    *,
    method: str = "combined",
    compare: Sequence[str] = (),
    n_prompts: int = 64,
    n_examples: int | None = None,
    ablation: Ablation = "resample",
    edges: bool = True,
    seed: int = 0,
) -> Circuit:
    """The heads and edges of `model` that carry a behaviour.

    task: a task's name, the path of a JSONL file, or prompts already made. method, compare: names in
    `methods.METHODS`; `compare` gives further rankings beside the main one. n_prompts: prompts of causal methods;
    n_examples: positives (and negatives) made, by default 250 where a method counts codes, else `n_prompts`.
    Warns, before any method runs, when the model is right on too few prompts or prompts are copies, which count as
    one. Raises UserError: unknown names, a task that does not fit the model (its tokenizer, vocabulary or positions), a
    model without attention heads, or a metric that is no larger on prompts than on counterparts, a seed out of range,
    `n_examples` with prompts of your own, more prompts than fit into memory.
    """
    check_methods([method, *compare])
    check_seed(seed)
    if n_examples is not None and n_examples < n_prompts:
        raise UserError(
            f"n_examples ({n_examples}) must be at least n_prompts ({n_prompts}), which are taken from them"
        )
    if n_examples is not None and (isinstance(task, TaskData) or task.endswith(".jsonl")):
        raise UserError(
            f"n_examples ({n_examples}) says how many prompts of a task of the library to make; your own prompts are "
            "all read: leave it out, or give fewer prompts"
        )
    heads = as_heads(model)
    data = task if isinstance(task, TaskData) else _made(heads, task, [method, *compare], n_prompts, n_examples, seed)
    _check_tokens(heads, data)
    n_told = len(data.provenance)
    data = without_copies(data)
    for told in data.provenance[n_told:]:
        warnings.warn(f"{data.name}: {told}", stacklevel=2)
    bench = Bench(heads, data, min(n_prompts, len(data.positives)), ablation, seed)
    contrast = bench.contrast
    difference = metric_difference(contrast, data.name)
    accuracy = _accuracy(bench)
    if not accuracy.enough:
        warnings.warn(f"{data.name} on {heads.name}: {accuracy}", stacklevel=2)
    others = [name for name in dict.fromkeys(compare) if name != method]
    if (minutes := expected_seconds(bench, [method, *others]) / 60) > TOLD_MINUTES:
        warnings.warn(f"about {minutes:.0f} minutes for {', '.join([method, *others])}", stacklevel=2)
    found = METHODS[method](bench)
    members = members_of(found, difference)
    alone = carried(contrast, members, ablation) if members else None
    kept, few = members[:MAX_KEPT], contrast.first(EDGE_PROMPTS)
    why = _no_edges(heads) if edges else ""
    measured = kept_edges(few, kept, ablation) if edges and kept and not why else None
    return Circuit(
        heads.name, heads.fingerprint, data, ablation, seed, heads.n_layers, heads.n_heads, accuracy,
        float(contrast.m_clean.mean()), float(contrast.m_corrupt.mean()), contrast.n_examples, found, members,
        alone, measured, few.n_examples if measured else 0, why,
        _code_edges(bench, method, found, measured) if edges else None,
        [METHODS[name](bench) for name in others],
        _known(heads, task, data), heads.left_out,
    )  # fmt: skip


def members_of(scores: HeadScores, difference: float, share: float = MEMBER_SHARE) -> list[int]:
    """Heads whose effect is at least `share` of the difference and clear of 0, strongest first."""
    if not scores.signed or scores.intervals is None:
        return []
    large = scores.importance >= share * abs(difference)
    clear = (scores.intervals[:, 0] > 0) | (scores.intervals[:, 1] < 0)
    order = scores.importance.argsort(descending=True, stable=True).tolist()
    return [i for i in order if bool(large[i] & clear[i])]


def _made(
    heads: Heads, task: str, methods: Sequence[str], n_prompts: int, n_examples: int | None, seed: int
) -> TaskData:
    if not isinstance(heads, LanguageModelHeads):
        raise UserError(f"{heads.name} has no tokenizer; give the prompts themselves (TaskData) instead of {task!r}")
    if n_examples is None:
        n_examples = N_EXAMPLES if any(name in NEEDS_NEGATIVES for name in methods) else n_prompts
    return build_task(task, heads.model, max(n_examples, n_prompts), seed)


def _check_tokens(heads: Heads, data: TaskData) -> None:
    if not isinstance(heads, LanguageModelHeads):
        return
    model = heads.model
    if data.n_tokens > model.max_positions:
        raise UserError(
            f"the prompts of task {data.name!r} have {data.n_tokens} tokens, more than the {model.max_positions} "
            f"positions of {model.name}; shorten them"
        )
    tokens = (t for e in (*data.positives, *data.negatives) for t in (*e.tokens, *e.corrupted, *e.answers, *e.wrong))
    if beyond := sorted({token for token in tokens if not 0 <= token < model.vocab_size}):
        raise UserError(
            f"task {data.name!r} holds token {beyond[0]}, which lies beyond the {model.vocab_size} tokens that "
            f"{model.name} embeds: its tokenizer has a token that the model never got; use other words"
        )
    if data.tokenizer and data.tokenizer != heads.model.tokenizer_fingerprint:
        raise UserError(
            f"task {data.name!r} was made with another tokenizer than that of {heads.name}: its tokens mean other "
            "words there; make the task with this model"
        )


def _accuracy(bench: Bench) -> TaskAccuracy:
    examples = tuple(e for batch in bench.contrast.batches for e in batch.examples)
    return task_accuracy(torch.cat([batch.clean.logits for batch in bench.contrast.batches]), examples)


def _no_edges(heads: Heads) -> str:
    """Why single edges of this model cannot be held; empty where they can."""
    if not isinstance(heads, LanguageModelHeads):
        return ""
    if heads.model.post_norms:
        return (
            f"{heads.name} puts a norm behind its attention: what one head adds to the residual stream depends on the "
            "others, so single edges are not defined"
        )
    if not heads.model.can_start_late:
        return f"{heads.name} cannot be run from a layer in its middle, so no single edge can be held"
    return ""


def _known(heads: Heads, task: str | TaskData, data: TaskData) -> tuple[PublishedCircuit, ...]:
    """Reported circuits of the library's own tasks, where the model has the heads they name."""
    if isinstance(task, str) and task.endswith(".jsonl"):
        return ()
    shape = (heads.n_layers, heads.n_heads)
    fits = [k for k in published(data.name, heads.name) if all(h[0] < shape[0] and h[1] < shape[1] for h in k.heads)]
    return tuple(fits)


def _code_edges(bench: Bench, method: str, found: HeadScores, measured: EdgeScores | None) -> EdgeScores | None:
    """Co-occurrence scores of the measured edges between heads; of a method that counts codes, of the edges among its
    first heads."""
    n_heads = bench.heads.n_heads
    if measured is not None:
        edges = dict.fromkeys(Edge(e.sender, e.receiver) for e in measured.edges)  # channels share one score
    elif method in CODE_PRESETS:
        first = found.importance.argsort(descending=True, stable=True).tolist()[:MAX_KEPT]
        ends = sorted(divmod(i, n_heads) for i in first if found.importance[i] > 0)
        edges = dict.fromkeys(Edge(one, other) for one in ends for other in ends if one[0] < other[0])
    else:
        return None
    codes = bench.combined.codes if method == "combined" else bench.codes(CODE_PRESETS.get(method, "fast"))[0]
    assert codes is not None
    table = edge_scores(pair_counts(codes, break_ties=True), n_heads)
    kept, scores = [], []
    for edge in edges:
        if isinstance(edge.sender, tuple) and isinstance(edge.receiver, tuple):
            sender, receiver = (layer * n_heads + head for layer, head in (edge.sender, edge.receiver))
            kept.append(edge)
            scores.append(float(table[sender, receiver]))
    return EdgeScores("codes", kept, torch.tensor(scores, dtype=torch.float64), False, 0.0)


def _edges(found: EdgeScores | None) -> list[dict[str, Any]] | None:
    if found is None:
        return None
    intervals = found.intervals.tolist() if found.intervals is not None else [None] * len(found.edges)
    return [
        {"edge": str(edge), "score": float(score), "interval": interval}
        for edge, score, interval in zip(found.edges, found.scores, intervals)
    ]
