"""A behaviour as data: prompts that show it, matched prompts that cannot, a metric; and what a circuit is made of.

Place on the path: tokenizer → [task] → head outputs → codes, patching → scores.

    positives   the model's next token follows the behaviour
    negatives   matched prompts on which the behaviour is impossible
    corrupted   for every prompt, the prompt of the same length whose activations are patched in

Metrics map logits ℓ [B, V] at the last position to one number per example, larger when the behaviour is stronger:

    logit_difference         mean_a ℓ_a − mean_w ℓ_w       over answers a and wrong answers w; linear in ℓ
    probability_difference   Σ_a p_a − Σ_w p_w             p = softmax(ℓ)
    logit_minus_best_wrong   mean_a ℓ_a − max_w ℓ_w

Sign convention of every causal score in this package: effect = m(clean) − m(component replaced), so that a component
that helps has a positive effect, and one that works against the behaviour a negative effect.

Source: O'Neill and Bui 2024 (arXiv 2405.12522) for positives and negatives; Wang et al. 2022 (2211.00593), Hanna et
al. 2023 (2305.00586) and Heimersheim and Janiak 2023 for the metrics. Limits: one answer position (the last), answers
of one token, all prompts of one length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosemy.errors import UserError, unknown

MIN_EXAMPLES = 5
"""Fewer prompts than this tell a circuit from nothing."""
MIN_ACCURACY = 0.75
"""A model that does the task less often than this has no circuit worth looking for."""

Head: TypeAlias = tuple[int, int]
"""(layer, head), both from 0; heads are counted as query heads."""
INPUT: Literal["input"] = "input"
OUTPUT: Literal["output"] = "output"
Channel: TypeAlias = Literal["q", "k", "v", ""]
"""What of the receiving head an edge feeds: its queries, keys or values; "" for an edge into the output."""


@dataclass(frozen=True)
class Edge:
    """What one head (or the embeddings) writes and another (or the logits) reads."""

    sender: Head | Literal["input"]
    receiver: Head | Literal["output"]
    channel: Channel = ""

    def __str__(self) -> str:
        sender, receiver = (node if isinstance(node, str) else f"{node[0]}.{node[1]}" for node in self.ends)
        return f"{sender} → {receiver}{f' ({self.channel})' if self.channel else ''}"

    @property
    def ends(self) -> tuple[Head | str, Head | str]:
        return self.sender, self.receiver


@dataclass(frozen=True)
class Example:
    """One prompt, its counterpart, and the tokens that tell whether the behaviour is there."""

    tokens: tuple[int, ...]
    corrupted: tuple[int, ...]
    """The counterpart, of the same length: the behaviour is impossible or its answer is another."""
    answers: tuple[int, ...]
    """Next tokens that follow the behaviour."""
    wrong: tuple[int, ...]
    """Next tokens that compete with them; no token is in both."""
    text: str = ""
    corrupted_text: str = ""

    def reversed(self) -> Example:
        """The counterpart as the prompt, this prompt as its counterpart; answers stay."""
        return Example(
            self.corrupted, self.tokens, self.answers, self.wrong, text=self.corrupted_text, corrupted_text=self.text
        )


@dataclass(frozen=True)
class TaskData:
    """A task made for one tokenizer. Raises UserError when the prompts cannot serve (see `check`)."""

    name: str
    positives: tuple[Example, ...]
    negatives: tuple[Example, ...]
    """Prompts without the behaviour; `answers` and `wrong` as in the matched positive."""
    metric: str
    """A name in `METRICS`."""
    tokenizer: str = ""
    """Fingerprint of the tokenizer that made the tokens; empty for symbols that none made."""
    provenance: tuple[str, ...] = ()
    """Where the prompts come from and what was left out, one sentence each."""

    def __post_init__(self) -> None:
        check(self)

    @property
    def n_tokens(self) -> int:
        """Length of every prompt."""
        return len(self.positives[0].tokens)


def check(data: TaskData) -> None:
    """Raises UserError: unknown metric, fewer than 5 prompts of a kind (or none: labels all of one kind), prompts of
    different length, a prompt equal to its counterpart, no answer, or a token both right and wrong."""
    if data.metric not in METRICS:
        raise unknown("metric", data.metric, METRICS)
    for kind, examples, opposite in (
        ("positive", data.positives, "negative"),
        ("negative", data.negatives, "positive"),
    ):
        if not examples:
            raise UserError(
                f"task {data.name!r} has only {opposite} prompts; a circuit shows in the difference between positive "
                f"and negative prompts: add at least {MIN_EXAMPLES} {kind} ones"
            )
        if len(examples) < MIN_EXAMPLES:
            raise UserError(
                f"task {data.name!r} has {len(examples)} {kind} prompts; at least {MIN_EXAMPLES} are needed: add more"
            )
    first = data.positives[0]
    for example in (*data.positives, *data.negatives):
        check_example(data.name, example, first)


def check_example(name: str, example: Example, first: Example) -> None:
    """Raises UserError for an example that cannot stand beside the first one."""
    prompt_text = repr(example.text or example.tokens)
    for tokens, text in ((example.tokens, example.text), (example.corrupted, example.corrupted_text)):
        if len(tokens) != len(first.tokens):
            raise UserError(
                f"task {name!r}: all prompts must have the same number of tokens, but {text or tokens!r} has "
                f"{len(tokens)} and {first.text or first.tokens!r} has {len(first.tokens)}; reword one of them"
            )
    if not example.tokens:
        raise UserError(f"task {name!r}: a prompt is empty; every prompt needs at least one token")
    if not example.answers or not example.wrong:
        missing = "wrong answer" if example.answers else "answer"
        raise UserError(f"task {name!r}: the prompt {prompt_text} has no {missing}; give at least one token")
    if ambiguous := set(example.answers) & set(example.wrong):
        raise UserError(
            f"task {name!r}: the prompt {prompt_text} has tokens that are both right and wrong: {sorted(ambiguous)}"
        )
    if example.tokens == example.corrupted:
        raise UserError(f"task {name!r}: the prompt {prompt_text} equals its counterpart; make the counterpart differ")


def without_copies(data: TaskData) -> TaskData:
    """The task with every prompt once: copies would make splits leak and intervals narrow. Provenance says how many
    were left out. Raises UserError when fewer than 5 prompts of a kind differ."""
    of_kind = {"positive": data.positives, "negative": data.negatives}
    distinct: dict[str, tuple[Example, ...]] = {}
    notes = []
    for kind, examples in of_kind.items():
        by_tokens: dict[tuple[int, ...], Example] = {}
        for example in examples:
            by_tokens.setdefault(example.tokens, example)
        distinct[kind] = tuple(by_tokens.values())
        n, n_distinct = len(examples), len(by_tokens)
        if n_distinct < MIN_EXAMPLES:
            raise UserError(
                f"task {data.name!r} has {n} {kind} prompts, but only {n_distinct} different ones, and copies count as "
                f"one; at least {MIN_EXAMPLES} are needed: add more"
            )
        if n_distinct < n:
            notes.append(f"{n - n_distinct} of {n} {kind} prompts are copies of others and left out")
    if not notes:
        return data
    return replace(
        data,
        positives=distinct["positive"],
        negatives=distinct["negative"],
        provenance=(*data.provenance, *notes),
    )


def clean_tokens(examples: Sequence[Example]) -> Int[Tensor, "B T"]:
    """The prompts as one batch."""
    return torch.tensor([example.tokens for example in examples])


def corrupted_tokens(examples: Sequence[Example]) -> Int[Tensor, "B T"]:
    """Their counterparts as one batch, in the same order."""
    return torch.tensor([example.corrupted for example in examples])


# --- metrics ----------------------------------------------------------------------------------------------------------

Metric: TypeAlias = Callable[[Tensor, Sequence[Example]], Tensor]
"""(logits [B, V] at the last position, the B examples) → [B], in the dtype of the logits, differentiable."""


def logit_difference(logits: Float[Tensor, "B V"], examples: Sequence[Example]) -> Float[Tensor, " B"]:
    """Mean logit of the answers minus mean logit of the wrong ones; linear in the logits."""
    answers, is_answer, wrong, is_wrong = _candidates(logits, examples)
    right = (answers * is_answer).sum(1) / is_answer.sum(1)
    return right - (wrong * is_wrong).sum(1) / is_wrong.sum(1)


def probability_difference(logits: Float[Tensor, "B V"], examples: Sequence[Example]) -> Float[Tensor, " B"]:
    """Probability of all answers minus that of all wrong ones, from −1 to 1."""
    answers, is_answer, wrong, is_wrong = _candidates(logits, examples)
    total = logits.logsumexp(1, keepdim=True)
    return ((answers - total).exp() * is_answer).sum(1) - ((wrong - total).exp() * is_wrong).sum(1)


def logit_minus_best_wrong(logits: Float[Tensor, "B V"], examples: Sequence[Example]) -> Float[Tensor, " B"]:
    """Mean logit of the answers minus the largest logit among the wrong ones."""
    answers, is_answer, wrong, is_wrong = _candidates(logits, examples)
    best = wrong.masked_fill(is_wrong == 0, -torch.inf).amax(1)
    return (answers * is_answer).sum(1) / is_answer.sum(1) - best


METRICS: dict[str, Metric] = {
    "logit_difference": logit_difference,
    "probability_difference": probability_difference,
    "logit_minus_best_wrong": logit_minus_best_wrong,
}


def accuracy(logits: Float[Tensor, "B V"], examples: Sequence[Example]) -> Float[Tensor, " B"]:
    """1 where the likeliest of all answers and wrong answers is an answer, else 0 (a tie counts as wrong)."""
    answers, is_answer, wrong, is_wrong = _candidates(logits, examples)
    best = answers.masked_fill(is_answer == 0, -torch.inf).amax(1)
    return (best > wrong.masked_fill(is_wrong == 0, -torch.inf).amax(1)).to(logits.dtype)


def _candidates(logits: Tensor, examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits of the answers and of the wrong ones [B, most], each with its mask (their numbers may differ)."""
    if len(logits) != len(examples):
        raise ValueError(f"{len(logits)} rows of logits for {len(examples)} examples")
    columns: list[Tensor] = []
    for lists in ([example.answers for example in examples], [example.wrong for example in examples]):
        most = max(map(len, lists))
        ids = torch.tensor([[*ids, *[ids[0]] * (most - len(ids))] for ids in lists], device=logits.device)
        lengths = torch.tensor([len(ids) for ids in lists], device=logits.device)
        mask = torch.arange(most, device=logits.device) < lengths[:, None]
        columns += [logits.gather(1, ids), mask.to(logits.dtype)]
    return columns[0], columns[1], columns[2], columns[3]


HeadEdit: TypeAlias = Callable[[int, Tensor], Tensor]
"""(layer, outputs [B, T, H, d] of its heads) → their replacement; called in layer order while the pass runs."""
