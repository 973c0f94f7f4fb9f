"""Reading a run folder: what is there comes out, what is missing or damaged is one line naming file and command."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_runs import N_TOKENS, write_run
from safetensors.numpy import load_file, save_file

from monosemy.errors import UserError
from monosemy.report.read import read_inputs

SITE = "layers.12.resid_post"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", architectures=("topk", "relu"), l0=(16.0, 32.0), d_sae=60, n_records=6)


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_everything_written_is_read(folder: Path) -> None:
    run = read_inputs(folder)
    assert run.sites == [SITE]
    assert {r.name for r in run.at(SITE)} >= {"topk-l0_16-s0", "relu-l0_32-s0", "frozen_random-l0_16-s0", "pca-l0_32"}
    assert run.config.d_sae == 60
    assert not run.stopped
    assert not run.unrecorded
    assert (SITE, "pca-l0_32") not in run.latents
    stored = load_file(folder / "saes" / SITE / "topk-l0_16-s0" / "latents.safetensors")
    latents = run.latents[SITE, "topk-l0_16-s0"]
    assert latents.n_tokens == N_TOKENS
    assert (latents.firing_count == stored["firing_count"]).all()
    live = stored["firing_count"] > 0
    assert latents.n_dead == (~live).sum() > 0
    assert latents.mean_when_active[live] == pytest.approx(
        (stored["sum"] / np.maximum(stored["firing_count"], 1))[live]
    )
    assert np.isnan(latents.mean_when_active[~live]).all()
    assert run.curves[SITE, "frozen_random-l0_16-s0"].architecture == "frozen_random"


def test_null_is_not_measured(folder: Path) -> None:
    def change(evaluation: dict[str, Any]) -> None:
        evaluation["records"][0] |= {"delta_loss": None, "delta_loss_interval": None, "fvu_interval": None}

    rewrite(folder / "evaluation.json", change)
    record = read_inputs(folder).records[0]
    assert math.isnan(record["delta_loss"].value)
    assert math.isnan(record["fvu"].low)
    assert record["fvu"].value > 0


def test_a_nan_loss_is_a_stop(tmp_path: Path) -> None:
    run = read_inputs(write_run(tmp_path / "run", architectures=("topk",), d_sae=40, diverged="topk-l0_32-s0"))
    assert run.stopped == [f"topk-l0_32-s0 at {SITE} stopped at step 160: its loss was not finite"]


def test_an_sae_that_falls_silent_is_a_stop_even_when_evaluated(folder: Path) -> None:
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    remaining = [line for line in lines if not ('"relu-l0_16-s0"' in line and json.loads(line)["step"] > 30)]
    (folder / "metrics.jsonl").write_text("".join(remaining))
    run = read_inputs(folder)
    assert "stopped after its record of step 30; others went on to step 60" in run.stopped[0]
    assert next(r for r in run.records if r.name == "relu-l0_16-s0").stopped == run.stopped[0]
    message = f"relu-l0_16-s0 at {SITE} stopped: a gradient is not finite at step 31; the other SAEs go on"
    rewrite(folder / "run.json", lambda value: value["provenance"].update(stopped=[message]))
    assert read_inputs(folder).stopped == [message]


def test_an_sae_without_any_record_is_missed(folder: Path) -> None:
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(line for line in lines if '"relu-l0_16-s0"' not in line))
    rewrite(
        folder / "evaluation.json",
        lambda e: e["records"].pop(next(i for i, r in enumerate(e["records"]) if r["name"] == "relu-l0_16-s0")),
    )
    assert read_inputs(folder).unrecorded == [f"relu-l0_16-s0 at {SITE}"]


def test_repeated_steps_of_a_resumed_run_count_once_and_the_last_wins(folder: Path) -> None:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    again = json.loads(lines[0]) | {"loss": 123.0}
    (folder / "metrics.jsonl").write_text("\n".join([*lines, json.dumps(again)]) + "\n")
    curve = read_inputs(folder).curves[SITE, again["name"]]
    assert curve["loss"][0] == 123.0
    assert list(curve["step"]) == [10, 20, 30, 40, 50, 60]


def test_a_line_cut_short_by_a_kill_is_left_out(folder: Path) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"site": "layers.12.re')
    assert len(read_inputs(folder).curves) == 6


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_inputs(folder)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("run.json", "monosemy train"),
        ("metrics.jsonl", "monosemy train"),
        ("evaluation.json", "monosemy evaluate"),
        (f"saes/{SITE}/topk-l0_16-s0/latents.safetensors", "monosemy evaluate"),
    ],
)
def test_a_missing_or_truncated_file_is_named_with_its_command(folder: Path, name: str, command: str) -> None:
    whole = (folder / name).read_bytes()
    half = whole[: len(whole) // 2]
    (folder / name).write_bytes(half if name != "metrics.jsonl" else half + b"\n" + whole)
    refused(folder, name, command)
    (folder / name).unlink()
    refused(folder, name, command)


def test_no_run_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "nothing", "monosemy train")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "file", "monosemy train")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda e: e.update(format=7), "format 7"),
        (lambda e: e.pop("records"), "'records'"),
        (lambda e: e["records"][2].pop("architecture"), "record 2 lacks 'architecture'"),
        (lambda e: e["records"][1].pop("fvu"), "record 1 lacks 'fvu'"),
        (lambda e: e["records"][1].update(fvu="much"), "record 1 is damaged"),
        (lambda e: e["records"][0].update(l0_interval=[1]), "record 0 is damaged"),
        (lambda e: e["records"].append("x"), "damaged"),
        (lambda e: e["records"].append(e["records"][0]), "two records"),
    ],
)
def test_a_damaged_evaluation_is_named(folder: Path, change: Callable[[dict[str, Any]], Any], word: str) -> None:
    rewrite(folder / "evaluation.json", change)
    refused(folder, "evaluation.json", word, "monosemy evaluate")


def test_a_setting_this_version_does_not_know(folder: Path) -> None:
    rewrite(folder / "run.json", lambda value: value["config"].update(d_seo=3))
    refused(folder, "run.json", "d_seo", "d_sae")


def test_statistics_of_another_size(folder: Path) -> None:
    path = folder / "saes" / SITE / "topk-l0_16-s0" / "latents.safetensors"
    sums = np.zeros(3, np.float32)
    save_file({"firing_count": np.zeros(3, np.int64), "sum": sums, "max": sums}, path, {"n_tokens": "5"})
    refused(folder, "latents.safetensors", "60 latents", "monosemy evaluate")
    save_file({"sum": np.zeros(60, np.float32)}, path, {"n_tokens": "5"})
    refused(folder, "latents.safetensors", "firing_count", "monosemy evaluate")


@pytest.mark.parametrize("line", ["[1]", '{"site": "a"}', '{"site": "a", "name": "b", "step": "x"}'])
def test_a_metrics_record_of_the_wrong_kind(folder: Path, line: str) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    refused(folder, "metrics.jsonl", "record 37", "monosemy train")
