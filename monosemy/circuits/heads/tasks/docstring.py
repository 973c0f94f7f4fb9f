"""Docstring: which argument is described next?

    def port(self, load, size, files, last, name, unit):
        \"\"\"oil column piece

        :param files: crime population
        :param last: dark river
        :param                                  → " name"

Three arguments are described in order; two undescribed ones come before them in the definition, one after. In negatives
and counterparts all argument names, defined and described, are other random words, so that the description does not
follow the definition. Metric: logit(next argument) − largest logit among all other arguments.

Source: Heimersheim and Janiak 2023, A circuit for Python docstrings in a 4-layer attention-only transformer (its
corruption `random_random`). Deviation: word lists of our own. A prompt has 41 tokens in GPT-2's tokenizer, 42 with
the start token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from monosemy.circuits.heads.task import TaskData
from monosemy.circuits.heads.tasks import words
from monosemy.circuits.heads.tasks.prompts import Draft, Prompts, enough, sample, share

N_BEFORE, N_MATCHING, N_AFTER = 2, 3, 1
QUOTES = '"""'


def build(prompts: Prompts, n: int, seed: int, tokenizer: str = "") -> TaskData:
    """n positives and their counterparts as negatives. Raises UserError for a tokenizer with too few words."""
    nouns = prompts.single_token_words(words.NOUNS)
    enough("docstring", "nouns", nouns, 40)
    quotes = prompts.encode(QUOTES)
    # The docstring's first word follows the quotes without a space, where it must be one token too.
    openings = tuple(word for word in nouns if len(prompts.encode(QUOTES + word)) == len(quotes) + 1)
    enough("docstring", "nouns (without a space before them)", openings, 5)
    random = np.random.default_rng([seed, 4])
    positives = tuple(prompts.example(_draft(random, nouns, openings)) for _ in range(n))
    provenance = (share(nouns, words.NOUNS, "nouns"),)
    negatives = tuple(example.reversed() for example in positives)
    return TaskData(
        "docstring", positives, negatives, "logit_minus_best_wrong", tokenizer=tokenizer, provenance=provenance
    )


def _draft(random: np.random.Generator, nouns: tuple[str, ...], openings: tuple[str, ...]) -> Draft:
    """One example in words: a function with its docstring, and the same with other arguments."""
    n_arguments = N_BEFORE + N_MATCHING + N_AFTER
    opening = sample(random, openings, 1)[0]
    nouns_drawn = sample(random, [word for word in nouns if word != opening], n_arguments * 2 + 2 + 7)
    arguments, corrupted_arguments, fillers = (
        nouns_drawn[:n_arguments],
        nouns_drawn[n_arguments : 2 * n_arguments],
        nouns_drawn[2 * n_arguments :],
    )
    described, filler = arguments[N_BEFORE : N_BEFORE + N_MATCHING - 1], [opening, *fillers[2:]]
    answer = arguments[N_BEFORE + N_MATCHING - 1]
    wrong = tuple(f" {word}" for word in arguments if word != answer)
    text = _text(arguments, described, filler)
    return Draft(text, _text(corrupted_arguments, fillers[:2], filler), (f" {answer}",), wrong)


def _text(arguments: Sequence[str], described: Sequence[str], filler: Sequence[str]) -> str:
    """The prompt, up to the last `:param`."""
    lines = [
        f"def {filler[1]}(self, {', '.join(arguments)}):",
        f"    {QUOTES}{filler[0]} {filler[2]} {filler[3]}",
        "",
        f"    :param {described[0]}: {filler[4]} {filler[5]}",
        f"    :param {described[1]}: {filler[6]} {filler[7]}",
        "    :param",
    ]
    return "\n".join(lines)
