"""Llama Scope's settings, each against its equation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from published_saes import D, F, assert_same, topk
from safetensors.torch import save_file
from torch import Tensor

from monosemy.errors import UserError
from monosemy.saes.storage import load_sae

SETTINGS = {
    "d_model": D,
    "d_sae": F,
    "act_fn": "jumprelu",
    "jump_relu_threshold": 0.4,
    "norm_activation": "dataset-wise",
    "dataset_average_activation_norm": {"in": 7.0, "out": 3.0},
    "hook_point_in": "blocks.15.hook_resid_post",
    "hook_point_out": "blocks.15.hook_resid_post",
    "top_k": 5,
}
TRANSCODER = {"hook_point_in": "blocks.15.ln2.hook_normalized", "hook_point_out": "blocks.15.hook_mlp_out"}
SCALE = D**0.5 / 7.0


def written(folder: Path, w: dict[str, Tensor], **settings: object) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "hyperparams.json").write_text(json.dumps({**SETTINGS, **settings}))
    stored = {
        "encoder.weight": w["W_enc"].T.contiguous(),
        "encoder.bias": w["b_enc"],
        "decoder.weight": w["W_dec"].T.contiguous(),
        "decoder.bias": w["b_dec"],
    }
    save_file(stored, folder / "checkpoints" / "final.safetensors")
    return folder


def test_a_transcoder_gives_its_outputs_units(weights, tmp_path):
    w, x = weights, weights["x"]
    sae = load_sae(written(tmp_path / "sae", w, **TRANSCODER))
    pre = (x * SCALE) @ w["W_enc"] + w["b_enc"]
    codes = pre * (pre > 0.4)
    assert_same(sae, x, codes, (codes @ w["W_dec"] + w["b_dec"]) / (D**0.5 / 3.0))
    assert sae.config.site_out == "layers.15.mlp_out_post"


def test_a_threshold_of_what_a_latent_writes(weights, tmp_path):
    w, x = weights, weights["x"]
    lengths = w["W_dec"].norm(dim=1)
    pre = (x * SCALE) @ w["W_enc"] + w["b_enc"]
    codes = pre * (pre * lengths > 0.4)
    assert not torch.equal(codes > 0, pre > 0.4)
    sae = load_sae(written(tmp_path / "sae", w, sparsity_include_decoder_norm=True))
    assert_same(sae, x, codes, (codes @ w["W_dec"] + w["b_dec"]) / SCALE)


def test_other_activations(weights, tmp_path):
    w, x = weights, weights["x"]
    pre = (x * SCALE) @ w["W_enc"] + w["b_enc"]
    sae = load_sae(written(tmp_path / "relu", w, act_fn="ReLU", jump_relu_threshold=None))
    assert_same(sae, x, pre.relu(), (pre.relu() @ w["W_dec"] + w["b_dec"]) / SCALE)
    codes = topk(pre, 5)
    sae = load_sae(written(tmp_path / "topk", w, act_fn="topk"))
    assert_same(sae, x, codes, (codes @ w["W_dec"] + w["b_dec"]) / SCALE)


def test_other_inputs(weights, tmp_path):
    w, x = weights, weights["x"]
    pre = (x * SCALE - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    codes = pre * (pre > 0.4)
    sae = load_sae(written(tmp_path / "centred", w, apply_decoder_bias_to_pre_encoder=True))
    assert_same(sae, x, codes, (codes @ w["W_dec"] + w["b_dec"]) / SCALE)
    scale = D**0.5 / x.norm(dim=1, keepdim=True)
    pre = (x * scale) @ w["W_enc"] + w["b_enc"]
    codes = pre * (pre > 0.4)
    sae = load_sae(written(tmp_path / "rows", w, norm_activation="token-wise", dataset_average_activation_norm=None))
    assert_same(sae, x, codes, (codes @ w["W_dec"] + w["b_dec"]) / scale)
    pre = x @ w["W_enc"] + w["b_enc"]
    codes = pre * (pre > 0.4)
    sae = load_sae(written(tmp_path / "raw", w, norm_activation="inference", use_decoder_bias=False))
    assert_same(sae, x, codes, codes @ w["W_dec"])


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"act_fn": "gelu"}, "act_fn = 'gelu'; jumprelu, relu, topk are read"),
        ({"norm_activation": "batch-wise"}, "norm_activation 'batch-wise', which is not read for SAEs"),
        ({"norm_activation": "token-wise", **TRANSCODER}, "'token-wise', which is not read for transcoders"),
        ({"use_glu_encoder": True}, "gated-linear encoder has no equal"),
        ({"act_fn": "topk", "sparsity_include_decoder_norm": True}, "topk with sparsity_include_decoder_norm"),
        ({"apply_decoder_bias_to_pre_encoder": True, **TRANSCODER}, "which no transcoder here does"),
        ({"jump_relu_threshold": -1}, "jump_relu_threshold = -1, which should be a number from 0"),
    ],
)
def test_what_has_no_equal_is_refused_by_name(weights, tmp_path, settings, line):
    with pytest.raises(UserError, match=line):
        load_sae(written(tmp_path / "sae", weights, **settings))
