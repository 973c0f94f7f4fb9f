"""Which latents `--find` tries: those that fire on the words, those named by them, those whose push says them."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import torch
from feature_runs import JULY, MARKET, NAME, SITE, WORDS, write_feature_run
from steering_cases import scales_of, tiny_sae

from monosemy.features.view.meaning import nearest_latents
from monosemy.models.prompts import text_ids
from monosemy.steering.candidates import firing_latents, in_turn
from monosemy.steering.edits import LatentScales
from monosemy.steering.output_score import NEUTRAL_PROMPT


def test_sources_give_in_turn_and_each_latent_counts_once():
    assert in_turn(([5, 1, 2], [], [1, 7], [5, 8, 9, 4]), 6) == [5, 1, 7, 8, 2, 9]
    assert in_turn(([5, 1], [1]), 6) == [5, 1]
    assert in_turn(((), ()), 6) == []


def test_latents_are_ranked_by_how_telling_their_firing_on_the_words_is(tiny_model):
    model = tiny_model("llama")
    sae = tiny_sae(model)
    tokens = torch.randint(256, (8, 20), generator=torch.Generator().manual_seed(6))
    scales = scales_of(sae, model.activations(tokens, [SITE])[SITE].reshape(-1, model.d_model).float())
    before = len(text_ids(model.tokenizer, NEUTRAL_PROMPT))
    expected = [0.0] * sae.d_sae
    for word in ("mill", "river"):
        ids = text_ids(model.tokenizer, f"{NEUTRAL_PROMPT} {word}")
        rows = model.activations(torch.tensor([ids]), [SITE])[SITE][0, before:].float()
        assert len(rows) == len(f" {word}")  # a token a byte
        for latent, peak in enumerate(sae.encode(rows).to_dense().amax(0).tolist()):
            if scales.n_fired[latent]:
                rarity = math.log(int(scales.n_fired.max()) / int(scales.n_fired[latent]))
                expected[latent] += peak / float(scales.maximum[latent]) * rarity
    ranked = firing_latents(model, sae, scales, ["mill", "river"], n=sae.d_sae)
    assert set(ranked) == {latent for latent, score in enumerate(expected) if score > 0}
    scores = [expected[latent] for latent in ranked]
    assert all(a >= b * (1 - 1e-6) for a, b in itertools.pairwise(scores))
    assert firing_latents(model, sae, scales, ["mill", "river"], n=3) == ranked[:3]
    never = replace(scales, n_fired=scales.n_fired.clone())
    never.n_fired[ranked[0]] = 0
    assert ranked[0] not in firing_latents(model, sae, never, ["mill", "river"], n=sae.d_sae)
    assert firing_latents(model, sae, LatentScales(), ["mill"], n=3) == []  # nothing was measured
    assert firing_latents(model, sae, replace(scales, n_fired=None), ["mill"], n=3) == []


def test_latents_near_the_words_come_from_their_features(tmp_path: Path):
    run = write_feature_run(tmp_path / "run")
    matrix = torch.randn(len(WORDS), 32, generator=torch.Generator().manual_seed(0))
    ids = {" market": [MARKET], " July": [JULY]}

    def tokenizer(texts, add_special_tokens):
        return {"input_ids": [ids.get(text, []) for text in texts]}

    folder = run / "saes" / SITE / NAME
    assert nearest_latents(folder, matrix, tokenizer, words=["July"])[0] == 0  # it fires on “ July”
    assert nearest_latents(folder.with_name("other"), matrix, tokenizer, words=["July"]) == []
    assert nearest_latents(tmp_path, matrix, tokenizer, words=["July"]) == []
