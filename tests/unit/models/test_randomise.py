"""Models with redrawn weights: what changes, what stays, and that no cache can mix them with the trained model."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from tiny_models import D_MODEL, byte_tokenizer, random_module

from monosemy.config import ModelConfig, RunConfig, identity
from monosemy.errors import UserError
from monosemy.models.randomise import randomise_module
from monosemy.models.sources import RANDOMISATIONS, load_model


def parameters(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


@pytest.fixture(scope="module", params=["llama", "gpt2", "gpt_neox", "gemma2"])
def module(request):
    module = random_module(request.param)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.mul_(3).add_(0.5 if parameter.ndim > 1 else 2.0)
            parameter.requires_grad_("embed" in name)  # redrawing needs no gradients, and keeps the flags
    return module


@pytest.mark.parametrize("kind", ["published", "matched"])
def test_only_matrices_are_redrawn(module, kind):
    before = parameters(module)
    flags = [parameter.requires_grad for parameter in module.parameters()]
    randomise_module(module, kind, D_MODEL)
    for name, new in module.named_parameters():
        old = before[name]
        if old.ndim < 2:
            assert torch.equal(old, new), name
            continue
        assert not torch.equal(old, new), name
        expected = 0.8 / math.sqrt(D_MODEL) if kind == "published" else float(old.std())
        mean = 0.0 if kind == "published" else float(old.mean())
        slack = 4 / math.sqrt(old.numel())
        assert float(new.detach().std()) == pytest.approx(expected, rel=slack), name
        assert float(new.detach().mean()) == pytest.approx(mean, abs=slack * expected), name
        correlation = torch.corrcoef(torch.stack([old.flatten(), new.detach().flatten()]))[0, 1]
        assert abs(float(correlation)) < slack, name
    assert [parameter.requires_grad for parameter in module.parameters()] == flags
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(before[name])


def test_reinitialised_holds_nothing_learned(module):
    randomise_module(module, "reinitialised", D_MODEL)
    gains = [p for name, p in module.named_parameters() if p.ndim == 1 and name.endswith("weight")]
    assert gains
    for gain in gains:
        assert bool((gain == gain[0]).all()), "a norm as it is before training: all ones, or all zeros where 1 is added"
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            assert bool((parameter == 0).all()), name


def test_random_models_are_models_with_their_own_fingerprints(tmp_path):
    random_module("llama", tie_word_embeddings=True).save_pretrained(tmp_path / "m")
    byte_tokenizer().save_pretrained(tmp_path / "m")
    folder = str(tmp_path / "m")
    models = {kind: load_model(folder, device="cpu", randomise=kind) for kind in ("none", *RANDOMISATIONS)}
    assert len({model.fingerprint for model in models.values()}) == 4
    assert models["published"].name == f"{folder} (published)"
    tokens = torch.arange(12)[None]
    logits = [model.logits(tokens) for model in models.values()]
    for i, current in enumerate(logits):
        assert torch.isfinite(current).all()
        assert all(not torch.allclose(current, other) for other in logits[:i])
    again = load_model(folder, device="cpu", randomise="matched")
    assert again.fingerprint == models["matched"].fingerprint
    assert torch.equal(again.logits(tokens), models["matched"].logits(tokens)), "the same draw every time"
    tied = models["published"].module
    assert tied.get_input_embeddings().weight is tied.get_output_embeddings().weight


def test_runs_of_random_models_are_apart():
    plain = RunConfig()
    randomised = [dataclasses.replace(plain, model=ModelConfig(randomise=kind)) for kind in RANDOMISATIONS]
    assert len({identity(config) for config in (plain, *randomised)}) == 4


def test_an_unknown_way_is_refused_before_anything_is_loaded():
    with pytest.raises(UserError, match="reinitialised"):
        load_model("no/such", randomise="reinit")
