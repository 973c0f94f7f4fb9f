"""GGUF files written here from a tiny Llama: read by our converter and by the general loader."""

from __future__ import annotations

import os
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tiny_models import byte_tokenizer, random_module

from monosemy.errors import UserError
from monosemy.models import embedded
from monosemy.models.sources import load_model, model_size
from monosemy.support.estimates import ModelSize
from monosemy.support.files import read_json

N_HEADS, N_KV_HEADS = 4, 2
TEXT = "In 1997, 12 things"


def interleave(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """llama.cpp's order of the rows of W_Q and W_K: a head's two halves, row by row in turn."""
    halves = weight.reshape(n_heads, 2, -1, weight.shape[1])
    return np.stack([halves[:, 0], halves[:, 1]], axis=2).reshape(weight.shape)


def write_gguf(path: Path, module: torch.nn.Module, *, pre: str = "smollm", architecture: str = "llama") -> None:
    config = module.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = sorted(byte_tokenizer().get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    tokens = [token for token, _ in vocabulary]
    tokens[200:202] = ["19", "97"]
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["1 9", "9 7"])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_unk_token_id, writer.add_pad_token_id):
        add(256)
    writer.add_chat_template("{{ messages }}")
    ours = {theirs: name for name, theirs in embedded._MODEL_TENSORS.items()}
    layers = {theirs: name for name, theirs in embedded._LAYER_TENSORS.items()}
    for name, parameter in module.named_parameters():
        value = parameter.detach().numpy()
        if name in ours:
            target = ours[name]
        else:
            _, _, layer, *kind, _ = name.split(".")
            target = f"blk.{layer}.{layers['.'.join(kind)]}.weight"
        if "attn_q" in target or "attn_k" in target:
            value = interleave(value, N_HEADS if "attn_q" in target else N_KV_HEADS)
        if target == "blk.0.attn_v.weight":
            packed = gguf.quants.quantize(value, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(target, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(target, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def module() -> torch.nn.Module:
    """A tiny Llama whose one quantised tensor survives quantisation exactly."""
    module = random_module("llama", tie_word_embeddings=True)
    with torch.no_grad():
        weight = module.model.layers[0].self_attn.v_proj.weight
        packed = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType.Q8_0)
        weight.copy_(torch.from_numpy(gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)))
    return module


@pytest.fixture(scope="module")
def file(module, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, module)
    return path


def test_converted_folder_is_the_model(file, module, tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEMY_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "converted"
    folder.mkdir()
    embedded.convert(file, folder)
    model = load_model(str(folder), device="cpu")
    tokens = torch.arange(20).reshape(2, 10)
    assert torch.equal(model.logits(tokens), module(input_ids=tokens).logits)
    tokens = model.tokenizer(TEXT + "<eos>").input_ids
    assert [model.tokenizer.decode([token]) for token in tokens] == [*TEXT, "<eos>"]  # no merge of 1 and 9
    assert model.special_token_ids == {256}
    sizes = read_json(folder / embedded.ORIGIN)["bytes"]
    assert sizes["model.safetensors"] == (folder / "model.safetensors").stat().st_size
    assert embedded._is_whole(folder)
    os.truncate(folder / "model.safetensors", 100)  # so it is converted again
    assert not embedded._is_whole(folder)


def test_general_loader_gives_the_same_model(file, module, tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEMY_CACHE", str(tmp_path / "cache"))
    model = load_model(str(file), device="cpu")
    tokens = torch.arange(20).reshape(2, 10)
    assert torch.equal(model.logits(tokens), module(input_ids=tokens).logits)
    assert len(model.tokenizer(TEXT).input_ids) == len(TEXT)
    assert len(model.site_names()) == 7 * model.n_layers
    n_parameters = sum(p.numel() for p in module.parameters())
    assert model_size(str(file))[0] == ModelSize(
        n_parameters, model.n_layers, model.d_model, model.vocab_size, model.n_block_parameters
    )


def test_rows_of_queries_and_keys_return_to_their_order():
    weight = np.arange(16 * 3, dtype=np.float32).reshape(16, 3)
    assert np.array_equal(embedded.uninterleave(interleave(weight, 2), 2), weight)
    assert interleave(weight, 2)[:4, 0].tolist() == [0, 12, 3, 15]


def test_a_file_that_is_something_else(module, tmp_path):
    write_gguf(tmp_path / "pre.gguf", module, pre="qwen2")
    with pytest.raises(UserError, match="pre-tokenizer 'smollm', got 'qwen2'"):
        embedded.build_tokenizer(gguf.GGUFReader(tmp_path / "pre.gguf"))
    write_gguf(tmp_path / "other.gguf", module, architecture="qwen2")
    with pytest.raises(UserError, match="architecture 'llama', got 'qwen2'"):
        embedded.llama_config(gguf.GGUFReader(tmp_path / "other.gguf"))
    with pytest.raises(UserError, match=r"holds a tensor 'blk.0.ssm.weight'"):
        embedded.transformers_name("blk.0.ssm.weight")


def test_a_file_that_is_truncated_or_no_gguf(file, tmp_path):
    (tmp_path / "cut.gguf").write_bytes(file.read_bytes()[:5000])
    (tmp_path / "text.gguf").write_text("not a model at all, but long enough to hold a header of that format")
    for name in ("cut", "text"):
        with pytest.raises(UserError, match=f"{name}.gguf") as caught:
            load_model(str(tmp_path / f"{name}.gguf"), device="cpu")
        assert "\n" not in str(caught.value)
