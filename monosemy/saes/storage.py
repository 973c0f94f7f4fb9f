"""Saves and loads a trained SAE as a folder: `sae.safetensors` holds the weights, `config.json` describes them.

A saved SAE reads raw activations, because the site's scale is folded into its biases and thresholds. Tensors: W_enc
[d_in, d_sae], W_dec [d_sae, d_in] and b_dec [d_in]; depending on the architecture also b_enc, b_gate, b_mag, r_mag and
threshold, each [d_sae], and BatchTopK's threshold and threshold_weight, which are scalars. What config.json holds is
said in config_file.py. Nothing in the folder can run code. Other layouts are read through `formats`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from monosemy.errors import UserError
from monosemy.layout import SaeFiles
from monosemy.saes.base import SaeConfig, SparseAutoencoder, describe
from monosemy.saes.config_file import write_config_file
from monosemy.saes.formats import layout_of
from monosemy.saes.formats.stored import StoredTensor
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
        save_tensors(temporary, sae.tensors())
        digest = files.sha256(temporary)
    write_config_file(folder, describe(sae), digest)


def load_sae(
    source: str | Path, *, device: str = "cpu", dtype: torch.dtype | None = None, even_stopped: bool = False
) -> SparseAutoencoder:
    """Loads an SAE, ready to encode raw activations of its site; in evaluation mode, without gradients.

    source: a folder or file of any layout in `formats.LAYOUTS`. An SAE of another library keeps its publisher's units
    and gives that library's codes and reconstructions; `config.transforms` says what it does to its input and output
    beside, `config.record["origin"]` where it came from.
    Raises UserError when there is no SAE, when its layout or kind is unknown, when its weights are damaged (hash,
    shapes, NaN), or when its training stopped early. With `even_stopped`, an SAE whose training stopped early is loaded
    as it was when it stopped.
    """
    layout, place = layout_of(Path(source).expanduser())
    config = layout.config(place)
    if not even_stopped:
        refuse_stopped(f"{place.parent.name}/{place.name}", stopped_early(config))
    tensors = layout.tensors(place, config)
    # Without storage at first: random weights that are then overwritten would cost more time than reading does.
    with torch.device("meta"):
        sae = build_sae(config)
    check_shapes(sae, tensors, place)
    sae.to_empty(device="cpu")
    with torch.no_grad():
        # In place: W_enc keeps its column-by-column storage, which a file does not record.
        for name, target in sae.tensors().items():
            stored = tensors[name]
            stored.copy_into(target) if isinstance(stored, StoredTensor) else target.copy_(stored)
    return sae.to(device=device, dtype=dtype).eval().requires_grad_(False)


def check_shapes(sae: SparseAutoencoder, tensors: Mapping[str, Tensor | StoredTensor], place: Path) -> None:
    """Raises UserError when the tensors are not those of the SAE, by name and shape."""
    expected = sae.tensors()
    for name in sorted(expected.keys() | tensors.keys()):
        theirs = tuple(tensors[name].shape) if name in tensors else "missing"
        ours = tuple(expected[name].shape) if name in expected else "not expected"
        if theirs != ours:
            raise UserError(f"{place}: tensor {name} is {theirs} but a {sae.config.architecture} SAE has {ours}")


def stopped_early(config: SaeConfig) -> str:
    """The trainer's message when the SAE's training stopped early; empty when it was trained to the end."""
    return str(config.record.get("stopped") or "")


def read_sae_config(folder: Path) -> SaeConfig:
    """Reads the configuration of a saved SAE without its weights.

    Raises UserError when the folder is not a saved SAE or has another format version.
    """
    layout, place = layout_of(Path(folder).expanduser())
    return layout.config(place)
