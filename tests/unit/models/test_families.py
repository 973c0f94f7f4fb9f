"""Every causal family of the installed transformers, at a tiny random configuration: it works, or one line
says why not.

What a family that works must show: sites that pass the self-checks (residual sums, reading and writing), an edit that
hands back its input changes no bit, texts of different lengths grow as each does alone, heads (where it has any) whose
replacement by themselves changes nothing.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch
from tiny_models import N_HEADS, N_LAYERS, VOCABULARY, byte_tokenizer

from monosemy.circuits.heads.model_heads import LanguageModelHeads, replace_edit
from monosemy.errors import UserError
from monosemy.models.adapter import LanguageModel
from monosemy.models.checks import check_model
from monosemy.models.generation import Decoding

MAX_PARAMETERS = 5e6
MAX_UNBUILT = 0.33
"""Share of the families that may be without a test, because no tiny configuration of theirs is known here."""
MIN_WORKING = 0.5

WIDTH, FEW = 32, 4
SIZES: dict[str, Any] = (
    dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_size", "lru_width", "word_embed_proj_dim"), WIDTH)
    | dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), N_LAYERS)
    | dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), N_HEADS)
    | dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 64)
    | dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim"), 48)
    | dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24)
    | dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "state_size", "mamba_d_state"), FEW)
    | dict.fromkeys(("num_experts_per_tok", "num_key_value_heads", "linear_num_key_heads"), 2)
    | dict.fromkeys(
        (
            "head_dim",
            "qk_nope_head_dim",
            "qk_rope_head_dim",
            "v_head_dim",
            "linear_key_head_dim",
            "linear_value_head_dim",
        ),
        8,
    )
    | dict.fromkeys(("global_head_dim", "q_lora_rank", "kv_lora_rank"), 16)
    | dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "mamba_n_groups", "n_groups"), 1)
    | dict.fromkeys(("rotary_dim", "mamba_dt_rank", "time_step_rank", "linear_num_value_heads"), FEW)
    | dict.fromkeys(("attention_window_size", "sliding_window", "window_size"), 5)
    # scales that are 1 or absent by default, and then hide a site that forgets them
    | {"residual_multiplier": 0.3, "embedding_multiplier": 2.0, "attention_out_multiplier": 0.7, "logits_scaling": 2.0}
    | {"vocab_size": VOCABULARY, "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8}
    | {"bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 1, "num_kv_shared_layers": 0}
    | dict.fromkeys(("chunk_size", "mamba_chunk_size"), 8)
    | {"mamba_expand": 2, "mamba_n_heads": 8, "mamba_d_head": 8, "expand": 2, "is_decoder": True}
)
CHANGES: dict[str, dict[str, Any]] = {
    "falcon_h1": {"mamba_d_ssm": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], N_LAYERS // 2]]},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "gemma3n_text": {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "bamba": {"attn_layer_indices": [1, 3]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"] * 2},
}


def causal_families() -> list[str]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name in CONFIG_MAPPING)


def sizes_for(config_class: Any) -> dict[str, Any]:
    """What `SIZES` has for a configuration, and for those it holds (of a model of images and text, say)."""
    parameters: set[str] = set()
    for base in config_class.__mro__:
        parameters |= set(inspect.signature(base.__init__).parameters) | set(getattr(base, "__annotations__", {}))
    values = {name: value for name, value in SIZES.items() if name in parameters}
    if "kv_lora_rank" in parameters:  # latent attention has as many keys as queries, and widths of its own
        values.pop("head_dim", None)
        values["num_key_value_heads"] = N_HEADS
    held = getattr(config_class, "sub_configs", {})
    return values | {name: sizes_for(inner) for name, inner in held.items() if inner.__name__ != "AutoConfig"}


def tiny_module(family: str) -> torch.nn.Module | None:
    """The family's model at a size that fits a test; None where none can be built from `SIZES`."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    values = sizes_for(CONFIG_MAPPING[family]) | CHANGES.get(family, {})
    flat = {name: value for name, value in values.items() if not isinstance(value, dict)}
    attempts = (built(CONFIG_MAPPING[family], attempt) for attempt in (values, flat))
    return next((module for module in attempts if module is not None), None)


def built(config_class: Any, values: dict[str, Any]) -> torch.nn.Module | None:
    """A model that runs, every parameter random; None where these sizes make none, or one above `MAX_PARAMETERS`."""
    from transformers import AutoModelForCausalLM

    try:
        config = config_class(**values)
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())
        if size > MAX_PARAMETERS:
            return None
        module = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.is_floating_point():
                    parameter.add_(0.05 * torch.randn_like(parameter))
            module(input_ids=torch.tensor([[3, 4, 5]]), use_cache=False)
    except Exception:  # of any kind: this family wants other sizes, or a library that is not installed
        return None
    return module


def problems(family: str, module: torch.nn.Module) -> list[str]:
    """What a family that is not refused gets wrong."""
    model = LanguageModel(module, byte_tokenizer(), name=family, fingerprint=family)
    check_model(model)
    wrong: list[str] = []
    tokens = torch.tensor([[9, 8, 7, 6, 5, 4, 3, 2], [1, 2, 3, 4, 5, 6, 7, 8]])
    plain = model.logits(tokens)
    for site in [name for name in model.site_names() if name.startswith(f"layers.{model.n_layers // 2}.")]:
        if not torch.equal(model.logits(tokens, {site: lambda x: x}), plain):
            wrong.append(f"an edit that changes nothing at {site} changes the logits")
    start = model.prefix(tokens, model.site_names()[-1])
    if not torch.equal(model.logits(tokens, start=start), plain):
        wrong.append(f"a pass that starts at layer {start.layer} is another one")
    wrong += growth_problems(model)
    try:
        heads = LanguageModelHeads(model)
    except UserError as error:
        return wrong + ([f"refused in several lines: {error}"] if "\n" in str(error) else [])
    plain_run = heads.run(tokens)
    same = replace_edit(plain_run.values, range(heads.n_layers * heads.n_heads), heads.n_heads)
    if not torch.equal(heads.logits(tokens, same), plain_run.logits):
        wrong.append("heads replaced by themselves change the logits")
    return wrong


def growth_problems(model: LanguageModel) -> list[str]:
    """Two prompts of different lengths, one longer than the window, against each alone and computed whole."""
    prompts = [[7, 3, 9], [4, 2, 8, 6, 5, 1, 9, 3, 7]]
    batch = Decoding(model, prompts)
    for step in range(3):
        token = torch.tensor([step + 2, step + 5])
        for row, prompt in enumerate(prompts):
            added = [int(t + row * 3) for t in range(2, step + 2)]
            alone = model.logits(torch.tensor([prompt + added]))[0, -1].float()
            gap = float((batch.logits[row] - alone).abs().max() / alone.abs().max())
            if not gap < 2e-3:
                return [f"text {row} grown in a batch differs by {gap:.1e} of its logits (cache: {batch.use_cache})"]
        batch.append(token)
    return []


def test_every_causal_family_works_or_is_refused_in_one_line():
    families, unbuilt, working, faults = causal_families(), [], [], {}
    for family in families:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            module = tiny_module(family)
            if module is None:
                unbuilt.append(family)
                continue
            try:
                if wrong := problems(family, module):
                    faults[family] = wrong
                working.append(family)
            except UserError as error:
                if "\n" in str(error):
                    faults[family] = [f"refused in several lines: {error}"]
            except Exception as error:
                faults[family] = [repr(error)]
    assert not faults
    assert len(unbuilt) <= MAX_UNBUILT * len(families), unbuilt
    assert len(working) >= MIN_WORKING * len(families)
