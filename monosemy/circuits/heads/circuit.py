"""`find_circuit`: from a model and a task to ranked heads and edges with intervals.

Place on the path: model, task → [method → members → edges] → page, drawing, JSON.

A head is a member of the circuit when its effect is at least `share` of m(clean) − m(corrupt) and its 95% interval
excludes 0. Methods without signs or intervals rank heads but name no members. What the members carry alone, and what is
left without them, is measured on the same prompts. Edges are measured exactly among the strongest `MAX_EDGE_HEADS`
members. Where papers report a circuit of this task in this model, every method is scored against it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from monosemy import __version__
from monosemy.circuits.heads.agreement import Agreement, agreement, labels_of
from monosemy.circuits.heads.code_scores import edge_scores, pair_counts
from monosemy.circuits.heads.contrast import MEMBER_SHARE, Ablation, metric_difference
from monosemy.circuits.heads.faithfulness import Carried, carried
from monosemy.circuits.heads.ground_truth import PublishedCircuit, published
from monosemy.circuits.heads.member_edges import patch_member_edges
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
from monosemy.circuits.heads.scores import EdgeScores, HeadScores
from monosemy.circuits.heads.task import Edge, TaskData, without_copies
from monosemy.circuits.heads.tasks import N_EXAMPLES, TaskAccuracy, build_task, task_accuracy
from monosemy.errors import UserError
from monosemy.support.numbers import fixed_text

if TYPE_CHECKING:
    from monosemy.circuits.heads.attention_only import AttentionOnly
    from monosemy.models.adapter import LanguageModel

ANNOUNCED_MINUTES = 3
"""Methods that are expected to take longer than this are announced with the expected time."""
MAX_EDGE_HEADS = 12
"""The most heads between which edges are measured; the number of edges grows with its square."""
EDGE_PROMPTS = 16
"""The most prompts on which edges are measured; there are several times more edges than checked heads."""


@dataclass(frozen=True)
class Circuit:
    """The circuit that one method found, and the rankings of the methods compared with it."""

    model: str
    fingerprint: str
    """Fingerprint of the model's weights."""
    task: TaskData
    ablation: Ablation
    seed: int
    n_layers: int
    n_heads: int
    accuracy: TaskAccuracy
    m_clean: float
    m_corrupt: float
    """Mean metric on the prompts (`m_clean`) and on their counterparts (`m_corrupt`)."""
    n_prompts: int
    heads: HeadScores
    members: list[int]
    """The circuit's heads by number, strongest first; empty where the method cannot name any."""
    carried: Carried | None
    """How much of the behaviour the members carry; None where there are none."""
    edges: EdgeScores | None
    n_edge_prompts: int
    """Number of prompts on which edges were measured."""
    no_edges: str
    """Why edges cannot be measured in this model; empty where they can, or were not asked for."""
    code_edges: EdgeScores | None
    """Edges between members, scored by the co-occurrence of their codes. Where codes rank the heads and name no
    members, edges between the first `MAX_EDGE_HEADS` heads."""
    compared: list[HeadScores]
    """The methods asked for in comparison, without the main one."""
    published: tuple[PublishedCircuit, ...]
    """The circuits that papers report for this task in this model."""
    skipped_layers: str = ""
    """Which layers are left out, and why; empty where none are."""

    @property
    def best_edges(self) -> EdgeScores | None:
        """The measured edges or, where there are none, those scored by codes."""
        return self.code_edges if self.edges is None else self.edges

    def name_of(self, index: int) -> str:
        """The head's name, `layer.head`, such as `7.3`."""
        return f"{index // self.n_heads}.{index % self.n_heads}"

    def ranked(self) -> list[int]:
        """The numbers of all heads, most important first."""
        return self.heads.importance.argsort(descending=True, stable=True).tolist()

    def agreement_with(self, circuit: PublishedCircuit, scores: HeadScores) -> Agreement:
        """How well a method's ranking agrees with a reported circuit."""
        return agreement(scores.importance, labels_of(circuit.heads, self.n_layers, self.n_heads))

    def to_json(self) -> dict[str, Any]:
        """Everything about the circuit as JSON values, the content of circuit.json."""
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
            "methods": [self._method(scores) for scores in (self.heads, *self.compared)],
            "published": [self._published(circuit) for circuit in self.published],
            "edges": _edges(self.edges),
            "n_edge_prompts": self.n_edge_prompts,
            "no_edges": self.no_edges or None,
            "left_out": self.skipped_layers or None,
            "edges_by_codes": _edges(self.code_edges),
        }

    def _method(self, scores: HeadScores) -> dict[str, Any]:
        """One method's scores and cost, as JSON values."""
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

    def _published(self, circuit: PublishedCircuit) -> dict[str, Any]:
        """One reported circuit with every method's agreement, as JSON values."""
        agreements = [(scores.method, self.agreement_with(circuit, scores)) for scores in (self.heads, *self.compared)]
        return {
            "version": circuit.version,
            "source": circuit.source,
            "heads": [f"{layer}.{head}" for layer, head in sorted(circuit.heads)],
            "agreement": {
                method: {"auc": a.auc, "interval": a.auc_interval, "average_precision": a.average_precision}
                for method, a in agreements
            },
        }


@dataclass(frozen=True)
class CircuitSettings:
    """How a circuit is searched for.

    Raises UserError for an unknown method, a seed out of range, or fewer examples than the prompts taken from them.
    """

    method: str = "combined"
    """The method that ranks the heads, a name in `methods.METHODS`."""
    compare: Sequence[str] = ()
    """Methods whose rankings are shown beside the main one."""
    n_prompts: int = 64
    """Number of prompts that causal methods run on."""
    n_examples: int | None = None
    """Number of positives, and of negatives, to make; None: 250 where a method counts codes, else `n_prompts`."""
    ablation: Ablation = "resample"
    """What replaces a head's values: the counterpart's (`resample`), their mean (`mean`) or nothing (`zero`)."""
    edges: bool = True
    """Whether edges are measured too."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_methods([self.method, *self.compare])
        check_seed(self.seed)
        if self.n_examples is not None and self.n_examples < self.n_prompts:
            raise UserError(
                f"n_examples ({self.n_examples}) must be at least n_prompts ({self.n_prompts}), which are taken from "
                "them"
            )

    @property
    def compared(self) -> list[str]:
        """The methods to compare, each once and without the main one."""
        return [name for name in dict.fromkeys(self.compare) if name != self.method]


def find_circuit(
    model: LanguageModel | AttentionOnly | Heads,
    task: str | TaskData,
    settings: CircuitSettings | None = None,
    **changes: Any,
) -> Circuit:
    """The heads and edges of `model` that carry a behaviour.

    task: a task's name, the path of a JSONL file, or prompts already made. changes: fields of `CircuitSettings`, as in
    `find_circuit(model, "ioi", method="eap", n_prompts=32)`.

    Warns, before any method runs, when the model is right on too few prompts, and when prompts are copies, which count
    once. Raises UserError for settings that are impossible, a task that does not fit the model (its tokenizer,
    vocabulary or positions), a model without attention heads, a metric that is no larger on prompts than on
    counterparts, `n_examples` together with prompts of your own, and more prompts than fit into memory.
    """
    settings = replace(settings or CircuitSettings(), **changes)
    heads = as_heads(model)
    data = _prompts(heads, task, settings)
    ablation = settings.ablation
    bench = Bench(heads, data, min(settings.n_prompts, len(data.positives)), ablation, seed=settings.seed)
    contrast = bench.contrast
    difference = metric_difference(contrast, data.name)
    # Announce what may make the result worthless or slow, before any method runs.
    accuracy = _accuracy(bench)
    if not accuracy.enough:
        warnings.warn(f"{data.name} on {heads.name}: {accuracy}", stacklevel=2)
    methods = [settings.method, *settings.compared]
    if (minutes := expected_seconds(bench, methods) / 60) > ANNOUNCED_MINUTES:
        warnings.warn(f"about {fixed_text(minutes, 0)} minutes for {', '.join(methods)}", stacklevel=2)
    # Heads, members, and what the members carry.
    head_scores = METHODS[settings.method](bench)
    members = members_of(head_scores, difference)
    carried_shares = carried(contrast, members, ablation) if members else None
    # Edges among the members, on fewer prompts: there are many more edges than heads.
    no_edges = _no_edges(heads) if settings.edges else ""
    edges, n_edge_prompts = None, 0
    if settings.edges and members and not no_edges:
        edge_contrast = contrast.first(EDGE_PROMPTS)
        edges = patch_member_edges(edge_contrast, members[:MAX_EDGE_HEADS], ablation)
        n_edge_prompts = edge_contrast.n_examples
    return Circuit(
        model=heads.name,
        fingerprint=heads.fingerprint,
        task=data,
        ablation=ablation,
        seed=settings.seed,
        n_layers=heads.n_layers,
        n_heads=heads.n_heads,
        accuracy=accuracy,
        m_clean=float(contrast.m_clean.mean()),
        m_corrupt=float(contrast.m_corrupt.mean()),
        n_prompts=contrast.n_examples,
        heads=head_scores,
        members=members,
        carried=carried_shares,
        edges=edges,
        n_edge_prompts=n_edge_prompts,
        no_edges=no_edges,
        code_edges=_code_edges(bench, settings.method, head_scores, edges) if settings.edges else None,
        compared=[METHODS[name](bench) for name in settings.compared],
        published=_published_circuits(heads, task, data),
        skipped_layers=heads.skipped_layers,
    )


def _prompts(heads: Heads, task: str | TaskData, settings: CircuitSettings) -> TaskData:
    """The task's prompts, checked against the model, each once; warns of copies that were dropped."""
    own_prompts = isinstance(task, TaskData) or task.endswith(".jsonl")
    if settings.n_examples is not None and own_prompts:
        raise UserError(
            f"n_examples ({settings.n_examples}) says how many prompts of a task of the library to make; your own "
            "prompts are all read: leave it out, or give fewer prompts"
        )
    data = task if isinstance(task, TaskData) else _build_task(heads, task, settings)
    _check_tokens(heads, data)
    n_notes = len(data.provenance)
    data = without_copies(data)
    for note in data.provenance[n_notes:]:
        warnings.warn(f"{data.name}: {note}", stacklevel=3)
    return data


def members_of(scores: HeadScores, difference: float, share: float = MEMBER_SHARE) -> list[int]:
    """The heads whose effect is at least `share` of `difference` and whose interval excludes 0, strongest first.

    Empty for methods without signs or intervals.
    """
    if not scores.signed or scores.intervals is None:
        return []
    large = scores.importance >= share * abs(difference)
    clear = (scores.intervals[:, 0] > 0) | (scores.intervals[:, 1] < 0)
    order = scores.importance.argsort(descending=True, stable=True).tolist()
    return [i for i in order if bool(large[i] & clear[i])]


def _build_task(heads: Heads, task: str, settings: CircuitSettings) -> TaskData:
    """Makes the prompts of a task of the library, or reads those of a file, for the model's tokenizer."""
    if not isinstance(heads, LanguageModelHeads):
        raise UserError(f"{heads.name} has no tokenizer; give the prompts themselves (TaskData) instead of {task!r}")
    n_examples = settings.n_examples
    if n_examples is None:
        counts_codes = any(name in NEEDS_NEGATIVES for name in (settings.method, *settings.compare))
        n_examples = N_EXAMPLES if counts_codes else settings.n_prompts
    return build_task(task, heads.model, max(n_examples, settings.n_prompts), settings.seed)


def _check_tokens(heads: Heads, data: TaskData) -> None:
    """Raises UserError for prompts that are too long for the model, or of another tokenizer or vocabulary."""
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
    """How often the model does the task on the prompts of the bench."""
    examples = tuple(e for batch in bench.contrast.batches for e in batch.examples)
    return task_accuracy(torch.cat([batch.clean.logits for batch in bench.contrast.batches]), examples)


def _no_edges(heads: Heads) -> str:
    """Why single edges cannot be replaced in this model; empty where they can."""
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


def _published_circuits(heads: Heads, task: str | TaskData, data: TaskData) -> tuple[PublishedCircuit, ...]:
    """The reported circuits of one of the library's own tasks, where the model has all heads that they name."""
    if isinstance(task, str) and task.endswith(".jsonl"):
        return ()
    shape = (heads.n_layers, heads.n_heads)
    fits = [k for k in published(data.name, heads.name) if all(h[0] < shape[0] and h[1] < shape[1] for h in k.heads)]
    return tuple(fits)


def _code_edges(bench: Bench, method: str, head_scores: HeadScores, measured: EdgeScores | None) -> EdgeScores | None:
    """Edges scored by the co-occurrence of their ends' codes.

    These are the measured edges between heads or, for a method that ranks by codes, the edges among its first heads;
    None for any other method.
    """
    n_heads = bench.heads.n_heads
    if measured is not None:
        edges = dict.fromkeys(Edge(e.sender, e.receiver) for e in measured.edges)  # channels share one score
    elif method in CODE_PRESETS:
        first = head_scores.importance.argsort(descending=True, stable=True).tolist()[:MAX_EDGE_HEADS]
        ends = sorted(divmod(i, n_heads) for i in first if head_scores.importance[i] > 0)
        edges = dict.fromkeys(Edge(sender, receiver) for sender in ends for receiver in ends if sender[0] < receiver[0])
    else:
        return None
    # The combined method has its own codes; a code method takes those it ranks by, any other method those of `fast`.
    codes = bench.combined.codes if method == "combined" else bench.codes(CODE_PRESETS.get(method, "fast"))[0]
    assert codes is not None
    table = edge_scores(pair_counts(codes, break_ties=True), n_heads)
    scored_edges, scores = [], []
    for edge in edges:
        if isinstance(edge.sender, tuple) and isinstance(edge.receiver, tuple):
            sender, receiver = (layer * n_heads + head for layer, head in (edge.sender, edge.receiver))
            scored_edges.append(edge)
            scores.append(float(table[sender, receiver]))
    return EdgeScores("codes", scored_edges, torch.tensor(scores, dtype=torch.float64), False, seconds=0.0)


def _edges(edge_scores: EdgeScores | None) -> list[dict[str, Any]] | None:
    """Edges with scores and intervals, as JSON values."""
    if edge_scores is None:
        return None
    intervals = edge_scores.intervals.tolist() if edge_scores.intervals is not None else [None] * len(edge_scores.edges)
    return [
        {"edge": str(edge), "score": float(score), "interval": interval}
        for edge, score, interval in zip(edge_scores.edges, edge_scores.scores, intervals)
    ]
