"""The part of a run's training that one of several processes does, and how it continues what others have begun.

Place on the path: checkpoints of all processes → **parts** → the trainer of one. SAEs don't depend on each other, so
every process trains its share of them on the same stream and keeps checkpoints of its own, at its own pace. When the
number of processes changes, each SAE continues from the newest checkpoint that any process wrote of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from monosemy.support.metrics import read_metrics
from monosemy.training.checkpoint import checkpoint_folders, read_state

Key = tuple[str, str]
"""The (site, name) of an SAE."""


class Place(NamedTuple):
    """Where a process keeps the checkpoints and the metrics of the SAEs that it trains."""

    checkpoints: Path
    metrics: Path


@dataclass(frozen=True)
class Part:
    """What a trainer must know of the run's other processes."""

    n_units: int
    """How many units all processes train together."""
    n_local: int = 1
    """How many processes are on this machine."""
    places: Sequence[Place] = ()
    """Where any process may have left checkpoints; empty where only this one ever trained."""


class Found(NamedTuple):
    """The newest checkpoint of one SAE."""

    folder: Path
    step: int
    """How many steps the SAE has taken."""
    stream_step: int
    """How many batches the checkpoint's stream has given."""


def newest_checkpoints(places: Iterable[Place], labels: Iterable[str]) -> dict[str, Found]:
    """The newest checkpoint of every SAE, by its label SITE/NAME; SAEs without any are left out."""
    newest: dict[str, Found] = {}
    wanted = set(labels)
    for place in places:
        for folder in checkpoint_folders(place.checkpoints)[-1:]:
            state = read_state(folder)
            for label in wanted & state["trainees"].keys():
                step = state.get("ahead", {}).get(label, state["step"])
                if label not in newest or step > newest[label].step:
                    newest[label] = Found(folder, step, state["step"])
    return newest


def joined_records(metrics: Iterable[Path], steps: Mapping[Key, int]) -> list[dict[str, Any]]:
    """The records of these SAEs up to these steps, from the files of several processes.

    They are in the order in which one process writes them: by step, then in the order of `steps`.
    """
    order = {key: number for number, key in enumerate(steps)}
    records: dict[tuple[int, int], dict[str, Any]] = {}
    for path in metrics:
        for record in read_metrics(path):
            key = (record["site"], record["name"])
            if record["step"] <= steps.get(key, -1):
                records[record["step"], order[key]] = record
    return [records[place] for place in sorted(records)]
