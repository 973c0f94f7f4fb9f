"""`monosemy jacobian …` on a tiny model: train, measure, pairs, graph, random; what is done is not done again."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import byte_tokenizer, random_module

from monosemy.circuits.jacobian import mlp
from monosemy.circuits.jacobian.commands import SUBCOMMANDS, run_jacobian
from monosemy.circuits.jacobian.report_section import Jacobian, _drawn_histograms, drawings, read_jacobian, section
from monosemy.circuits.jacobian.studies import summarise_scores
from monosemy.circuits.jacobian.trained_pairs import Study, choose_pair, find_pairs
from monosemy.cli import main
from monosemy.errors import UserError
from monosemy.run import open_run, read_run
from monosemy.support.files import read_json

SENTENCE = "a the cat sat on mat and it was not so late when rain came down over old stone walls by sea"
FIRST, SECOND = "jsae_0-l0_4-s0", "jsae_2-l0_4-s0"
FEW = ["--measure-tokens", "512", "--average-tokens", "256", "--curves", "20", "--ablation-tokens", "32"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Two pairs around the second MLP of a random Llama, λ = 0 and 2."""
    folder = tmp_path_factory.mktemp("jacobian")
    random_module("llama").save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    words = random.Random(0)
    lines = [json.dumps({"text": " ".join(words.choices(SENTENCE.split(), k=60))}) + "\n" for _ in range(300)]
    (folder / "text.jsonl").write_text("".join(lines), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MONOSEMY_CACHE", str(folder / "cache"))
        patch.setenv("MONOSEMY_QUIET", "1")
        sources = ["--run", str(folder / "run"), "--model", str(folder / "model"), "--text", str(folder / "text.jsonl")]
        settings = "--device cpu --context 64 --layer 1 --lambda 0 2 --l0 4 --d-sae 48 --tokens 20k"
        settings += " --validation-tokens 2k --batch 256 --loss-tokens 256 --no-report"
        main(["jacobian", "train", *sources, *settings.split(), *FEW])
        yield folder / "run"


def command(*words: str | Path) -> None:
    main(["jacobian", *map(str, words)])


def test_a_run_has_its_pairs_and_their_measures(run):
    pairs = find_pairs(run)
    assert [pair.name for pair in pairs] == [FIRST, SECOND]
    assert [(pair.coef, pair.l0, pair.seed, pair.layer) for pair in pairs] == [(0, 4, 0, 1), (2, 4, 0, 1)]
    assert choose_pair(pairs, SECOND) is pairs[1]
    rows = read_json(run / "jacobian" / "frontier.json")["rows"]
    assert [row["lambda"] for row in rows] == [0, 2]
    for row in rows:
        for key in ("variance_explained_in", "variance_explained_out", "ce_score_in", "ce_score_out"):
            assert row[key]["value"] is not None
            assert row[key]["interval"][0] <= row[key]["value"] <= row[key]["interval"][1]
        assert 0 <= row["estimates"]["over_0.01"]["value"] <= 1
        assert row["estimates"]["elements_per_token"]["value"] <= 16
        assert sum(
            row["linearity"][shape]["value"] for shape in ("flat", "linear", "jumprelu", "other")
        ) == pytest.approx(1)
        assert -1 <= row["ablation"]["rank_correlation"]["value"] <= 1
    dense, sparse = rows
    assert sparse["estimates"]["mean_abs"]["value"] < 0.5 * dense["estimates"]["mean_abs"]["value"]
    low, high = sparse["reduction"]["over_0.02"]["interval"]
    assert 1 < low <= sparse["reduction"]["over_0.02"]["value"] <= high
    low, high = sparse["ce_cost"]["interval"]
    assert low <= sparse["ce_cost"]["value"] <= high
    assert dense["ce_cost"] == {"value": 0, "interval": [0, 0]}


def test_slices_of_finished_runs_are_the_slopes_of_the_map(run):
    """Central differences through the saved SAEs, which read raw activations, against J, which is at unit scale."""
    config, _ = read_run(run)
    with open_run(run, config) as opened:
        study = Study(opened)
        entry = study.pairs[1]
        rows = study.rows(entry, 256).take(slice(0, 40))
        loaded = study.load(entry)
    slices, latent_map = loaded.slicer()(rows), loaded.latent_map
    assert loaded.sae_in.config.scale != 1
    step, checked = 1e-2, 0
    for place in range(slices.in_indices.shape[1]):
        latents = slices.in_indices[:, place].clamp_min(0)
        change = torch.full((len(rows),), step)
        ends = [latent_map.outputs(latent_map.moved(rows.x, latents, sign * change)) for sign in (1, -1)]
        outputs = slices.out_indices.clamp_min(0)
        slopes = (ends[0].gather(1, outputs) - ends[1].gather(1, outputs)) / (2 * step)
        # latents that stay among the active ones on both sides: elsewhere the map jumps
        stays = slices.active[:, :, place] & (ends[0].gather(1, outputs) > 0) & (ends[1].gather(1, outputs) > 0)
        torch.testing.assert_close(slopes[stays], slices.values[:, :, place][stays], rtol=0.05, atol=2e-3)
        checked += int(stays.sum())
    assert checked > 400


def test_slices_and_their_tables_share_the_memory_bound_of_the_run(run, monkeypatch):
    calls = []
    real = mlp.jacobian_slices
    monkeypatch.setattr(mlp, "jacobian_slices", lambda *a, **k: calls.append(k["max_memory"]) or real(*a, **k))
    config, _ = read_run(run)
    with open_run(run, config) as opened:
        study = Study(opened)
        rows = study.rows(study.pairs[0], 256).take(slice(0, 40))
        loaded = study.load(study.pairs[0])
    tables = 4 * 3 * 48 * loaded.weights.d_ff
    assert loaded.max_memory == config.jacobian.max_memory_mb * 10**6
    wide, narrow = loaded.slicer(), dataclasses.replace(loaded, max_memory=2 * tables - 1).slicer()
    assert narrow.tables is None, "they would take more than half"
    slices = [slicer(rows) for slicer in (wide, narrow)]
    assert calls == [loaded.max_memory - tables, 2 * tables - 1]
    torch.testing.assert_close(slices[0].values, slices[1].values, rtol=1e-4, atol=1e-5)


def test_what_is_measured_is_not_measured_again(run, capsys):
    path = run / "jacobian" / FIRST / "measures.json"
    before = path.stat().st_mtime_ns
    command("measure", run, "--no-report", *FEW)
    assert path.stat().st_mtime_ns == before
    output = capsys.readouterr().out
    assert "|J|>.01" in output
    path.write_text("{")
    command("measure", run, "--no-report", *FEW)
    assert json.loads(path.read_text())["lambda"] == 0


def test_pairs_are_shown_and_kept(run, capsys):
    command("pairs", run, "--no-report", "--pair", SECOND, "--tokens", "8k", "-n", "4")
    printed = capsys.readouterr().out
    document = read_json(run / "jacobian" / SECOND / "pairs.json")
    assert f"averaged over {document['n_average_tokens']:,} training tokens" in printed
    assert 1 <= len(document["outputs"]) <= 4
    for output in document["outputs"]:
        assert f"output latent {output['latent']}" in printed
        for input_latent in output["inputs"]:
            for example in input_latent["examples"]:
                assert len(example["tokens"]) == len(example["in_values"]) == len(example["out_values"])
                assert example["in_values"][example["at"]] == pytest.approx(example["in_value"], rel=1e-3, abs=1e-4)
                assert example["out_values"][example["at"]] == pytest.approx(example["out_value"], rel=1e-3, abs=1e-4)
    latent, other = document["outputs"][0]["latent"], document["outputs"][0]["inputs"][0]["latent"]
    out = run.parent / "pairs.json"
    command(
        "pairs", run, "--no-report", "--pair", SECOND, "--tokens", "8k", "--latents", f"{other}:{latent}", "--out", out
    )
    (only,) = read_json(out)["outputs"]
    assert (only["latent"], [input_latent["latent"] for input_latent in only["inputs"]]) == (latent, [other])


def test_graphs_are_written(run, tmp_path):
    command("graph", run, "--pair", SECOND, "--text", "the cat sat", "--out", tmp_path / "text.json")
    graph = read_json(tmp_path / "text.json")
    assert graph["tokens"][1:] == list("the cat sat")
    assert [token_graph["position"] for token_graph in graph["graphs"]] == list(range(1, 12))
    for token_graph in graph["graphs"]:
        values = {node["id"]: node["value"] for node in token_graph["nodes"] if node["kind"] == "output"}
        for target, value in values.items():
            into = sum(edge["weight"] for edge in token_graph["edges"] if edge["target"] == target)
            assert into == pytest.approx(value, abs=1e-4)
    command("graph", run, "--pair", FIRST, "--tokens", "4k", "--edges", "30", "--out", tmp_path / "average.json")
    average = read_json(tmp_path / "average.json")
    assert len([edge for edge in average["edges"] if edge["source"] != "error:in"]) == 30
    shares = {node["id"]: node["share"] for node in average["nodes"] if node["kind"] == "error"}
    assert all(0 < shares[name] < 1 for name in ("error:in", "error:out"))
    assert 0 < average["n_tokens"] <= 4096


def test_randomised_models_are_trained_apart_and_compared(run, capsys):
    words = ["random", run, "--no-report", "--kinds", "published", "--lambda", "0", "--l0", "2", "4", *FEW]
    command(*words)
    assert "published" in capsys.readouterr().out
    document = read_json(run / "jacobian" / "random.json")
    (row,) = document["rows"]
    assert row["kind"] == "published"
    assert row["measures"]["over_0.01"]["random"]["value"] is not None
    inner = run / "jacobian" / "random" / document["folders"]["published"]
    models = [read_json(folder / "run.json")["provenance"]["model"]["fingerprint"] for folder in (run, inner)]
    assert models[0] != models[1]
    html = section(read_jacobian(run), drawings(read_jacobian(run)))
    assert "published" in html
    assert f"{row['explained']['in']['trained']:.3f}" in html
    before = (inner / "stages.json").read_bytes()
    path = run / "jacobian" / "random.json"
    other = {"matched": document["frontiers"]["published"]}  # as if another kind had been compared before
    earlier = document | {"frontiers": other, "histograms": {}, "folders": {"matched": inner.name}}
    path.write_text(json.dumps(earlier))
    command(*words)
    assert (inner / "stages.json").read_bytes() == before, "nothing is trained again"
    assert {entry["kind"] for entry in read_json(path)["rows"]} == {"published", "matched"}, "the other kind stays"
    path.write_text(json.dumps(earlier | {"of": "other SAEs"}))
    assert not read_jacobian(run).random, "made of other SAEs than those measured"
    command(*words)
    assert {entry["kind"] for entry in read_json(path)["rows"]} == {"published"}


def test_labels_of_both_pairs_are_scored(run, capsys):
    command("interpret", run, "--no-report", "--tokens", "4k", "--pair", FIRST)
    command("interpret", run, "--no-report", "--tokens", "4k", "--pair", SECOND)
    output = capsys.readouterr().out
    rows = read_json(run / "jacobian" / "interpretability.json")["rows"]
    sites = ["layers.1.mlp_in", "layers.1.mlp_out"]
    assert [(row["name"], row["site"]) for row in rows] == [(name, site) for name in (FIRST, SECOND) for site in sites]
    html = section(read_jacobian(run), drawings(read_jacobian(run)))
    for row in rows:
        assert 0 < row["n_label"] <= 48
        low, high = row["label_auroc"]["interval"]
        assert 0 <= low <= row["label_auroc"]["value"] <= high <= 1
        assert f"{row['label_auroc']['value']:.3f} [{low:.3f}, {high:.3f}]" in html
    assert f"{rows[-1]['label_auroc']['value']:.3f}" in output


def test_the_report_has_a_section_on_them(run):
    command("pairs", run, "--no-report", "--pair", SECOND, "--tokens", "8k", "-n", "4")
    results = read_jacobian(run)
    drawn = drawings(results)
    assert set(drawn) == {"trade_off", "magnitudes"}
    html = section(results, drawn)
    assert "Strongest pairs" in html
    assert html.count("<tr>") > 2 * len(results.rows)
    for row in results.rows:
        assert f"{100 * row['estimates']['over_0.01']['value']:.3g}%" in html
    (run / "jacobian" / "frontier.json").write_text('{"rows": [{}]}')
    with pytest.raises(UserError, match="monosemy jacobian measure"):
        read_jacobian(run)
    command("measure", run, "--no-report", *FEW)
    assert read_jacobian(run).rows == results.rows
    assert read_jacobian(run.parent) is None


def test_texts_in_the_report_are_escaped_and_shaded():
    example = {"tokens": ["<b>", "x", "\n"], "at": 1, "in_values": [0, 2, 1], "out_values": [0.5, 1, 0], "effect": -0.5}
    input_latent = {"latent": 3, "share": 0.5, "label": "<i>", "examples": [example]}
    document = {
        "name": FIRST,
        "n_tokens": 10,
        "n_average_tokens": 5,
        "outputs": [{"latent": 7, "label": None, "inputs": [input_latent]}],
    }
    row = {"name": FIRST, "lambda": 0.0, "l0": 4.0, "seed": 0, "sites": ["a", "b"], "n_tokens": 1, "n_documents": 1}
    empty = {"value": None, "interval": None}
    names = ("variance_explained_in", "variance_explained_out", "ce_score_in", "ce_score_out")
    measures = ("over_0.01", "scaled_over_0.1", "share_of_90", "kurtosis", "scaled_kurtosis")
    row |= dict.fromkeys(names, empty) | {"estimates": dict.fromkeys(measures, empty), "reduction": {}}
    row |= {"linearity": dict.fromkeys(("linear", "jumprelu", "flat", "other"), empty), "average_over": {}}
    row |= {"ablation": {"rank_correlation": empty, "r_squared": empty}, "ce_cost": empty}
    histogram = [0] * 562
    histogram[300] = 5
    results = Jacobian([row], None, {FIRST: histogram}, pairs=[document])
    html = section(results, drawings(results))
    assert "<b>x</b>" in html, "the token of the hit"
    assert "&lt;b&gt;" in html
    assert "&lt;i&gt;" in html
    assert 'class="a5 u5"' in html
    assert "<i>" not in html


def test_histograms_of_random_models_are_drawn_where_they_were_matched():
    histogram = [0] * 562
    histogram[300] = 5
    rows = [{"name": f"p{coef:g}", "lambda": coef, "l0": 16.0, "seed": 0} for coef in (0.0, 0.3, 3.0)]
    kinds = ("published", "matched")
    random = {
        "rows": [{"kind": kind, "lambda": coef, "l0_random": [32.0, 64.0]} for kind in kinds for coef in (0.0, 3.0)],
        "histograms": {
            kind: [{"l0": l0, "lambda": coef, "histogram": histogram} for l0 in (32.0, 64.0) for coef in (0.0, 3.0)]
            for kind in kinds
        },
    }
    results = Jacobian(rows, "p0.3", {row["name"]: histogram for row in rows}, random=random)
    assert [name for name, _ in _drawn_histograms(results)] == [
        "trained model, no penalty",
        "trained model, λ = 3",
        "published random model, L0 32, no penalty",
        "matched random model, L0 32, no penalty",
        "published random model, L0 32, λ = 3",
    ]
    alone = [name for name, _ in _drawn_histograms(Jacobian(rows, "p0.3", results.histograms))]
    assert alone == ["trained model, no penalty", "trained model, λ = 0.3"]


def test_scores_of_labels_are_means_over_the_latents_that_have_one():
    values = np.array([0.9, 0.7, np.nan, 0.5, 0.85, np.nan])
    summary = summarise_scores({"label": values, "combined": np.full(6, np.nan)})
    assert summary["n_label"] == 4
    assert summary["label_auroc"]["value"] == pytest.approx(np.mean([0.9, 0.7, 0.5, 0.85]))
    low, high = summary["label_auroc"]["interval"]
    assert 0.5 <= low < summary["label_auroc"]["value"] < high <= 0.9
    assert summary["label_good"]["value"] == 0.5
    assert summary["combined_auroc"] == {"value": None, "interval": None}


def test_mistakes_are_refused_at_once(run, tmp_path, capsys):
    for words, message in [
        (["measur", run], "did you mean"),
        (["pairs", run], "several pairs"),
        (["pairs", run, "--pair", "jsae_3"], "unknown pair"),
        (["pairs", run, "--pair", FIRST, "--latents", "5-12"], "INPUT:OUTPUT"),
        (["pairs", run, "--pair", FIRST, "--output", "48"], "out of range"),
        (["pairs", run, "--pair", FIRST, "--inputs", "0"], "--inputs -?[01] must be at least 1"),
        (["pairs", run, "--pair", FIRST, "--examples", "0"], "--examples -?[01] must be at least 1"),
        (["pairs", run, "--pair", FIRST, "-n", "-1"], "-n -?[01] must be at least 1"),
        (["pairs", run, "--pair", FIRST, "--tokens", "0"], "--tokens -?[01] must be at least 1"),
        (["graph", run, "--pair", FIRST, "--edges", "0", "--out", "g.json"], "--edges -?[01] must be at least 1"),
        (["measure", run, "--measure-tokens", "0"], "--measure-tokens -?[01] must be at least 1"),
        (["measure", run, "--average-tokens", "0"], "--average-tokens -?[01] must be at least 1"),
        (["random", run, "--lambda", "0", "5"], "no pair with λ = 5 .* its own: 0, 2"),
        (["measure", tmp_path], "run"),
        (["measure", run, "--measure-tokens", "many"], "300k"),
        (["graph", run, "--pair", FIRST, "--text", " ", "--out", "g.json"], "empty"),
        (["graph", run, "--pair", FIRST, "--text", "x" * 500, "--out", "g.json"], "shorten"),
        (["train", "--run", tmp_path / "r", "--lambda", "0", "-1"], "--lambda -1 must be at least 0"),
        (["train", "--run", tmp_path / "r", "--layer", "-3"], "--layer -3 must be at least 0"),
    ]:
        with pytest.raises(UserError, match=message):
            run_jacobian([str(word) for word in words])
    capsys.readouterr()


def test_every_command_has_an_example(capsys):
    run_jacobian(["--help"])
    overview = capsys.readouterr().out
    for name in SUBCOMMANDS:
        assert f"  {name} " in overview
        with pytest.raises(SystemExit):
            run_jacobian([name, "--help"])
        assert f"example:\n  monosemy jacobian {name}" in capsys.readouterr().out
