"""What releases in SAELens' layout need and their own settings leave out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from published_saes import D, F, assert_same, lens_folder
from safetensors.torch import save_file
from torch import Tensor

from monosemy.errors import UserError
from monosemy.saes.storage import load_sae

OLD_CFG = {
    "d_in": D,
    "d_sae": F,
    "hook_point": "blocks.6.hook_resid_pre",
    "hook_point_layer": 6,
    "hook_point_head_index": None,
    "model_name": "gpt2-small",
    "dataset_path": "Skylion007/openwebtext",
    "context_size": 128,
    "dtype": "torch.float32",
    "activation_fn_str": "relu",
}
"""As in jbloom/GPT2-Small-SAEs-Reformatted, but for the sizes."""


def plain(w: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: w[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec")}


def written(folder: Path, w: dict[str, Tensor], **settings: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "cfg.json").write_text(json.dumps({**OLD_CFG, **settings}))
    save_file(plain(w), folder / "sae_weights.safetensors")
    return folder


@pytest.mark.parametrize(
    "repository",
    [
        "jbloom/GPT2-Small-SAEs-Reformatted",
        "models--jbloom--GPT2-Small-SAEs-Reformatted/snapshots/0123",
        "models--jbloom--GPT2-Small-Feature-Splitting-Experiment-Layer-8/snapshots/0123",
    ],
)
def test_the_first_releases_for_gpt2_are_centred_though_their_settings_do_not_say_so(weights, tmp_path, repository):
    w, x = weights, weights["x"]
    sae = load_sae(written(tmp_path / repository / "blocks.6.hook_resid_pre", w))
    mean = x.mean(1, keepdim=True)
    codes = ((x - mean - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    assert_same(sae, x, codes, codes @ w["W_dec"] + w["b_dec"] + mean)
    assert (sae.config.site, sae.config.model) == ("layers.6.resid_pre", "openai-community/gpt2")
    assert not load_sae(written(tmp_path / "anyone" / "sae", w)).config.transforms.centre


def test_a_release_may_need_centring_and_a_factor(weights, tmp_path):
    w, x = weights, weights["x"]
    folder = tmp_path / "gpt2-small-mlp-out-saes" / "sae_group_gpt2_blocks.9.hook_mlp_out_24576:v0"
    settings = {"hook_point": "blocks.9.hook_mlp_out", "normalize_activations": "expected_average_only_in"}
    sae = load_sae(written(folder, w, **settings))
    factor, mean = 0.6955335635232373, x.mean(1, keepdim=True)
    codes = (((x - mean) * factor - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    assert_same(sae, x, codes, (codes @ w["W_dec"] + w["b_dec"]) / factor + mean)
    assert "warning" not in sae.config.record["origin"]


def test_a_release_may_normalise_rows(weights, tmp_path):
    w, x = weights, weights["x"]
    folder = tmp_path / "models--JoshEngels--Mistral-7B-Residual-Stream-SAEs" / "snapshots" / "0" / "mistral_7b_layer_8"
    sae = load_sae(written(folder, w))
    scale = D**0.5 / x.norm(dim=1, keepdim=True)
    codes = ((x * scale - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    assert_same(sae, x, codes, (codes @ w["W_dec"] + w["b_dec"]) / scale)


def test_a_factor_that_files_leave_out_is_asked_for_and_can_be_given(weights, tmp_path):
    w, x = weights, weights["x"]
    folder = lens_folder(tmp_path / "sae", plain(w), normalize_activations="expected_average_only_in")
    assert "load_sae(…, input_scale=" in load_sae(folder).config.record["origin"]["warning"]
    sae = load_sae(folder, input_scale=1.5)
    codes = ((x * 1.5 - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    assert_same(sae, x, codes, (codes @ w["W_dec"] + w["b_dec"]) / 1.5)
    assert "warning" not in sae.config.record["origin"]
    assert sae.config.transforms.input_scale == 1.5
    for factor in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="input_scale must be a positive number"):
            load_sae(folder, input_scale=factor)
    with pytest.raises(UserError, match="its files say what its input is multiplied by: 1; leave input_scale out"):
        load_sae(lens_folder(tmp_path / "unscaled", plain(w)), input_scale=2.0)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"normalize_activations": "covariance_whitening"}, "normalize_activations = 'covariance_whitening', which is"),
        ({"normalize_activations": {"x": 1}}, "normalize_activations = {'x': 1}, which is not read here"),
        ({"metadata": {"sae_lens_version": "5.1.0"}, "activation_fn_str": "tanh-relu"}, "is of activation 'tanh-relu'"),
    ],
)
def test_what_changes_codes_and_has_no_equal_is_refused_by_name(weights, tmp_path, settings, line):
    with pytest.raises(UserError, match=line):
        load_sae(lens_folder(tmp_path / "sae", plain(weights), **settings))
