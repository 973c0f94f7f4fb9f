"""Transcoders in a run: what is planned and refused, exact resume, a whole run on a tiny model."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import byte_tokenizer, random_module
from torch import Tensor
from trained_tensors import assert_same_tensors, states_of, tensors_of

from monosemy.circuits.transcoders.plan import mlp_sites, planned
from monosemy.circuits.transcoders.settings import TranscodersConfig
from monosemy.circuits.transcoders.unit import TranscoderUnit
from monosemy.config import (
    ActivationsConfig,
    EvaluationConfig,
    ModelConfig,
    RunConfig,
    TextConfig,
    TrainingConfig,
    identity,
    with_room,
)
from monosemy.errors import UserError
from monosemy.pipeline import evaluate_folder, whole_run
from monosemy.pipeline.checks import check_config
from monosemy.pipeline.features import build_features
from monosemy.publishing.commands import run_export
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import ARCHITECTURES, architecture
from monosemy.saes.storage import load_sae, save_sae
from monosemy.saes.transforms import transcoding
from monosemy.steering.edits import LatentScales, SiteEdit
from monosemy.support.files import read_json
from monosemy.support.metrics import MetricsWriter
from monosemy.training.checkpoint import Origin
from monosemy.training.trainee import Trainee
from monosemy.training.trainer import Trainer

SITES = ("layers.1.mlp_in", "layers.1.mlp_out")


def asking(settings: TranscodersConfig, **changes: Any) -> RunConfig:
    changes = {"activations": ActivationsConfig(sites=SITES), "architectures": (), "l0": (4.0, 8.0), **changes}
    return with_room(RunConfig(**changes), settings)


# --- plan, checks -------------------------------------------------------------------------------------------------


def test_every_dictionary_of_the_plan_is_named_by_what_it_is() -> None:
    settings = TranscodersConfig(architectures=("topk", "jumprelu"), skip="both")
    config = asking(settings, l0=(4.0,), architectures=("topk",))
    plans = list(planned(config, SITES))
    assert [plan.name for plan in plans] == [
        "transcoder_topk-l0_4-s0",
        "transcoder_jumprelu-l0_4-s0",
        "skip_transcoder_topk-l0_4-s0",
        "skip_transcoder_jumprelu-l0_4-s0",
        "transcoder_frozen_random-l0_4-s0",
        "jumprelu-l0_4-s0",  # the TopK SAE is one of the run's own
    ]
    assert [plan.source for plan in plans] == [SITES[0]] * 5 + [None]
    assert {plan.site for plan in plans} == {SITES[1]}
    assert [plan.skip for plan in plans[:5]] == [False, False, True, True, False]
    assert [plan.frozen for plan in plans] == [False] * 4 + [True, False]
    check_config(config)


def test_layers_are_those_with_both_sites_in_order() -> None:
    sites = ("layers.10.mlp_out", "layers.10.mlp_in", "layers.2.mlp_in", "layers.2.mlp_out", "layers.3.mlp_in")
    both = [("layers.2.mlp_in", "layers.2.mlp_out"), ("layers.10.mlp_in", "layers.10.mlp_out")]
    assert mlp_sites(sites, ()) == both
    assert mlp_sites(sites, (10,)) == both[1:]
    with pytest.raises(UserError, match=r"lack layers.3.mlp_out, between which .*; add them"):
        mlp_sites(sites, (3,))
    with pytest.raises(UserError, match=r"lack layers.N.mlp_in and layers.N.mlp_out"):
        mlp_sites(("layers.2.resid_post",), ())


def test_what_cannot_work_is_refused_before_anything_is_loaded() -> None:
    topk = TranscodersConfig(architectures=("topk",))
    for settings, changes, message in (
        (topk, {"activations": ActivationsConfig(sites=("layers.1.mlp_in",))}, "activations.sites .* lack"),
        (dataclasses.replace(topk, architectures=("topk", "topk")), {}, "architectures holds topk twice"),
        (dataclasses.replace(topk, architectures=("topq",)), {}, "topq"),
        (dataclasses.replace(topk, layers=(1, 1)), {}, "layers holds 1 twice"),
        (topk, {"l0": (4.5,)}, "whole"),
    ):
        with pytest.raises(UserError, match=message):
            check_config(asking(settings, **changes))
    check_config(asking(topk))


def test_a_run_without_transcoders_keeps_its_identity() -> None:
    plain = RunConfig()
    assert identity(with_room(plain, TranscodersConfig(skip="both"))) == identity(plain)
    assert identity(asking(TranscodersConfig(architectures=("topk",)))) != identity(asking(TranscodersConfig()))


# --- training -----------------------------------------------------------------------------------------------------

D, M, ROWS, STEPS = 12, 48, 64, 24
CONFIG = TrainingConfig(batch_tokens=ROWS, checkpoint_tokens=10**9, log_tokens=ROWS, dead_fraction=0.05)


class Stream:
    """x sparse combinations of a dictionary, y a nonlinear map of it."""

    n_steps = STEPS

    def __init__(self) -> None:
        self.index = 0
        self.generator = torch.Generator().manual_seed(5)
        self.read, self.write = torch.randn(2, 40, D, generator=torch.Generator().manual_seed(6)) / D**0.5

    def __next__(self) -> dict[str, Tensor]:
        code = (torch.rand(ROWS, 40, generator=self.generator) - 0.9).relu() * 20
        self.index += 1
        return {SITES[0]: code @ self.read, SITES[1]: code.square() @ self.write - 0.2}

    def state(self) -> dict[str, Any]:
        return {"index": self.index, "generator": self.generator.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        self.index = state["index"]
        self.generator.set_state(state["generator"])


def make_trainer(folder: Path) -> Trainer:
    units = []
    for name in ARCHITECTURES:
        config = SaeConfig(
            name, D, M, 4.0, site=SITES[0], site_out=SITES[1], transforms=transcoding(skip=name in ("topk", "gated"))
        )
        trainee = Trainee(architecture(name)(config), CONFIG, STEPS, STEPS * ROWS)
        rows = next(Stream())
        trainee.initialise(rows[SITES[0]], rows[SITES[1]])
        units.append(TranscoderUnit((SITES[1], name), trainee, SITES[0]))
    return Trainer(
        {unit.keys[0]: unit.trainees[0] for unit in units},
        Stream(),
        CONFIG,
        checkpoints=folder / "checkpoints",
        metrics=MetricsWriter(folder / "metrics.jsonl"),
        origin=Origin("transcoders"),
        units=units,
    )


def test_resumed_training_equals_unbroken_training(tmp_path: Path) -> None:
    unbroken = make_trainer(tmp_path / "whole")
    unbroken.train()
    first = make_trainer(tmp_path / "parts")
    steps = 0

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 9:
            first.save()
            raise KeyboardInterrupt

    first.on_step = count
    with pytest.raises(KeyboardInterrupt):
        first.train()
    second = make_trainer(tmp_path / "parts")
    assert second.resume() == 9 * ROWS
    second.train()
    assert_same_tensors(tensors_of(second), tensors_of(unbroken))
    assert states_of(second) == states_of(unbroken)
    restarted = [
        r["restarted"] for r in map(json.loads, (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines())
    ]
    assert sum(restarted) > 0, "restarts are part of what resumes"


# --- a whole run --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two architectures around one MLP of a random Llama."""
    inputs = tmp_path_factory.mktemp("inputs")
    random_module("llama").save_pretrained(inputs / "model")
    byte_tokenizer().save_pretrained(inputs / "model")
    words = random.Random(0)
    known = [*"abcdefgh", *map(str, range(90, 110))]
    with open(inputs / "text.jsonl", "w", encoding="utf-8") as file:
        for _ in range(300):
            file.write(json.dumps({"text": " ".join(words.choices(known, k=60))}) + "\n")
    config = asking(
        TranscodersConfig(architectures=("topk", "jumprelu"), skip="both"),
        model=ModelConfig(source=str(inputs / "model"), device="cpu"),
        text=TextConfig(
            source=str(inputs / "text.jsonl"), context_length=64, n_tokens=20_000, n_validation_tokens=2048
        ),
        activations=ActivationsConfig(sites=SITES, dtype="float32", buffer_tokens=4096),
        l0=(4.0,),
        d_sae=64,
        training=TrainingConfig(batch_tokens=128, checkpoint_tokens=10_000, log_tokens=1000),
        evaluation=EvaluationConfig(n_loss_tokens=512, n_bootstrap=50, frozen_random=False, pca=False),
    )
    run = tmp_path_factory.mktemp("runs") / "run"
    whole_run(config, run)
    return run


@pytest.fixture(scope="module")
def records(folder: Path) -> dict[str, dict[str, Any]]:
    document = read_json(folder / "evaluation.json")
    assert {record["site"] for record in document["records"]} == {SITES[1]}
    return {record["name"].partition("-l0_")[0]: record for record in document["records"]}


def test_transcoders_saes_and_controls_stand_in_one_table(records: dict[str, dict[str, Any]]) -> None:
    transcoders = [f"{skip}transcoder_{name}" for skip in ("", "skip_") for name in ("topk", "jumprelu")]
    assert set(records) == {*transcoders, "topk", "jumprelu", "transcoder_frozen_random", "linear_map"}
    for name, record in records.items():
        assert record["n_tokens"] == records["topk"]["n_tokens"], name
        assert record["delta_loss"] is not None, name
    assert all(records[name]["l0"] == pytest.approx(4, rel=0.15) for name in transcoders)
    assert all(records[name]["fvu"] < records["linear_map"]["fvu"] for name in transcoders)
    assert all(records[name]["fvu"] < 0.7 * records["transcoder_frozen_random"]["fvu"] for name in transcoders)
    assert records["linear_map"]["l0"] == 0
    assert records["linear_map"]["dead_fraction"] is None
    assert [name for name, record in records.items() if record["control"]] == ["linear_map", "transcoder_frozen_random"]


def test_a_saved_transcoder_gives_what_was_measured(folder: Path, records: dict[str, dict[str, Any]]) -> None:
    """The FVU of evaluation.json, from the saved file and the model's own activations of the validation text."""
    from monosemy.pipeline.prepare import prepare
    from monosemy.run import open_run, read_run

    config, _ = read_run(folder)
    with open_run(folder, config) as run:
        parts = [part.activations for part in prepare(run).validation()]
    x, y = (torch.cat([part[site] for part in parts]) for site in SITES)
    for name in ("skip_transcoder_jumprelu", "transcoder_topk"):
        sae = load_sae(folder / "saes" / SITES[1] / f"{name}-l0_4-s0")
        fvu = float((y - sae(x)).square().sum() / (y - y.mean(0)).square().sum())
        assert fvu == pytest.approx(records[name]["fvu"], rel=1e-4)


def test_evaluate_measures_a_transcoder_by_its_output(folder: Path) -> None:
    from monosemy.evals.evaluate import evaluate
    from monosemy.models.sources import load_model
    from monosemy.run import read_run

    model = load_model(read_run(folder)[0].model.source, device="cpu")
    sae = load_sae(folder / "saes" / SITES[1] / "skip_transcoder_topk-l0_4-s0")
    tokens = torch.randint(5, 100, (6, 32), generator=torch.Generator().manual_seed(0))
    record = evaluate(model, sae, tokens, n_bootstrap=20)
    assert record["site"] == SITES[1]
    activations = model.activations(tokens, SITES)
    x, y = (activations[site][:, 1:].flatten(0, 1) for site in SITES)
    assert record["n_tokens"] == len(x), "no position is left out but the first"
    fvu = float((y - sae(x)).square().sum() / (y - y.mean(0)).square().sum())
    assert record["fvu"] == pytest.approx(fvu, rel=1e-4)


def test_features_show_the_text_that_a_transcoder_reads(folder: Path) -> None:
    from monosemy.features.store.database import FeatureDatabase
    from monosemy.models.sources import load_model
    from monosemy.run import read_run

    name = "transcoder_topk-l0_4-s0"
    (place,) = build_features(folder, [f"{SITES[1]}/{name}"], n_tokens=6_000)
    database = FeatureDatabase.open(place)
    sae = load_sae(folder / "saes" / SITES[1] / name)
    model = load_model(read_run(folder)[0].model.source, device="cpu")
    for latent in database.columns["n_fired"].argsort()[-3:].tolist():
        example = database.examples(latent, ["top"])[0]
        tokens = torch.from_numpy(example.token_ids).long()[None]
        code = sae.encode(model.activations(tokens, SITES[:1])[SITES[0]][0]).to_dense()
        assert example.value > 0
        assert example.value == pytest.approx(float(code[example.peak, latent]), rel=2e-2)


def test_a_name_without_a_site_exports_the_set_of_all_layers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, name = tmp_path / "run", "transcoder_jumprelu-l0_4-s0"
    run.mkdir()
    (run / "run.json").write_text("{}")
    for layer in (0, 3):
        sites = {"site": f"layers.{layer}.mlp_in", "site_out": f"layers.{layer}.mlp_out"}
        config = SaeConfig("jumprelu", D, M, 4.0, seed=layer, transforms=transcoding(skip=False), **sites)
        sae = architecture("jumprelu")(config)
        sae.fold_input_mean()
        save_sae(sae, run / "saes" / sites["site_out"] / name)
    run_export([str(run), str(tmp_path / "set"), "--sae", name, "--layout", "circuit-tracer"])
    assert capsys.readouterr().err.count("a set needs every layer") == 1
    x = torch.randn(5, D)
    for layer in (0, 3):
        own = load_sae(run / "saes" / f"layers.{layer}.mlp_out" / name)
        exported = load_sae(tmp_path / "set" / f"layer_{layer}.safetensors")
        assert torch.allclose(exported(x), own(x), atol=1e-6)


def test_steering_takes_no_transcoder(folder: Path) -> None:
    sae = load_sae(folder / "saes" / SITES[1] / "transcoder_topk-l0_4-s0")
    with pytest.raises(
        UserError, match=r"read layers.1.mlp_in and write to layers.1.mlp_out, and steering edits one site"
    ):
        SiteEdit(sae, LatentScales(), [])


def test_evaluating_again_gives_the_same(folder: Path, records: dict[str, dict[str, Any]]) -> None:
    evaluate_folder(folder)
    again = {r["name"]: r for r in read_json(folder / "evaluation.json")["records"]}
    assert {record["name"]: record for record in records.values()} == again
