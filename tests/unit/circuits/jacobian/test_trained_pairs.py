"""A run with pairs, from settings to evaluation.json, through the stages that every run takes."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import pytest
import torch
from tiny_models import byte_tokenizer, random_module

from monosemy.circuits.jacobian.mlp import jacobian_slices, mlp_weights
from monosemy.circuits.jacobian.settings import JacobianConfig
from monosemy.config import (
    ActivationsConfig,
    EvaluationConfig,
    ModelConfig,
    RunConfig,
    TextConfig,
    TrainingConfig,
)
from monosemy.errors import UserError
from monosemy.layout import RunFiles
from monosemy.models.sources import load_model
from monosemy.pipeline import whole_run
from monosemy.saes.storage import load_sae

SITES = ("layers.2.mlp_in", "layers.2.mlp_out")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("inputs")
    random_module("llama").save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    words = random.Random(0)
    with open(folder / "text.jsonl", "w", encoding="utf-8") as file:
        for _ in range(200):
            text = " ".join(words.choices(["a", "the", "cat", "sat", "on", "mat", "rain", "came"], k=60))
            file.write(json.dumps({"text": text}) + "\n")
    return RunConfig(
        model=ModelConfig(source=str(folder / "model"), device="cpu"),
        text=TextConfig(source=str(folder / "text.jsonl"), context_length=64, n_tokens=8_000, n_validation_tokens=1024),
        activations=ActivationsConfig(sites=SITES, dtype="float32"),
        architectures=(),
        l0=(4.0,),
        d_sae=64,
        training=TrainingConfig(batch_tokens=128, n_passes=2, checkpoint_tokens=4000, log_tokens=1000),
        evaluation=EvaluationConfig(n_loss_tokens=256, n_bootstrap=20, frozen_random=False),
        jacobian=JacobianConfig(lambdas=(0.0, 1.0, 30.0)),
    )


def test_a_run_of_pairs_is_trained_saved_and_evaluated(
    settings: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONOSEMY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MONOSEMY_QUIET", "1")
    page = whole_run(settings, tmp_path / "run")
    assert page.exists()
    names = ["jsae_0-l0_4-s0", "jsae_1-l0_4-s0", "jsae_30-l0_4-s0"]
    saes = {(sae.site, sae.name): load_sae(sae.folder) for sae in RunFiles(tmp_path / "run").saes()}
    assert sorted(saes) == sorted((site, name) for site in SITES for name in names)
    records = json.loads((tmp_path / "run" / "evaluation.json").read_text())["records"]
    trained = [r for r in records if not r["control"]]
    assert {(r["site"], r["name"]) for r in trained} == set(saes)
    assert {r["architecture"] for r in trained} == {"jsae_0", "jsae_1", "jsae_30"}
    jacobian_record = saes[SITES[0], names[1]].config.record["jacobian"]
    assert jacobian_record["lambda"] == 1.0
    assert jacobian_record["sites"] == list(SITES)
    model = load_model(settings.model.source, device="cpu")
    weights = mlp_weights(model, 2)
    tokens = torch.randint(97, 122, (8, 32), generator=torch.Generator().manual_seed(0))
    ends = model.activations(tokens, SITES)
    x, y = (ends[site].flatten(0, 1) for site in SITES)
    sizes = []
    for name in names:
        slices = jacobian_slices(weights, saes[SITES[0], name], saes[SITES[1], name], x, y=y)
        sizes.append(float(slices.elements().abs().mean()))
    assert sizes[0] > 1.2 * sizes[1] > 1.5 * sizes[2]


def test_a_mixture_of_layers_or_too_little_memory_is_refused(settings: RunConfig, tmp_path: Path) -> None:
    apart = dataclasses.replace(
        settings, activations=dataclasses.replace(settings.activations, sites=("layers.1.mlp_in", "layers.2.mlp_out"))
    )
    with pytest.raises(UserError, match=r"add layers\.N\.mlp_in and layers\.N\.mlp_out"):
        whole_run(apart, tmp_path / "apart")
    greedy = dataclasses.replace(settings, jacobian=dataclasses.replace(settings.jacobian, max_memory_mb=100_000_000))
    with pytest.raises(UserError, match=r"Jacobian penalty .* lower --jacobian\.max-memory-mb"):
        whole_run(greedy, tmp_path / "greedy")
    assert not (tmp_path / "apart").exists()
