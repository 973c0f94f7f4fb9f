"""monosemy's own layout: a folder with config.json (config_file.py) and sae.safetensors, as `save_sae` writes it.

Where several processes trained it, its weights lie in several files (slices.py).
"""

from __future__ import annotations

from pathlib import Path

from monosemy.config import from_json
from monosemy.errors import UserError
from monosemy.layout import SaeFiles
from monosemy.saes.base import SaeConfig
from monosemy.saes.config_file import checked_config_file, read_weights_sha256
from monosemy.saes.formats.stored import StoredTensor, read_file
from monosemy.saes.slices import is_sliced, sliced_tensors
from monosemy.support import files


def recognises(path: Path) -> bool:
    """Whether the folder has a config.json of ours."""
    try:
        checked_config_file(path)
    except (UserError, OSError, RecursionError):
        return False
    return True


def config(path: Path) -> SaeConfig:
    """The SAE's configuration. Raises UserError when there is none, or one of another format version."""
    return from_json(SaeConfig, checked_config_file(path)["sae"], "sae")


def tensors(path: Path, config: SaeConfig) -> dict[str, StoredTensor]:
    """The weights. Raises UserError when they are missing, or are not those that config.json was written for."""
    if is_sliced(path):
        return sliced_tensors(path, config)
    weights = SaeFiles(path).weights
    if not weights.exists():
        raise UserError(f"{weights} is missing; restore it, or delete {path} and train again")
    if files.sha256(weights) != read_weights_sha256(path):
        raise UserError(
            f"{weights} is damaged (its SHA-256 is not the one in config.json); "
            f"restore it, or delete {path} and train again"
        )
    return read_file(weights)
