"""Checkpoints: everything a run needs to continue as if it had never stopped.

A checkpoint is a folder `step-00000123` with `tensors.safetensors` (parameters, moments, firing counts, the stream's
tensors) and `state.json` (the rest, with the hash of the tensors). It is written whole under another name, flushed and
renamed; the one before it stays until then. Limits: bit-for-bit on the same machine, library versions and thread count.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from monosemy.config import first_difference_of
from monosemy.errors import UserError
from monosemy.layout import CheckpointFiles
from monosemy.support import files
from monosemy.support.tensors import save_tensors

FORMAT = 1


@dataclass(frozen=True)
class Origin:
    """What a checkpoint is of: it continues training of the same origin alone."""

    fingerprint: str
    """Of all that the weights depend on."""
    parts: Mapping[str, Any] = field(default_factory=dict)
    """What the fingerprint covers, as nested JSON values, so that a refusal can say which of them differs."""

    def require(self, state: Mapping[str, Any], folder: Path) -> None:
        """Raises UserError, naming the first part that differs, for the state of a checkpoint of another origin."""
        if state["fingerprint"] == self.fingerprint:
            return
        difference = first_difference_of(state["parts"], self.parts) if "parts" in state else None
        reason = difference or "it does not record what differs"
        raise UserError(
            f"checkpoint {folder} belongs to another configuration or to other activations: {reason}; "
            "delete it to train from the start"
        )


def checkpoint_folders(parent: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return [checkpoint.folder for checkpoint in CheckpointFiles.finished(parent)]


def save_checkpoint(parent: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
    """Writes a checkpoint and removes those before it.

    Raises UserError for a full disk or an unwritable folder; the last checkpoint is then intact.
    """
    final = CheckpointFiles.at(parent, step).folder
    with files.atomic_folder(final) as temporary:
        unfinished = CheckpointFiles(temporary)
        path = unfinished.tensors
        save_tensors(path, tensors)
        files.write_json(
            unfinished.state,
            {"format": FORMAT, "step": step, "sha256": files.sha256(path), **state},
        )
    # Only now: until the new one is whole and on disk, the one before it is what a killed run goes on from.
    for old in checkpoint_folders(parent):
        if old.name < final.name:
            shutil.rmtree(old, ignore_errors=True)
    return final


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of a checkpoint. Raises UserError when it is damaged, naming the file and the way out."""
    checkpoint = CheckpointFiles(folder)
    state, path = files.read_json(checkpoint.state), checkpoint.tensors
    way_out = f"delete {folder} to continue from an earlier checkpoint or from the start"
    if not path.exists() or files.sha256(path) != state.get("sha256"):
        raise UserError(f"checkpoint {path} is damaged (its SHA-256 is not the recorded one); {way_out}")
    if state.get("format") != FORMAT:
        raise UserError(f"checkpoint {folder} has format {state.get('format')!r}, expected {FORMAT}; {way_out}")
    try:
        return load_file(path), state
    except SafetensorError as error:
        raise UserError(f"checkpoint {path} is damaged ({error}); {way_out}") from None
