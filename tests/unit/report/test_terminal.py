"""A run in the terminal: many sites in few words, transcoders by their name, no empty columns."""

from __future__ import annotations

import json

from graph_cases import random_transcoder

from monosemy.config import ActivationsConfig, ModelConfig, RunConfig
from monosemy.report.terminal import run_lines
from monosemy.run import open_run
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
from monosemy.saes.storage import save_sae

SITES = tuple(f"layers.{layer}.{end}" for layer in range(30) for end in ("mlp_in", "mlp_out"))
NAME = "transcoder_topk-l0_5-s0"


def run_of_transcoders(folder):
    config = RunConfig(model=ModelConfig(source="embedded"), activations=ActivationsConfig(sites=SITES))
    with open_run(folder, config) as run:
        for layer in (0, 10, 2):
            save_sae(random_transcoder(layer), run.files.sae(f"layers.{layer}.mlp_out", NAME).folder)
    return folder


def test_sites_and_dictionaries_are_told_in_words(tmp_path):
    folder = run_of_transcoders(tmp_path / "run")
    lines = run_lines(folder)
    assert lines[0] == f"{folder}: 3 transcoders"
    assert ["sites", "mlp_in and mlp_out of layers 0–29"] in [line.split(maxsplit=1) for line in lines]
    labels = [f"layers.{layer}.mlp_out/{NAME}" for layer in (0, 2, 10)]
    assert [line.strip() for line in lines if NAME in line] == labels
    assert "  transcoder" in lines, "nothing was measured and nothing described: the names stand alone"


def test_what_was_measured_has_its_column(tmp_path):
    folder = run_of_transcoders(tmp_path / "run")
    records = [{"site": "layers.2.mlp_out", "name": NAME, "l0": 5.04, "fvu": 0.25, "delta_loss": None}]
    (folder / "evaluation.json").write_text(json.dumps({"format": 1, "records": records}))
    lines = run_lines(folder)
    start = lines.index(next(line for line in lines if line.startswith("  transcoder")))
    assert [line.split() for line in lines[start : start + 4]] == [
        ["transcoder", "L0", "FVU"],
        [f"layers.0.mlp_out/{NAME}", "–", "–"],
        [f"layers.2.mlp_out/{NAME}", "5.0", "0.250"],
        [f"layers.10.mlp_out/{NAME}", "–", "–"],
    ]
    assert len({len(line) for line in lines[start : start + 4]}) == 1


def test_autoencoders_beside_transcoders_are_counted_by_themselves(tmp_path):
    folder = run_of_transcoders(tmp_path / "run")
    for label, frozen in (("topk", False), ("frozen_random", True)):
        config = SaeConfig("topk", 16, 32, 4, site="layers.0.mlp_out", frozen_decoder=frozen)
        save_sae(build_sae(config), folder / "saes" / "layers.0.mlp_out" / f"{label}-l0_4-s0")
    lines = run_lines(folder)
    assert lines[0] == f"{folder}: 3 transcoders, 1 SAE and 1 control"
    assert "  SAE" in lines
    assert ["layers.0.mlp_out/frozen_random-l0_4-s0", "(control)"] in [line.split() for line in lines]
