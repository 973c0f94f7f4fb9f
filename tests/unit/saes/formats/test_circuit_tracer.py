"""Sets of circuit-tracer: folders of one layer, subfolders, activations, and lists of what lies elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from published_saes import assert_same, topk
from safetensors.torch import save_file
from torch import Tensor

from monosemy.errors import UserError
from monosemy.saes.formats.circuit_tracer import published_elsewhere
from monosemy.saes.storage import load_sae

SETTINGS = "model_name: google/gemma-2-2b\nfeature_input_hook: ln2.hook_normalized\n"


def written(folder: Path, w: dict[str, Tensor], settings: str = "", layer: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if settings:
        (folder / "config.yaml").write_text(settings)
    file = folder / f"layer_{layer}.safetensors"
    save_file({"W_enc": w["W_enc"].T.contiguous(), **{name: w[name] for name in ("W_dec", "b_enc", "b_dec")}}, file)
    return file


def test_a_folder_stands_for_its_only_layer(weights, tmp_path):
    w, x = weights, weights["x"]
    file = written(tmp_path, w, SETTINGS)
    sae = load_sae(tmp_path)
    codes = (x @ w["W_enc"] + w["b_enc"]).relu()
    assert_same(sae, x, codes, codes @ w["W_dec"] + w["b_dec"])
    assert sae.config == load_sae(file).config
    assert sae.config.site == "layers.3.mlp_in"
    written(tmp_path, w, layer=12)
    with pytest.raises(UserError, match=r"for each of 2 layers; name one, e.g. .*layer_3.safetensors"):
        load_sae(tmp_path)


def test_layers_in_the_subfolder_that_the_settings_name(weights, tmp_path):
    file = written(tmp_path / "set" / "relu", weights)
    (tmp_path / "set" / "config.yaml").write_text(f"{SETTINGS}subfolder: relu\nrepo_id: org/repo\n")
    for source in (file, tmp_path / "set"):
        sae = load_sae(source)
        assert sae.config.model == "google/gemma-2-2b"
        assert sae.config.record["origin"]["files"].keys() == {"config.yaml", "layer_3.safetensors"}
    (tmp_path / "set" / "config.yaml").write_text(f"{SETTINGS}subfolder: another\n")
    assert load_sae(file).config.model == ""


@pytest.mark.parametrize(
    "activation", ["{topk: {k: 4}}", "{topk: 4}", "{type: topk, k: 4}", "{name: TopK, k: 4}", "topk\nk: 4"]
)
def test_ways_to_ask_for_topk(weights, tmp_path, activation):
    w, x = weights, weights["x"]
    codes = topk(x @ w["W_enc"] + w["b_enc"], 4)
    sae = load_sae(written(tmp_path, w, f"{SETTINGS}activation: {activation}\n"))
    assert_same(sae, x, codes, codes @ w["W_dec"] + w["b_dec"])


def test_another_activation_is_refused_by_name(weights, tmp_path):
    file = written(tmp_path, weights, f"{SETTINGS}activation: gelu\n")
    with pytest.raises(UserError, match="activation 'gelu'; relu, jumprelu and topk are read"):
        load_sae(file)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ("transcoders:\n  0: hf://a/b/c?revision=main", ["hf://a/b/c?revision=main"]),
        (
            "transcoders: [{repo_id: a/b, filepath: c/d.safetensors, revision: v1}, {repo_id: a/b, subfolder: e}]",
            ["a/b/c/d.safetensors@v1", "a/b/e"],
        ),
        ("transcoders:\n  0: {path: hf://a/b/c}\n  1: {path: hf://a/b/d}", ["hf://a/b/c", "hf://a/b/d"]),
        ("repo_id: a/b\nsubfolder: relu\nrevision: v1", ["a/b/relu/layer_0.safetensors@v1"]),
        ("repo_id: a/b\nmodel_kind: cross_layer_transcoder", ["a/b/W_enc_0.safetensors"]),
        ("transcoders: 5", []),
        ("transcoders: [[x], 3, null]", []),
    ],
)
def test_what_a_set_lists_elsewhere(tmp_path, settings, names):
    (tmp_path / "config.yaml").write_text(settings)
    assert published_elsewhere(tmp_path / "config.yaml") == names
    with pytest.raises(UserError, match=f"is a list of {len(names)} transcoders" if names else "is not a saved SAE"):
        load_sae(tmp_path)


@pytest.mark.parametrize("text", [f"transcoders: [{'x' * 60_000}]", f"subfolder: {'../' * 9}etc", "subfolder: [1]"])
def test_odd_lists_and_subfolders_do_no_harm(weights, tmp_path, text):
    file = written(tmp_path, weights, SETTINGS + text)
    assert torch.equal(load_sae(tmp_path).W_dec, weights["W_dec"])
    file.rename(tmp_path / "other.safetensors")
    with pytest.raises(UserError) as caught:
        load_sae(tmp_path)
    assert len(str(caught.value)) < 1000
