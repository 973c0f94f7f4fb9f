"""Llama Scope: a folder with hyperparams.json and checkpoints/final.safetensors.

    x' = x √d / (average norm of the data),  π = x' encoder.weightᵀ + encoder.bias,  f = ReLU(π) H(π − θ)
    x̂ = (f decoder.weightᵀ + decoder.bias) / (√d / average norm)

θ is one number for all latents, in the normalised space. b_dec is not subtracted from the input.
Source: fnlp/Llama3_1-8B-Base-LXR-8x and its siblings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosemy.errors import UserError
from monosemy.saes.base import SaeConfig
from monosemy.saes.formats.described import Description, holds, matrix, member, section, tensor, text
from monosemy.saes.formats.stored import StoredTensor, read_file, read_settings
from monosemy.saes.transforms import Transforms

NAME = "Llama Scope"
FILES = ("hyperparams.json", "checkpoints/final.safetensors")
_SETTINGS, _WEIGHTS = FILES


def recognises(path: Path) -> bool:
    return holds(path, *FILES)


def config(path: Path) -> SaeConfig:
    settings = read_settings(member(path, _SETTINGS))
    ours = _named(path)
    _threshold(settings)
    norm = positive(section(settings, "dataset_average_activation_norm"), "in")
    hook, hook_out = text(settings, "hook_point_in"), text(settings, "hook_point_out")
    description = Description(
        NAME,
        "jumprelu",
        model="meta-llama/Llama-3.1-8B",
        hook=hook,
        hook_out=hook_out,
        transforms=Transforms(
            input_scale=ours["W_enc"].shape[0] ** 0.5 / norm,
            subtract_b_dec=False,
            transcoder=bool(hook_out) and hook_out != hook,
        ),
        facts={"prepend_bos": True, "context_size": 1024, "dataset_path": "cerebras/SlimPajama-627B"},
    )
    return description.sae_config(ours["W_enc"], ours["W_dec"])


def tensors(path: Path, config: SaeConfig) -> dict[str, Tensor | StoredTensor]:
    threshold = _threshold(read_settings(member(path, _SETTINGS)))
    return {**_named(path), "threshold": torch.full((config.d_sae,), threshold)}


def _named(path: Path) -> dict[str, StoredTensor]:
    stored = read_file(member(path, _WEIGHTS))
    return {
        "W_enc": matrix(stored, "encoder.weight", path).T,
        "W_dec": matrix(stored, "decoder.weight", path).T,
        "b_enc": tensor(stored, "encoder.bias", path),
        "b_dec": tensor(stored, "decoder.bias", path),
    }


def _threshold(settings: dict[str, Any]) -> float:
    value = settings.get("jump_relu_threshold")
    if not isinstance(value, int | float) or not abs(value) < 1e6:
        raise UserError(f"the SAE's settings say jump_relu_threshold = {value!r}, which should be a number")
    return float(value)


def positive(settings: Any, key: str) -> float:
    """A setting that is a positive number. Raises UserError for any other."""
    value = settings.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise UserError(f"the SAE's settings say {key} = {value!r}, which should be a positive number")
    return float(value)
