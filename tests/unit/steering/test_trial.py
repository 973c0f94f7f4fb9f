"""Which of several latents is steered by after `--find`: the one whose answer has most of the words."""

from __future__ import annotations

import re

import torch
from steering_cases import scales_of, tiny_sae

from monosemy.steering import trial
from monosemy.steering.generate import Sampling, generate, make_columns
from monosemy.steering.request import Edit, SteeringRequest
from monosemy.steering.saes import SteeringSaes, TextEdits
from monosemy.steering.trial import Trial, _trial, try_latents


def test_words_count_by_their_beginning_and_answers_that_repeat_themselves_are_not_fluent():
    assert _trial(3, [1, 2, 3, 4], "Python’s functions, and a malfunction.", ["python", "Function"]) == Trial(
        3, 2, 6, True
    )
    assert _trial(0, [1, 2, 1, 2, 1, 2], "ha ha", ["ha"]) == Trial(0, 2, 2, False)
    assert _trial(0, [], "", ["ha"]) == Trial(0, 0, 0, False)
    assert Trial(0, 0, 0, False).share == 0


def test_the_latent_whose_answer_says_the_words_comes_first(tiny_model):
    model = tiny_model("llama")
    sae = tiny_sae(model)
    scales = scales_of(sae, torch.randn(50, 32, generator=torch.Generator().manual_seed(0)))
    saes = SteeringSaes(sae, scales)
    requests = [SteeringRequest("The mill", (Edit(latent, "set", 3.0, "norm"),), n_tokens=12) for latent in range(6)]
    columns = [make_columns(model, saes, request)[0][1] for request in requests]
    edits = TextEdits(model, saes, [column.steering for column in columns])
    answers = generate(model, [c.prompt_ids for c in columns], edits, n_tokens=12, sampling=Sampling())
    words = [set(re.findall(r"\w+", answer.text.casefold())) for answer in answers]
    for number, own in enumerate(words):
        others = set().union(*(w for n, w in enumerate(words) if n != number))
        only_here = [word for word in own if not any(other.startswith(word) for other in others)]
        if not only_here:
            continue
        trials = try_latents(model, saes, requests=requests, words=only_here)
        (best,) = [attempt for attempt in trials if attempt.n_said]
        assert best.candidate == number
        fluent = [attempt for attempt in trials if attempt.fluent]
        assert trials.index(best) == (0 if best.fluent else len(fluent))
        return
    raise AssertionError("every answer has the same words")


def test_answers_that_say_nothing_are_ordered_by_how_near_they_come(tiny_model, monkeypatch):
    model = tiny_model("llama")
    sae = tiny_sae(model)
    scales = scales_of(sae, torch.randn(50, 32, generator=torch.Generator().manual_seed(0)))
    requests = [SteeringRequest("The mill", (Edit(latent, "set", 3.0, "norm"),), n_tokens=12) for latent in range(5)]
    near = [0.1, 0.9, 0.5, 0.9, 0.7]
    asked = []

    def nearness(embedding, tokenizer, *, words, texts):
        asked.append((list(words), len(texts)))
        return near

    monkeypatch.setattr(trial, "load", lambda place: nearness)
    monkeypatch.setattr(trial, "MIN_DISTINCT", 0.0)  # every answer counts as fluent
    trials = try_latents(model, SteeringSaes(sae, scales), requests=requests, words=["unsaid"])
    assert asked == [(["unsaid"], 5)]
    assert [(t.candidate, t.nearness) for t in trials] == [(1, 0.9), (3, 0.9), (4, 0.7), (2, 0.5), (0, 0.1)]
