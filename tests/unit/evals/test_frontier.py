"""Records, file, control comparison and terminal table."""

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console

from monosemy.errors import UserError
from monosemy.evals.controls import fit_pca
from monosemy.evals.documents import DocumentSums
from monosemy.evals.evaluation_file import read_evaluation, write_evaluation
from monosemy.evals.frontier import (
    Candidate,
    build_evaluation,
    build_record,
    print_evaluation,
)
from monosemy.evals.model_loss import ModelLosses, ModelLossRecord
from monosemy.evals.reconstruction import evaluate_reconstruction
from monosemy.support.files import write_json

FIELDS = {"name", "architecture", "site", "d_sae", "target_l0", "seed", "control", "n_tokens", "n_loss_tokens"}
MEASURES = ("l0", "fvu", "delta_loss", "loss_recovered", "kl", "over_1pct_fraction", "over_10pct_fraction", "gamma")
FIELDS |= {"l0_quantiles", "dead_fraction", *MEASURES, *(f"{measure}_interval" for measure in MEASURES)}

LOSS = ModelLossRecord(0.25, (0.2, 0.3), 0.9, (0.85, 0.95), kl=0.2, kl_interval=(0.15, 0.25), n_loss_tokens=4000)


@pytest.fixture(scope="module")
def reconstructions():
    x = torch.randn(500, 12, generator=torch.Generator().manual_seed(0))
    basis = fit_pca([x])
    saes = {str(k): basis.dictionary(k) for k in (2, 4, 8)}
    results = evaluate_reconstruction(saes, [(x, torch.arange(500) // 20)], n_bootstrap=100)
    return {name: each.record for name, each in results.items()}


def candidate(architecture, target=4.0, site="layers.1.resid_post", control=False, seed=0):
    return Candidate(f"{architecture}-l0_{target:g}-s{seed}", architecture, site, target, seed=seed, control=control)


@pytest.fixture
def records(reconstructions):
    def make(key, *args, **kwargs):
        return build_record(candidate(*args, **kwargs), reconstructions[key], LOSS)

    return [
        make("2", "frozen_random", control=True),
        make("4", "frozen_random", control=True, seed=1),
        make("8", "topk"),
        make("4", "gated", target=2.0),
        make("4", "relu"),
        make("8", "topk", site="layers.0.resid_post"),
    ]


def test_record_has_every_field_and_is_json(records, reconstructions):
    record = records[2]
    assert set(record) >= FIELDS
    assert record["fvu"] == reconstructions["8"].fvu
    assert record["fvu_interval"] == list(reconstructions["8"].fvu_interval)
    assert (record["delta_loss"], record["kl_interval"], record["n_loss_tokens"]) == (0.25, [0.15, 0.25], 4000)
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_unmeasured_and_infinite_values_are_null(reconstructions):
    record = build_record(candidate("topk"), reconstructions["2"])
    assert set(record) >= FIELDS
    assert record["delta_loss"] is record["kl_interval"] is record["n_loss_tokens"] is None
    infinite = ModelLossRecord(
        float("inf"), (0.0, float("nan")), None, None, kl=0.0, kl_interval=None, n_loss_tokens=10
    )
    record = build_record(candidate("topk"), reconstructions["2"], infinite)
    assert record["delta_loss"] is None
    assert record["delta_loss_interval"] == [0.0, None]


def test_file_round_trip_sorted(tmp_path, records):
    sums = DocumentSums(np.arange(2), np.array([2000.0, 2000.0]), {})
    losses = {
        "layers.1.resid_post": ModelLosses(
            3.0, (2.9, 3.1), 9.0, (8.0, 10.0), n_loss_tokens=4000, records={}, documents=sums
        )
    }
    evaluation = build_evaluation(records, losses, {"model": "tiny"})
    write_evaluation(tmp_path, evaluation)
    read = read_evaluation(tmp_path)
    assert read == evaluation
    assert (read["format"], read["clean_loss"], read["zero_loss"]) == (1, 3.0, {"layers.1.resid_post": 9.0})
    order = [(r["site"], r["target_l0"], r["architecture"], r["seed"]) for r in read["records"]]
    assert order == [
        ("layers.0.resid_post", 4.0, "topk", 0),
        ("layers.1.resid_post", 2.0, "gated", 0),
        ("layers.1.resid_post", 4.0, "relu", 0),
        ("layers.1.resid_post", 4.0, "topk", 0),
        ("layers.1.resid_post", 4.0, "frozen_random", 0),
        ("layers.1.resid_post", 4.0, "frozen_random", 1),
    ]


def test_foreign_file(tmp_path):
    path = tmp_path / "evaluation.json"
    write_json(path, {"format": 2, "records": []})
    with pytest.raises(UserError, match=r"evaluation\.json is not an evaluation of format 1"):
        read_evaluation(tmp_path)


def rendered(records, width=120):
    console = Console(width=width, record=True, file=io.StringIO())
    print_evaluation(records, console)
    return console.export_text()


def test_table_shows_values_intervals_counts_and_controls_last(records):
    text = rendered(records)
    lines = [line for line in text.splitlines() if "0.250 ±.050" in line]
    assert len(lines) == len(records)
    assert [line.split()[:2] for line in lines[:3]] == [["4", "topk"], ["2", "gated"], ["4", "relu"]]
    assert [line.split()[0] for line in lines[3:]] == ["topk", "frozen_random", "frozen_random"]
    assert "frozen_random s1" in lines[-1]
    assert "500 validation tokens, losses over 4,000" in text
    assert text.count("layers.1.resid_post") == 1
    assert f"{records[2]['fvu']:.3f} ±" in lines[3]


@pytest.mark.parametrize("width", [60, 80, 100])
def test_narrow_terminals_lose_columns_not_digits(records, width):
    text = rendered(records, width)
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= width
    assert "too narrow for" in " ".join(text.split())
    assert text.count("0.250 ±.050") == len(records)


def test_table_without_model_loss_leaves_its_columns_out(reconstructions):
    text = rendered([build_record(candidate("topk"), reconstructions["2"])])
    assert "FVU" in text
    assert "KL" not in text
    assert "losses" not in text


def test_a_column_that_one_record_alone_has_is_in_the_table(records, reconstructions):
    text = rendered([*records, build_record(candidate("relu", target=9.0), reconstructions["2"])])
    assert "KL" in text


def test_output_that_is_no_terminal_is_wide_enough(records, capsys):
    print_evaluation(records)
    text = capsys.readouterr().out
    assert "γ" in text
    assert "too narrow" not in " ".join(text.split())
