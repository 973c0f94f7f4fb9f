"""Greater-than: "The war lasted from the year 1743 to the year 17" → a number above 43.

    two digits   where years split as 17|43: answers are the tokens above YY, wrong ones those up to it
    tens         where each digit is a token, "… from the year 1743 to the year 17" → a digit above 4; wrong is one
                 below 4 (the same digit may be right or wrong, so it counts for neither)
    units        "… from the year 1743 to the year 174" → a digit above 3; wrong ones are those up to it

Negatives and counterparts start at the lowest number (1701; 1703; 1740), where nothing is too small.
Metric: probability of the answers minus that of the wrong ones.

Source: Hanna et al. 2023 (2305.00586); the per-digit forms are ours. Limit: all negatives share their last digits,
which inflates what sets of codes differ by.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from monosemy.circuits.task import TaskData
from monosemy.circuits.tasks import words
from monosemy.circuits.tasks.prompts import Draft, Prompts, drawn, enough, share
from monosemy.errors import UserError

Form = Literal["two digits", "tens", "units"]
CENTURIES = tuple(range(11, 18))
DEFAULT_DIGIT: Form = "units"
"""The per-digit form taken where years do not split in pairs."""

_FROM = "The {noun} lasted from the year {start} to the year {end}"


def build(prompts: Prompts, n: int, seed: int, model: str = "", form: Form | None = None) -> TaskData:
    """n positives and their counterparts as negatives, in the form that the tokenizer allows.

    Raises UserError when the tokenizer allows none, or not the one asked for.
    """
    nouns = prompts.kept(words.EVENTS)
    enough("greater-than", "nouns", nouns, 5)
    if form is None:
        form = "two digits" if _allows(prompts, "two digits") else DEFAULT_DIGIT
    if not _allows(prompts, form):
        parts = "pairs of digits" if form == "two digits" else "digits"
        raise UserError(
            f"this model's tokenizer does not split years into {parts} (1743 is {_pieces(prompts, '1743')}), "
            f"which greater-than ({form}) needs; choose another task"
        )
    random = np.random.default_rng([seed, 3])
    positives = tuple(prompts.example(_draft(random, nouns, form)) for _ in range(n))
    name = "greater-than" if form == "two digits" else f"greater-than-{form}"
    told = (share(nouns, words.EVENTS, "nouns"), f"1743 is {_pieces(prompts, '1743')}: form {form}")
    negatives = tuple(example.reversed() for example in positives)
    return TaskData(name, positives, negatives, "probability_difference", model, told)


def _draft(random: np.random.Generator, nouns: tuple[str, ...], form: Form) -> Draft:
    noun = drawn(random, nouns, 1)[0]
    century = int(random.choice(CENTURIES))
    if form == "two digits":
        year = int(random.integers(2, 99))
        start, low, end = f"{century}{year:02d}", f"{century}01", str(century)
        above, below = range(year + 1, 100), range(year + 1)
        answers, wrong = [f"{y:02d}" for y in above], [f"{y:02d}" for y in below]
    else:
        digit, other = int(random.integers(1, 9)), int(random.integers(0, 10))
        tens = form == "tens"
        start, low, end = (
            (f"{century}{digit}{other}", f"{century}0{other}", str(century))
            if tens
            else (f"{century}{other}{digit}", f"{century}{other}0", f"{century}{other}")
        )
        answers = [str(d) for d in range(digit + 1, 10)]
        wrong = [str(d) for d in range(digit if tens else digit + 1)]
    texts = [_FROM.format(noun=noun, start=year, end=end) for year in (start, low)]
    return Draft(texts[0], texts[1], tuple(answers), tuple(wrong))


def _allows(prompts: Prompts, form: Form) -> bool:
    """Whether every number that may follow is one token, and all years have as many tokens as each other."""
    ends = {"two digits": "17", "tens": "17", "units": "174"}
    numbers = [f"{y:02d}" for y in range(100)] if form == "two digits" else [str(d) for d in range(10)]
    try:
        prompts.next_tokens(f"to the year {ends[form]}", numbers)
    except UserError:
        return False
    years = {len(prompts.encode(f"the year {c}{y:02d}")) for c in CENTURIES for y in (1, 10, 43, 90, 99)}
    return len(years) == 1


def _pieces(prompts: Prompts, year: str) -> str:
    """`17|43`: the year as the tokenizer splits it."""
    ids = prompts.encode(f" {year}")[len(prompts.start) :]
    return "|".join(prompts.tokenizer.decode([token]).strip() for token in ids).strip("|")
