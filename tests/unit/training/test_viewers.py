"""Live views: what is shown, without a network; the packages are optional."""

from __future__ import annotations

import importlib.util
import json

import pytest

from monosemy.errors import UserError
from monosemy.training.viewers import open_viewer, scalars


def record(step: int, loss: float | None) -> dict[str, object]:
    labels = {"site": "layers.3.mlp_out", "name": "topk-l0_8-s0", "architecture": "topk", "target_l0": 8.0, "seed": 0}
    return {**labels, "step": step, "n_tokens": 512 * step, "loss": loss, "l0": 8.0}


def installed(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(kind) is None, reason=f"optional package {kind} is not installed"
    )


def test_labels_and_missing_values_are_left_out():
    prefix = "layers.3.mlp_out/topk-l0_8-s0"
    assert scalars(record(3, 0.5)) == {f"{prefix}/loss": 0.5, f"{prefix}/l0": 8.0}
    assert scalars(record(3, None)) == {f"{prefix}/l0": 8.0}


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'monosemy\[wandb\]'"):
        open_viewer("wandb", tmp_path, {})
    with pytest.raises(UserError, match="did you mean 'tensorboard'"):
        open_viewer("tensorbord", tmp_path, {})


@installed("tensorboard")
def test_tensorboard_reads_back_each_step_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = open_viewer("tensorboard", tmp_path, {})
    for step in (1, 2, 3):
        first([record(step, 1 / step)])
    resumed = open_viewer("tensorboard", tmp_path, {})  # from a checkpoint of step 1
    for step in (2, 3):
        resumed([record(step, 2 / step)])
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    points = [(e.step, round(e.value, 3)) for e in read.Scalars("layers.3.mlp_out/topk-l0_8-s0/loss")]
    assert points == [(1, 1.0), (2, 1.0), (3, 0.667)]


@installed("wandb")
def test_wandb_keeps_one_run_over_a_resume(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for _ in range(2):
        view = open_viewer("wandb", tmp_path, {"d_sae": 8})
        view([record(1, 0.5)])
        __import__("wandb").finish()
    run_id = json.loads((tmp_path / "wandb.json").read_text())["id"]
    folders = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert len(folders) == 2
    assert all(run_id in name for name in folders)
