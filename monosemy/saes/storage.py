"""Saves and loads a trained SAE as a folder: `sae.safetensors` holds the weights, `config.json` describes them.

A saved SAE reads raw activations, because the site's scale is folded into its biases and thresholds. Tensors: W_enc
[d_in, d_sae], W_dec [d_sae, d_in] and b_dec [d_in]; depending on the architecture also b_enc, b_gate, b_mag, r_mag and
threshold, each [d_sae], and BatchTopK's threshold and threshold_weight, which are scalars. What config.json holds is
said in config_file.py. Nothing in the folder can run code. Other layouts are read through `formats`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from monosemy.errors import UserError
from monosemy.layout import SaeFiles
from monosemy.saes.base import SaeConfig, SparseAutoencoder, describe
from monosemy.saes.config_file import write_config_file
from monosemy.saes.formats import layout_of
from monosemy.saes.listing import refuse_stopped
from monosemy.saes.registry import build_sae
from monosemy.support import files
from monosemy.support.tensors import save_tensors


def save_sae(sae: SparseAutoencoder, folder: Path) -> None:
    """Writes an SAE to `folder`, which counts as an SAE once its config.json exists.

    Raises UserError when the folder cannot be written to.
    """
    folder = Path(folder)
    # Weights first: the configuration carries their hash, so it must never be there before them.
    with files.atomic_path(SaeFiles(folder).weights) as temporary:
        save_tensors(temporary, sae.state_dict())
        digest = files.sha256(temporary)
    write_config_file(folder, describe(sae), digest)


def load_sae(
    folder: str | Path, *, device: str = "cpu", dtype: torch.dtype | None = None, even_stopped: bool = False
) -> SparseAutoencoder:
    """Loads the SAE in `folder`, ready to encode raw activations of its site; in evaluation mode, without gradients.

    Raises UserError when the folder is not a saved SAE, when its format is unknown, when its weights are damaged (hash
    or shapes), or when its training stopped early. With `even_stopped`, an SAE whose training stopped early is loaded
    as it was when it stopped.
    """
    folder = Path(folder).expanduser()
    layout = layout_of(folder)
    config = layout.config(folder)
    if not even_stopped:
        refuse_stopped(f"{folder.parent.name}/{folder.name}", stopped_early(config))
    tensors = layout.tensors(folder, config)
    sae = build_sae(config)
    own = sae.state_dict()
    for name in own.keys() | tensors.keys():
        theirs = tuple(tensors[name].shape) if name in tensors else "missing"
        ours = tuple(own[name].shape) if name in own else "not expected"
        if theirs != ours:
            raise UserError(
                f"{SaeFiles(folder).weights}: tensor {name} is {theirs} but a {config.architecture} SAE has {ours}"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            # In place: W_enc keeps its column-by-column storage, which a safetensors file does not record.
            tensor.copy_(tensors[name])
    return sae.to(device=device, dtype=dtype).eval().requires_grad_(False)


def stopped_early(config: SaeConfig) -> str:
    """The trainer's message when the SAE's training stopped early; empty when it was trained to the end."""
    return str(config.record.get("stopped") or "")


def read_sae_config(folder: Path) -> SaeConfig:
    """Reads the configuration of a saved SAE without its weights.

    Raises UserError when the folder is not a saved SAE or has another format version.
    """
    folder = Path(folder).expanduser()
    return layout_of(folder).config(folder)
