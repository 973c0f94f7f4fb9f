"""`find_circuit`: a model and a task in, ranked heads and edges with intervals out.

Place on the path: model, task → [method → members → edges] → page, drawing, JSON.

A head is a member when its effect is at least `share` of m(clean) − m(corrupt) and its 95% interval excludes 0; methods
without signs or intervals have a ranking and no members. Edges are measured exactly among the members (the strongest
`max_kept` of them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from monosemy.circuits.code_scores import edge_scores, pair_counts
from monosemy.circuits.contrast import Ablation, EdgeScores, HeadScores
from monosemy.circuits.heads import Heads, LanguageModelHeads, as_heads
from monosemy.circuits.kept_edges import kept_edges
from monosemy.circuits.methods import METHODS, NEEDS_NEGATIVES, Bench, check_methods
from monosemy.circuits.task import Edge, TaskData
from monosemy.circuits.tasks import N_EXAMPLES, TaskAccuracy, build_task, task_accuracy
from monosemy.errors import UserError

if TYPE_CHECKING:
    from monosemy.circuits.attention_only import AttentionOnly
    from monosemy.models.adapter import LanguageModel

MEMBER_SHARE = 0.05
MAX_KEPT = 12
"""Heads between which edges are measured, at most: edges grow with the square."""
EDGE_PROMPTS = 16
"""Prompts that edges are measured on, at most: there are several times more of them than heads that were checked."""


@dataclass(frozen=True)
class Circuit:
    """What one method found, and what other methods say."""

    model: str
    task: TaskData
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
    edges: EdgeScores | None
    code_edges: EdgeScores | None
    """Edges between members scored by the co-occurrence of their codes."""
    others: list[HeadScores]
    """The methods asked for in comparison, the main one not among them."""

    def name_of(self, index: int) -> str:
        """`7.3`"""
        return f"{index // self.n_heads}.{index % self.n_heads}"

    def ranked(self) -> list[int]:
        """All heads by number, most important first."""
        return self.heads.importance.argsort(descending=True, stable=True).tolist()

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "task": self.task.name,
            "provenance": list(self.task.provenance),
            "metric": self.task.metric,
            "n_prompts": self.n_prompts,
            "accuracy": str(self.accuracy),
            "m_clean": self.m_clean,
            "m_corrupt": self.m_corrupt,
            "members": [self.name_of(i) for i in self.members],
            "methods": [self._method(scores) for scores in (self.heads, *self.others)],
            "edges": _edges(self.edges),
            "edges_by_codes": _edges(self.code_edges),
        }

    def _method(self, scores: HeadScores) -> dict[str, Any]:
        return {
            "method": scores.method,
            "signed": scores.signed,
            "seconds": scores.seconds,
            "reading_seconds": scores.reading_seconds,
            "scores": {self.name_of(i): float(v) for i, v in enumerate(scores.scores)},
            "intervals": None
            if scores.intervals is None
            else {self.name_of(i): pair for i, pair in enumerate(scores.intervals.tolist())},
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
    Raises UserError: unknown names, a task that does not fit the model, a model without attention heads, or a metric
    that does not differ between prompts and counterparts.
    """
    check_methods([method, *compare])
    heads = as_heads(model)
    data = task if isinstance(task, TaskData) else _made(heads, task, [method, *compare], n_prompts, n_examples, seed)
    bench = Bench(heads, data, min(n_prompts, len(data.positives)), ablation, seed)
    contrast = bench.contrast
    m_clean, m_corrupt = float(contrast.m_clean.mean()), float(contrast.m_corrupt.mean())
    if abs(m_clean - m_corrupt) < 1e-6 * max(1.0, abs(m_clean)):
        raise UserError(
            f"the metric of task {data.name!r} is the same on prompts and counterparts ({m_clean:.3g}): {heads.name} "
            "does not tell them apart; choose another task or other counterparts"
        )
    accuracy = _accuracy(bench)
    found = METHODS[method](bench)
    members = members_of(found, m_clean - m_corrupt)
    kept = members[:MAX_KEPT]
    measured = by_codes = None
    if edges and kept:
        measured = kept_edges(contrast.first(EDGE_PROMPTS), kept) if _has_edges(heads) else None
        by_codes = _code_edges(bench, method, measured)
    others = [METHODS[name](bench) for name in compare if name != method]
    return Circuit(
        heads.name, data, heads.n_layers, heads.n_heads, accuracy, m_clean, m_corrupt, contrast.n_examples, found,
        members, measured, by_codes, others,
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


def _accuracy(bench: Bench) -> TaskAccuracy:
    examples = tuple(e for batch in bench.contrast.batches for e in batch.examples)
    return task_accuracy(torch.cat([batch.clean.logits for batch in bench.contrast.batches]), examples)


def _has_edges(heads: Heads) -> bool:
    return not (isinstance(heads, LanguageModelHeads) and (heads.model.post_norms or not heads.model.can_start_late))


def _code_edges(bench: Bench, method: str, measured: EdgeScores | None) -> EdgeScores | None:
    """Co-occurrence scores of the measured edges between heads."""
    if measured is None:
        return None
    codes = bench.combined.codes if method == "combined" else bench.codes("fast")[0]
    assert codes is not None
    n_heads = bench.heads.n_heads
    table = edge_scores(pair_counts(codes, break_ties=True), n_heads)
    edges, scores = [], []
    for edge in dict.fromkeys(Edge(e.sender, e.receiver) for e in measured.edges):  # channels share one score
        if isinstance(edge.sender, tuple) and isinstance(edge.receiver, tuple):
            sender, receiver = (layer * n_heads + head for layer, head in (edge.sender, edge.receiver))
            edges.append(edge)
            scores.append(float(table[sender, receiver]))
    return EdgeScores("codes", edges, torch.tensor(scores, dtype=torch.float64), False, 0.0)


def _edges(found: EdgeScores | None) -> list[dict[str, Any]] | None:
    if found is None:
        return None
    intervals = found.intervals.tolist() if found.intervals is not None else [None] * len(found.edges)
    return [
        {"edge": str(edge), "score": float(score), "interval": interval}
        for edge, score, interval in zip(found.edges, found.scores, intervals)
    ]
