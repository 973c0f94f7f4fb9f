"""EleutherAI sparsify: a folder named after its hook point, with cfg.json and sae.safetensors.

    π = (x − b_dec) encoder.weightᵀ + encoder.bias,  f = TopK_k(ReLU(π)),  x̂ = f W_dec + b_dec
    transcoders: π = x encoder.weightᵀ + encoder.bias;  with a skip connection, x W_skipᵀ is added to the output

Delphi reads the same folders. Not read: the activation groupmax, which takes the largest of each of k groups.
Source: eai-sparsify 1.3.
"""

from __future__ import annotations

from pathlib import Path

from monosemy.errors import UserError
from monosemy.saes.base import SaeConfig, SparseAutoencoder
from monosemy.saes.formats.described import Description, count, folder_of, holds, matrix, member, text
from monosemy.saes.formats.exported import Exported, Parts
from monosemy.saes.formats.stored import StoredTensor, read_file, read_settings, shown
from monosemy.saes.transforms import Transforms
from monosemy.support.hook_names import module_hook

NAME = "sparsify"
FILES = ("cfg.json", "sae.safetensors")
RUN_FILE = "config.json"
"""The run's settings, one folder up."""
_CFG, _WEIGHTS = FILES
_NAMES = {"encoder.weight": "W_enc", "encoder.bias": "b_enc"}


def recognises(path: Path) -> bool:
    return holds(path, *FILES)


def beside(place: Path) -> list[Path]:
    """The run's settings, which say what a transcoder reads."""
    return [place.parent / RUN_FILE]


def config(path: Path) -> SaeConfig:
    settings = read_settings(member(path, _CFG))
    activation = text(settings, "activation", "topk")
    if settings.get("signed"):
        raise UserError(f"{path / _CFG} says signed: latents below zero too are active, which has no equal here")
    if activation != "topk":
        raise UserError(f"{path / _CFG} is of activation {shown(activation)}; plain topk is the one that is read")
    stored = _tensors(path)
    folder = folder_of(path)
    hook = folder.name
    transcode = settings.get("transcode") is True
    run_file = folder.parent / RUN_FILE
    run = read_settings(run_file) if run_file.is_file() else {}
    description = Description(
        NAME,
        "topk",
        model=text(run, "model"),
        # A hook point names a module: a transcoder reads its input and gives its output.
        hook=f"{hook}.input" if transcode else hook,
        hook_out=hook if transcode else "",
        l0=count(settings, "k"),
        transforms=Transforms(subtract_b_dec=not transcode, skip="W_skip" in stored, transcoder=transcode),
        facts={"dataset_path": run.get("dataset"), "context_size": run.get("ctx_len")},
    )
    return description.sae_config(matrix(stored, "W_enc", path), matrix(stored, "W_dec", path))


def tensors(path: Path, config: SaeConfig) -> dict[str, StoredTensor]:
    return _tensors(path)


def _tensors(path: Path) -> dict[str, StoredTensor]:
    stored = read_file(member(path, _WEIGHTS))
    ours = {_NAMES.get(name, name): array for name, array in stored.items()}
    ours["W_enc"] = matrix(ours, "W_enc", path).T
    return ours


def export(sae: SparseAutoencoder) -> Exported:
    """The SAE as a folder, named after its hook point, that sparsify and Delphi open. Raises UserError unless TopK."""
    parts = Parts.of(sae, NAME)
    parts.require(("topk",))
    parts.require_plain_rows()
    parts.fold_input_scale()
    transcode = parts.transforms.transcoder
    parts.fold_b_dec(subtracted=not transcode)
    config = parts.config
    site = config.site_out.replace("_out_post", "_out") if transcode else config.site.replace("_out_post", "_out")
    hook = module_hook(site, part=False) or "sae"
    if not module_hook(site, part=False) or site.endswith((".resid_pre", ".attn_heads", ".mlp_in")):
        parts.notes.append(f"sparsify reads outputs of modules; the site {site or '(none)'} is none")
    parts.notes.append(f"the model's name ({config.model or 'not known'}) has no place in an SAE's own folder there")
    settings = {
        "activation": "topk",
        "expansion_factor": max(1, config.d_sae // config.d_in),
        "normalize_decoder": True,
        "num_latents": config.d_sae,
        "k": round(config.l0),
        "multi_topk": False,
        "skip_connection": parts.transforms.skip,
        "transcode": transcode,
        "d_in": config.d_in,
    }
    theirs = {ours: name for name, ours in _NAMES.items()}
    tensors = {theirs.get(name, name): tensor for name, tensor in parts.tensors.items()}
    tensors["encoder.weight"] = tensors["encoder.weight"].T
    return Exported({_CFG: settings}, {_WEIGHTS: tensors}, tuple(parts.notes), folder=hook)
