"""Names that other libraries have for a model and its sites, translated to those used here.

Place on the path: beneath models (which accepts TransformerLens' names wherever a site is named) and SAEs (whose
published files name models and sites in the manner of their library). Names only: no model is needed.
"""

from __future__ import annotations

import re

LENS_KINDS = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "attn.hook_z": "attn_heads",
    "hook_attn_out": "attn_out_post",
    "hook_mlp_out": "mlp_out_post",
    "attn.hook_out": "attn_out",
    "mlp.hook_out": "mlp_out",
    "mlp.hook_in": "mlp_in",
}
"""TransformerLens' names after `blocks.<n>.`. Its hook_attn_out and hook_mlp_out, which belong to the block, come after
the post-norm, hence attn_out_post and mlp_out_post."""

_LENS_INPUTS = {"ln2.hook_normalized": "mlp_in", "hook_mlp_in": "mlp_in"}
"""Names of a transcoder's input. TransformerLens reads them before the norm's gain, which it folds into the MLP."""

_LENS = re.compile(r"blocks\.(\d+)\.([\w.]+)")
_MODULE = re.compile(r"(?:.*\.)?(?:layers|h|blocks)\.(\d+)(?:\.(.*))?")
_MODULE_KINDS = (
    ("", "resid_post"),
    ("output", "resid_post"),
    ("input", "resid_pre"),
    ("self_attn.o_proj.input", "attn_heads"),
    ("post_attention_layernorm.output", "attn_out_post"),
    ("pre_feedforward_layernorm.output", "mlp_in"),
    ("post_feedforward_layernorm.output", "mlp_out_post"),
    ("mlp.input", "mlp_in"),
    ("mlp", "mlp_out"),
    ("self_attn", "attn_out"),
    ("attention", "attn_out"),
    ("attn", "attn_out"),
)
"""The path of a module, or of its input or output, below its layer."""
_NAMED_KINDS = {"resid_post": "resid_post", "resid_pre": "resid_pre", "mlp_out": "mlp_out", "attn_out": "attn_out"}

_MODELS = {
    "gpt2-small": "openai-community/gpt2",
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
}
_OWNERS = (
    ("pythia-", "EleutherAI"),
    ("gemma-", "google"),
    ("Llama-", "meta-llama"),
    ("Meta-Llama-", "meta-llama"),
    ("Qwen", "Qwen"),
    ("tiny-stories-", "roneneldan"),
)


def site_of_hook(name: str) -> str:
    """Our name of the site that another library calls `name`; empty where it is none, or `name` is."""
    if name in ("hook_embed", "embed_tokens", "model.embed_tokens.output"):
        return "layers.0.resid_pre"
    if match := _LENS.fullmatch(name):
        kind = LENS_KINDS.get(match[2]) or _LENS_INPUTS.get(match[2])
        return f"layers.{match[1]}.{kind}" if kind else ""
    if match := re.fullmatch(r"(\w+?)_layer_(\d+)", name):
        kind = _NAMED_KINDS.get(match[1])
        return f"layers.{match[2]}.{kind}" if kind else ""
    if match := _MODULE.fullmatch(name):
        below = (match[2] or "").removesuffix(".output") or match[2] or ""
        kind = dict(_MODULE_KINDS).get(match[2] or "") or dict(_MODULE_KINDS).get(below)
        return f"layers.{match[1]}.{kind}" if kind else ""
    return ""


def hub_model(name: str) -> str:
    """The hub id of the model that another library calls `name`; the name itself where it has no other."""
    if "/" in name or not name:
        return name
    if name in _MODELS:
        return _MODELS[name]
    owner = next((owner for start, owner in _OWNERS if name.startswith(start)), "")
    return f"{owner}/{name}" if owner else name


def lens_hook(site: str) -> str:
    """TransformerLens' name of one of our sites; empty for no site."""
    layer, kind = _parts(site)
    # On a model without post-norms attn_out and attn_out_post are one tensor, whose name there is hook_attn_out.
    names = {ours: theirs for theirs, ours in LENS_KINDS.items() if not theirs.endswith("hook_out")}
    names |= {"attn_out": "hook_attn_out", "mlp_out": "hook_mlp_out"}
    return f"blocks.{layer}.{names[kind]}" if kind in names else ""


def module_hook(site: str, *, part: bool = True) -> str:
    """The module whose output, or with `.input` whose input, one of our sites is, by its path in transformers.

    part: whether `.output` or `.input` stands behind it, as Gemma Scope 2 writes it. Empty for no site.
    """
    layer, kind = _parts(site)
    names = {
        "resid_post": ".output",
        "resid_pre": ".input",
        "attn_heads": ".self_attn.o_proj.input",
        "attn_out": ".self_attn.output",
        "attn_out_post": ".post_attention_layernorm.output",
        "mlp_in": ".pre_feedforward_layernorm.output",
        "mlp_out": ".mlp.output",
        "mlp_out_post": ".post_feedforward_layernorm.output",
    }
    if kind not in names:
        return ""
    below = names[kind] if part else names[kind].rpartition(".")[0]
    return f"{'model.' if part else ''}layers.{layer}{below}"


def _parts(site: str) -> tuple[str, str]:
    match = re.fullmatch(r"layers\.(\d+)\.(\w+)", site)
    return (match[1], match[2]) if match else ("", "")
