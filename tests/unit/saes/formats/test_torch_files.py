"""Publishers' single torch files: what their settings ask for, beside what test_published.py holds."""

from __future__ import annotations

import json

import pytest
import torch
from published_saes import assert_same

from monosemy.errors import UserError
from monosemy.saes.storage import load_sae


@pytest.fixture
def openai(weights):
    return {
        "pre_bias": weights["b_dec"],
        "encoder.weight": weights["W_enc"].T.contiguous(),
        "latent_bias": weights["b_enc"],
        "decoder.weight": weights["W_dec"].T.contiguous(),
        "activation": "TopK",
        "activation_state_dict": {"k": 5, "postact_fn": "ReLU"},
    }


def test_openais_topk_without_relu_is_refused_by_name(openai, tmp_path):
    torch.save(openai, tmp_path / "8.pt")
    assert load_sae(tmp_path / "8.pt").config.l0 == 5
    torch.save({**openai, "activation_state_dict": {"k": 5, "postact_fn": "Identity"}}, tmp_path / "8.pt")
    with pytest.raises(UserError, match="applies 'Identity' to the k largest pre-activations; ReLU is what is read"):
        load_sae(tmp_path / "8.pt")


def test_openais_tied_decoder_is_its_encoder(openai, weights, tmp_path):
    w, x = weights, weights["x"]
    tied = {name: value for name, value in openai.items() if name != "decoder.weight"}
    torch.save({**tied, "decoder.linear.weight": openai["encoder.weight"], "activation": "ReLU"}, tmp_path / "8.pt")
    codes = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    assert_same(load_sae(tmp_path / "8.pt"), x, codes, codes @ w["W_enc"].T + w["b_dec"])


def test_qwen_scope_does_not_say_whether_its_texts_began_with_bos(weights, tmp_path):
    folder = tmp_path / "SAE-Res-Qwen3-8B-Base-W64K-L0_5"
    folder.mkdir()
    w = weights
    stored = {"W_enc": w["W_enc"].T, "W_dec": w["W_dec"].T, "b_enc": w["b_enc"], "b_dec": w["b_dec"]}
    torch.save(stored, folder / "layer3.sae.pt")
    assert "prepend_bos" not in load_sae(folder / "layer3.sae.pt").config.record["origin"]


def test_batch_topk_without_a_threshold_is_refused(weights, tmp_path):
    w = weights
    stored = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "decoder.weight": w["W_dec"].T}
    torch.save({**stored, "b_dec": w["b_dec"]}, tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "BatchTopKSAE", "k": 4}}))
    with pytest.raises(UserError, match=r"BatchTopKSAE without a threshold, .* a row has no code of its own"):
        load_sae(tmp_path)
