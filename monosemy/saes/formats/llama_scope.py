"""Llama Scope: a folder with hyperparams.json and checkpoints/final.safetensors, as OpenMOSS's library writes it.

    x' = s_in x,  π = x' encoder.weightᵀ + encoder.bias
    jumprelu    f = π H(π − θ), with sparsity_include_decoder_norm π H(π ‖d‖ − θ)
    relu        f = ReLU(π)
    topk        f = ReLU(TopK_k(π)), k = top_k
    x̂ = (f decoder.weightᵀ + decoder.bias) / s_out

s_in and s_out are √d / (average norm of the site) with norm_activation "dataset-wise", √d / ‖x‖ with "token-wise" and 1
with "inference". θ is one number for all latents, in the normalised space, and becomes θ / ‖d‖ of each latent. A
transcoder's decoder and b_dec are divided by its s_out as they are read. With apply_decoder_bias_to_pre_encoder the
encoder reads x' − decoder.bias. Not read: gated-linear encoders, batch-wise norms, topk that ranks by decoder norm.
Source: fnlp/Llama3_1-8B-Base-LXR-8x and its siblings; OpenMOSS/Language-Model-SAEs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosemy.errors import UserError
from monosemy.saes.base import SaeConfig
from monosemy.saes.formats.described import Description, count, holds, matrix, member, section, tensor, text
from monosemy.saes.formats.stored import StoredTensor, read_file, read_settings, shown
from monosemy.saes.transforms import Transforms

NAME = "Llama Scope"
FILES = ("hyperparams.json", "checkpoints/final.safetensors")
_SETTINGS, _WEIGHTS = FILES
_ACTIVATIONS = ("jumprelu", "relu", "topk")
_NORMALISATIONS = ("dataset-wise", "token-wise", "inference")


def recognises(path: Path) -> bool:
    return holds(path, *FILES)


def config(path: Path) -> SaeConfig:
    settings = read_settings(member(path, _SETTINGS))
    ours = _named(path, settings)
    hook, hook_out = text(settings, "hook_point_in"), text(settings, "hook_point_out")
    transcoder = bool(hook_out) and hook_out != hook
    activation = _activation(settings)
    if activation == "jumprelu":
        _threshold(settings)
    normalisation = text(settings, "norm_activation", "dataset-wise")
    if normalisation not in _NORMALISATIONS or (normalisation == "token-wise" and transcoder):
        kind = "transcoders" if transcoder else "SAEs"
        raise UserError(
            f"{path / _SETTINGS} is of norm_activation {shown(normalisation)}, which is not read for {kind}; "
            f"{', '.join(_NORMALISATIONS)} are, token-wise for SAEs only"
        )
    subtracts = settings.get("apply_decoder_bias_to_pre_encoder") is True and _has_b_dec(settings)
    if transcoder and subtracts:
        raise UserError(f"{path / _SETTINGS} subtracts its output's bias from its input, which no transcoder here does")
    description = Description(
        NAME,
        activation,
        model="meta-llama/Llama-3.1-8B",
        hook=hook,
        hook_out=hook_out,
        l0=count(settings, "top_k") if activation == "topk" else 0,
        transforms=Transforms(
            normalise="rescale" if normalisation == "token-wise" else "none",
            input_scale=_scale(settings, "in", ours["W_enc"].shape[0]),
            subtract_b_dec=subtracts,
            transcoder=transcoder,
        ),
        facts={"prepend_bos": True, "context_size": 1024, "dataset_path": "cerebras/SlimPajama-627B"},
    )
    return description.sae_config(ours["W_enc"], ours["W_dec"])


def tensors(path: Path, config: SaeConfig) -> dict[str, Tensor | StoredTensor]:
    settings = read_settings(member(path, _SETTINGS))
    ours: dict[str, Tensor | StoredTensor] = {**_named(path, settings)}
    W_dec = ours["W_dec"]
    assert isinstance(W_dec, StoredTensor)
    if config.architecture == "jumprelu":
        threshold = torch.full((config.d_sae,), _threshold(settings))
        if settings.get("sparsity_include_decoder_norm"):
            # A row of length zero never gets above the threshold, even where that is zero.
            threshold = (threshold / W_dec.row_lengths()).nan_to_num(torch.inf, posinf=torch.inf)
        ours["threshold"] = threshold
    if config.transforms.transcoder:
        factor = torch.tensor([1 / _scale(settings, "out", W_dec.shape[1])])
        ours["W_dec"] = W_dec.rows_times(factor)
        b_dec = ours["b_dec"]
        ours["b_dec"] = (b_dec.read() if isinstance(b_dec, StoredTensor) else b_dec) * factor
    return ours


def _named(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    stored = read_file(member(path, _WEIGHTS))
    W_dec = matrix(stored, "decoder.weight", path).T
    return {
        "W_enc": matrix(stored, "encoder.weight", path).T,
        "W_dec": W_dec,
        "b_enc": tensor(stored, "encoder.bias", path),
        "b_dec": tensor(stored, "decoder.bias", path) if _has_b_dec(settings) else torch.zeros(W_dec.shape[1]),
    }


def _has_b_dec(settings: Mapping[str, Any]) -> bool:
    return settings.get("use_decoder_bias") is not False


def _activation(settings: Mapping[str, Any]) -> str:
    """Our architecture. Raises UserError, by name, for what is not read."""
    activation = text(settings, "act_fn", "jumprelu").lower()
    if activation not in _ACTIVATIONS:
        raise UserError(f"the SAE's settings say act_fn = {shown(activation)}; {', '.join(_ACTIVATIONS)} are read")
    if settings.get("use_glu_encoder"):
        raise UserError("the SAE's settings say use_glu_encoder; its gated-linear encoder has no equal here")
    if activation == "topk" and settings.get("sparsity_include_decoder_norm"):
        raise UserError("the SAE's settings say topk with sparsity_include_decoder_norm, which has no equal here")
    return activation


def _scale(settings: Mapping[str, Any], place: str, width: int) -> float:
    """s_in or s_out, the constant factor of the input or output."""
    if text(settings, "norm_activation", "dataset-wise") != "dataset-wise":
        return 1.0
    return float(width**0.5 / positive(section(settings, "dataset_average_activation_norm"), place))


def _threshold(settings: Mapping[str, Any]) -> float:
    value = settings.get("jump_relu_threshold")
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e6:
        raise UserError(f"the SAE's settings say jump_relu_threshold = {shown(value)}, which should be a number from 0")
    return float(value)


def positive(settings: Any, key: str) -> float:
    """A setting that is a positive number. Raises UserError for any other."""
    value = settings.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise UserError(f"the SAE's settings say {key} = {shown(value)}, which should be a positive number")
    return float(value)
