"""Gemma Scope 2: a folder with config.json and params.safetensors; SAEs, transcoders and cross-layer transcoders.

    π = x w_enc + b_enc,  f = ReLU(π) H(π − θ),  ŷ = f w_dec + b_dec + x affine_skip_connection

b_dec is not subtracted from the input. A cross-layer transcoder has one file a layer, params_layer_<i>.safetensors,
whose w_dec is [d_sae, layers, d], one output a layer; they are read side by side, as one output of layers · d
components. Where a repository has no config.json, its folders' names say what is in them. Source:
google/gemma-scope-2-270m-pt and its siblings.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosemy.errors import UserError
from monosemy.saes.base import SaeConfig, SparseAutoencoder
from monosemy.saes.formats.described import Description, folder_of, holds, matrix, member, number_after, tensor, text
from monosemy.saes.formats.exported import Exported, Parts
from monosemy.saes.formats.stored import StoredTensor, in_memory, read_file, read_settings, shown
from monosemy.saes.transforms import Transforms
from monosemy.support.hook_names import module_hook

NAME = "Gemma Scope 2"
FILES = ("config.json", "params.safetensors")
_CONFIG, _PARAMS = FILES
_LAYER = re.compile(r"params_layer_(\d+)\.safetensors")
"""The file of one layer of a cross-layer transcoder."""
_REPOSITORY = re.compile(r"gemma-scope-2-(\w+-(?:pt|it))\b")
_INPUT, _OUTPUT = "pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"
_HOOKS = {
    "resid_post": ("output", ""),
    "attn_out": ("self_attn.o_proj.input", ""),
    "mlp_out": (_OUTPUT, ""),
    "transcoder": (_INPUT, _OUTPUT),
    "clt": (_INPUT, _OUTPUT),
}
"""Within a layer, what SAEs of a folder with this name read and write."""


def recognises(path: Path) -> bool:
    if path.is_dir() and any(_LAYER.fullmatch(entry.name) for entry in path.iterdir()):
        return True
    if _LAYER.fullmatch(path.name) and path.is_file():
        return True
    return holds(path, *FILES) or (holds(path, _PARAMS) and names_repository(str(path.absolute())))


def names_repository(place: str) -> bool:
    """Whether a path or name is within one of the repositories, which say what is in a folder without settings."""
    return bool(_REPOSITORY.search(place))


def beside(place: Path) -> list[Path]:
    """The settings of a cross-layer transcoder, beside the files of its layers."""
    return [place.parent / _CONFIG]


def config(path: Path) -> SaeConfig:
    settings = _settings(path)
    if isinstance(settings.get("hf_hook_point_in"), list) or "/crosscoder/" in f"{path.absolute().as_posix()}/":
        raise UserError(f"{path} is a crosscoder, which reads several layers at once; SAEs and transcoders are read")
    if text(settings, "architecture", "jump_relu") != "jump_relu":
        raise UserError(f"{path / _CONFIG} is of architecture {shown(settings['architecture'])}; jump_relu is read")
    stored = _tensors(path)
    hook, hook_out = text(settings, "hf_hook_point_in"), text(settings, "hf_hook_point_out")
    l0 = settings.get("l0")
    W_enc, W_dec = matrix(stored, "W_enc", path), matrix(stored, "W_dec", path)
    transcoder = bool(hook_out and hook_out != hook) or "W_skip" in stored or W_enc.shape[0] != W_dec.shape[1]
    # The hub has gemma-3-270m, without -pt, and all the others with it.
    model = text(settings, "model_name").replace("-v3", "-3").replace("-270m-pt", "-270m")
    description = Description(
        NAME,
        "jumprelu",
        model=model if "/" in model or not model else f"google/{model}",
        hook=hook,
        hook_out=hook_out,
        l0=float(l0) if isinstance(l0, int | float) and 0 <= l0 <= W_enc.shape[1] else 0,
        transforms=Transforms(subtract_b_dec=False, skip="W_skip" in stored, transcoder=transcoder),
        facts={"prepend_bos": True},
    )
    return description.sae_config(W_enc, W_dec)


def _settings(path: Path) -> dict[str, Any]:
    """config.json's settings. What it leaves out, and the hooks of a layer's file, are those of the path."""
    settings = read_settings(member(path, _CONFIG)) if (folder_of(path) / _CONFIG).is_file() else {}
    place = str(path.absolute())
    model, layer = _REPOSITORY.search(place), number_after("layer_", path)
    inferred: dict[str, Any] = {"model_name": f"gemma-3-{model[1]}"} if model else {}
    # Of a cross-layer transcoder's parent folders the outermost may be named after another kind: the last one counts.
    kind = max(_HOOKS, key=lambda name: place.rfind(f"/{name}"))
    if layer is not None and f"/{kind}" in place:
        reads, writes = (hook and f"model.layers.{layer}.{hook}" for hook in _HOOKS[kind])
        inferred |= {"hf_hook_point_in": reads, "hf_hook_point_out": writes}
    return {**settings, **inferred} if _LAYER.fullmatch(path.name) else {**inferred, **settings}


def tensors(path: Path, config: SaeConfig) -> dict[str, Tensor | StoredTensor]:
    return _tensors(path)


def _tensors(path: Path) -> dict[str, Any]:
    if path.is_dir() and not (path / _PARAMS).is_file():
        layers = sorted(entry.name for entry in path.iterdir() if _LAYER.fullmatch(entry.name))
        raise UserError(
            f"{path} holds a cross-layer transcoder's {len(layers)} layers; name one, e.g. {path / layers[0]}"
        )
    file = path.name if _LAYER.fullmatch(path.name) else _PARAMS
    stored: dict[str, Any] = dict(read_file(member(path, file)))
    names = {"w_enc": "W_enc", "w_dec": "W_dec"}
    ours = {names.get(name, name): array for name, array in stored.items() if name != "affine_skip_connection"}
    if "affine_skip_connection" in stored:
        ours["W_skip"] = matrix(stored, "affine_skip_connection", path).T
    W_dec = tensor(ours, "W_dec", path)
    return side_by_side(ours) if len(W_dec.shape) == 3 else ours


def side_by_side(stored: dict[str, Any]) -> dict[str, Any]:
    """A cross-layer transcoder's tensors with the outputs of its layers in one row, [d_sae, layers · d].

    A b_dec [d] is the one of the first layer.
    """
    W_dec: StoredTensor = stored["W_dec"]
    n_latents, n_layers, width = W_dec.shape
    blocks = W_dec.blocks
    flat = replace(W_dec, shape=(n_latents, n_layers * width), blocks=lambda: (b.flatten(1) for b in blocks()))
    b_dec = tensor(stored, "b_dec", W_dec.path).read().flatten()
    if len(b_dec) not in (width, n_layers * width):
        raise UserError(f"{W_dec.path}: b_dec has {len(b_dec)} components but an output has {width}")
    padded = torch.cat([b_dec, b_dec.new_zeros(n_layers * width - len(b_dec))])
    return {**stored, "W_dec": flat, "b_dec": in_memory("b_dec", W_dec.path, padded)}


def export(sae: SparseAutoencoder) -> Exported:
    """The SAE in Gemma Scope 2's layout, which holds JumpReLU alone. Raises UserError for TopK and Gated."""
    parts = Parts.of(sae, NAME)
    parts.require(("jumprelu",))
    parts.require_plain_rows()
    parts.fold_input_scale()
    parts.fold_b_dec(subtracted=False)
    config, transforms = parts.config, parts.transforms
    hook = module_hook(config.site)
    settings = {
        "architecture": "jump_relu",
        "model_name": config.model,
        "hf_hook_point_in": hook,
        "hf_hook_point_out": module_hook(config.site_out) if config.site_out else hook,
        "width": config.d_sae,
        "l0": setting_number(config.l0),
        "affine_connection": transforms.skip,
        "type": "transcoder" if transforms.transcoder else "sae",
    }
    names = {"W_enc": "w_enc", "W_dec": "w_dec"}
    tensors = {names.get(name, name): tensor for name, tensor in parts.tensors.items()}
    if "W_skip" in tensors:
        tensors["affine_skip_connection"] = tensors.pop("W_skip").T
    return Exported({_CONFIG: settings}, {_PARAMS: tensors}, tuple(parts.notes))


def setting_number(value: float) -> float | int:
    """A whole number as one."""
    return int(value) if float(value).is_integer() else value
