"""The embedded model: fetched, converted, checked, and as good a language model as it is known to be."""

from __future__ import annotations

import pytest
import torch

from monosemy.config import ModelConfig
from monosemy.models.engine import EngineReader
from monosemy.models.sources import load_model, model_size
from monosemy.support.estimates import ModelSize

pytestmark = pytest.mark.integration

PROMPT = "When Mary and John went to the store, John gave a drink to"


def test_shape_and_identity(embedded_model):
    model = embedded_model
    assert (model.n_layers, model.d_model, model.n_heads, model.vocab_size) == (30, 576, 9, 49152)
    assert model.max_positions == 8192
    assert len(model.site_names()) == 30 * 7
    assert model.can_start_late
    assert model.site_width("layers.12.attn_heads") == 576
    assert model.special_token_ids == frozenset(range(17))
    assert model.tokenizer.eos_token_id == 2
    n_parameters = sum(parameter.numel() for parameter in model.module.parameters())
    assert model_size("embedded") == (ModelSize(n_parameters, 30, 576, 49_152, model.n_block_parameters), 576)


def test_fingerprint_is_the_same_at_every_load(embedded_model):
    assert load_model("embedded", device="cpu", checks=False).fingerprint == embedded_model.fingerprint


def test_tokenizer_adds_nothing_splits_digits_and_round_trips(embedded_model):
    text = "In 1732,\n\tdef f(x): return 'naïve' + \"日本\""
    tokens = embedded_model.tokenizer(text).input_ids
    assert embedded_model.tokenizer.decode(tokens) == text
    pieces = [embedded_model.tokenizer.decode([token]) for token in tokens]
    assert pieces[:6] == ["In", " ", "1", "7", "3", "2"]


def test_interp_engines_own_passes_give_its_activations_at_every_site(embedded_model):
    """Through the calls that vLLM takes, which no test here can run."""
    sites = embedded_model.site_names()
    reader = EngineReader(embedded_model, "embedded", ModelConfig(backend="eager"), sites=sites, context_length=16)
    tokens = torch.randint(17, 49152, (2, 16), generator=torch.Generator().manual_seed(0))
    expected, read = embedded_model.activations(tokens, sites), reader.activations(tokens, sites)
    reader.close()
    for site in sites:
        gap = torch.linalg.vector_norm(read[site] - expected[site], dim=-1)
        assert bool((gap <= 1e-5 * torch.linalg.vector_norm(expected[site], dim=-1)).all()), site


def test_it_finds_the_indirect_object(embedded_model):
    """Mean logit difference 5.4 over 40 such prompts is known; a wrong row order or norm would destroy it."""
    tokens = torch.tensor([embedded_model.tokenizer(PROMPT).input_ids])
    last = embedded_model.logits(tokens)[0, -1]
    mary, john = (embedded_model.tokenizer(name).input_ids[0] for name in (" Mary", " John"))
    assert last[mary] - last[john] > 3
    assert int(last.argmax()) == mary


def test_massive_activation_at_the_first_position(embedded_model):
    text = "The history of the railway began long before anyone had thought of steam."
    tokens = torch.tensor([embedded_model.tokenizer(text).input_ids])
    norms = embedded_model.activations(tokens, ["layers.12.resid_post"])["layers.12.resid_post"][0].norm(dim=-1)
    assert norms[0] == pytest.approx(23_000, rel=0.1)
    assert 100 < norms[1:].median() < 700


def test_early_exit_and_late_start_agree_with_whole_passes(embedded_model):
    tokens = torch.randint(17, 49152, (2, 32), generator=torch.Generator().manual_seed(0))
    site = "layers.12.resid_post"
    with torch.no_grad():
        states = embedded_model.module(input_ids=tokens, output_hidden_states=True, use_cache=False).hidden_states
    early = embedded_model.activations(tokens, [site, "blocks.3.attn.hook_z"])
    assert torch.equal(early[site], states[13])
    start = embedded_model.prefix(tokens, site)
    assert start.layer == 13
    assert torch.equal(embedded_model.logits(tokens, start=start), embedded_model.logits(tokens))
    edit = {site: lambda x: x - x.mean(dim=1, keepdim=True)}
    late, whole = embedded_model.logits(tokens, edit, start=start), embedded_model.logits(tokens, edit)
    assert torch.equal(late, whole)
