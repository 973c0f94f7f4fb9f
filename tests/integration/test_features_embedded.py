"""Features of the real embedded model: output tokens against its own logits, and the size of a real database."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monosemy.config import ActivationsConfig, RunConfig, TextConfig
from monosemy.features.building.logit_effects import OutputMap, output_map
from monosemy.features.store.compact import ARRAYS
from monosemy.features.store.database import open_features
from monosemy.features.store.token_texts import TokenTexts, packed, token_bytes
from monosemy.pipeline.features import build_for_run
from monosemy.pipeline.prepare import prepare
from monosemy.run import open_run
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
from monosemy.saes.storage import save_sae

pytestmark = pytest.mark.integration

SITE, NAME, WIDTH = "layers.12.resid_post", "topk-l0_16-s0", 1024
ONCE = ("tokens", "kept", "documents", "vocabulary_data", "vocabulary_offsets", "vocabulary_special", "index_offsets")
TEXT = "Golden Gate Bridge — naïve café, 東京, 😀\n\tdef f(x):  return x"


def test_the_last_residual_through_the_output_map_is_the_models_logits(embedded_model):
    tokens = torch.tensor([embedded_model.tokenizer("The old bridge over the river was closed in 1978.")["input_ids"]])
    last = f"layers.{embedded_model.n_layers - 1}.resid_post"
    logit_map = output_map(embedded_model, tokens)
    assert isinstance(logit_map, OutputMap)
    x = embedded_model.activations(tokens, [last])[last][0].float()
    sizes = x.square().mean(-1).sqrt()
    logits = embedded_model.logits(tokens)[0].float()
    expected = logits - logits.mean(-1, keepdim=True)
    effects = logit_map.effects(x) * (sizes.median() / sizes)[:, None]
    torch.testing.assert_close(effects, expected, atol=2e-3, rtol=1e-3)


def test_the_bytes_of_the_vocabulary_are_those_of_any_text(embedded_model):
    vocabulary = token_bytes(embedded_model.tokenizer, embedded_model.vocab_size)
    ids = embedded_model.tokenizer(TEXT)["input_ids"]
    assert b"".join(vocabulary[i] for i in ids) == TEXT.encode()
    texts = TokenTexts(*packed(vocabulary), np.zeros(len(vocabulary), bool))
    assert "".join(piece.text for piece in texts.pieces(ids)) == TEXT


def test_a_real_database_takes_two_kilobytes_a_latent_beside_its_contexts(tmp_path, monkeypatch):
    config = RunConfig(
        text=TextConfig(n_tokens=24_576, n_validation_tokens=4096),
        activations=ActivationsConfig(sites=(SITE,), storage="stream"),
    )
    with open_run(tmp_path / "run", config) as run:
        prepared = prepare(run)
        sae = build_sae(SaeConfig("topk", 576, WIDTH, 16.0, site=SITE, model=prepared.model.name))
        sae.initialise(prepared.held_in(2048, seed=1)[SITE], 16.0)
        sae.fold_scale(prepared.scale[SITE])
        save_sae(sae, run.files.sae(SITE, NAME).folder)
        build_for_run(run, None, 24_576, prepared)
    database = open_features(tmp_path / "run")
    assert database.columns["firing_rate"].sum() == pytest.approx(16, rel=0.01)
    sizes = {path.name: path.stat().st_size for path in database.folder.iterdir()}
    assert sizes.keys() == {f"{name}.npy" for name in ARRAYS} | {"features.json", "features.sqlite"}
    a_latent = (sum(sizes.values()) - sum(sizes[f"{name}.npy"] for name in ONCE)) / WIDTH
    print(f"{a_latent:.0f} bytes a latent")
    assert a_latent <= 2048
    # The most frequent latent but for dense ones, whose examples are one context after another.
    n_fired = database.columns["n_fired"]
    latent = int(np.where(n_fired < 0.1 * 24_576, n_fired, 0).argmax())
    assert len(database.examples(latent)) == 60
    assert [len(database.examples(latent, [group])) for group in ("near_miss", "random")] == [12, 12]
    raised, lowered = database.output_tokens(latent)
    assert len(raised) == len(lowered) == 15
    assert raised[0][1] > 0 > lowered[0][1]
