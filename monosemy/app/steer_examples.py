"""Latents with which steering works at a click: clear ones about words, that make the model say these words.

Place on the path: highlights → words that each label quotes → one push per latent before the next token → pages.

A latent that fires on a concept does not necessarily make the model write about it (steering/output_score.py). Each
candidate is therefore pushed once at the end of a neutral prompt, and they are ordered by how much that raises the
probability of the words that their own labels quote: log p_pushed − log p. Those that don't raise it are left out.
Limits: the next token of one prompt; whether the text reads well at which strength shows in the sweep that follows.
"""

from __future__ import annotations

import math
from typing import Any

from monosemy.app.catalogue import Dictionary
from monosemy.app.live import LiveModel, steering_scales
from monosemy.features.store.database import FeatureDatabase
from monosemy.features.view.highlights import clearest, label_words

N_LOOKED_AT, N_CANDIDATES, MIN_WORDS = 4000, 96, 2
N_EXAMPLES = 5
MIN_PROBABILITY = 1e-3
"""Probability of its words after the push from which on a latent is an example."""
_FLOOR = 1e-6
"""Added to probabilities before they are compared: below it, a ratio says nothing."""


def steer_examples(live: LiveModel, sae: Dictionary, database: FeatureDatabase) -> dict[str, Any]:
    """The examples (`schema.SteerExamples`), best first; maybe none. Blocks, so run it in a thread.

    Raises UserError for a site that has no typical norm, ModelError and BusyError.
    """
    from monosemy.steering.output_score import output_scores

    latents_looked_at = clearest(database, N_LOOKED_AT)
    about = zip(latents_looked_at.tolist(), map(label_words, database.labels(latents_looked_at)), strict=True)
    words = dict([(latent, quoted) for latent, quoted in about if len(quoted) >= MIN_WORDS][:N_CANDIDATES])
    if not words:
        return {"examples": []}
    model, weights = live.model(), live.sae(sae)
    scales = steering_scales(sae, weights)
    with live.passes():
        scores = output_scores(model, weights, scales, list(words), words=list(words.values()))
    after, before = scores.words.diagonal().tolist(), scores.words_before.tolist()
    ranked = sorted(range(len(after)), key=lambda k: math.log(before[k] + _FLOOR) - math.log(after[k] + _FLOOR))
    best = [k for k in ranked if after[k] >= MIN_PROBABILITY and after[k] > before[k]][:N_EXAMPLES]
    latents = list(words)
    labels = sae.labels([latents[k] for k in best])
    return {
        "examples": [
            {"latent": latents[k], "label": label, "words": words[latents[k]], "before": before[k], "after": after[k]}
            for k, label in zip(best, labels, strict=True)
        ]
    }
