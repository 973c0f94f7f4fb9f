"""Induction: random words, then some of them again → the word that followed the last one the first time.

In negatives and counterparts the words before the repetition are other random words, so that nothing repeats.
Metric: logit(the word that followed) − mean logit of the other words of the first part.

Source: Olsson et al. 2022 (2209.11895). Deviation: common nouns of one token instead of random tokens, so that the
model reads words and not noise.
"""

from __future__ import annotations

import numpy as np

from monosemy.circuits.heads.task import TaskData
from monosemy.circuits.heads.tasks import words
from monosemy.circuits.heads.tasks.prompts import Draft, Prompts, enough, sample, share

N_WORDS, N_REPEATED = 8, 6


def build(prompts: Prompts, n: int, seed: int, tokenizer: str = "") -> TaskData:
    """n positives and their counterparts as negatives. Raises UserError for a tokenizer with too few words."""
    nouns = prompts.single_token_words(words.NOUNS)
    enough("induction", "nouns", nouns, 40)
    random = np.random.default_rng([seed, 5])
    drafts = []
    for _ in range(n):
        sampled_words = sample(random, nouns, 2 * N_WORDS)
        first, corrupted_start = sampled_words[:N_WORDS], sampled_words[N_WORDS:]
        # The repetition may start at different words, so that position alone does not tell the answer.
        start = int(random.integers(0, N_WORDS - N_REPEATED))
        again, answer = first[start : start + N_REPEATED], first[start + N_REPEATED]
        wrong = tuple(f" {word}" for word in first if word != answer)
        drafts.append(Draft(_text(first + again), _text(corrupted_start + again), (f" {answer}",), wrong))
    positives = tuple(prompts.example(draft) for draft in drafts)
    provenance = (share(nouns, words.NOUNS, "nouns"),)
    negatives = tuple(example.reversed() for example in positives)
    return TaskData("induction", positives, negatives, "logit_difference", tokenizer=tokenizer, provenance=provenance)


def _text(sentence_words: list[str]) -> str:
    return "".join(f" {word}" for word in sentence_words)
