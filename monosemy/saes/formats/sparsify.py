"""EleutherAI sparsify: a folder named after its hook point, with cfg.json and sae.safetensors.

    π = (x − b_dec) encoder.weightᵀ + encoder.bias,  f = TopK_k(ReLU(π)),  x̂ = f W_dec + b_dec
    transcoders: π = x encoder.weightᵀ + encoder.bias;  with a skip connection, x W_skipᵀ is added to the output

Delphi reads the same folders. Not read: the activation groupmax, which takes the largest of each of k groups.
Source: eai-sparsify 1.3.
"""

from __future__ import annotations

from pathlib import Path

from monosemy.errors import UserError
from monosemy.saes.base import SaeConfig
from monosemy.saes.formats.described import Description, count, folder_of, holds, matrix, member, text
from monosemy.saes.formats.stored import StoredTensor, read_file, read_settings
from monosemy.saes.transforms import Transforms

NAME = "sparsify"
FILES = ("cfg.json", "sae.safetensors")
RUN_FILE = "config.json"
"""The run's settings, one folder up."""
_CFG, _WEIGHTS = FILES
_NAMES = {"encoder.weight": "W_enc", "encoder.bias": "b_enc"}


def recognises(path: Path) -> bool:
    return holds(path, *FILES)


def config(path: Path) -> SaeConfig:
    settings = read_settings(member(path, _CFG))
    activation = text(settings, "activation", "topk")
    if activation != "topk" or settings.get("signed"):
        raise UserError(f"{path / _CFG} is of activation {activation!r}; plain topk is the one that is read")
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
