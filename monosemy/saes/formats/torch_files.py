"""SAEs published as one .pt or .pth file without settings; the names of its tensors tell whose it is.

    OpenAI      π = (x' − pre_bias) encoder.weightᵀ + latent_bias,  x̂ = f decoder.weightᵀ + pre_bias
                "TopK": f = ReLU(TopK_k(π)) on the layer-normed row x', which is undone on output;  "ReLU": plain rows
    Qwen Scope  π = x W_encᵀ + b_enc,  f = ReLU(TopK_k(π)),  x̂ = f W_decᵀ + b_dec;  k from the repository's L0_<k>
    Goodfire    f = ReLU(encoder_linear(x)),  x̂ = decoder_linear(f)
    linear      f = ReLU(encoder(x)),  x̂ = decoder(f): two torch linear layers, such as DeepSeek-R1's

Sources: openai/sparse_autoencoder; Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50 and its siblings;
Goodfire/Llama-3.1-8B-Instruct-SAE-l19 and its sibling.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from monosemy.errors import UserError
from monosemy.saes.base import SaeConfig
from monosemy.saes.formats.described import Description, count, matrix, number_after, scalar, tensor
from monosemy.saes.formats.stored import StoredTensor, in_memory, mapped, read_torch_values, shown, shown_names
from monosemy.saes.transforms import Transforms

NAME = "torch file"
SUFFIXES = (".pt", ".pth")
_UNCENTRED = Transforms(subtract_b_dec=False)
_QWEN = re.compile(r"SAE-Res-(.+)-W\d+K-L0_(\d+)")
_GOODFIRE = re.compile(r"(Llama-[\w.-]+-Instruct)-SAE-l(\d+)")


@dataclass(frozen=True)
class Kind:
    """One publisher's file: its names of W_enc, W_dec, b_enc and b_dec, all matrices stored transposed."""

    description: Description
    names: tuple[str, str, str, str]


_OPENAI = Kind(Description("OpenAI", "relu"), ("encoder.weight", "decoder.weight", "latent_bias", "pre_bias"))
_TIED = "decoder.linear.weight"
"""OpenAI's tied decoder: the very matrix of its encoder, [d_sae, d]."""
_KINDS = (
    _OPENAI,
    Kind(Description("Qwen Scope", "topk", transforms=_UNCENTRED), ("W_enc", "W_dec", "b_enc", "b_dec")),
    Kind(
        Description("Goodfire", "relu", transforms=_UNCENTRED),
        ("encoder_linear.weight", "decoder_linear.weight", "encoder_linear.bias", "decoder_linear.bias"),
    ),
    Kind(
        Description("linear layers", "relu", transforms=_UNCENTRED),
        ("encoder.weight", "decoder.weight", "encoder.bias", "decoder.bias"),
    ),
)


def recognises(path: Path) -> bool:
    return path.is_file() and path.suffix in SUFFIXES


def config(path: Path) -> SaeConfig:
    values, kind = _read(path)
    description = _described(kind, values, path)
    named = _named(kind, values, path)
    return description.sae_config(named["W_enc"], named["W_dec"])


def tensors(path: Path, config: SaeConfig) -> dict[str, Tensor | StoredTensor]:
    values, kind = _read(path)
    return {**_named(kind, values, path)}


def _read(path: Path) -> tuple[dict[str, Any], Kind]:
    values = read_torch_values(path)
    if isinstance(tied := values.get(_TIED), Tensor) and tied.dim() == 2 and "decoder.weight" not in values:
        values["decoder.weight"] = tied.T
    for kind in _KINDS:
        if all(name in values for name in kind.names):
            return values, kind
    raise UserError(
        f"{path} holds {shown_names(sorted(values))}, which no layout read here has; a file of "
        "dictionary_learning (ae.pt) needs its config.json beside it"
    )


def _named(kind: Kind, values: Mapping[str, Any], path: Path) -> dict[str, StoredTensor]:
    stored = {name: mapped(name, path, value) for name, value in values.items() if isinstance(value, Tensor)}
    W_enc, W_dec, b_enc, b_dec = kind.names
    return {
        "W_enc": matrix(stored, W_enc, path).T,
        "W_dec": matrix(stored, W_dec, path).T,
        "b_enc": tensor(stored, b_enc, path),
        "b_dec": tensor(stored, b_dec, path),
    }


def _described(kind: Kind, values: Mapping[str, Any], path: Path) -> Description:
    layer = number_after("layer", path)
    layer = number_after("layer_", path) if layer is None else layer
    hook = "" if layer is None else f"blocks.{layer}.hook_resid_post"
    description, place = replace(kind.description, hook=hook), str(path.absolute())
    if kind is _OPENAI:
        return _openai(description, values, path)
    if kind.description.layout == "Qwen Scope":
        match = _QWEN.search(place)
        if not match:
            raise UserError(
                f"{path} does not say how many latents are active: keep the name of its repository, such as "
                "SAE-Res-Qwen3-1.7B-Base-W32K-L0_50, in the folder's name"
            )
        return replace(description, model=f"Qwen/{match[1]}", l0=count({"k": int(match[2])}, "k"))
    if match := _GOODFIRE.search(place):
        return replace(description, model=f"meta-llama/{match[1]}", hook=f"blocks.{match[2]}.hook_resid_post")
    return description


def _openai(description: Description, values: Mapping[str, Any], path: Path) -> Description:
    activation = values.get("activation")
    state = values.get("activation_state_dict")
    if activation == "TopK":
        state = state if isinstance(state, Mapping) else {}
        k, after = state.get("k"), state.get("postact_fn", "ReLU")
        if after not in ("ReLU", "ReLU()"):
            raise UserError(f"{path} applies {shown(after)} to the k largest pre-activations; ReLU is what is read")
        if isinstance(k, Tensor):
            k = scalar(in_memory("k", path, k))
        return replace(
            description, architecture="topk", l0=count({"k": k}, "k"), transforms=Transforms(normalise="layer_norm")
        )
    if activation in ("ReLU", None):
        return description
    raise UserError(f"{path} has the activation {shown(activation)}; TopK and ReLU are read")
