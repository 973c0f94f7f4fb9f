"""Checkpoints: everything that a run needs to continue as if it had never stopped.

A checkpoint is a folder `step-00000123` with `tensors.safetensors` (parameters, Adam's moments, firing counts and the
stream's tensors) and `state.json` (the rest, with the hash of the tensors). It is written under a temporary name,
flushed to disk and renamed; the previous checkpoint is kept until then. Limits: training continues bit for bit only on
the same machine, with the same library versions and thread count.
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
    """Where a checkpoint's training comes from. A checkpoint continues only training that has the same origin."""

    fingerprint: str
    """A hash of everything that the weights depend on."""
    parts: Mapping[str, Any] = field(default_factory=dict)
    """What the fingerprint covers, as nested JSON values, so that a refusal can name the part that differs."""

    def require(self, state: Mapping[str, Any], folder: Path) -> None:
        """Raises UserError, naming the first part that differs, if the checkpoint's `state` has another origin."""
        if state["fingerprint"] == self.fingerprint:
            return
        difference = first_difference_of(state["parts"], self.parts) if "parts" in state else None
        reason = difference or "it does not record what differs"
        raise UserError(
            f"checkpoint {folder} belongs to another configuration or to other activations: {reason}; "
            "delete it to train from the start"
        )


def checkpoint_folders(parent: Path) -> list[Path]:
    """The folders of finished checkpoints, oldest first."""
    return [checkpoint.folder for checkpoint in CheckpointFiles.finished(parent)]


def save_checkpoint(parent: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
    """Writes a checkpoint, removes the earlier ones and returns its folder.

    Raises UserError when the disk is full or the folder cannot be written to; the last checkpoint then stays intact.
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
    # Only now: until the new checkpoint is complete and on disk, a killed run continues from the one before it.
    for old in checkpoint_folders(parent):
        if old.name < final.name:
            shutil.rmtree(old, ignore_errors=True)
    return final


def read_state(folder: Path) -> dict[str, Any]:
    """The state of a checkpoint without its tensors. Raises UserError when it is missing or not valid JSON."""
    state: dict[str, Any] = files.read_json(CheckpointFiles(folder).state)
    return state


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads the tensors and the state of a checkpoint.

    Raises UserError when it is damaged or of another format, naming the file and what to do.
    """
    state, path = read_state(folder), CheckpointFiles(folder).tensors
    way_out = f"delete {folder} to continue from an earlier checkpoint or from the start"
    if not path.exists() or files.sha256(path) != state.get("sha256"):
        raise UserError(f"checkpoint {path} is damaged (its SHA-256 is not the recorded one); {way_out}")
    if state.get("format") != FORMAT:
        raise UserError(f"checkpoint {folder} has format {state.get('format')!r}, expected {FORMAT}; {way_out}")
    try:
        return load_file(path), state
    except SafetensorError as error:
        raise UserError(f"checkpoint {path} is damaged ({error}); {way_out}") from None
