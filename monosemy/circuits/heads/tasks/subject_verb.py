"""Subject–verb agreement: "The keys near the cabinet" → " are", not " is".

Subject and second noun are singular or plural independently of each other. The counterpart changes the subject's
number, so that the answer is the other verb. Negatives have a subject whose form does not show its number ("sheep"), so
that neither verb is right. Metric: mean logit of the right verbs (" is", " was", " has" or " are", " were", " have") −
mean logit of the others.

Source: Linzen et al. 2016 (1611.01368); counterparts as in Marks et al. 2024 (2403.19647). Limit: nouns with one form
for both numbers are few, so the negatives are less varied than the positives.
"""

from __future__ import annotations

import numpy as np

from monosemy.circuits.heads.task import TaskData
from monosemy.circuits.heads.tasks import words
from monosemy.circuits.heads.tasks.prompts import Draft, Prompts, enough, sample, share

VERBS = ((" is", " was", " has"), (" are", " were", " have"))
PREPOSITIONS = ("near", "behind", "beside", "with", "by")


def build(prompts: Prompts, n: int, seed: int, tokenizer: str = "") -> TaskData:
    """n positives and n negatives. Raises UserError for a tokenizer with too few nouns."""
    single_tokens = set(prompts.single_token_words([form for pair in words.COUNTED for form in pair]))
    counted = [pair for pair in words.COUNTED if single_tokens.issuperset(pair)]
    neutral = prompts.single_token_words(words.UNCOUNTED)
    between = prompts.single_token_words(PREPOSITIONS)
    enough("subject-verb", "nouns (one and several)", counted, 10)
    enough("subject-verb", "nouns without number", neutral, 2)
    enough("subject-verb", "prepositions", between, 1)
    random = np.random.default_rng([seed, 6])
    positives, negatives = [], []
    for i in range(n):
        subject, second_noun = (counted[j] for j in random.choice(len(counted), 2, replace=False))
        ending = f"{sample(random, between, 1)[0]} the {second_noun[int(random.integers(2))]}"
        number = i % 2  # singular and plural subjects in turn
        same, changed = (f"The {subject[form]} {ending}" for form in (number, 1 - number))
        neutral_prompt = f"The {sample(random, neutral, 1)[0]} {ending}"
        positives.append(Draft(same, changed, VERBS[number], VERBS[1 - number]))
        negatives.append(Draft(neutral_prompt, same, VERBS[number], VERBS[1 - number]))
    return TaskData(
        "subject-verb",
        tuple(prompts.example(draft) for draft in positives),
        tuple(prompts.example(draft) for draft in negatives),
        "logit_difference",
        tokenizer=tokenizer,
        provenance=(share(counted, words.COUNTED, "nouns"), share(neutral, words.UNCOUNTED, "nouns without number")),
    )
