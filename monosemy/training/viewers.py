"""Shows training live in TensorBoard or Weights & Biases; the record remains metrics.jsonl.

Place on the path: beside training, switched on by the setting `log_to`. A resumed run continues in the same view:
TensorBoard overwrites the steps that are trained again, and Weights & Biases continues the run whose id is kept in the
run's folder. Both packages are optional and imported only here.
"""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monosemy.errors import UserError, unknown
from monosemy.layout import RunFiles
from monosemy.support import files

Viewer = Callable[[Sequence[Mapping[str, Any]]], None]
KINDS = ("tensorboard", "wandb")
LABELS = ("site", "name", "architecture", "target_l0", "seed", "step", "n_tokens")


def open_viewer(kind: str, folder: Path, config: Mapping[str, Any]) -> Viewer:
    """Opens a view, and returns the function that shows a list of metric records in it.

    Raises UserError for an unknown `kind` and when its package is not installed.
    """
    if kind not in KINDS:
        raise unknown("value for log_to", kind, KINDS)
    try:
        importlib.import_module(kind)
    except ImportError:
        raise UserError(f"log_to {kind} needs its package: pip install 'monosemy[{kind}]', or leave it out") from None
    return _tensorboard(RunFiles(folder).tensorboard) if kind == "tensorboard" else _wandb(folder, config)


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one record as {`site/name/metric`: value}, without labels and missing values."""
    prefix = f"{record['site']}/{record['name']}"
    return {f"{prefix}/{key}": value for key, value in record.items() if key not in LABELS and value is not None}


def _tensorboard(folder: Path) -> Viewer:
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = None

    def view(records: Sequence[Mapping[str, Any]]) -> None:
        nonlocal writer
        if not records:
            return
        # Opened at the first records, since only they say from which step on a resumed run trains again: points of that
        # step and later ones, left by the earlier attempt, are dropped.
        if writer is None:
            writer = SummaryWriter(str(folder), purge_step=records[0]["step"])
        for record in records:
            for name, value in scalars(record).items():
                writer.add_scalar(name, value, record["step"])
        writer.flush()

    return view


def _wandb(folder: Path, config: Mapping[str, Any]) -> Viewer:
    import wandb

    # The id is kept in the run's folder, so that a resumed run finds its view again.
    note = RunFiles(folder).wandb
    if not note.exists():
        files.write_json(note, {"id": secrets.token_hex(8)})
    run = wandb.init(
        project="monosemy", id=files.read_json(note)["id"], resume="allow", dir=str(folder), config=dict(config)
    )

    def view(records: Sequence[Mapping[str, Any]]) -> None:
        if records:
            # One call for all SAEs: each call to `log` with a step closes the one before it.
            merged = {key: value for record in records for key, value in scalars(record).items()}
            run.log({**merged, "n_tokens": records[0]["n_tokens"]}, step=records[0]["step"])

    return view
