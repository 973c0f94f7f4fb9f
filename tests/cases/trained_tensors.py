"""What two trainings are compared by: every tensor and state of their SAEs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from monosemy.training.trainer import Trainer

OnStep = Callable[[int, Mapping[tuple[str, str], Mapping[str, float]]], None]


def tensors_of(trainer: Trainer) -> dict[str, Tensor]:
    return {
        f"{s}/{n}/{k}": t.clone() for (s, n), trainee in trainer.trainees.items() for k, t in trainee.tensors().items()
    }


def states_of(trainer: Trainer) -> dict[str, Any]:
    return {f"{site}/{name}": trainee.state() for (site, name), trainee in trainer.trainees.items()}


def tensors_hash(trainer: Trainer) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors_of(trainer).items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def assert_same_tensors(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
