"""SAEs of other libraries give those libraries' codes and reconstructions, whatever their layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from published_saes import CASES, FOLDER, D, F, N, assert_same, lens_folder, outputs, topk
from safetensors.torch import save_file
from torch import Tensor

from monosemy.errors import UserError
from monosemy.latents import SparseLatents
from monosemy.saes.base import StepInfo
from monosemy.saes.storage import load_sae, read_sae_config, save_sae


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_those_of_the_library_that_made_the_file(case: str):
    x, codes, recon = (outputs(case)[name] for name in ("x", "codes", "recon"))
    assert int((codes > 0).sum()) > 40
    assert_same(load_sae(FOLDER / case), x, codes, recon)


@pytest.mark.parametrize("case", CASES)
def test_saved_in_our_own_layout_they_stay_the_same_to_the_bit(case: str, tmp_path: Path):
    sae, x = load_sae(FOLDER / case), outputs(case)["x"]
    save_sae(sae, tmp_path / "sae")
    again = load_sae(tmp_path / "sae")
    assert again.config == sae.config
    assert torch.equal(again.encode(x).to_dense(), sae.encode(x).to_dense())
    assert torch.equal(again(x), sae(x))


@pytest.mark.parametrize("case", ["lens_jumprelu_layernorm", "sparsify_skip", "gemma_scope_2_transcoder"])
def test_parts_of_a_code_and_joined_codes_decode_as_the_whole_does(case: str):
    sae, x = load_sae(FOLDER / case), outputs(case)["x"]
    joined = SparseLatents.concatenate([sae.encode(part).positive() for part in x.split(7)])
    torch.testing.assert_close(sae.decode(joined), sae(x))
    assert sae(x.view(4, 10, -1)).shape == (4, 10, sae.d_out)


def test_a_code_without_what_was_taken_from_its_rows_is_refused():
    sae, x = load_sae(FOLDER / "lens_jumprelu_layernorm"), outputs("lens_jumprelu_layernorm")["x"]
    with pytest.raises(UserError, match="decode a code that `encode` gave"):
        sae.decode(SparseLatents.from_dense(sae.encode(x).to_dense()))
    with pytest.raises(UserError, match="cannot be trained"):
        sae.losses(x, StepInfo(progress=0, l0=1))


def test_margins_are_positive_where_a_latent_fires():
    for case in ("lens_jumprelu_layernorm", "gemma_scope_1", "lens_standard_nobdec"):
        sae, x = load_sae(FOLDER / case), outputs(case)["x"]
        assert torch.equal(sae.margins(x) > 0, sae.encode(x).to_dense() > 0)


def test_names_of_models_and_sites_are_translated_and_where_it_came_from_is_recorded():
    config = read_sae_config(FOLDER / "lens_jumprelu_transcoder")
    assert (config.model, config.site, config.site_out) == (
        "openai-community/gpt2",
        "layers.3.mlp_in",
        "layers.3.mlp_out_post",
    )
    origin = config.record["origin"]
    assert origin["layout"] == "SAELens"
    assert (origin["model"], origin["hook"], origin["prepend_bos"]) == (
        "gpt2-small",
        "blocks.3.ln2.hook_normalized",
        True,
    )
    assert read_sae_config(FOLDER / "dl_topk").model == "EleutherAI/pythia-70m-deduped"
    assert read_sae_config(FOLDER / "sparsify_skip").site_out == "layers.3.mlp_out"


# --- layouts without a library at hand: against their equations, written out -----------------------------------------


def test_openai_topk_normalises_every_row(weights, tmp_path):
    w, x = weights, weights["x"]
    stored = {
        "pre_bias": w["b_dec"],
        "encoder.weight": w["W_enc"].T.contiguous(),
        "latent_bias": w["b_enc"],
        "decoder.weight": w["W_dec"].T.contiguous(),
        "activation": "TopK",
        "activation_state_dict": {"k": 5},
        "stats_last_nonzero": torch.zeros(F),
    }
    torch.save(stored, tmp_path / "layer_8.pt")
    mean, std = x.mean(1, keepdim=True), (x - x.mean(1, keepdim=True)).std(1, keepdim=True)
    codes = topk((((x - mean) / (std + 1e-5)) - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 5)
    assert_same(load_sae(tmp_path / "layer_8.pt"), x, codes, (codes @ w["W_dec"] + w["b_dec"]) * std + mean)
    torch.save({**stored, "activation": "ReLU"}, tmp_path / "relu.pt")
    codes = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    assert_same(load_sae(tmp_path / "relu.pt"), x, codes, codes @ w["W_dec"] + w["b_dec"])
    torch.save({**stored, "activation": "Softmax"}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="'Softmax'; TopK and ReLU are read"):
        load_sae(tmp_path / "other.pt")


def test_qwen_scope_says_k_in_its_repository(weights, tmp_path):
    w, x = weights, weights["x"]
    stored = {
        "W_enc": w["W_enc"].T.contiguous(),
        "W_dec": w["W_dec"].T.contiguous(),
        "b_enc": w["b_enc"],
        "b_dec": w["b_dec"],
    }
    folder = tmp_path / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_6"
    folder.mkdir()
    torch.save(stored, folder / "layer9.sae.pt")
    codes = topk(x @ w["W_enc"] + w["b_enc"], 6)
    sae = load_sae(folder / "layer9.sae.pt")
    assert_same(sae, x, codes, codes @ w["W_dec"] + w["b_dec"])
    assert (sae.config.site, sae.config.model, sae.config.l0) == ("layers.9.resid_post", "Qwen/Qwen3-1.7B-Base", 6)
    torch.save(stored, tmp_path / "layer9.sae.pt")
    with pytest.raises(UserError, match="does not say how many latents are active"):
        load_sae(tmp_path / "layer9.sae.pt")


def test_goodfire_and_plain_linear_layers(weights, tmp_path):
    w, x = weights, weights["x"]
    codes = (x @ w["W_enc"] + w["b_enc"]).relu()
    recon = codes @ w["W_dec"] + w["b_dec"]
    for encoder, decoder in (("encoder_linear", "decoder_linear"), ("encoder", "decoder")):
        stored = {
            f"{encoder}.weight": w["W_enc"].T.contiguous(),
            f"{encoder}.bias": w["b_enc"],
            f"{decoder}.weight": w["W_dec"].T.contiguous(),
            f"{decoder}.bias": w["b_dec"],
        }
        torch.save(stored, tmp_path / "Llama-3.1-8B-Instruct-SAE-l19.pth")
        sae = load_sae(tmp_path / "Llama-3.1-8B-Instruct-SAE-l19.pth")
        assert_same(sae, x, codes, recon)
        assert (sae.config.model, sae.config.site) == ("meta-llama/Llama-3.1-8B-Instruct", "layers.19.resid_post")


def test_llama_scope_scales_inputs_by_the_average_norm(weights, tmp_path):
    w, x = weights, weights["x"]
    folder = tmp_path / "Llama3_1-8B-Base-L15R-8x"
    (folder / "checkpoints").mkdir(parents=True)
    settings = {
        "d_model": D,
        "d_sae": F,
        "jump_relu_threshold": 0.4,
        "hook_point_in": "blocks.15.hook_resid_post",
        "hook_point_out": "blocks.15.hook_resid_post",
        "dataset_average_activation_norm": {"in": 7.0, "out": 7.0},
    }
    (folder / "hyperparams.json").write_text(json.dumps(settings))
    stored = {
        "encoder.weight": w["W_enc"].T.contiguous(),
        "encoder.bias": w["b_enc"],
        "decoder.weight": w["W_dec"].T.contiguous(),
        "decoder.bias": w["b_dec"],
    }
    save_file(stored, folder / "checkpoints" / "final.safetensors")
    scale = D**0.5 / 7.0
    pre = (x * scale) @ w["W_enc"] + w["b_enc"]
    codes = pre * (pre > 0.4)
    assert_same(load_sae(folder), x, codes, (codes @ w["W_dec"] + w["b_dec"]) / scale)
    assert read_sae_config(folder).site == "layers.15.resid_post"


def test_circuit_tracer_sets_are_read_a_layer_at_a_time(weights, tmp_path):
    w, x = weights, weights["x"]
    (tmp_path / "config.yaml").write_text(
        "model_name: google/gemma-2-2b\nmodel_kind: transcoder_set\nfeature_input_hook: mlp.hook_in\n"
        "feature_output_hook: hook_mlp_out\nscan: gemma\n"
    )
    plain = {"W_enc": w["W_enc"].T.contiguous(), "W_dec": w["W_dec"], "b_enc": w["b_enc"], "b_dec": w["b_dec"]}
    save_file(plain, tmp_path / "layer_0.safetensors")
    save_file(
        {**plain, "activation_function.threshold": w["threshold"], "W_skip": w["W_skip"]},
        tmp_path / "layer_1.safetensors",
    )
    pre = x @ w["W_enc"] + w["b_enc"]
    assert_same(load_sae(tmp_path / "layer_0.safetensors"), x, pre.relu(), pre.relu() @ w["W_dec"] + w["b_dec"])
    codes = pre * (pre > w["threshold"])
    sae = load_sae(tmp_path / "layer_1.safetensors")
    assert_same(sae, x, codes, codes @ w["W_dec"] + w["b_dec"] + x @ w["W_skip"].T)
    assert (sae.config.site, sae.config.site_out) == ("layers.1.mlp_in", "layers.1.mlp_out_post")
    assert sae.config.record["origin"]["files"].keys() == {"config.yaml", "layer_1.safetensors"}
    with pytest.raises(UserError, match=r"a transcoder for each of 2 layers; name one, e.g. .*layer_0.safetensors"):
        load_sae(tmp_path)
    with (tmp_path / "config.yaml").open("a") as file:
        file.write("activation: {type: topk, k: 4}\n")
    assert_same(load_sae(tmp_path / "layer_0.safetensors"), x, topk(pre, 4), topk(pre, 4) @ w["W_dec"] + w["b_dec"])


def test_a_set_that_only_points_elsewhere_names_what_it_points_to(tmp_path):
    (tmp_path / "config.yaml").write_text("transcoders: [hf://owner/weights/layer_0, hf://owner/weights/layer_1]")
    with pytest.raises(UserError, match=r"2 transcoders that lie elsewhere; .* hf://owner/weights/layer_0, hf://"):
        load_sae(tmp_path)


def test_a_cross_layer_transcoder_gives_its_layers_outputs_side_by_side(weights, tmp_path):
    w, x = weights, weights["x"]
    W_dec = torch.randn(F, 3, D, generator=torch.Generator().manual_seed(5))
    (tmp_path / "config.yaml").write_text("model_name: gpt2\nmodel_kind: cross_layer_transcoder\n")
    encoder = {
        "W_enc_2": w["W_enc"].T.contiguous(),
        "b_enc_2": w["b_enc"],
        "b_dec_2": w["b_dec"],
        "threshold_2": w["threshold"],
    }
    save_file(encoder, tmp_path / "W_enc_2.safetensors")
    save_file({"W_dec_2": W_dec}, tmp_path / "W_dec_2.safetensors")
    hashed = load_sae(tmp_path / "W_enc_2.safetensors").config.record["origin"]["files"]
    assert hashed.keys() == {"config.yaml", "W_enc_2.safetensors", "W_dec_2.safetensors"}
    pre = x @ w["W_enc"] + w["b_enc"]
    codes = pre * (pre > w["threshold"])
    recon = torch.einsum("nf,fld->nld", codes, W_dec)
    recon[:, 0] += w["b_dec"]
    assert_same(load_sae(tmp_path / "W_enc_2.safetensors"), x, codes, recon.flatten(1))


def test_matryoshka_infers_by_its_threshold(weights, tmp_path):
    w, x = weights, weights["x"]
    stored = {name: w[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    stored |= {
        "k": torch.tensor(4, dtype=torch.int32),
        "threshold": torch.tensor(1.5),
        "group_sizes": torch.tensor([10, 30]),
    }
    torch.save(stored, tmp_path / "ae.pt")
    trainer = {"dict_class": "MatryoshkaBatchTopKSAE", "k": 4, "layer": 2, "lm_name": "google/gemma-2-2b"}
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
    pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    codes = pre * (pre > 1.5)
    sae = load_sae(tmp_path)
    assert_same(sae, x, codes, codes @ w["W_dec"] + w["b_dec"])
    config = sae.config
    assert (config.architecture, config.site, config.l0) == ("matryoshka_batch_topk", "layers.2.resid_post", 4)
    assert sae.widths == (10, 40)
    torch.save({**stored, "threshold": torch.tensor(-1.0)}, tmp_path / "ae.pt")  # not set: every positive one fires
    assert_same(load_sae(tmp_path), x, pre.relu(), pre.relu() @ w["W_dec"] + w["b_dec"])


def test_gemma_scope_says_model_site_and_l0_by_its_path_and_scales_embeddings(weights, tmp_path):
    w, x = weights, weights["x"]
    arrays = {name: w[name].numpy() for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")}

    def written(path: str) -> Path:
        folder = tmp_path / path
        folder.mkdir(parents=True)
        np.savez(folder / "params.npz", **arrays)
        return folder

    config = read_sae_config(written("gemma-scope-9b-it-att/layer_20/width_16k/average_l0_11"))
    assert (config.model, config.site, config.l0) == ("google/gemma-2-9b-it", "layers.20.attn_heads", 11)
    config = read_sae_config(written("gemma-scope-2b-pt-transcoders/layer_4/width_16k/average_l0_9"))
    assert (config.site, config.site_out) == ("layers.4.mlp_in", "layers.4.mlp_out_post")
    pre = x / D**0.5 @ w["W_enc"] + w["b_enc"]
    codes = pre * (pre > w["threshold"])
    sae = load_sae(written("gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6"))
    assert_same(sae, x, codes, (codes @ w["W_dec"] + w["b_dec"]) * D**0.5)
    assert sae.config.site == "layers.0.resid_pre"


def test_a_residual_stream_that_was_centred_is_centred_here_and_the_mean_comes_back(weights, tmp_path):
    w, x = weights, weights["x"]
    stored = {name: w[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    metadata = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    sae = load_sae(lens_folder(tmp_path / "sae", stored, metadata=metadata))
    mean = x.mean(1, keepdim=True)
    codes = ((x - mean - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    assert_same(sae, x, codes, codes @ w["W_dec"] + w["b_dec"] + mean)


def test_heads_are_merged_and_split_again(weights, tmp_path):
    w, x = weights, weights["x"]
    stored = {name: w[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    hook = {"hook_name": "blocks.2.attn.hook_z"}
    sae = load_sae(lens_folder(tmp_path / "sae", stored, reshape_activations="hook_z", metadata=hook))
    assert sae(x.view(N, 3, 4)).shape == (N, 3, 4)
    assert torch.equal(sae(x.view(N, 3, 4)).flatten(1), sae(x))
    assert sae.config.site == "layers.2.attn_heads"


def test_older_lens_settings(weights, tmp_path):
    w, x = weights, weights["x"]
    stored = {name: w[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    old = {"sae_lens_version": "5.2.0", "hook_name": None}
    pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    factor = w["threshold"] + 0.5
    sae = load_sae(
        lens_folder(
            tmp_path / "a", {**stored, "scaling_factor": factor}, metadata=old, hook_point="blocks.2.hook_mlp_out"
        )
    )
    assert_same(sae, x, pre.relu(), (pre.relu() * factor) @ w["W_dec"] + w["b_dec"])
    assert sae.config.site == "layers.2.mlp_out_post"
    logs = {**stored, "log_threshold": w["threshold"].log()}
    sae = load_sae(lens_folder(tmp_path / "b", logs, metadata=old, architecture="jumprelu"))
    assert_same(sae, x, pre * (pre > w["threshold"]), (pre * (pre > w["threshold"])) @ w["W_dec"] + w["b_dec"])
    sae = load_sae(lens_folder(tmp_path / "c", stored, metadata=old, normalize_activations=True))
    assert "expected_average_only_in" in sae.config.record["origin"]["warning"]


def test_a_transcoder_may_give_another_width(weights, tmp_path):
    w, x = weights, weights["x"]
    wide = {"W_enc": w["W_enc"], "b_enc": w["b_enc"], "W_dec": w["W_dec"][:, :7].contiguous(), "b_dec": w["b_dec"][:7]}
    sae = load_sae(lens_folder(tmp_path / "sae", wide, architecture="transcoder", d_out=7))
    codes = (x @ w["W_enc"] + w["b_enc"]).relu()
    assert_same(sae, x, codes, codes @ wide["W_dec"] + wide["b_dec"])
    assert sae.d_out == 7


def test_kinds_that_have_no_equal_are_refused_by_name(weights, tmp_path):
    stored = {name: weights[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    with pytest.raises(UserError, match="'matching_pursuit' SAE, which has no equal here"):
        load_sae(lens_folder(tmp_path / "sae", stored, architecture="matching_pursuit"))
    (tmp_path / "cfg.json").write_text(json.dumps({"k": 4, "signed": True}))
    save_file(stored, tmp_path / "sae.safetensors")
    with pytest.raises(UserError, match="says signed: latents below zero too are active, which has no equal here"):
        load_sae(tmp_path)


def test_a_folder_stands_for_the_one_sae_below_it_and_not_for_several(weights, tmp_path):
    stored = {name: weights[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    (tmp_path / "set").mkdir()
    first = lens_folder(tmp_path / "set" / "blocks.1", stored)
    assert torch.equal(load_sae(tmp_path / "set").W_dec, load_sae(first / "cfg.json").W_dec)
    lens_folder(tmp_path / "set" / "blocks.2", stored)
    with pytest.raises(UserError, match="holds 2 SAEs; name one"):
        load_sae(tmp_path / "set")


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
@pytest.mark.parametrize("rescaled", [False, True])
def test_a_training_checkpoint_of_batch_topk_fires_above_its_threshold(weights, tmp_path, architecture, rescaled):
    w, x = weights, weights["x"]
    stored = {name: w[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    stored["topk_threshold"] = torch.tensor(1.25, dtype=torch.float64)
    settings = {"architecture": architecture, "k": 4.0, "rescale_acts_by_decoder_norm": rescaled}
    sae = load_sae(lens_folder(tmp_path / "sae", stored, **settings))
    lengths = w["W_dec"].norm(dim=1) if rescaled else torch.ones(F)
    pre = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * lengths
    codes = pre * (pre > 1.25)
    assert 0 < int((codes > 0).sum()) < codes.numel()
    assert_same(sae, x, codes, codes / lengths @ w["W_dec"] + w["b_dec"])
    assert sae.config.architecture == "jumprelu"


@pytest.mark.parametrize("version", ["6.1.0", "5.0.0"])
def test_an_sae_of_a_single_head_reads_that_heads_part_and_says_so(weights, tmp_path, version):
    w, x = weights, weights["x"]
    stored = {name: w[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    metadata = {"hook_name": "blocks.2.attn.hook_z", "hook_head_index": 3, "sae_lens_version": version}
    sae = load_sae(lens_folder(tmp_path / "sae", stored, metadata=metadata))
    codes = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    assert_same(sae, x, codes, codes @ w["W_dec"] + w["b_dec"])
    assert not sae.config.transforms.merge_heads
    assert sae.config.record["origin"]["warning"].startswith("it reads head 3 of its site alone")


def test_a_dictionary_that_names_no_class_is_read_only_where_its_tensors_tell_it(weights, tmp_path):
    w, x = weights, weights["x"]
    stored = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "decoder.weight": w["W_dec"].T}
    torch.save({**stored, "bias": w["b_dec"]}, tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"k": 4}, "buffer": {}}))
    codes = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    assert_same(load_sae(tmp_path), x, codes, codes @ w["W_dec"] + w["b_dec"])
    torch.save({**stored, "b_dec": w["b_dec"], "k": torch.tensor(4)}, tmp_path / "ae.pt")
    with pytest.raises(UserError, match="names no dict_class"):
        load_sae(tmp_path)


def test_gemma_scope_2_without_settings_is_known_by_its_folders(weights, tmp_path):
    w, x = weights, weights["x"]
    stored = {"w_enc": w["W_enc"], "w_dec": w["W_dec"], **{n: w[n] for n in ("b_enc", "b_dec", "threshold")}}
    pre = x @ w["W_enc"] + w["b_enc"]
    codes = pre * (pre > w["threshold"])

    def written(path: str, file: str, tensors: dict[str, Tensor]) -> Path:
        place = tmp_path / path / file
        place.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, place)
        return place

    folder = written("gemma-scope-2-270m-pt/resid_post/layer_5_width_16k_l0_small", "params.safetensors", stored).parent
    sae = load_sae(folder)
    assert_same(sae, x, codes, codes @ w["W_dec"] + w["b_dec"])
    assert (sae.config.model, sae.config.site) == ("google/gemma-3-270m", "layers.5.resid_post")
    config = read_sae_config(
        written("gemma-scope-2-4b-it/transcoder_all/layer_9_width_16k_l0_small", "params.safetensors", stored).parent
    )
    assert (config.model, config.site, config.site_out) == (
        "google/gemma-3-4b-it",
        "layers.9.mlp_in",
        "layers.9.mlp_out_post",
    )
    W_dec = torch.stack([w["W_dec"], -w["W_dec"]], dim=1)
    file = written(
        "gemma-scope-2-1b-pt/clt/width_262k_l0_big", "params_layer_7.safetensors", {**stored, "w_dec": W_dec}
    )
    sae = load_sae(file)
    recon = torch.cat([codes @ w["W_dec"] + w["b_dec"], -(codes @ w["W_dec"])], dim=1)
    assert_same(sae, x, codes, recon)
    assert (sae.config.model, sae.config.site) == ("google/gemma-3-1b-pt", "layers.7.mlp_in")
    with pytest.raises(UserError, match=r"holds a cross-layer transcoder's 1 layers; name one, e.g. .*params_layer_7"):
        load_sae(file.parent)
    file = written("gemma-scope-2-1b-pt/crosscoder/layer_7_13_17_22_width_65k", "params_layer_0.safetensors", stored)
    for source in (file, file.parent):
        with pytest.raises(UserError, match="is a crosscoder, which reads several layers at once"):
            load_sae(source)
