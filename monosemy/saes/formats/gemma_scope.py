"""Gemma Scope 1: a folder layer_N/width_W/average_l0_K with params.npz, in a repository that names model and site.

    π = x W_enc + b_enc,  f = ReLU(π) H(π − θ),  x̂ = f W_dec + b_dec

b_dec is not subtracted from the input. Attention SAEs read the concatenated outputs of the heads; transcoders read
what the MLP receives and give its output; SAEs of the embedding read it without the factor √d that Gemma multiplies it
with, hence their input scale. Source: google/gemma-scope-2b-pt-res and its siblings.
"""

from __future__ import annotations

import re
from pathlib import Path

from monosemy.saes.base import SaeConfig
from monosemy.saes.formats.described import Description, holds, matrix, member, number_after
from monosemy.saes.formats.stored import StoredTensor, read_file
from monosemy.saes.transforms import Transforms

NAME = "Gemma Scope"
FILES = ("params.npz",)
_REPOSITORY = re.compile(r"gemma-scope-(\d+b)-(pt|it)-(res|att|mlp|transcoders)")
_HOOKS = {"res": "hook_resid_post", "att": "attn.hook_z", "mlp": "hook_mlp_out", "transcoders": "mlp.hook_in"}


def recognises(path: Path) -> bool:
    return holds(path, *FILES)


def config(path: Path) -> SaeConfig:
    stored = _tensors(path)
    W_enc, W_dec = (matrix(stored, name, path) for name in ("W_enc", "W_dec"))
    repository = _REPOSITORY.search(str(path.absolute()))
    size, tuning, kind = repository.groups() if repository else ("", "", "")
    layer = number_after("layer_", path)
    embedding = layer is None and "embedding" in path.absolute().parts
    hook = "hook_embed" if embedding else f"blocks.{layer}.{_HOOKS[kind]}" if kind and layer is not None else ""
    transcoder = kind == "transcoders"
    transforms = Transforms(
        subtract_b_dec=False,
        input_scale=W_enc.shape[0] ** -0.5 if embedding else 1.0,
        transcoder=transcoder,
    )
    description = Description(
        NAME,
        "jumprelu",
        model=f"google/gemma-2-{size}{'-it' if tuning == 'it' else ''}" if size else "",
        hook=hook,
        hook_out=f"blocks.{layer}.hook_mlp_out" if transcoder and layer is not None else "",
        l0=min(number_after("average_l0_", path) or 0, W_enc.shape[1]),
        transforms=transforms,
        facts={"prepend_bos": True, "context_size": 1024, "dataset_path": "monology/pile-uncopyrighted"},
    )
    return description.sae_config(W_enc, W_dec)


def tensors(path: Path, config: SaeConfig) -> dict[str, StoredTensor]:
    return _tensors(path)


def _tensors(path: Path) -> dict[str, StoredTensor]:
    stored = read_file(member(path, *FILES))
    return {re.sub("^w_", "W_", name): array for name, array in stored.items()}
