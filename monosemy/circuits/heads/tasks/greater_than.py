"""Greater-than: "The war lasted from the year 1743 to the year 17" → a number above 43.

    two digits   for tokenizers that split years as 17|43: answers are the numbers above 43, wrong ones those up to 43;
                 years that are one token of the vocabulary are left out
    tens         for tokenizers with a token per digit: "… from the year 1743 to the year 17" → a digit above 4; wrong
                 ones are those below 4 (a 4 may be right or wrong, so it counts as neither)
    units        as tens, but "… from the year 1743 to the year 174" → a digit above 3; wrong ones are those up to 3

Negatives and counterparts start at the lowest number (1701; 1703; 1740), where no number is too small.
Metric: probability of the answers minus probability of the wrong answers.

Source: Hanna et al. 2023 (2305.00586); the per-digit forms are ours. Limit: all negatives share their last digits,
which inflates the difference between sets of codes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from monosemy.circuits.heads.task import Example, TaskData
from monosemy.circuits.heads.tasks import words
from monosemy.circuits.heads.tasks.prompts import Draft, Prompts, enough, sample, share
from monosemy.errors import UserError

Form = Literal["two digits", "tens", "units"]
CENTURIES = tuple(range(11, 18))
FIRST_YEARS = range(2, 99)
"""The last two digits of a positive's year: above the counterpart's 01 and below 99."""
MIN_YEARS = 50
"""How many years must split into pairs of digits for the form of two digits."""
MAX_DRAWS = 50
"""Draws per prompt before giving up on finding enough different ones."""
DEFAULT_DIGIT: Form = "units"
"""The per-digit form that is used where years do not split into pairs."""

_FROM = "The {noun} lasted from the year {start} to the year {end}"


def build(prompts: Prompts, n: int, seed: int, tokenizer: str = "", *, form: Form | None = None) -> TaskData:
    """n positives and their counterparts as negatives, in the form that the tokenizer allows.

    Raises UserError when the tokenizer allows no form, or not the one that was asked for.
    """
    nouns = prompts.single_token_words(words.EVENTS)
    enough("greater-than", "nouns", nouns, 5)
    random = np.random.default_rng([seed, 3])
    split = f"1743 is {_pieces(prompts, '1743')}"
    pairs = None if form in ("tens", "units") else _pairs(prompts)
    if pairs is not None:
        numbers, years = pairs
        positives = _distinct(
            n, lambda: _in_pairs(prompts, sample(random, nouns, 1)[0], _random_year(random, years), numbers)
        )
        n_years = len(CENTURIES) * len(FIRST_YEARS)
        form_note = f"{split}: form two digits; {len(years)} of {n_years} years split so, the others are left out"
    else:
        parts = {None: "pairs of digits, nor into single ones", "two digits": "pairs of digits"}.get(form, "digits")
        form = form or DEFAULT_DIGIT
        if form == "two digits" or not _allows_digits(prompts, form):
            raise UserError(
                f"this model's tokenizer does not split years into {parts} ({split}), which greater-than needs; "
                "choose another task"
            )
        positives = _distinct(n, lambda: prompts.example(_draft(random, nouns, form)))
        form_note = f"{split}: form {form}"
    name = "greater-than" if pairs is not None else f"greater-than-{form}"
    negatives = tuple(example.reversed() for example in positives)
    provenance = (share(nouns, words.EVENTS, "nouns"), form_note)
    return TaskData(name, positives, negatives, "probability_difference", tokenizer=tokenizer, provenance=provenance)


def _distinct(n: int, draw: Callable[[], Example]) -> tuple[Example, ...]:
    """n examples with different prompts. Raises UserError where the words do not allow that many."""
    by_tokens: dict[tuple[int, ...], Example] = {}
    for _ in range(MAX_DRAWS * n):
        if len(by_tokens) == n:
            return tuple(by_tokens.values())
        example = draw()
        by_tokens.setdefault(example.tokens, example)
    raise UserError(f"the words of greater-than make about {len(by_tokens)} different prompts, not {n}; ask for fewer")


# --- years as pairs of digits -----------------------------------------------------------------------------------------


def _pairs(prompts: Prompts) -> tuple[list[int], list[tuple[int, int]]] | None:
    """The tokens of 00 to 99, and the years (century, last two digits) that are two tokens, the second one of these.

    None where a number of two digits takes several tokens, or where fewer than `MIN_YEARS` years split like that. (Many
    vocabularies split years but hold common ones, such as 1500, as one token.)
    """
    tokens = [prompts.tokenizer(f"{y:02d}", add_special_tokens=False)["input_ids"] for y in range(100)]
    if any(len(ids) != 1 for ids in tokens):
        return None
    numbers = [ids[0] for ids in tokens]
    start = len(prompts.start)
    years = []
    for century in CENTURIES:
        # A century counts only if it is one token and the next two digits are exactly one of `numbers`.
        prefix = prompts.encode(f" {century}")
        if len(prefix) != start + 1 or prompts.encode(f" {century}01") != (*prefix, numbers[1]):
            continue
        final_digits = [y for y in FIRST_YEARS if prompts.encode(f" {century}{y:02d}") == (*prefix, numbers[y])]
        years += [(century, y) for y in final_digits]
    return (numbers, years) if len(years) >= MIN_YEARS else None


def _in_pairs(prompts: Prompts, noun: str, year: tuple[int, int], numbers: list[int]) -> Example:
    """An example whose answers are given as tokens, not as texts.

    After "… the year 15" the token 00 may follow even where the text 1500 would be one token.
    """
    century, final_digits = year
    texts = [_FROM.format(noun=noun, start=f"{century}{y:02d}", end=century) for y in (final_digits, 1)]
    tokens = [prompts.encode(text) for text in texts]
    later, not_later = tuple(numbers[final_digits + 1 :]), tuple(numbers[: final_digits + 1])
    return Example(
        tokens[0],
        tokens[1],
        later,
        not_later,
        text=texts[0],
        corrupted_text=texts[1],
        answer_texts=tuple(f"{y:02d}" for y in range(final_digits + 1, len(numbers))),
        wrong_texts=tuple(f"{y:02d}" for y in range(final_digits + 1)),
    )


def _random_year(random: np.random.Generator, years: list[tuple[int, int]]) -> tuple[int, int]:
    return years[int(random.integers(len(years)))]


# --- years digit by digit ---------------------------------------------------------------------------------------------


def _draft(random: np.random.Generator, nouns: tuple[str, ...], form: Form) -> Draft:
    """One example of a per-digit form in words."""
    noun = sample(random, nouns, 1)[0]
    century = int(random.choice(CENTURIES))
    digit, fixed_digit = int(random.integers(1, 9)), int(random.integers(0, 10))
    tens = form == "tens"
    start, low, end = (
        (f"{century}{digit}{fixed_digit}", f"{century}0{fixed_digit}", str(century))
        if tens
        else (f"{century}{fixed_digit}{digit}", f"{century}{fixed_digit}0", f"{century}{fixed_digit}")
    )
    answers = [str(d) for d in range(digit + 1, 10)]
    wrong = [str(d) for d in range(digit if tens else digit + 1)]
    texts = [_FROM.format(noun=noun, start=year, end=end) for year in (start, low)]
    return Draft(texts[0], texts[1], tuple(answers), tuple(wrong))


def _allows_digits(prompts: Prompts, form: Form) -> bool:
    """Whether every digit that may follow is one token, and all years have the same number of tokens."""
    try:
        prompts.next_tokens(f"to the year {'17' if form == 'tens' else '174'}", [str(d) for d in range(10)])
    except UserError:
        return False
    years = {len(prompts.encode(f"the year {c}{y:02d}")) for c in CENTURIES for y in (1, 10, 43, 90, 99)}
    return len(years) == 1


def _pieces(prompts: Prompts, year: str) -> str:
    """The year as the tokenizer splits it, such as `17|43`."""
    ids = prompts.encode(f" {year}")[len(prompts.start) :]
    return "|".join(prompts.tokenizer.decode([token]).strip() for token in ids).strip("|")
