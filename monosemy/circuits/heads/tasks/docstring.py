"""Docstring: which argument is described next?

    def port(self, load, size, files, last, name, unit):
        \"\"\"oil column piece

        :param files: crime population
        :param last: dark river
        :param                                  → " name"

The described arguments come in the order of the definition; undescribed ones may come before and after them. In
negatives and counterparts all argument names, defined and described, are others, so that the description does not
follow the definition. Metric: logit(next argument) − largest logit among all other arguments.

A `DocstringVariant` says how many arguments there are of each kind, and whether their names are random words or those
of real code. The prompt above is the source's variant, task `docstring-source`. Task `docstring` is the variant that
the study of heads chose for the embedded model, which is right on too few of the source's prompts.

Source: Heimersheim and Janiak 2023, A circuit for Python docstrings in a 4-layer attention-only transformer (its
corruption `random_random`). Deviations: word lists of our own; variants. A prompt of the source's variant has 41 tokens
in GPT-2's tokenizer, 42 with the start token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from monosemy.circuits.heads.task import TaskData
from monosemy.circuits.heads.tasks import words
from monosemy.circuits.heads.tasks.prompts import Draft, Prompts, enough, sample, share
from monosemy.errors import UserError, unknown

ArgumentNames = Literal["words", "code"]
QUOTES = '"""'
MAX_MATCHING = 6
"""The most described arguments; more would need more different names than the lists are sure to have."""
MIN_NAMES = 40
"""How many names of arguments, and how many nouns, must be single tokens."""


@dataclass(frozen=True)
class DocstringVariant:
    """How the function's arguments look. Raises UserError for numbers or names that make no prompt."""

    n_before: int = 2
    """Arguments of the definition before the described ones."""
    n_matching: int = 3
    """Described arguments; the last of them is the answer."""
    n_after: int = 1
    """Arguments of the definition after the described ones."""
    names: ArgumentNames = "words"
    """Random nouns (`words`) or names that arguments have in real code (`code`)."""

    def __post_init__(self) -> None:
        if self.names not in get_args(ArgumentNames):
            raise unknown("kind of argument names", self.names, get_args(ArgumentNames))
        if not (2 <= self.n_matching <= MAX_MATCHING and 0 <= self.n_before <= 4 and 0 <= self.n_after <= 4):
            raise UserError(
                f"a docstring variant needs 2 to {MAX_MATCHING} described arguments, and 0 to 4 before and after them; "
                f"got {self.n_matching}, {self.n_before} and {self.n_after}"
            )

    @property
    def n_arguments(self) -> int:
        """All arguments of the definition but `self`."""
        return self.n_before + self.n_matching + self.n_after

    @property
    def task_name(self) -> str:
        """`docstring`, `docstring-source`, or the settings in words, such as `docstring-0-3-1-code`."""
        by_variant = {DEFAULT: "docstring", SOURCE: "docstring-source"}
        counts = f"{self.n_before}-{self.n_matching}-{self.n_after}"
        return by_variant.get(self, f"docstring-{counts}-{self.names}")


SOURCE = DocstringVariant()
"""The source's prompts: two arguments before, three described, one after, random words."""
DEFAULT = DocstringVariant(n_before=0, names="code")
"""The variant of task `docstring`, chosen by accuracy on prompts of their own (research/heads/docstring.py)."""


def build(prompts: Prompts, n: int, seed: int, tokenizer: str = "", *, variant: DocstringVariant = DEFAULT) -> TaskData:
    """n positives and their counterparts as negatives. Raises UserError for a tokenizer with too few words."""
    nouns = prompts.single_token_words(words.NOUNS)
    enough("docstring", "nouns", nouns, MIN_NAMES)
    quotes = prompts.encode(QUOTES)
    # The docstring's first word follows the quotes without a space, where it must be one token too.
    openings = tuple(word for word in nouns if len(prompts.encode(QUOTES + word)) == len(quotes) + 1)
    enough("docstring", "nouns (without a space before them)", openings, 5)
    argument_names, provenance = nouns, [share(nouns, words.NOUNS, "nouns")]
    if variant.names == "code":
        argument_names = prompts.single_token_words(words.ARGUMENTS)
        enough("docstring", "names of arguments", argument_names, MIN_NAMES)
        provenance.append(share(argument_names, words.ARGUMENTS, "names of arguments"))
    random = np.random.default_rng([seed, 4])
    drafts = [_draft(random, variant, argument_names, nouns, openings=openings) for _ in range(n)]
    positives = tuple(prompts.example(draft) for draft in drafts)
    negatives = tuple(example.reversed() for example in positives)
    return TaskData(
        variant.task_name,
        positives,
        negatives,
        "logit_minus_best_wrong",
        tokenizer=tokenizer,
        provenance=tuple(provenance),
    )


def _draft(
    random: np.random.Generator,
    variant: DocstringVariant,
    argument_names: Sequence[str],
    nouns: Sequence[str],
    *,
    openings: Sequence[str],
) -> Draft:
    """One example in words: a function with its docstring, and the same with other arguments."""
    opening = sample(random, openings, 1)[0]
    n, n_described = variant.n_arguments, variant.n_matching - 1
    names = sample(random, [name for name in argument_names if name != opening], 2 * n + n_described)
    arguments, corrupted_arguments, corrupted_described = names[:n], names[n : 2 * n], names[2 * n :]
    # No other word of the prompt is one of the names, so that only arguments repeat.
    free = [word for word in nouns if word != opening and word not in names]
    fillers = [opening, *sample(random, free, 3 + 2 * n_described)]
    *described, answer = arguments[variant.n_before : variant.n_before + variant.n_matching]
    wrong = tuple(f" {name}" for name in arguments if name != answer)
    text = _text(arguments, described, fillers)
    return Draft(text, _text(corrupted_arguments, corrupted_described, fillers), (f" {answer}",), wrong)


def _text(arguments: Sequence[str], described: Sequence[str], fillers: Sequence[str]) -> str:
    """The prompt, up to the last `:param`."""
    opening, function, *nouns = fillers
    lines = [
        f"def {function}(self, {', '.join(arguments)}):",
        f"    {QUOTES}{opening} {nouns[0]} {nouns[1]}",
        "",
        *(f"    :param {name}: {nouns[2 * i]} {nouns[2 * i + 1]}" for i, name in enumerate(described, 1)),
        "    :param",
    ]
    return "\n".join(lines)
