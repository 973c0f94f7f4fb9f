"""`monosemy graph` end to end on a tiny model, with a run's transcoders and a circuit-tracer set, and its refusals."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
import torch
from graph_cases import TEXT, random_transcoder
from safetensors.torch import save_file
from tiny_models import N_LAYERS, byte_tokenizer, random_module

import monosemy
from monosemy.circuits.graphs.layout import folder_name, slug_of
from monosemy.cli import main
from monosemy.config import ModelConfig, RunConfig, to_json
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
from monosemy.saes.storage import save_sae
from monosemy.support.files import write_json


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    random_module("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, model_folder):
    """A run with transcoders for layers 0 and 2, and an SAE."""
    folder = tmp_path_factory.mktemp("run")
    config = RunConfig(model=ModelConfig(source=str(model_folder), device="cpu"))
    write_json(folder / "run.json", {"format": 1, "config": to_json(config), "provenance": {}})
    for layer in (0, 2):
        sae = random_transcoder(layer).float()
        save_sae(sae, folder / "saes" / sae.config.site / "topk-l0_5-s0")
    plain = build_sae(SaeConfig("topk", 32, 64, 4.0, site="layers.1.resid_post"))
    save_sae(plain, folder / "saes/layers.1.resid_post/topk-l0_4-s0")
    return folder


@pytest.fixture(scope="module")
def transcoder_set(tmp_path_factory):
    """A circuit-tracer set for every layer."""
    folder = tmp_path_factory.mktemp("set")
    (folder / "config.yaml").write_text("model_name: tiny\nmodel_kind: transcoder_set\n")
    for layer in range(N_LAYERS):
        sae = random_transcoder(layer, architecture="relu", skip=False).float()
        tensors = {"W_enc": sae.W_enc.T, "W_dec": sae.W_dec, "b_enc": sae.b_enc - 3, "b_dec": sae.b_dec}
        save_file(
            {name: tensor.detach().contiguous() for name, tensor in tensors.items()},
            folder / f"layer_{layer}.safetensors",
        )
    return folder


def test_a_runs_transcoders_give_tables_and_a_graph(run, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--nodes", "40", "--ablations", "5", "--controls", "--heads", "2", "--score", "2.1:9,4"]
    main(["graph", TEXT, "--run", str(run), "--out", str(out), *words])
    printed = capsys.readouterr().out
    for line in (
        "no transcoder for layer 1, 3: the whole output of that MLP is an error node",
        "self-check: rows sum to their targets",
        "replacement score 0.",
        "over 5 latents",
        "shuffled",
        "random",
        "head 2.1 from 9 to 4",
    ):
        assert line in printed
    nodes, edges = (pq.read_table(out / f"{name}.parquet").to_pylist() for name in ("nodes", "edges"))
    document = json.loads((out / "graph.json").read_text())
    assert sum(row["kept"] for row in nodes) == len(document["nodes"])
    assert sum(row["ablation_free"] is not None for row in nodes) == 5
    assert len(edges) == len(document["links"])


def test_a_set_and_several_prompts(transcoder_set, model_folder, tmp_path, capsys):
    out, words = tmp_path / "out", ["--transcoders", str(transcoder_set), "--model", str(model_folder)]
    main(["graph", TEXT, "b little text", *words, "--by-position", "--nodes", "30", "--out", str(out)])
    printed = capsys.readouterr().out
    assert "no transcoder for layer" not in printed
    assert "mean of 2 prompts" in printed
    assert {"low", "high", "kept_share"} <= set(pq.read_table(out / "nodes.parquet").column_names)


def test_places_are_opened_in_python_too(transcoder_set, model_folder):
    model = monosemy.load_model(str(model_folder), device="cpu")
    whole = monosemy.attribute(model, transcoder_set, TEXT, max_latents=20)
    files = [str(transcoder_set / f"layer_{layer}.safetensors") for layer in range(N_LAYERS)]
    one_by_one = monosemy.attribute(model, files, TEXT, max_latents=20)
    assert torch.equal(whole.effects, one_by_one.effects)
    assert whole.bare_layers == ()


def refusal(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["graph", *words])
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def test_bad_input_is_one_line(run, transcoder_set, tmp_path, capsys):
    cases = (
        ([], "which prompt"),
        ([TEXT], "which transcoders"),
        ([TEXT, "--run", str(run), "--transcoders", str(transcoder_set)], "which transcoders"),
        ([TEXT, "--run", str(tmp_path)], "run"),
        ([TEXT, "--run", str(run), "--name", "none"], "unknown transcoder 'none'"),
        ([TEXT, "--run", str(run), "--node-share", "0"], "--node-share"),
        (["x" * 80, "--run", str(run)], "81 tokens, but"),
        ([TEXT, "--run", str(run), "--ablations", "0", "--score", "2.1"], "LAYER.HEAD:QUERY,KEY"),
        ([TEXT, "--run", str(run), "--html", "page.txt"], "--html page.txt must be a file that ends in .html"),
        ([TEXT, "b", "--run", str(run), "--html", "page.html"], "--html is the page of one prompt, but 2 are given"),
    )
    for words, message in cases:
        assert message in refusal([*words, "--out", str(tmp_path / "out")], capsys)


def test_a_page_never_replaces_a_file_of_someone_else(transcoder_set, model_folder, tmp_path, capsys):
    words = [TEXT, "--transcoders", str(transcoder_set), "--model", str(model_folder), "--nodes", "20", "--heads", "0"]
    page = tmp_path / "page.html"
    words += ["--ablations", "0", "--out", str(tmp_path / "out"), "--html", str(page)]
    page.write_text("mine")
    assert f"{page} exists and was not made by monosemy graph" in refusal(words, capsys)
    assert page.read_text() == "mine"
    page.unlink()
    main(["graph", *words])
    first = page.read_text()
    main(["graph", *words])
    assert page.read_text() == first
    assert "<title>a little text</title>" in first


def test_a_runs_graphs_lie_in_the_run(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["graph", TEXT, "--run", str(run), "--nodes", "20", "--ablations", "0", "--heads", "0"])
    folder = run / "graphs" / "a-little-text"
    assert {path.name for path in folder.iterdir()} == {"nodes.parquet", "edges.parquet", "graph.json", "page.json"}
    assert "monosemy browse" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_run_without_transcoders_says_what_it_has(tmp_path, capsys):
    write_json(tmp_path / "run.json", {"format": 1, "config": to_json(RunConfig()), "provenance": {}})
    save_sae(build_sae(SaeConfig("topk", 32, 64, 4.0, site="here")), tmp_path / "saes/here/topk-l0_4-s0")
    line = refusal([TEXT, "--run", str(tmp_path), "--out", str(tmp_path / "out")], capsys)
    assert "holds no transcoders, which a graph needs (its SAEs: at here)" in line


def test_slugs_are_folder_names():
    assert slug_of("The capital of France is…") == "the-capital-of-france-is"
    assert slug_of("…") == "prompt"
    assert len(slug_of("word " * 50)) <= 40


def test_prompts_that_would_share_a_folder_have_one_each():
    names = {folder_name(prompt) for prompt in ("A cat", "a cat", "a cat!", "word " * 50, "word " * 51, "…", "–")}
    assert len({name.lower() for name in names}) == 7
    assert folder_name("a cat") == "a-cat"
