"""The behaviours that come with the library, and those of a user; each is made for one model's tokenizer.

Place on the path: a name or a JSONL file, a model → [TaskData, how often the model is right] → head outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from monosemy.circuits.heads.task import MIN_ACCURACY, MIN_EXAMPLES, Example, TaskData, accuracy
from monosemy.circuits.heads.tasks import docstring, greater_than, induction, ioi, jsonl, subject_verb
from monosemy.circuits.heads.tasks.prompts import Prompts
from monosemy.errors import UserError, unknown
from monosemy.evals.intervals import Interval, bootstrap_weights, ratio_interval
from monosemy.support.numbers import fixed_percent_text

if TYPE_CHECKING:
    from monosemy.models.adapter import LanguageModel

TASKS: dict[str, Callable[..., TaskData]] = {
    "ioi": ioi.build,
    "greater-than": greater_than.build,
    "greater-than-units": partial(greater_than.build, form="units"),
    "greater-than-tens": partial(greater_than.build, form="tens"),
    "docstring": docstring.build,
    "docstring-source": partial(docstring.build, variant=docstring.SOURCE),
    "induction": induction.build,
    "subject-verb": subject_verb.build,
}
N_EXAMPLES = 250
"""Number of positives, and of negatives, as in the paper."""


def build_task(name: str, model: LanguageModel, n_examples: int = N_EXAMPLES, seed: int = 0) -> TaskData:
    """The task of that name, or of the JSONL file at that path, in the model's tokens.

    Raises UserError for an unknown task, too few examples, a tokenizer that splits what must be one token, or a file
    that cannot be used.
    """
    check_name(name)
    if n_examples < MIN_EXAMPLES:
        raise UserError(f"{n_examples} examples of each kind are too few; ask for at least {MIN_EXAMPLES}")
    return task_of(
        name, model.tokenizer_for(f"task {name!r}"), n_examples, seed, fingerprint=model.tokenizer_fingerprint
    )


def check_name(name: str) -> None:
    """Raises UserError unless this is a task's name or an existing .jsonl file; needs no model."""
    if name.endswith(".jsonl"):
        if not Path(name).expanduser().is_file():
            raise UserError(f"the task file {name!r} does not exist; give the path of a JSONL file")
    elif name not in TASKS:
        raise unknown("task", name, TASKS, fix="or give the path of a .jsonl file of your own prompts")


def task_of(name: str, tokenizer: Any, n_examples: int, seed: int, *, fingerprint: str = "") -> TaskData:
    """Like `build_task`, but for a tokenizer and its fingerprint, without a model."""
    prompts = Prompts(tokenizer)
    if name.endswith(".jsonl"):
        return jsonl.build(Path(name).expanduser(), prompts, fingerprint)
    return TASKS[name](prompts, n_examples, seed, fingerprint)


@dataclass(frozen=True)
class TaskAccuracy:
    """How often the model does the task."""

    share: float
    """Share of the examples whose most likely candidate, among answers and wrong answers, is an answer."""
    interval: Interval
    """95% bootstrap interval of `share` over examples."""
    top1: float
    """Share of the examples whose most likely token in the whole vocabulary is an answer."""
    n: int

    @property
    def enough(self) -> bool:
        """Whether the model does the task often enough to look for a circuit."""
        return self.share >= MIN_ACCURACY

    def __str__(self) -> str:
        interval_text = " ({} to {})".format(*map(fixed_percent_text, self.interval)) if self.interval else ""
        text = (
            f"right on {fixed_percent_text(self.share)}{interval_text} of {self.n} prompts; the answer is the top "
            f"token on {fixed_percent_text(self.top1)}"
        )
        if self.enough:
            return text
        least = fixed_percent_text(MIN_ACCURACY)
        return f"{text}: less than {least}, so what follows is not a circuit that does this task"


def task_accuracy(logits: Tensor, examples: tuple[Example, ...]) -> TaskAccuracy:
    """The accuracy on the examples, from the logits [B, V] at the last position of their prompts."""
    right = accuracy(logits, examples).cpu().double().numpy()
    top = logits.argmax(1).tolist()
    top1 = float(np.mean([token in example.answers for token, example in zip(top, examples)]))
    interval = ratio_interval(right, np.ones(len(right)), bootstrap_weights(len(right), 1000))
    return TaskAccuracy(float(right.mean()), interval, top1, len(examples))
