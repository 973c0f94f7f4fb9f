"""A behaviour as data: prompts that show it, matched prompts that cannot, and a metric; also the types of a circuit.

Place on the path: tokenizer → [task] → head outputs → codes, patching → scores.

    positives   the model's next token follows the behaviour
    negatives   matched prompts on which the behaviour is impossible
    corrupted   for every prompt, the prompt of the same length whose activations are patched in

Metrics map the logits ℓ [B, V] at the last position to one number per example, larger when the behaviour is stronger:

    logit_difference         mean_a ℓ_a − mean_w ℓ_w       over answers a and wrong answers w; linear in ℓ
    probability_difference   Σ_a p_a − Σ_w p_w             p = softmax(ℓ)
    logit_minus_best_wrong   mean_a ℓ_a − max_w ℓ_w

Sign convention of every causal score in this package: effect = m(clean) − m(component replaced). A component that
supports the behaviour has a positive effect, one that works against it a negative effect.

Source: O'Neill and Bui 2024 (arXiv 2405.12522) for positives and negatives; Wang et al. 2022 (2211.00593), Hanna et
al. 2023 (2305.00586) and Heimersheim and Janiak 2023 for the metrics. Limits: one answer position (the last), answers
of one token, all prompts of the same length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosemy.errors import UserError, unknown

MIN_EXAMPLES = 5
"""The fewest prompts of a kind; fewer cannot tell a circuit from chance."""
MIN_ACCURACY = 0.75
"""The lowest accuracy at which a model can be said to do the task, so that a circuit is worth looking for."""

Head: TypeAlias = tuple[int, int]
"""(layer, head), both counted from 0; heads are query heads."""
INPUT: Literal["input"] = "input"
OUTPUT: Literal["output"] = "output"
Channel: TypeAlias = Literal["q", "k", "v", ""]
"""What an edge feeds in the receiving head: its queries, keys or values; "" for an edge into the output."""


@dataclass(frozen=True)
class Edge:
    """The direct path by which what one head (or the embeddings) writes reaches another head (or the logits)."""

    sender: Head | Literal["input"]
    receiver: Head | Literal["output"]
    channel: Channel = ""

    def __str__(self) -> str:
        sender, receiver = (node if isinstance(node, str) else f"{node[0]}.{node[1]}" for node in self.ends)
        return f"{sender} → {receiver}{f' ({self.channel})' if self.channel else ''}"

    @property
    def ends(self) -> tuple[Head | str, Head | str]:
        """Sender and receiver."""
        return self.sender, self.receiver


@dataclass(frozen=True)
class Example:
    """One prompt, its counterpart, and the tokens that tell whether the model shows the behaviour."""

    tokens: tuple[int, ...]
    corrupted: tuple[int, ...]
    """The counterpart, of the same length, on which the behaviour is impossible or has another answer."""
    answers: tuple[int, ...]
    """The next tokens that show the behaviour."""
    wrong: tuple[int, ...]
    """The next tokens that compete with the answers; no token is in both."""
    _: KW_ONLY
    text: str = ""
    corrupted_text: str = ""
    answer_texts: tuple[str, ...] = ()
    """The answers in words, for people; so `wrong_texts`."""
    wrong_texts: tuple[str, ...] = ()

    def reversed(self) -> Example:
        """The example with prompt and counterpart exchanged; answers and wrong answers stay."""
        return replace(
            self, tokens=self.corrupted, corrupted=self.tokens, text=self.corrupted_text, corrupted_text=self.text
        )


@dataclass(frozen=True)
class TaskData:
    """A task in the tokens of one tokenizer. Raises UserError for prompts that cannot be used (see `check`)."""

    name: str
    positives: tuple[Example, ...]
    negatives: tuple[Example, ...]
    """Prompts without the behaviour, with the `answers` and `wrong` of the matched positive."""
    metric: str
    """A name in `METRICS`."""
    tokenizer: str = ""
    """Fingerprint of the tokenizer that made the tokens; empty for symbols that come from no tokenizer."""
    provenance: tuple[str, ...] = ()
    """Where the prompts come from and what was left out, in one sentence each."""

    def __post_init__(self) -> None:
        check(self)

    @property
    def n_tokens(self) -> int:
        """The number of tokens of every prompt."""
        return len(self.positives[0].tokens)


def check(data: TaskData) -> None:
    """Raises UserError for a task that cannot be used.

    That is: an unknown metric, fewer than 5 prompts of a kind, prompts of different lengths, a prompt equal to its
    counterpart, a prompt without answers or wrong answers, or a token that is both right and wrong.
    """
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
    """Raises UserError for an example that is unusable, or whose prompts differ in length from the first one's."""
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
    """The task with every prompt once; provenance says how many copies were left out.

    Copies would leak between training and held-out prompts and make intervals too narrow. Raises UserError when fewer
    than 5 different prompts of a kind are left.
    """
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
    """The prompts of the examples as one batch."""
    return torch.tensor([example.tokens for example in examples])


def corrupted_tokens(examples: Sequence[Example]) -> Int[Tensor, "B T"]:
    """The counterparts of the examples as one batch, in the same order."""
    return torch.tensor([example.corrupted for example in examples])


# --- metrics ----------------------------------------------------------------------------------------------------------

Metric: TypeAlias = Callable[[Tensor, Sequence[Example]], Tensor]
"""(logits [B, V] at the last position, the B examples) → [B], in the logits' dtype and differentiable in them."""


def logit_difference(logits: Float[Tensor, "B V"], examples: Sequence[Example]) -> Float[Tensor, " B"]:
    """Mean logit of the answers minus mean logit of the wrong answers; linear in the logits."""
    answers, is_answer, wrong, is_wrong = _candidates(logits, examples)
    right = (answers * is_answer).sum(1) / is_answer.sum(1)
    return right - (wrong * is_wrong).sum(1) / is_wrong.sum(1)


def probability_difference(logits: Float[Tensor, "B V"], examples: Sequence[Example]) -> Float[Tensor, " B"]:
    """Probability of all answers minus probability of all wrong answers, from −1 to 1."""
    answers, is_answer, wrong, is_wrong = _candidates(logits, examples)
    total = logits.logsumexp(1, keepdim=True)
    return ((answers - total).exp() * is_answer).sum(1) - ((wrong - total).exp() * is_wrong).sum(1)


def logit_minus_best_wrong(logits: Float[Tensor, "B V"], examples: Sequence[Example]) -> Float[Tensor, " B"]:
    """Mean logit of the answers minus the largest logit of any wrong answer."""
    answers, is_answer, wrong, is_wrong = _candidates(logits, examples)
    best = wrong.masked_fill(is_wrong == 0, -torch.inf).amax(1)
    return (answers * is_answer).sum(1) / is_answer.sum(1) - best


METRICS: dict[str, Metric] = {
    "logit_difference": logit_difference,
    "probability_difference": probability_difference,
    "logit_minus_best_wrong": logit_minus_best_wrong,
}


def accuracy(logits: Float[Tensor, "B V"], examples: Sequence[Example]) -> Float[Tensor, " B"]:
    """1 where the most likely of all answers and wrong answers is an answer, else 0; a tie counts as wrong."""
    answers, is_answer, wrong, is_wrong = _candidates(logits, examples)
    best = answers.masked_fill(is_answer == 0, -torch.inf).amax(1)
    return (best > wrong.masked_fill(is_wrong == 0, -torch.inf).amax(1)).to(logits.dtype)


def _candidates(logits: Tensor, examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits of the answers and of the wrong answers [B, most], each with a mask, as their numbers vary by example."""
    if len(logits) != len(examples):
        raise ValueError(f"{len(logits)} rows of logits for {len(examples)} examples")
    columns: list[Tensor] = []
    for lists in ([example.answers for example in examples], [example.wrong for example in examples]):
        most = max(map(len, lists))
        # Shorter lists are filled with their first token, a valid index for gather; the mask leaves the filling out.
        ids = torch.tensor([[*ids, *[ids[0]] * (most - len(ids))] for ids in lists], device=logits.device)
        lengths = torch.tensor([len(ids) for ids in lists], device=logits.device)
        mask = torch.arange(most, device=logits.device) < lengths[:, None]
        columns += [logits.gather(1, ids), mask.to(logits.dtype)]
    return columns[0], columns[1], columns[2], columns[3]


HeadEdit: TypeAlias = Callable[[int, Tensor], Tensor]
"""(layer, outputs [B, T, H, d] of its heads) → their replacement; called in layer order while the pass runs."""
