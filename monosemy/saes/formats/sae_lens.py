"""SAELens' folders: cfg.json and sae_weights.safetensors, as version 6 writes them and as earlier ones did.

    SAE          π = (x' − b_dec) W_enc + b_enc,  x̂ = f W_dec + b_dec      (b_dec: only with apply_b_dec_to_input)
    transcoder   π = x' W_enc + b_enc,            ŷ = f W_dec + b_dec + x W_skipᵀ
    standard f = ReLU(π);  topk f = ReLU(TopK_k(π));  jumprelu f = ReLU(π) H(π − θ);  gated as ours
    topk with rescale_acts_by_decoder_norm: π is multiplied by ‖W_dec row‖ first, and f divided by it for decoding

x' is the input after `normalize_activations` (transforms.py). In files before version 6 the settings are flat; a
`scaling_factor` multiplies the latents on their way to the decoder, `log_threshold` is the logarithm of θ. A checkpoint
of batchtopk has one θ, of the rescaled π, and is read as the jumprelu that sae-lens makes of it. Not read: abstopk,
matching_pursuit and temporal, which select latents in other ways. Source: sae-lens 6.54.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosemy.errors import UserError
from monosemy.saes.base import SaeConfig, SparseAutoencoder
from monosemy.saes.formats.described import (
    INPUT_SCALE,
    Description,
    count,
    holds,
    matrix,
    member,
    positive,
    scalar,
    section,
    tensor,
    text,
)
from monosemy.saes.formats.exported import Exported, Parts
from monosemy.saes.formats.releases import release_of
from monosemy.saes.formats.stored import StoredTensor, in_memory, read_file, read_settings, shown
from monosemy.saes.transforms import Transforms
from monosemy.support.hook_names import lens_hook

NAME = "SAELens"
FILES = ("cfg.json", "sae_weights.safetensors")
_CFG, _WEIGHTS = FILES
_BATCH_TOPK = ("batchtopk", "matryoshka_batchtopk")
"""Checkpoints of training. sae-lens saves the finished SAE as jumprelu."""
_ARCHITECTURES = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated"}
_TRANSCODERS = {
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
_NORMALISATIONS = {"none": "none", "layer_norm": "layer_norm", "constant_norm_rescale": "rescale"}
_SCALED = "expected_average_only_in"
"""Inputs of mean length √d, by a factor that the files leave out."""
_CENTRED_HOOKS = re.compile(r"blocks\.\d+\.(hook_resid_\w+|hook_attn_out|hook_mlp_out)")
_TYPICAL_NORM = "typical_norm"
"""Our own entry beside theirs: the root mean square of the activations' norm, to which `--unit norm` refers."""
_FACTS = ("prepend_bos", "context_size", "dataset_path", "neuronpedia_id", "sae_lens_version", "training_architecture")


def recognises(path: Path) -> bool:
    return holds(path, *FILES)


def config(path: Path) -> SaeConfig:
    settings, metadata = _settings(path)
    tensors = read_file(member(path, _WEIGHTS))
    architecture = text(settings, "architecture", "standard")
    ours = _ARCHITECTURES.get(architecture) or _TRANSCODERS.get(architecture)
    ours = "jumprelu" if architecture in _BATCH_TOPK else ours
    if ours is None:
        valid = ", ".join([*_ARCHITECTURES, *_TRANSCODERS, *_BATCH_TOPK])
        raise UserError(
            f"{path / _CFG} is of a {shown(architecture)} SAE, which has no equal here; those read are {valid}"
        )
    activation = text(settings, "activation_fn", "relu")
    if activation not in ("relu", "topk"):
        raise UserError(f"{path / _CFG} is of activation {shown(activation)}, which is not read; relu and topk are")
    facts = {key: metadata[key] for key in _FACTS if metadata.get(key) is not None}
    transforms = _transforms(settings, metadata, tensors, transcoder=architecture in _TRANSCODERS)
    if settings.get("normalize_activations") == _SCALED:
        factor = release_of(path).factors.get(text(metadata, "hook_name"))
        if factor is None:
            facts["warning"] = (
                f"it expects inputs scaled as its training did ({_SCALED}), by a factor that its files leave out; "
                f"give it: {INPUT_SCALE}√d / mean length of the activations it was trained on), or "
                "monosemy import --input-scale"
            )
        else:
            transforms = replace(transforms, input_scale=factor)
    if isinstance(metadata.get("hook_head_index"), int):
        facts["warning"] = (
            f"it reads head {metadata['hook_head_index']} of its site alone; encode that head's part of the activations"
        )
    description = Description(
        NAME,
        ours,
        model=text(metadata, "model_name"),
        hook=text(metadata, "hook_name"),
        hook_out=text(metadata, "hook_name_out"),
        l0=count(settings, "k") if ours == "topk" else 0,
        transforms=transforms,
        typical_norm=positive(metadata, _TYPICAL_NORM, 1.0),
        facts=facts,
    )
    weights = path / _WEIGHTS
    return description.sae_config(matrix(tensors, "W_enc", weights), matrix(tensors, "W_dec", weights))


def _transforms(
    settings: Mapping[str, Any], metadata: Mapping[str, Any], tensors: Mapping[str, Any], *, transcoder: bool
) -> Transforms:
    normalisation = settings.get("normalize_activations") or "none"
    if normalisation not in (*_NORMALISATIONS, _SCALED):
        raise UserError(
            f"the SAE's settings say normalize_activations = {shown(normalisation)}, which is not read here; "
            f"{', '.join([*_NORMALISATIONS, _SCALED])} are"
        )
    hook = text(metadata, "hook_name")
    centred = section(metadata, "model_from_pretrained_kwargs").get("center_writing_weights") is True
    return Transforms(
        normalise=_NORMALISATIONS.get(normalisation, "none"),  # type: ignore[arg-type]
        centre=centred and bool(_CENTRED_HOOKS.fullmatch(hook)),
        subtract_b_dec=not transcoder and bool(settings.get("apply_b_dec_to_input", True)),
        merge_heads=settings.get("reshape_activations") == "hook_z" and metadata.get("hook_head_index") is None,
        skip="W_skip" in tensors,
        transcoder=transcoder,
    )


def tensors(path: Path, config: SaeConfig) -> dict[str, Tensor | StoredTensor]:
    settings, _ = _settings(path)
    stored: dict[str, Any] = dict(read_file(member(path, _WEIGHTS)))
    if text(settings, "architecture") in _BATCH_TOPK and "topk_threshold" in stored:
        stored["threshold"] = stored.pop("topk_threshold")
    if "log_threshold" in stored and "threshold" not in stored:
        stored["threshold"] = stored.pop("log_threshold").read().exp()
    if "threshold" in stored and config.architecture == "jumprelu" and stored["threshold"].shape in ((), (1,)):
        stored["threshold"] = torch.full((config.d_sae,), scalar(stored["threshold"]))
    factor = stored.pop("scaling_factor", None)
    if factor is not None and not torch.equal(factor := factor.read(), torch.ones_like(factor)):
        stored["W_dec"] = stored["W_dec"].read() * factor[:, None]
    if settings.get("rescale_acts_by_decoder_norm") and text(settings, "architecture") in ("topk", *_BATCH_TOPK):
        stored |= _rescaled(stored, path / _WEIGHTS)
    return stored


def _rescaled(stored: Mapping[str, Any], path: Path) -> dict[str, StoredTensor]:
    """Encoder times, and decoder divided by, the lengths of the decoder's rows: the same code without the rescaling."""
    W_dec = in_memory("W_dec", path, stored["W_dec"]) if isinstance(stored["W_dec"], Tensor) else stored["W_dec"]
    lengths = W_dec.row_lengths()
    if not bool((lengths > 0).all()):
        raise UserError(f"{path} has decoder rows of length zero, by which its code would be divided")
    b_enc = tensor(stored, "b_enc", path)
    if b_enc.shape != lengths.shape or stored["W_enc"].shape[1:] != lengths.shape:
        raise UserError(f"{path} has {len(lengths)} decoder rows but another number of encoder columns or biases")
    return {
        "W_enc": stored["W_enc"].T.rows_times(lengths).T,
        "W_dec": W_dec.rows_times(1 / lengths),
        "b_enc": in_memory("b_enc", path, b_enc.read() * lengths),
    }


def _settings(path: Path) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """(settings, metadata) in the manner of version 6, whichever version wrote the file; `releases` adds to them."""
    release = release_of(path).settings
    settings = {**read_settings(member(path, _CFG)), **release}
    metadata = {**section(settings, "metadata"), **release}
    version = text(metadata, "sae_lens_version") or text(settings, "sae_lens_version")
    if _is_6(version):
        return settings, metadata
    renamed = {
        "hook_point": "hook_name",
        "hook_point_head_index": "hook_head_index",
        "activation_fn_str": "activation_fn",
    }
    described = {key: value for key, value in metadata.items() if value is not None}
    flat = {renamed.get(key, key): value for key, value in {**settings, **described}.items()}
    if flat.get("activation_fn") == "topk" and "k" in section(flat, "activation_fn_kwargs"):
        flat |= {"architecture": "topk", "k": section(flat, "activation_fn_kwargs")["k"]}
    if isinstance(flat.get("normalize_activations"), bool):
        flat["normalize_activations"] = "expected_average_only_in" if flat["normalize_activations"] else "none"
    flat.setdefault("reshape_activations", "hook_z" if "hook_z" in text(flat, "hook_name") else "none")
    flat.setdefault("prepend_bos", True)
    return flat, flat


def _is_6(version: str) -> bool:
    match = re.match(r"(\d+)\.", version)
    return match is not None and int(match[1]) >= 6


def export(sae: SparseAutoencoder, *, unit_rows: bool = False) -> Exported:
    """The SAE as a folder that sae-lens 6 opens; `unit_rows` makes decoder rows of length 1, as SAEBench asks for.

    Raises UserError for a kind that it has not, and where rows of length 1 would change reconstructions.
    """
    parts = Parts.of(sae, NAME)
    transcoder = parts.transforms.transcoder or parts.transforms.skip
    parts.require(("relu", "jumprelu") if transcoder else ("relu", "topk", "jumprelu", "gated"), width=True)
    parts.fold_input_scale()
    if transcoder:
        parts.fold_b_dec(subtracted=False)
    if unit_rows:
        parts.fold_row_lengths()
    parts.note_row_lengths("SAEBench asks for: --unit-rows makes them so where that is exact")
    names = {ours: theirs for theirs, ours in _ARCHITECTURES.items()}
    architecture = names[parts.kind]
    if transcoder:
        words = ["jumprelu"] * (parts.kind == "jumprelu") + ["skip"] * parts.transforms.skip + ["transcoder"]
        architecture = "_".join(words)
        if parts.transforms.normalise != "none":
            parts.notes.append(f"sae-lens normalises the input ({parts.transforms.normalise}) and not the output")
    config = parts.config
    settings = {
        "architecture": architecture,
        "d_in": config.d_in,
        "d_sae": config.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": parts.transforms.subtract_b_dec,
        "normalize_activations": {ours: theirs for theirs, ours in _NORMALISATIONS.items()}[parts.transforms.normalise],
        "reshape_activations": "hook_z" if parts.transforms.merge_heads else "none",
        **({"k": round(config.l0), "rescale_acts_by_decoder_norm": False} if parts.kind == "topk" else {}),
        **({"d_out": sae.d_out} if transcoder else {}),
        "metadata": _metadata(parts),
    }
    return Exported({_CFG: settings}, {_WEIGHTS: parts.tensors}, tuple(parts.notes))


def _metadata(parts: Parts) -> dict[str, Any]:
    config, same_library = parts.config, parts.origin("layout") == NAME
    metadata: dict[str, Any] = {
        "sae_lens_version": "6.54.12",
        "sae_lens_training_version": None,
        "model_name": parts.origin("model") if same_library else config.model,
        "hook_name": (parts.origin("hook") if same_library else "") or lens_hook(config.site),
        "training_architecture": config.architecture,
    }
    if config.scale != 1:
        metadata[_TYPICAL_NORM] = config.scale
    if config.site_out:
        metadata["hook_name_out"] = (parts.origin("hook_out") if same_library else "") or lens_hook(config.site_out)
    metadata |= {key: value for key in _FACTS if (value := parts.origin(key)) is not None and key not in metadata}
    if parts.transforms.centre:
        metadata["model_from_pretrained_kwargs"] = {"center_writing_weights": True}
        parts.notes.append("sae-lens centres the residual stream only in a model loaded with centred writing weights")
    if not metadata["hook_name"]:
        parts.notes.append(f"the site {config.site or '(none)'} has no name there, so that sae-lens cannot find it")
    return metadata
