"""What the frontier's script joins and what it refuses; seeds and what a run took, of planted dictionaries."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from report_runs import write_run

from monosemy.errors import UserError
from monosemy.evals.documents import DocumentSums, save_documents
from monosemy.layout import RunFiles
from monosemy.support.files import read_json, write_json
from research import records, run_folders
from research.frontier import run as comparison
from research.planted import scale as planted

SITE = "layers.12.resid_post"


def evaluated(folder: Path, **settings: Any) -> Path:
    """A run folder with document sums in proportion to each dictionary's FVU and delta loss."""
    settings = {"architectures": ("topk", "gated"), "l0": (32.0,), "frozen_random": False, "pca": False} | settings
    write_run(folder, **settings)
    tokens = np.arange(1, 41, dtype=float) * 10
    noise = np.random.default_rng(1).random(40) + 0.5
    sites: dict[str, Any] = {}
    for record in read_json(folder / "evaluation.json")["records"]:
        for quantity, measure in (("error", "fvu"), ("delta_loss", "delta_loss")):
            here = sites.setdefault(record["site"], {}).setdefault(quantity, {})
            here[record["name"]] = record[measure] * tokens * noise
    save_documents(
        RunFiles(folder).documents,
        {
            site: {quantity: DocumentSums(np.arange(40), tokens.copy(), sums) for quantity, sums in quantities.items()}
            for site, quantities in sites.items()
        },
    )
    return folder


def change(folder: Path, edit: Callable[[dict[str, Any]], object], file: str = "run.json") -> Path:
    value = read_json(folder / file)
    edit(value)
    write_json(folder / file, value)
    return folder


def script(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["script", *map(str, words)])
    module.main()


def test_single_seeds_come_in_their_order_and_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(records, "DIGITS", 17)  # every digit, to compare
    later, first = evaluated(tmp_path / "seeds", seeds=(2, 1)), evaluated(tmp_path / "seed0", seeds=(0,))
    script(comparison, monkeypatch, later, first, "--out", tmp_path / "found.json")
    record = read_json(tmp_path / "found.json")
    truth = {r["name"]: r for run in (later, first) for r in read_json(run / "evaluation.json")["records"]}
    for point in record["sites"][SITE]["points"]:
        assert point["seeds"] == [0, 1, 2]
        each = [truth[f"{point['architecture']}-l0_32-s{seed}"] for seed in range(3)]
        assert point["fvu"]["each"] == [r["fvu"] for r in each]
        assert point["fvu"]["mean"] == pytest.approx(np.mean([r["fvu"] for r in each]))
    (pair,) = record["sites"][SITE]["paired"]["32"]["fvu_ratio_minus_1"]
    for seed in range(3):
        ratio = truth[f"{pair['first']}-l0_32-s{seed}"]["fvu"] / truth[f"{pair['second']}-l0_32-s{seed}"]["fvu"] - 1
        assert pair["by_seed"][f"{seed}"] == pytest.approx(ratio)
    assert "| gated against topk, FVU |" in capsys.readouterr().out
    assert record["settings"]["training.outlier_error"] == 100
    assert record["settings"]["activations.outlier_multiple"] == 6


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("training", "outlier_error", 0.0),
        ("training", "warmup_fraction", 0.2),
        ("training", "decay_fraction", 0.0),
        ("training", "dead_fraction", 0.3),
        ("activations", "outlier_multiple", 0.0),
        ("activations", "dtype", "float32"),
        ("options", "jumprelu.bandwidth_relative", 0.1),
        ("text", "seed", 1),
    ],
)
def test_runs_of_other_settings_are_refused(tmp_path, section, name, value):
    first = write_run(tmp_path / "one")
    other = change(write_run(tmp_path / "other"), lambda run: run["config"][section].update({name: value}))
    with pytest.raises(UserError, match=section):
        run_folders.shared_config([first, other])


def test_runs_may_differ_in_what_tells_saes_apart(tmp_path):
    first = write_run(tmp_path / "one")
    other = write_run(tmp_path / "other", sites=["layers.4.mlp_out"], architectures=["topk"], l0=[8.0], seeds=[3])
    change(other, lambda run: run["config"]["training"].update(checkpoint_tokens=7, log_tokens=9))
    run_folders.shared_config([first, other])


def test_a_sae_that_two_runs_have_is_refused_and_a_control_counts_once(tmp_path, monkeypatch):
    first, other = evaluated(tmp_path / "one", pca=True), evaluated(tmp_path / "other", seeds=(1,), pca=True)
    script(comparison, monkeypatch, first, other, "--out", tmp_path / "found.json")
    points = read_json(tmp_path / "found.json")["sites"][SITE]["points"]
    assert [p["seeds"] for p in points if p["architecture"] == "pca"] == [[0]]
    again = evaluated(tmp_path / "again", pca=True)
    with pytest.raises(UserError, match=r"again and .*one both have topk-l0_32-s0"):
        script(comparison, monkeypatch, first, again, "--out", tmp_path / "found.json")


def test_a_sae_far_from_its_l0_is_said_to_be_left_out(tmp_path, monkeypatch, capsys):
    run = evaluated(tmp_path / "run", architectures=("topk", "gated", "relu"))
    change(
        run, lambda file: [r.update(l0=40.0) for r in file["records"] if r["architecture"] == "relu"], "evaluation.json"
    )
    script(comparison, monkeypatch, run, "--out", tmp_path / "found.json")
    output = capsys.readouterr().out
    assert "not compared at L0 32, too far from it: relu" in output
    assert "relu against" not in output


def test_bad_folders_end_in_one_line(tmp_path, monkeypatch, capsys):
    run = run_folders.run
    whole, unknown_sae, no_evaluation = (evaluated(tmp_path / name) for name in ("whole", "unknown", "without"))
    (no_evaluation / "evaluation.json").unlink()
    sums = {name: DocumentSums(np.arange(40), np.ones(40), {}) for name in ("error", "delta_loss")}
    save_documents(RunFiles(unknown_sae).documents, {SITE: sums})
    for folder, message in (
        (tmp_path / "nowhere", "nowhere"),
        (no_evaluation, "evaluation.json"),
        (unknown_sae, "no document sums of"),
    ):
        with pytest.raises(SystemExit) as ended:
            run(lambda folder=folder: script(comparison, monkeypatch, folder, "--out", tmp_path / "found.json"))
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message in line
    run(lambda: script(comparison, monkeypatch, whole, "--out", tmp_path / "found.json"))


def test_half_widths_and_the_order_of_a_pair():
    assert comparison.half({"fvu": {"mean": 0.2, "interval": [0.196, 0.21]}}, "fvu", 3) == "0.200 ±.007"
    assert comparison.half({"l0": {"mean": 32.0, "interval": [32.0, 32.0]}}, "l0", 1) == "32.0"
    difference = {"first": "topk", "second": "jumprelu", "estimate": 0.25, "low": 0.0, "high": 1.0}
    assert comparison.oriented(difference, True) == ("jumprelu", "topk", pytest.approx(-20), pytest.approx(-50), 0)
    assert comparison.oriented(difference, False) == ("jumprelu", "topk", -0.25, -1.0, 0.0)


def test_pictures_of_latents_show_one_seed(tmp_path, monkeypatch):
    run = comparison.read_inputs(write_run(tmp_path / "run", architectures=("topk", "gated"), l0=(32.0,), seeds=(2, 1)))
    drawn = []
    monkeypatch.setattr(comparison, "site_figures", lambda run, *_: drawn.extend(run.latents) or [])
    comparison.draw(run, SITE, tmp_path / "figures")
    names = {"topk-l0_32-s1", "gated-l0_32-s1", "frozen_random-l0_32-s0"}
    assert {name for _, name in drawn} == names
    assert comparison.over_active(run.latents[SITE, "topk-l0_32-s1"])["share_of_firings"] <= 1


def planted_run(seed: int, factors: tuple[float, ...], **about: Any) -> dict[str, Any]:
    """A run of planted_scale with one architecture; of four latents, 1 + seed match."""
    matches = {
        "target": [1.0] * (1 + seed) + [0.1] * (3 - seed),
        "which": [0, 1, 2, 3],
        "latent": [1.0] * (1 + seed) + [0.1] * (3 - seed),
    }
    saes = {
        f"topk {factor:g}": {
            "architecture": "topk",
            "factor": factor,
            "asked_l0": 2 * factor,
            "l0": 2 * factor - 0.1 * seed,
            "fvu": 0.1,
            "dead_fraction": 0.0,
            "matches": matches,
            "tails": [
                {"l0": 2 * factor, "n": n, "value": 1 / factor, "interval": None, "n_rows": 8}
                for n in (4, 16)
                if n > 2 * factor
            ],
        }
        for factor in factors
    }
    return {"seed": seed, "true_l0": 2.0, "seconds": 7.0, "saes": saes, "random": matches, **about}


def test_planted_results_hold_every_seed_and_what_each_run_took(monkeypatch):
    monkeypatch.setattr(planted, "ARCHITECTURES", ("topk",))
    base = (0.5, 1.0, 1.5)
    took = {"threads": 2, "processor_seconds": 9.0, "machine": "one"}
    results = planted.together([planted_run(0, base), planted_run(1, base, **took)], [planted_run(0, (4.0,), **took)])
    assert [(run["seed"], run["threads"], run["factors"]) for run in results["runs"]] == [
        (0, None, [0.5, 1.0, 1.5]),
        (1, 2, [0.5, 1.0, 1.5]),
        (0, 2, [4.0]),
    ]
    right = results["saes"]["topk 1"]
    assert [(scores["seed"], scores["f1"], scores["l0"]) for scores in right["by_seed"]] == [
        (0, pytest.approx(0.25), 2.0),
        (1, pytest.approx(0.5), 1.9),
    ]
    assert right["f1"] == pytest.approx(0.375)
    assert "0.250–0.500" in planted.cells(right, "f1")
    assert [scores["seed"] for scores in results["saes"]["topk 4"]["by_seed"]] == [0]
    # the further run's L0 8 is above rank 4, so it is in the first seed's comparison at rank 16 alone
    assert {(c["seed"], c["n"]): c["chosen_l0"] for c in results["choices"]} == {
        (0, 4): 3.0,
        (0, 16): 8.0,
        (1, 4): 3.0,
        (1, 16): 3.0,
    }
    json.dumps(results)
