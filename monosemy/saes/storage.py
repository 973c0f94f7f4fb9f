"""Saves and loads a trained SAE as a folder: `sae.safetensors` holds the weights, `config.json` describes them.

A saved SAE reads raw activations, because the site's scale is folded into its biases and thresholds. Tensors: W_enc
[d_in, d_sae], W_dec [d_sae, d_in] and b_dec [d_in]; depending on the architecture also b_enc, b_gate, b_mag, r_mag and
threshold, each [d_sae], and BatchTopK's threshold and threshold_weight, which are scalars. What config.json holds is
said in config_file.py. Nothing in the folder can run code. Other layouts are read through `formats`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from monosemy.errors import UserError
from monosemy.layout import SaeFiles
from monosemy.saes.base import SaeConfig, SparseAutoencoder, describe
from monosemy.saes.config_file import write_config_file
from monosemy.saes.formats import Layout, files_of, layout_of
from monosemy.saes.formats.described import INPUT_SCALE
from monosemy.saes.formats.hub import Fetched, fetch, hub_name
from monosemy.saes.formats.stored import StoredTensor
from monosemy.saes.listing import refuse_stopped
from monosemy.saes.registry import build_sae
from monosemy.support import files
from monosemy.support.numbers import setting_text
from monosemy.support.pages import use_large_pages
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
    source: str | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    even_stopped: bool = False,
    input_scale: float | None = None,
) -> SparseAutoencoder:
    """Loads an SAE, ready to encode raw activations of its site; in evaluation mode, without gradients.

    source: a folder or file of any layout in `formats.LAYOUTS`, or a name on the hub (`formats/hub.py`), such as
    google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71, of which only the SAE's own files are fetched. An SAE
    of another library keeps its publisher's units and gives that library's codes and reconstructions;
    `config.transforms` says what it does to its input and output beside, `config.record["origin"]` where it came from.
    input_scale: the constant factor of its input, for an SAE whose files leave it out; its warning says so.
    Raises UserError when there is no SAE, when the hub does not serve it, when its layout or kind is unknown, when its
    weights are damaged (hash, shapes, NaN), when its training stopped early, or when the device is not there or dtype
    is not of floating-point numbers. With `even_stopped`, an SAE whose training stopped early is loaded as it was when
    it stopped.
    """
    checked_device, checked_dtype = _device(device), _floating(dtype)
    path, fetched = locate(source)
    layout, place = layout_of(path)
    config = layout.config(place)
    if input_scale is not None:
        config = with_input_scale(config, input_scale)
    if not even_stopped:
        refuse_stopped(f"{place.parent.name}/{place.name}", stopped_early(config))
    tensors = layout.tensors(place, config)
    # Without storage at first: random weights that are then overwritten would cost more time than reading does.
    with torch.device("meta"):
        sae = build_sae(config)
    check_shapes(sae, tensors, place)
    sae.to_empty(device="cpu")
    # Files are hashed beside, in a thread: hashing takes as long as reading, and needs no lock of Python's.
    with torch.no_grad(), ThreadPoolExecutor(1) as pool:
        described = pool.submit(lambda: with_origin(config, layout, place, fetched))
        # In place: W_enc keeps its column-by-column storage, which a file does not record.
        for name, target in sae.tensors().items():
            use_large_pages(target)
            stored = tensors[name]
            stored.copy_into(target) if isinstance(stored, StoredTensor) else target.copy_(stored)
        sae.config = described.result()
    return sae.to(device=checked_device, dtype=checked_dtype).eval().requires_grad_(False)


def _device(name: str | torch.device) -> torch.device:
    """The device of this name. Raises UserError where there is none."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, TypeError):  # torch raises each of them, by device and build
        raise UserError(
            f"device {str(name)!r} is not there, or this build of torch has it not; cpu always is"
        ) from None


def _floating(dtype: torch.dtype | None) -> torch.dtype | None:
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise UserError(f"dtype must be one of floating-point numbers, such as torch.bfloat16, not {dtype}")
    return dtype


def with_input_scale(config: SaeConfig, factor: float) -> SaeConfig:
    """The configuration with the factor of its input that its publisher's files leave out, and without the warning.

    Raises UserError for a factor that is not positive, and where the files do say it.
    """
    if not isinstance(factor, int | float) or isinstance(factor, bool) or not 0 < factor < float("inf"):
        raise UserError(f"input_scale must be a positive number, not {factor!r}")
    origin = dict(config.record.get("origin", {}))
    if INPUT_SCALE not in origin.pop("warning", ""):
        scale_text = setting_text(config.transforms.input_scale)
        raise UserError(f"its files say what its input is multiplied by: {scale_text}; leave input_scale out")
    transforms = dataclasses.replace(config.transforms, input_scale=float(factor))
    return dataclasses.replace(config, transforms=transforms, record={**config.record, "origin": origin})


def locate(source: str | Path) -> tuple[Path, Fetched | None]:
    """The local path of an SAE, and where it was fetched from, if it is one of the hub.

    Raises UserError for what is no name.
    """
    if not isinstance(source, str | Path):
        raise UserError(f"an SAE is named by a folder, a file or a name on the hub, not by {source!r}")
    path = Path(source).expanduser()
    name = None if is_local(source) else hub_name(str(source))
    if name is None:
        return path, None
    fetched = fetch(name)
    return fetched.place, fetched


def is_local(source: str | Path) -> bool:
    """Whether a source is a path rather than a name on the hub: one that exists, or lies in a folder that does.

    `runs/dmo` beside runs/demo could be a name on the hub too, and is a mistyped path.
    """
    path = Path(source).expanduser()
    try:
        mistyped = len(path.parts) == 2 and (path.parent.is_dir() or path.parts[0] == "runs")
        return str(source).startswith("~") or path.exists() or mistyped
    except (OSError, ValueError):  # a name that is too long for a file, or has a NUL
        return False


def with_origin(config: SaeConfig, layout: Layout, place: Path, fetched: Fetched | None) -> SaeConfig:
    """The configuration with the files that it was read from, by SHA-256, and the repository and commit of the hub's.

    An SAE of our own layout already says how it was made.
    """
    if "origin" not in config.record or "files" in config.record["origin"]:
        return config
    origin = {
        **config.record["origin"],
        "path": str(place.absolute()) if fetched is None else str(fetched.name),
        "files": {name: files.sha256(path) for name, path in files_of(layout, place).items()},
    }
    if fetched is not None:
        origin |= {"repository": fetched.name.repository, "commit": fetched.commit}
    return dataclasses.replace(config, record={**config.record, "origin": origin})


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
