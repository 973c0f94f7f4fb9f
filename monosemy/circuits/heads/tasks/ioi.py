"""Indirect object identification: "Then, Anna and Mark went to the store. Mark gave a book to" → " Anna".

There are 15 templates, in each of which the repeated name is mentioned second (ABBA) or first (BABA) in the opening
clause. Names, 8 places and 8 objects are one token each. Negatives and counterparts (ABC) have three other names, all
different, so that no name repeats. Metric: logit(indirect object) − logit(subject).

Source: Wang et al. 2022 (2211.00593). Deviation: templates of our own, all with the same number of words; those whose
number of tokens is not the most common one are left out.
"""

from __future__ import annotations

import numpy as np

from monosemy.circuits.heads.task import TaskData
from monosemy.circuits.heads.tasks import words
from monosemy.circuits.heads.tasks.prompts import Draft, Prompts, enough, of_one_length, sample, share

TEMPLATES = (
    "Then, {A} and {B} went to the {place}. {S} gave a {object} to",
    "Once {A} and {B} had arrived at the {place}, {S} handed a {object} to",
    "After {A} and {B} had lunch at the {place}, {S} passed a {object} to",
    "While {A} and {B} were working at the {place}, {S} gave a {object} to",
    "Yesterday, {A} and {B} walked to the {place}. {S} gave a {object} to",
    "Today, {A} and {B} met at the {place}. {S} sold a {object} to",
    "Later, {A} and {B} drove to the {place}. {S} offered a {object} to",
    "Since {A} and {B} had time at the {place}, {S} brought a {object} to",
    "Then, {A} and {B} talked at the {place}. {S} handed a {object} to",
    "Soon, {A} and {B} ran to the {place}. {S} showed a {object} to",
    "Finally, {A} and {B} left for the {place}. {S} lent a {object} to",
    "As {A} and {B} were sitting in the {place}, {S} passed a {object} to",
    "Before {A} and {B} went to the {place}, {S} had given a {object} to",
    "Once, {A} and {B} played near the {place}. {S} gave a {object} to",
    "Last week {A} and {B} visited the old {place}. {S} sent a {object} to",
)


def build(prompts: Prompts, n: int, seed: int, tokenizer: str = "") -> TaskData:
    """n positives and their n counterparts as negatives. Raises UserError for a tokenizer with too few names."""
    names, places, objects = (prompts.single_token_words(of) for of in (words.NAMES, words.PLACES, words.OBJECTS))
    enough("ioi", "names", names, 10)
    enough("ioi", "places", places, 1)
    enough("ioi", "objects", objects, 1)
    # One filling is enough to count tokens: every name, place and object is one token.
    filled = [t.format(A=names[0], B=names[1], S=names[1], place=places[0], object=objects[0]) for t in TEMPLATES]
    n_tokens, fits = of_one_length(filled, prompts)
    templates = [template for template, fit in zip(TEMPLATES, fits) if fit]
    random = np.random.default_rng([seed, 2])
    positives = tuple(
        prompts.example(_draft(random, i, templates, names, places=places, objects=objects)) for i in range(n)
    )
    return TaskData(
        "ioi",
        positives,
        tuple(example.reversed() for example in positives),
        "logit_difference",
        tokenizer=tokenizer,
        provenance=(
            share(names, words.NAMES, "names"),
            f"{len(templates)} of {len(TEMPLATES)} templates have {n_tokens} tokens",
        ),
    )


def _draft(
    random: np.random.Generator,
    i: int,
    templates: list[str],
    names: tuple[str, ...],
    *,
    places: tuple[str, ...],
    objects: tuple[str, ...],
) -> Draft:
    """Example number i in words: a random template, filled with random names, place and object."""
    template = templates[random.integers(len(templates))]
    indirect, subject, *other_names = sample(random, names, 5)
    where = {"place": sample(random, places, 1)[0], "object": sample(random, objects, 1)[0]}
    # ABBA and BABA in turn.
    first, second = (indirect, subject) if i % 2 else (subject, indirect)
    text = template.format(A=first, B=second, S=subject, **where)
    corrupted = template.format(A=other_names[0], B=other_names[1], S=other_names[2], **where)
    return Draft(text, corrupted, (f" {indirect}",), (f" {subject}",))
