"""A whole run from the command line on a tiny model, killed at any moment, on disk and streamed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_models import byte_tokenizer, random_module

from monosemy.config import (
    ActivationsConfig,
    EvaluationConfig,
    ModelConfig,
    RunConfig,
    TextConfig,
    TrainingConfig,
    to_json,
)
from monosemy.errors import UserError
from monosemy.layout import RunFiles
from monosemy.pipeline import whole_run
from monosemy.support.estimates import Windows

SITES = ("layers.1.resid_post", "layers.2.mlp_out")
WORDS = [
    "a",
    "the",
    "cat",
    "sat",
    "on",
    "mat",
    "and",
    "it",
    "was",
    "not",
    "so",
    "late",
    "when",
    "rain",
    "came",
    "down",
    "over",
    "old",
    "stone",
    "walls",
    "by",
    "sea",
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> RunConfig:
    """Two sites of a random Llama, four architectures, on made-up sentences; small enough for seconds."""
    folder = tmp_path_factory.mktemp("inputs")
    random_module("llama").save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    words = random.Random(0)
    with open(folder / "text.jsonl", "w", encoding="utf-8") as file:
        for _ in range(400):
            file.write(json.dumps({"text": " ".join(words.choices(WORDS, k=60))}) + "\n")
    return RunConfig(
        model=ModelConfig(source=str(folder / "model"), device="cpu"),
        text=TextConfig(
            source=str(folder / "text.jsonl"), context_length=64, n_tokens=30_000, n_validation_tokens=2048
        ),
        activations=ActivationsConfig(sites=SITES, dtype="float32", buffer_tokens=4096),
        architectures=("topk", "batch_topk", "gated", "jumprelu"),
        l0=(4.0,),
        d_sae=64,
        training=TrainingConfig(batch_tokens=128, n_passes=2, checkpoint_tokens=3000, log_tokens=1000),
        evaluation=EvaluationConfig(n_loss_tokens=512, n_bootstrap=50),
    )


def start(config: RunConfig, folder: Path, cache: Path) -> subprocess.Popen[str]:
    """`monosemy train` in a process of its own, one thread."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.parent / f"{folder.name}.json"
    file.write_text(json.dumps(to_json(config)))
    single_thread = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    env = {**os.environ, **single_thread, "MONOSEMY_CACHE": str(cache), "MONOSEMY_QUIET": "1"}
    command = [sys.executable, "-c", "from monosemy.cli import main; main()", "train", str(file), "--run", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def finish(process: subprocess.Popen[str]) -> None:
    _, error = process.communicate(timeout=600)
    assert process.returncode == 0, error


def results(folder: Path) -> dict[str, bytes | list]:
    """What must not depend on kills: weights, settings, training metrics, evaluation."""
    outputs: dict[str, bytes | list] = {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("saes/*/*/*"))
    }
    outputs["metrics"] = (folder / "metrics.jsonl").read_bytes()
    outputs["documents"] = (folder / "documents.safetensors").read_bytes()
    outputs["evaluation"] = json.loads((folder / "evaluation.json").read_text())["records"]
    return outputs


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("storage", ["disk", "stream"])
def test_killed_at_any_moment_the_same_command_ends_in_the_same_run(settings, storage, tmp_path):
    n_passes = 2 if storage == "disk" else 1
    config = dataclasses.replace(
        settings,
        activations=dataclasses.replace(settings.activations, storage=storage),
        training=dataclasses.replace(settings.training, n_passes=n_passes),
    )
    whole = tmp_path / "whole" / "run"
    finish(start(config, whole, tmp_path / "whole-cache"))

    seed = random.SystemRandom().randrange(10**6)
    moments = random.Random(seed)
    killed = tmp_path / "killed" / "run"
    for pattern in ("run.json", "checkpoints/step-*/state.json", "saes/*/*/config.json"):
        process = start(config, killed, tmp_path / "killed-cache")
        while process.poll() is None and not any(killed.glob(pattern)):
            time.sleep(0.005)
        delay = moments.uniform(0, 0.3)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        _, error = process.communicate()
        print(f"seed {seed}: killed {delay:.3f} s after {pattern}")
        assert process.returncode == -signal.SIGKILL, error  # it had not finished by itself
    finish(start(config, killed, tmp_path / "killed-cache"))
    assert results(killed) == results(whole)
    assert not (killed / "checkpoints").exists()
    assert {path.parent.parent.name for path in killed.glob("saes/*/*/config.json")} == set(SITES)


def disk_of(folder: Path) -> int:
    """The bytes of the files in a folder that another process writes to and deletes from."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(place) / name).stat().st_size
    return total


def test_a_device_that_is_not_there_leaves_nothing_behind(settings, tmp_path):
    """So that the corrected command can use the folder."""
    device = f"cuda:{torch.cuda.device_count()}"
    for section in ("training", "model"):
        changed = dataclasses.replace(getattr(settings, section), device=device)
        with pytest.raises(UserError, match=f"unknown device '{device}'"):
            whole_run(dataclasses.replace(settings, **{section: changed}), tmp_path / "run")
        assert not (tmp_path / "run").exists(), section


def test_a_bound_on_disk_and_a_kill_change_no_byte_of_a_run(settings, tmp_path):
    """Windows of activations are all kept by the whole run, and two at a time by the one that is killed."""
    activations = dataclasses.replace(settings.activations, storage="windows", window_tokens=8192)
    config = dataclasses.replace(settings, architectures=("topk", "jumprelu"), activations=activations)
    whole = tmp_path / "whole" / "run"
    finish(start(config, whole, tmp_path / "whole-cache"))

    budget = 2 * Windows.of(activations, 64, 30_000 // 64, [32, 32]).n_bytes
    config = dataclasses.replace(config, activations=dataclasses.replace(activations, disk_budget=budget))
    files, most = RunFiles(tmp_path / "killed" / "run"), 0
    process = start(config, files.folder, tmp_path / "killed-cache")
    while process.poll() is None and not any(files.checkpoints.glob("step-*/state.json")):
        most = max(most, disk_of(files.all_windows))
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finish(start(config, files.folder, tmp_path / "killed-cache"))
    assert results(files.folder) == results(whole)
    assert 0 < most <= budget
    assert not files.all_windows.exists()
