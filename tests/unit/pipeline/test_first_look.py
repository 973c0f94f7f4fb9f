"""The first look, on a tiny run: it comes early, changes nothing of what follows, survives a kill, and is replaced."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from narrow_model import SITE, write_inputs

from monosemy.activations import store
from monosemy.app.catalogue import Catalogue
from monosemy.commands import run_try
from monosemy.config import (
    ActivationsConfig,
    EvaluationConfig,
    ModelConfig,
    RunConfig,
    TextConfig,
    TrainingConfig,
    from_json,
    to_json,
)
from monosemy.errors import UserError
from monosemy.pipeline import first_look, only_first_look, whole_run
from monosemy.pipeline.first_look import after_first_look
from monosemy.pipeline.training import train
from monosemy.run import open_run, read_stages
from monosemy.saes.listing import choose_sae, saved_saes
from monosemy.support import estimates

NAME = "jumprelu-l0_4-s0"
N_TOKENS = 2048


def make_small() -> None:
    """A first look of 2,048 tokens for runs of 6,000, whose stores have shards of 1,024."""
    first_look.N_TOKENS, first_look.LEAST_TOKENS = N_TOKENS, 3 * N_TOKENS - 144
    estimates.MIN_SHARD_BYTES = 1024 * (24 * 4 + store.LABEL_BYTES)


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    for module, name in ((first_look, "N_TOKENS"), (first_look, "LEAST_TOKENS"), (estimates, "MIN_SHARD_BYTES")):
        monkeypatch.setattr(module, name, getattr(module, name))
    make_small()
    monkeypatch.setenv("MONOSEMY_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> RunConfig:
    inputs = write_inputs(tmp_path_factory.mktemp("inputs"))
    return RunConfig(
        model=ModelConfig(source=str(inputs / "model"), device="cpu"),
        text=TextConfig(source=str(inputs / "text.jsonl"), context_length=64, n_tokens=6000, n_validation_tokens=1024),
        activations=ActivationsConfig(sites=(SITE,), dtype="float32"),
        architectures=("topk", "jumprelu"),
        l0=(4.0,),
        d_sae=48,
        training=TrainingConfig(batch_tokens=128, checkpoint_tokens=512),
        evaluation=EvaluationConfig(n_loss_tokens=256, n_bootstrap=20, frozen_random=False, pca=False),
    )


@pytest.fixture(scope="module")
def weights(config, tmp_path_factory) -> dict[str, bytes]:
    """The weights of the run without a first look."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MONOSEMY_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = tmp_path_factory.mktemp("runs") / "plain"
        with open_run(folder, config) as run:
            train(run)
    return weights_of(folder)


def weights_of(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in folder.glob("saes/*/*/sae.safetensors")}


def test_it_comes_first_and_the_whole_run_replaces_it(config, weights, tmp_path):
    folder, seen = tmp_path / "run", []

    def look() -> None:
        catalogue = Catalogue(folder)
        (sae,) = catalogue.saes()
        assert (sae.name, sae.saved.first_look, sae.saved.remark) == (NAME, True, " (first look)")
        assert sae.database is not None
        assert sae.config["record"]["n_tokens"] < N_TOKENS < config.text.n_tokens
        assert "training" not in read_stages(folder)
        assert not (folder / "first-look").exists()
        seen.append((catalogue, sae))

    whole_run(config, folder, features=True, on_first_look=look)
    ((catalogue, early),) = seen
    assert weights_of(folder) == weights
    assert not any(sae.first_look for sae in saved_saes(folder))
    late = next(sae for sae in catalogue.refresh() if sae.name == NAME)
    assert late is not early
    assert late.n_tokens > early.n_tokens
    assert late.database.info["sae_sha256"] != early.database.info["sae_sha256"]
    with open_run(folder, config) as run:
        assert after_first_look(run, lambda: pytest.fail("the run is complete")) is None


KILLED = """
import json, os, signal, sys
from pathlib import Path
import test_first_look as here
from monosemy.pipeline import only_first_look
from monosemy.training.trainer import Trainer
here.make_small()
save = Trainer.save
def save_and_die(self):
    folder = save(self)
    if self.index >= 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return folder
Trainer.save = save_and_die
only_first_look(here.read(sys.argv[1]), Path(sys.argv[2]))
"""


DEMO = """
import sys
import test_first_look as here
from monosemy.commands import run_demo
here.make_small()
run_demo(sys.argv[1:])
"""


def test_the_pages_answer_while_the_demo_still_trains(config, tmp_path):
    """The command itself, on the tiny model, with so many passes that training lasts."""
    inputs, folder = Path(config.model.source).parent, tmp_path / "run"
    words = ["--model", config.model.source, "--text", str(inputs / "text.jsonl"), "--text.context-length", "64"]
    words += ["--tokens", "6000", "--text.n-validation-tokens", "1024", "--sites", SITE, "--architectures", "topk"]
    words += ["jumprelu", "--l0", "4", "--d-sae", "48", "--training.batch-tokens", "128", "--training.n-passes", "40"]
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    demo = subprocess.Popen(
        [sys.executable, "-c", DEMO, "--run", str(folder), *words],
        env={**os.environ, "PYTHONPATH": path, "MONOSEMY_QUIET": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert demo.stdout is not None
        line = next(line for line in demo.stdout if line.startswith("look at it now: "))
        address = next(word for word in line.split() if word.startswith("http://"))
        deadline, steps = time.monotonic() + 60, []
        while len(steps) < 3:  # before training and twice more, as it goes on
            assert time.monotonic() < deadline
            run = fetch_json(f"{address}api/run")
            assert [(sae["name"], sae["has_features"]) for sae in run["saes"]] == [(NAME, True)]
            latents = fetch_json(f"{address}api/f/{SITE}/{NAME}/latents")
            assert latents["total"] == 48
            step = (
                len((folder / "metrics.jsonl").read_text().splitlines()) if (folder / "metrics.jsonl").exists() else 0
            )
            if step not in steps:
                steps.append(step)
        assert demo.poll() is None
        assert "training" not in read_stages(folder)
    finally:
        demo.kill()
        demo.communicate()


def fetch_json(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=20) as answer:
        return json.loads(answer.read())


def read(text: str) -> RunConfig:
    return from_json(RunConfig, json.loads(text))


def test_killed_in_the_middle_it_goes_on_from_there(config, weights, tmp_path):
    only_first_look(config, tmp_path / "whole")
    (once,) = weights_of(tmp_path / "whole").values()
    assert once != weights[NAME]

    folder = tmp_path / "killed"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", KILLED, json.dumps(to_json(config)), str(folder)]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list(folder.glob("first-look/checkpoints/step-*"))
    assert not weights_of(folder)
    calls: list[dict[str, bytes]] = []
    with open_run(folder, config) as run:
        train(run, after_first_look(run, lambda: calls.append(weights_of(folder))))
    assert calls == [{NAME: once}]
    assert weights_of(folder) == weights


def test_a_short_text_a_stream_and_rows_have_none_and_each_says_why(config, tmp_path):
    stream = dataclasses.replace(config.activations, storage="stream", buffer_tokens=4096)
    for changes, reason in (
        ({"text": dataclasses.replace(config.text, n_tokens=3000)}, "a first look needs text of"),
        ({"activations": stream}, "a first look keeps its activations"),
    ):
        with pytest.raises(UserError, match=reason):
            only_first_look(dataclasses.replace(config, **changes), tmp_path / "run")
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(3000, 16)).astype(np.float32))
    with pytest.raises(UserError, match="rows have no first look"):
        run_try(["--activations", str(tmp_path / "rows.npy"), "--open", "--run", str(tmp_path / "run")])


@pytest.mark.parametrize(
    ("architectures", "l0", "seeds"),
    [
        (("topk", "jumprelu"), (2.0, 4.0, 8.0), (0,)),
        (("topk", "gated"), (2.0, 4.0), (0,)),
        (("jumprelu",), (16.0, 4.0), (0, 1)),
    ],
)
def test_it_is_the_sae_that_commands_choose_where_none_is_named(config, architectures, l0, seeds, tmp_path):
    config = dataclasses.replace(config, architectures=architectures, l0=l0, seeds=seeds)
    (tmp_path / "run.json").write_text(json.dumps({"format": 1, "config": to_json(config), "provenance": {}}))
    for architecture in architectures:
        for target in l0:
            for seed in seeds:
                folder = tmp_path / "saes" / SITE / f"{architecture}-l0_{target:g}-s{seed}"
                folder.mkdir(parents=True)
                described = {"architecture": architecture, "l0": target}
                (folder / "config.json").write_text(json.dumps({"sae": described}))
    first = first_look.first_sae(config, SITE)
    assert choose_sae(tmp_path).name == first_look.sae_name(first)
