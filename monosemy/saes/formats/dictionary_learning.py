"""dictionary_learning: a folder with ae.pt and config.json, whose trainer section names one of seven classes.

    AutoEncoder             f = ReLU((x − b) W + c)            AutoEncoderNew: without b in the encoder
    AutoEncoderTopK         f = TopK_k(ReLU((x − b) W + c))
    BatchTopKSAE            f = π H(π − θ), π = ReLU((x − b) W + c), one θ (−1: not set); MatryoshkaBatchTopKSAE alike
    JumpReluAutoEncoder     f = ReLU(π H(π − θ)), π = x W + c
    GatedAutoEncoder        as ours

Weights are read as the file has them; the library's own loader of AutoEncoder gives decoder rows unit length, which
multiplies the latents and leaves the reconstruction. Source: dictionary-learning 0.1.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosemy.errors import UserError, unknown
from monosemy.saes.base import SaeConfig, SparseAutoencoder
from monosemy.saes.formats.described import Description, count, holds, matrix, member, scalar, section, tensor, text
from monosemy.saes.formats.exported import Exported, Parts
from monosemy.saes.formats.stored import StoredTensor, read_file, read_settings, shown
from monosemy.saes.transforms import Transforms

NAME = "dictionary_learning"
FILES = ("ae.pt", "config.json")
_WEIGHTS, _CONFIG = FILES
_CLASSES = {
    "AutoEncoder": "relu",
    "AutoEncoderNew": "relu",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "batch_topk",
    "MatryoshkaBatchTopKSAE": "matryoshka_batch_topk",
    "JumpReluAutoEncoder": "jumprelu",
    "GatedAutoEncoder": "gated",
}
_UNCENTRED = ("AutoEncoderNew", "JumpReluAutoEncoder")
_NAMES = {
    "encoder.bias": "b_enc",
    "bias": "b_dec",
    "decoder_bias": "b_dec",
    "decoder.bias": "b_dec",
    "gate_bias": "b_gate",
    "mag_bias": "b_mag",
}
_NOT_COPIED = ("encoder.weight", "decoder.weight", "k", "group_sizes")
"""Matrices, which are turned, and what is no weight. Groups matter in training alone, and become `prefixes`."""
_THRESHOLDED = ("batch_topk", "matryoshka_batch_topk")


def recognises(path: Path) -> bool:
    return holds(path, *FILES)


def config(path: Path) -> SaeConfig:
    settings = read_settings(member(path, _CONFIG))
    trainer, buffer = section(settings, "trainer"), section(settings, "buffer")
    kind = text(trainer, "dict_class")
    if kind and kind not in _CLASSES:
        raise unknown("class of dictionary_learning", kind[:80], _CLASSES)
    stored = read_file(member(path, _WEIGHTS))
    if not kind and "bias" in stored:
        kind = "AutoEncoder"  # the first releases had no other class, and no other has a tensor of this name
    if not kind:
        raise UserError(f"{path / _CONFIG} names no dict_class, without which its codes are not known")
    ours = _named(stored, path)
    architecture = _CLASSES[kind]
    if architecture in _THRESHOLDED and "threshold" not in stored:
        raise UserError(
            f"{path / _WEIGHTS} is a {kind} without a threshold, as the first release wrote it: which latents are "
            "active depends on all rows encoded together, so that a row has no code of its own"
        )
    description = Description(
        NAME,
        architecture,
        model=text(trainer, "lm_name"),
        hook=_hook(trainer),
        l0=_k(stored, trainer, path) if architecture in ("topk", *_THRESHOLDED) else 0,
        transforms=Transforms(subtract_b_dec=kind not in _UNCENTRED),
        facts={"class": kind, "context_size": buffer.get("ctx_len")},
    )
    described = description.sae_config(ours["W_enc"], ours["W_dec"])
    if architecture != "matryoshka_batch_topk":
        return described
    ends = tensor(stored, "group_sizes", path).read().cumsum(0).tolist()
    return dataclasses.replace(described, options={"prefixes": [end / described.d_sae for end in ends[:-1]]})


def _hook(trainer: Any) -> str:
    layer = trainer.get("layer")
    named = text(trainer, "submodule_name")
    return named or (f"resid_post_layer_{layer}" if isinstance(layer, int) else "")


def _k(stored: dict[str, StoredTensor], trainer: Any, path: Path) -> int:
    """k as the weights say it, which config.json must not contradict."""
    if "k" not in stored:
        return count(trainer, "k")
    k = count({"k": scalar(stored["k"])}, "k")
    if trainer.get("k") not in (None, k):
        raise UserError(f"{path / _CONFIG} says k = {shown(trainer['k'])} but {path / _WEIGHTS} says {k}")
    return k


def tensors(path: Path, config: SaeConfig) -> dict[str, Tensor | StoredTensor]:
    ours: dict[str, Any] = _named(read_file(member(path, _WEIGHTS)), path)
    if config.architecture in _THRESHOLDED:
        ours["threshold"] = torch.tensor(scalar(tensor(ours, "threshold", path)))
        ours["threshold_weight"] = torch.ones((), dtype=torch.float64)
    elif config.architecture != "jumprelu":
        ours.pop("threshold", None)  # of AutoEncoderTopK, which selects without it
    return ours


def _named(stored: dict[str, StoredTensor], path: Path) -> dict[str, StoredTensor]:
    """The tensors under our names, both matrices the way we have them."""
    ours = {_NAMES.get(name, name): array for name, array in stored.items() if name not in _NOT_COPIED}
    for name, source in (("W_enc", "encoder.weight"), ("W_dec", "decoder.weight")):
        ours[name] = matrix(stored, source, path).T if source in stored else matrix(stored, name, path)
    return ours


def export(sae: SparseAutoencoder) -> Exported:
    """The SAE as a folder that dictionary_learning's load_dictionary opens. Raises UserError for a transcoder."""
    parts = Parts.of(sae, NAME)
    parts.require(("relu", "topk", "batch_topk", "jumprelu", "gated"), transcoder=False)
    parts.require_plain_rows()
    parts.fold_input_scale()
    if parts.kind != "relu":
        parts.fold_b_dec(subtracted=parts.kind != "jumprelu")
    kind = _exported_class(parts)
    tensors = parts.tensors
    widths: tuple[int, ...] = getattr(sae, "widths", ())  # of an architecture whose prefixes may be trained
    if kind == "BatchTopKSAE" and len(widths) > 1:
        kind = "MatryoshkaBatchTopKSAE"
        tensors["group_sizes"] = torch.tensor(widths).diff(prepend=torch.zeros(1, dtype=torch.int64))
    names = {"b_enc": "encoder.bias", "b_gate": "gate_bias", "b_mag": "mag_bias"}
    biases = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias", "GatedAutoEncoder": "decoder_bias"}
    if kind not in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
        tensors = {{**names, "b_dec": biases.get(kind, "b_dec")}.get(name, name): t for name, t in tensors.items()}
        tensors["encoder.weight"], tensors["decoder.weight"] = tensors.pop("W_enc").T, tensors.pop("W_dec").T
    config, k = parts.config, max(1, round(parts.config.l0))
    if kind in ("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        tensors["k"] = torch.tensor(k, dtype=torch.int32)
        tensors.setdefault("threshold", torch.tensor(-1.0))
    if kind == "AutoEncoder":
        parts.note_row_lengths("its loader gives them, so that it shows latents times that length")
    layer = re.match(r"layers\.(\d+)", config.site)
    trainer = {
        "trainer_class": "monosemy",
        "dict_class": kind,
        "activation_dim": config.d_in,
        "dict_size": config.d_sae,
        "layer": int(layer[1]) if layer else None,
        "lm_name": config.model,
        "submodule_name": f"{config.site.rpartition('.')[2]}_layer_{layer[1]}" if layer else None,
        **({"k": k} if config.l0 else {}),
    }
    buffer = {"d_submodule": config.d_in, "io": "out"}
    if (context_size := parts.origin("context_size")) is not None:
        buffer["ctx_len"] = context_size
    settings = {"trainer": trainer, "buffer": buffer}
    return Exported({_CONFIG: settings}, {_WEIGHTS: tensors}, tuple(parts.notes))


def _exported_class(parts: Parts) -> str:
    if parts.kind == "relu":
        return "AutoEncoder" if parts.transforms.subtract_b_dec else "AutoEncoderNew"
    return next(name for name, kind in _CLASSES.items() if kind == parts.kind)
