"""Runs, models and texts that were moved or renamed, with real folders and a tiny model."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from tiny_models import byte_tokenizer, random_module

from monosemy import cli

FILE = "sources.json"

SETTINGS = [
    "--sites",
    "layers.1.resid_post",
    "--d-sae",
    "32",
    "--l0",
    "4",
    "--architectures",
    "jumprelu",
    "--tokens",
    "6k",
    "--text.n-validation-tokens",
    "1k",
    "--text.context-length",
    "32",
    "--training.batch-tokens",
    "128",
    "--training.n-passes",
    "1",
    "--evaluation.n-loss-tokens",
    "128",
    "--evaluation.n-bootstrap",
    "20",
    "--evaluation.no-frozen-random",
    "--evaluation.no-pca",
    "--device",
    "cpu",
]
SAE = "layers.1.resid_post/jumprelu-l0_4-s0"


def tiny_model(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    module = random_module("llama")
    with torch.no_grad():
        module.get_input_embeddings().weight.add_(0.01 * seed)
    module.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


def tiny_text(path: Path, seed: int) -> None:
    words = random.Random(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(120):
            text = " ".join(words.choices(["the", "cat", "sat", "on", "a", "mat", "in", "rain"], k=30))
            file.write(json.dumps({"text": text}) + "\n")


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A project with a model, a text and a run, made by relative paths from inside it."""
    root = tmp_path_factory.mktemp("made")
    project, here = root / "project", os.getcwd()
    tiny_model(project / "models" / "tiny", 0)
    tiny_text(project / "data" / "text.jsonl", 0)
    patch = pytest.MonkeyPatch()
    patch.setenv("MONOSEMY_CACHE", str(root / "cache"))
    os.chdir(project)
    try:
        sources = ["--model", "models/tiny", "--text", "data/text.jsonl"]
        cli.main(["train", "quick", "--run", "runs/mine", *sources, *SETTINGS])
    finally:
        os.chdir(here)
        patch.undo()
    return project


@pytest.fixture
def project(original, tmp_path, monkeypatch) -> Path:
    """A copy of the project that a test may tear apart; the original is out of reach, and so is its cache."""
    monkeypatch.setenv("MONOSEMY_CACHE", str(tmp_path / "cache"))
    shutil.copytree(original, tmp_path / "copy")
    places = tmp_path / "copy" / "runs" / "mine" / FILE
    places.write_text(places.read_text().replace(str(original), str(tmp_path / "copy")))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "copy"


def records(run: Path) -> list:
    return json.loads((run / "evaluation.json").read_text())["records"]


def refusal(capsys, *words: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    error = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2
    assert error.startswith("error: ")
    return error


def test_run_json_holds_what_was_typed_and_no_path_of_the_machine(original):
    run = original / "runs" / "mine"
    config = json.loads((run / "run.json").read_text())["config"]
    assert (config["model"]["source"], config["text"]["source"]) == ("models/tiny", "data/text.jsonl")
    holders = [path.name for path in run.rglob("*") if path.is_file() and str(original).encode() in path.read_bytes()]
    assert holders == [FILE]


def test_relative_paths_mean_the_same_in_another_folder(project):
    run, before = project / "runs" / "mine", records(project / "runs" / "mine")
    cli.main(["evaluate", str(run)])
    assert records(run) == before


def test_a_folder_of_the_same_name_where_the_command_is_given_is_not_taken(project, capsys):
    tiny_model(Path("models/tiny"), 1)
    cli.main(["evaluate", str(project / "runs" / "mine")])


def test_run_model_and_text_moved_together(project, tmp_path):
    before = records(project / "runs" / "mine")
    project.rename(tmp_path / "renamed")
    cli.main(["evaluate", str(tmp_path / "renamed" / "runs" / "mine")])
    assert records(tmp_path / "renamed" / "runs" / "mine") == before


def test_the_run_alone_moved(project, tmp_path):
    before = records(project / "runs" / "mine")
    shutil.move(project / "runs" / "mine", tmp_path / "mine")
    cli.main(["evaluate", str(tmp_path / "mine")])
    assert records(tmp_path / "mine") == before


def test_model_and_text_moved_and_renamed(project, tmp_path, capsys):
    run, before = project / "runs" / "mine", records(project / "runs" / "mine")
    model, text = tmp_path / "store" / "another-name", tmp_path / "store" / "renamed.jsonl"
    shutil.copytree(project / "models" / "tiny", model)
    shutil.rmtree(project / "models")
    assert "--model NEWPATH" in refusal(capsys, "evaluate", run)
    assert "--model NEWPATH" in refusal(capsys, "steer", run, "--prompt", "a", "--latent", 1, "--set", 1)
    (project / "data" / "text.jsonl").rename(text)
    assert "--text NEWPATH" in refusal(capsys, "evaluate", run, "--model", model)

    steering = ["--prompt", "the cat", "--latent", "1", "--set", "1", "--tokens", "2", "--json"]
    cli.main(["steer", str(run), "--model", str(model), *steering])
    cli.main(["evaluate", str(run), "--model", str(model), "--text", str(text)])
    assert records(run) == before
    cli.main(["evaluate", str(run)])  # once said, it is known
    cli.main(["features", str(run), "--tokens", "2k"])
    info = json.loads(next(run.glob("features/*/*/features.json")).read_text())
    assert info["model"]["name"] == "models/tiny"


def test_every_command_that_reads_them_takes_the_new_places(project, tmp_path):
    run = project / "runs" / "mine"
    (project / "models" / "tiny").rename(tmp_path / "tiny")
    (project / "data" / "text.jsonl").rename(tmp_path / "t.jsonl")
    moved = ["--model", str(tmp_path / "tiny"), "--text", str(tmp_path / "t.jsonl")]
    places = (run / FILE).read_text()
    for words in (["features", str(run), "--tokens", "2k", *moved], ["train", str(run), *moved]):
        (run / FILE).write_text(places)
        cli.main(words)
        assert json.loads((run / FILE).read_text())["model"]["absolute"] == str(tmp_path / "tiny")


def test_another_model_or_text_is_refused(project, tmp_path, capsys):
    run = project / "runs" / "mine"
    tiny_model(tmp_path / "other", 1)
    tiny_text(tmp_path / "other.jsonl", 1)
    for words in (["evaluate", run], ["train", run], ["steer", run, "--prompt", "a", "--latent", 1, "--set", 1]):
        assert "the model has changed" in refusal(capsys, *words, "--model", tmp_path / "other")
    for command in ("evaluate", "train"):
        assert "the text has changed" in refusal(capsys, command, run, "--text", tmp_path / "other.jsonl")


def test_runs_from_before_places_were_kept(project, tmp_path, capsys, monkeypatch):
    run = project / "runs" / "mine"
    (run / FILE).unlink()
    assert "--model NEWPATH" in refusal(capsys, "evaluate", run)
    monkeypatch.chdir(project)
    cli.main(["evaluate", "runs/mine"])
    assert (run / FILE).exists()


def test_lost_weights_are_named_by_every_command(project, capsys):
    run = project / "runs" / "mine"
    cli.main(["features", str(run), "--tokens", "2k"])
    (run / "saes" / SAE / "sae.safetensors").unlink()
    for command in ("evaluate", "report", "info", "features"):
        assert f"weights of SAE {SAE} are missing" in refusal(capsys, command, run)
    assert f"weights of SAE {SAE} are missing" in refusal(capsys, "show", run, 1)
    cli.main(["train", str(run)])  # trains it again
    assert (run / "saes" / SAE / "sae.safetensors").exists()
