"""A trained SAE as a folder: `sae.safetensors` (the weights) and `config.json` (what they are).

The saved SAE reads raw activations: the site's scale is folded into its weights. Layout of the tensors: W_enc
[d_in, d_sae], W_dec [d_sae, d_in], b_dec [d_in], and per architecture b_enc, b_gate, b_mag, r_mag, threshold [d_sae].
config.json: {"format": "monosemy-sae", "format_version": 1, "weights_sha256", "sae": SaeConfig as JSON}.
Nothing in the folder can run code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from monosemy.config import from_json
from monosemy.errors import UserError
from monosemy.layout import SaeFiles
from monosemy.saes.base import SaeConfig, SparseAutoencoder, describe
from monosemy.saes.listing import refuse_stopped
from monosemy.saes.registry import build_sae
from monosemy.support import files
from monosemy.support.tensors import save_tensors

FORMAT, FORMAT_VERSION = "monosemy-sae", 1


def save_sae(sae: SparseAutoencoder, folder: Path) -> None:
    """Writes the SAE, weights first; the folder counts as an SAE once config.json is there.

    Raises UserError when the folder cannot be written to; an SAE that was there stays loadable until then.
    """
    folder = Path(folder)
    with files.atomic_path(SaeFiles(folder).weights) as temporary:
        save_tensors(temporary, sae.state_dict())
        digest = files.sha256(temporary)
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "weights_sha256": digest,
        "sae": describe(sae),
    }
    files.write_json(SaeFiles(folder).config, document)


def load_sae(
    folder: str | Path, *, device: str = "cpu", dtype: torch.dtype | None = None, even_stopped: bool = False
) -> SparseAutoencoder:
    """The SAE in `folder`, ready to encode raw activations of its site; in evaluation mode, without gradients.

    Raises UserError when the folder is no saved SAE, of a newer format, its weights are damaged (hash, shapes), or its
    training stopped early; `even_stopped` loads such a one as it was when it stopped.
    """
    folder = Path(folder).expanduser()
    config = read_sae_config(folder)
    if not even_stopped:
        refuse_stopped(f"{folder.parent.name}/{folder.name}", stopped_early(config))
    path = SaeFiles(folder).weights
    if not path.exists():
        raise UserError(f"{path} is missing; restore it, or delete {folder} and train again")
    expected = files.read_json(SaeFiles(folder).config)["weights_sha256"]
    if files.sha256(path) != expected:
        raise UserError(
            f"{path} is damaged (its SHA-256 is not the one in config.json); "
            f"restore it, or delete {folder} and train again"
        )
    sae = build_sae(config)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise UserError(
            f"{path} is not a safetensors file ({error}); restore it, or delete {folder} and train"
        ) from None
    own = sae.state_dict()
    for name in own.keys() | tensors.keys():
        theirs = tuple(tensors[name].shape) if name in tensors else "missing"
        ours = tuple(own[name].shape) if name in own else "not expected"
        if theirs != ours:
            raise UserError(f"{path}: tensor {name} is {theirs} but a {config.architecture} SAE has {ours}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])  # in place: W_enc keeps its column-by-column storage
    return sae.to(device=device, dtype=dtype).eval().requires_grad_(False)


def stopped_early(config: SaeConfig) -> str:
    """Why the SAE's training stopped before its end, in the trainer's words; empty for one that was trained whole."""
    return str(config.record.get("stopped") or "")


def read_sae_config(folder: Path) -> SaeConfig:
    """The configuration of a saved SAE, without its weights. Raises UserError when it is none."""
    path = SaeFiles(Path(folder).expanduser()).config
    if not path.exists():
        raise UserError(
            f"{folder} is not a saved SAE (it has no {path.name}); give a folder such as RUN/saes/SITE/NAME"
        )
    document: Any = files.read_json(path)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UserError(f"{path} does not describe a monosemy SAE; give a folder such as RUN/saes/SITE/NAME")
    if document.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {document.get('format_version')!r}, this version of monosemy reads "
            f"{FORMAT_VERSION}; upgrade monosemy"
        )
    return from_json(SaeConfig, document["sae"], "sae")
