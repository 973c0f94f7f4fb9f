"""A transcoder in training: one dictionary that reads a site and should give another.

    L = mean‖y − ŷ‖² / mean‖y − ȳ‖² + the architecture's own terms,  ŷ = b_dec + f W_dec [+ (x − m) W_skipᵀ]

Place on the path: stream at `mlp_in` and `mlp_out` → **unit** → a transcoder, saved like any SAE. Source: Dunefsky et
al. 2024 (arXiv 2406.11944); the linear path: Paulo et al. 2025 (arXiv 2501.18823).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from monosemy.training.trainee import Trainee
from monosemy.training.trainer import Key


class TranscoderUnit:
    """One trainee that reads `source` and gives the site of its key; an SAE where `source` is None.

    Its metrics, checkpoints and files are those of `key`.
    """

    n_bytes = 0  # its step needs no more than an SAE's

    def __init__(self, key: Key, trainee: Trainee, source: str | None) -> None:
        self.keys: tuple[Key, ...] = (key,)
        self.trainees = (trainee,)
        self.source = source

    def record(self) -> dict[str, Any]:
        """Nothing to add: config.json says the sites."""
        return {}

    def step(self, batch: Mapping[str, Tensor], index: int) -> dict[Key, dict[str, float]]:
        """Takes one training step on the rows of both sites. Raises Diverged with nothing changed."""
        (key,), (trainee,) = self.keys, self.trainees
        y = batch[key[0]]
        metrics = trainee.step(y, index) if self.source is None else trainee.step(batch[self.source], index, y)
        return {key: metrics}
