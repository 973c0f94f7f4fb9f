"""circuit-tracer's sets of transcoders: config.yaml, and layer_<i>.safetensors or W_enc_<i> and W_dec_<i> a layer.

    π = x W_encᵀ + b_enc,  f = ReLU(π) H(π − θ)  (without θ ReLU, or TopK where config.yaml says so)
    ŷ = f W_dec + b_dec + x W_skipᵀ

Both matrices are [d_sae, d]; b_dec is not subtracted from the input. One layer is read at a time, by its file. A
cross-layer transcoder's layer i gives to layers i, i + 1, …, whose outputs are read side by side; the outputs of the
layers below, which end at layer i too, are in their files. Source: circuit-tracer 0.3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from monosemy.errors import UserError
from monosemy.saes.base import SaeConfig, SparseAutoencoder
from monosemy.saes.formats.described import Description, count, matrix, member, section, text
from monosemy.saes.formats.exported import Exported, Parts
from monosemy.saes.formats.gemma_scope_2 import side_by_side
from monosemy.saes.formats.stored import StoredTensor, read_file, read_yaml, shown, shown_names
from monosemy.saes.transforms import Transforms
from monosemy.support.hook_names import lens_hook

NAME = "circuit-tracer"
CONFIG = "config.yaml"
_LAYER = re.compile(r"(layer|W_enc)_(\d+)\.safetensors")


def recognises(path: Path) -> bool:
    if path.is_dir():
        return (path / CONFIG).is_file() and bool(_layers(path) or published_elsewhere(path / CONFIG))
    return is_layer(path.name) and path.is_file()


def is_layer(name: str) -> bool:
    """Whether a file of this name holds a layer of a set."""
    return bool(_LAYER.fullmatch(name))


def place_of(path: Path) -> Path:
    """The file of a set of one layer, which its folder stands for; else the path itself."""
    layers = _layers(path) if path.is_dir() else []
    return layers[0] if len(layers) == 1 else path


def _layers(folder: Path) -> list[Path]:
    """The files of a set's layers, in its folder or in the subfolder that its config.yaml names."""
    try:
        subfolder = read_yaml(folder / CONFIG).get("subfolder")
    except UserError:
        subfolder = None
    inner = folder / subfolder if isinstance(subfolder, str) and ".." not in subfolder else folder
    places = [place for place in (folder, inner) if place.is_dir()]
    files = {entry for place in places for entry in place.iterdir() if is_layer(entry.name)}
    return sorted(files, key=lambda file: (str(file.parent), int(re.findall(r"\d+", file.name)[-1])))


def beside(place: Path) -> list[Path]:
    """What a layer is read from beyond its own file: the set's settings, and W_dec of a cross-layer transcoder."""
    number = re.search(r"(\d+)\D*$", place.stem)
    settings_file = _settings_file(place)
    return [
        *([settings_file] if settings_file else []),
        *([place.parent / f"W_dec_{number[1]}.safetensors"] if number else []),
    ]


def _settings(path: Path) -> dict[str, Any]:
    """The set's settings; empty without any."""
    settings_file = _settings_file(path)
    return read_yaml(member(settings_file.parent, CONFIG)) if settings_file else {}


def _settings_file(path: Path) -> Path | None:
    """The file of the set's settings, beside a layer's file or above the subfolder that they name."""
    if (path.parent / CONFIG).is_file():
        return path.parent / CONFIG
    for folder in path.absolute().parent.parents[:3]:
        if (folder / CONFIG).is_file():
            inside = path.absolute().parent.relative_to(folder).as_posix()
            settings = read_yaml(member(folder, CONFIG))
            return folder / CONFIG if str(settings.get("subfolder")).strip("/") == inside else None
    return None


def published_elsewhere(settings_file: Path) -> list[str]:
    """The names of the transcoders that a set's config.yaml points to, where it holds none itself; else empty.

    They are listed as names, or as groups of repo_id, subfolder or filepath, and revision; or the set as a whole is
    such a group, of which the first layer is named.
    """
    try:
        settings = read_yaml(settings_file)
    except UserError:
        return []
    listed = settings.get("transcoders")
    if listed is None and isinstance(settings.get("repo_id"), str):
        first = "W_enc_0" if settings.get("model_kind") == "cross_layer_transcoder" else "layer_0"
        return [f"{_elsewhere({**settings, 'path': None})}/{first}.safetensors{_at(settings)}"]
    entries = list(listed.values()) if isinstance(listed, dict) else listed if isinstance(listed, list) else []
    named = [f"{_elsewhere(entry)}{_at(entry)}" if isinstance(entry, dict) else entry for entry in entries]
    return [name for name in named if isinstance(name, str) and name]


def _elsewhere(entry: Mapping[str, Any]) -> str:
    """The name of a transcoder that is listed as a group of settings, or of the folder of a whole set."""
    parts = [entry.get(key) for key in ("repo_id", "subfolder", "filepath", "filename", "path")]
    return "/".join(part.strip("/") for part in parts if isinstance(part, str) and part)


def _at(entry: Mapping[str, Any]) -> str:
    revision = entry.get("revision")
    return f"@{revision}" if isinstance(revision, str) and revision else ""


def several(place: str | Path, names: Sequence[str]) -> UserError:
    """The answer to a set in the place of one transcoder."""
    return UserError(
        f"{place} is a list of {len(names)} transcoders that lie elsewhere; open one by its name, e.g. "
        f"{shown_names(names[:2])}"
    )


def config(path: Path) -> SaeConfig:
    layer, _ = _layer(path)
    settings = _settings(path)
    ours = _named(path)
    k = _k(settings)
    architecture = "jumprelu" if "threshold" in ours else "topk" if k else "relu"
    hook_in = text(settings, "feature_input_hook", "mlp.hook_in")
    hook_out = text(settings, "feature_output_hook", "hook_mlp_out")
    description = Description(
        NAME,
        architecture,
        model=text(settings, "model_name"),
        hook=f"blocks.{layer}.{hook_in}",
        hook_out=f"blocks.{layer}.{hook_out}",
        l0=k if architecture == "topk" else 0,
        transforms=Transforms(subtract_b_dec=False, skip="W_skip" in ours, transcoder=True),
        facts={"scan": settings.get("scan") if isinstance(settings.get("scan"), str) else None, "prepend_bos": True},
    )
    return description.sae_config(matrix(ours, "W_enc", path), matrix(ours, "W_dec", path))


def tensors(path: Path, config: SaeConfig) -> dict[str, Tensor | StoredTensor]:
    return _named(path)


def _layer(path: Path) -> tuple[int, bool]:
    """(layer, whether it is of a cross-layer transcoder), by the file's name."""
    if path.is_dir():
        layers = _layers(path)
        if not layers:
            raise several(path, published_elsewhere(path / CONFIG))
        raise UserError(f"{path} holds a transcoder for each of {len(layers)} layers; name one, e.g. {layers[0]}")
    match = _LAYER.fullmatch(path.name)
    assert match is not None
    return int(match[2]), match[1] == "W_enc"


def _k(settings: Mapping[str, Any]) -> int:
    """k where config.yaml asks for TopK, else 0: `topk` with k beside it, {type: topk, k: 4}, or {topk: {k: 4}}."""
    activation = settings.get("activation")
    if isinstance(activation, str):
        kind, k = activation, settings.get("k")
    else:
        named = section(settings, "activation")
        inner = named.get("topk")
        kind = named.get("name") or named.get("type") or ("topk" if {"k", "topk"} & named.keys() else "")
        k = named.get("k", inner.get("k") if isinstance(inner, Mapping) else inner)
    if str(kind).lower() not in ("", "relu", "jumprelu", "jump_relu", "topk"):
        raise UserError(f"the set's settings say activation {shown(kind)}; relu, jumprelu and topk are read")
    return count({"k": k}, "k") if str(kind).lower() == "topk" else 0


def _named(path: Path) -> dict[str, Any]:
    layer, cross_layer = _layer(path)
    stored: dict[str, Any] = dict(read_file(member(path, path.name)))
    if cross_layer:
        decoder = read_file(member(path, f"W_dec_{layer}.safetensors"))
        stored = {name.removesuffix(f"_{layer}"): array for name, array in {**stored, **decoder}.items()}
    ours = {name.removeprefix("activation_function."): array for name, array in stored.items()}
    ours["W_enc"] = matrix(ours, "W_enc", path).T
    return side_by_side(ours) if "W_dec" in ours and len(ours["W_dec"].shape) == 3 else ours


def export(sae: SparseAutoencoder) -> Exported:
    """One layer of a set of transcoders. Raises UserError for an SAE, and for kinds that circuit-tracer has not."""
    parts = Parts.of(sae, NAME)
    parts.require(("relu", "jumprelu"))
    parts.require_plain_rows()
    parts.fold_input_scale()
    parts.fold_b_dec(subtracted=False)
    config = parts.config
    layer = re.match(r"layers\.(\d+)\.", config.site)
    if not parts.transforms.transcoder or not layer:
        raise parts.refuse("a set has transcoders, whose layer must be known, and this SAE reconstructs its input")
    tensors = dict(parts.tensors)
    tensors["W_enc"] = tensors["W_enc"].T
    if "threshold" in tensors:
        tensors["activation_function.threshold"] = tensors.pop("threshold")
    hook_in, hook_out = (re.sub(r"^blocks\.\d+\.", "", lens_hook(site)) for site in (config.site, config.site_out))
    settings = {
        "model_name": config.model,
        "model_kind": "transcoder_set",
        "feature_input_hook": hook_in or "mlp.hook_in",
        "feature_output_hook": hook_out or "hook_mlp_out",
        "scan": config.model.rpartition("/")[2] or "monosemy",
    }
    parts.notes.append("a set needs every layer of the model, all of one width: export each into the same folder")
    return Exported({CONFIG: settings}, {f"layer_{layer[1]}.safetensors": tensors}, tuple(parts.notes))
