"""Tiny random language models of every supported family, for tests."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from monosemy.models.adapter import LanguageModel

N_LAYERS, D_MODEL, N_HEADS, VOCABULARY = 4, 32, 4, 257

_SIZES = {
    "hidden_size": D_MODEL,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "intermediate_size": 48,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "pad_token_id": 256,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
# heads wider than d_model / heads, and windows shorter than the sequences of the tests
_GEMMA = {**_GROUPED, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 5}
_ALTERNATING = ["sliding_attention", "full_attention"] * (N_LAYERS // 2)

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2Config",
        {"n_embd": D_MODEL, "n_layer": N_LAYERS, "n_head": N_HEADS, "n_positions": 64, "vocab_size": VOCABULARY},
    ),
    "gpt_neox": ("GPTNeoXConfig", _SIZES),
    "gpt_neox_sequential": ("GPTNeoXConfig", {**_SIZES, "use_parallel_residual": False}),
    "llama": ("LlamaConfig", _GROUPED),
    "mistral": ("MistralConfig", {**_GROUPED, "sliding_window": 5}),
    "qwen2": ("Qwen2Config", _GROUPED),
    "qwen3": ("Qwen3Config", {**_GROUPED, "head_dim": 16}),
    "gemma2": ("Gemma2Config", {**_GEMMA, "layer_types": _ALTERNATING, "attn_logit_softcapping": 5.0}),
    "gemma3": ("Gemma3TextConfig", {**_GEMMA, "layer_types": _ALTERNATING}),
    "opt": ("OPTConfig", {**_SIZES, "ffn_dim": 48, "word_embed_proj_dim": D_MODEL}),
    "phi": ("PhiConfig", _SIZES),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            "hidden_size": D_MODEL,
            "num_layers": N_LAYERS,
            "num_heads": N_HEADS,
            "vocab_size": VOCABULARY,
            "attention_types": [[["global", "local"], N_LAYERS // 2]],
            "window_size": 5,
            "max_position_embeddings": 64,
        },
    ),
    "granite": ("GraniteConfig", {**_GROUPED, "residual_multiplier": 0.22, "embedding_multiplier": 12.0}),
}


HYBRID: dict[str, Any] = {
    **_GROUPED,
    "head_dim": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "mamba_d_state": 4,
    "mamba_dt_rank": 4,
}
"""Sizes of models whose layers differ: linear attention or state spaces beside attention."""
GEMMA4: dict[str, Any] = {
    **_GROUPED,
    "vocab_size_per_layer_input": VOCABULARY,
    "head_dim": 8,
    "global_head_dim": 16,
    "sliding_window": 5,
    "layer_types": _ALTERNATING,
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 0,
}
"""Sizes of a model with heads of two widths, and with a second contribution to each layer besides the MLP's."""


def byte_tokenizer() -> Any:
    """One token for every byte, and `<eos>` = 256."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def random_module(family: str, **changes: Any) -> torch.nn.Module:
    """A tiny transformers model of a family."""
    config_class, values = FAMILIES[family]
    return build_module(config_class, {**values, **changes})


def build_module(config_class: str, values: dict[str, Any]) -> torch.nn.Module:
    """A model of transformers' configuration of that name, with every parameter random, norms and biases included."""
    import transformers

    config = getattr(transformers, config_class)(**values)
    attention = "eager" if getattr(config, "attn_logit_softcapping", None) is not None else None
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        module = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return module


@cache
def make_tiny_model(family: str = "llama") -> LanguageModel:
    return LanguageModel(random_module(family), byte_tokenizer(), name=f"tiny {family}", fingerprint=f"tiny-{family}")
