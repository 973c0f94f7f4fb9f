"""The training loop of one dictionary that is spread over ranks, with checkpoints: from a stream to the saved slices.

Place on the path: stream that every rank reads → **steps** → calibration → slices on disk. As training/trainer.py for
one process: a stop at any moment, and the same command again, ends in the same weights.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosemy.errors import Interrupted, UserError
from monosemy.training.checkpoint import Origin, checkpoint_folders
from monosemy.training.distributed.checkpoint import load_checkpoint, save_checkpoint
from monosemy.training.distributed.saved import save_slices
from monosemy.training.distributed.start import calibrate
from monosemy.training.distributed.trainee import ShardedTrainee
from monosemy.training.trainee import Diverged
from monosemy.training.trainer import Stream

OnStep = Callable[[int, Mapping[str, float]], None]


def train_sharded(
    trainee: ShardedTrainee,
    stream: Stream,
    site: str,
    *,
    checkpoints: Path,
    origin: Origin,
    on_start: Callable[[int], None],
    on_step: OnStep,
) -> int:
    """Trains to the end of the stream, from the newest checkpoint if there is one, and returns the number of tokens.

    `on_start(n_tokens of the checkpoint, or 0)` is called before the first step and `on_step(n_tokens so far, metrics)`
    after every one. All ranks call this; each reads the whole stream.
    Raises UserError when the SAE diverges or a checkpoint is damaged, and Interrupted, after a checkpoint, on SIGTERM
    or SIGINT at any rank.
    """
    index, n_tokens = _resumed(trainee, stream, checkpoints, origin)
    on_start(n_tokens)
    stops: list[int] = []
    before = {number: signal.signal(number, lambda n, _: stops.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    interval = trainee.config.checkpoint_tokens
    try:
        while index < stream.n_steps:
            rows = next(stream)[site].to(trainee.ranks.device)
            try:
                metrics = trainee.step(rows, index)
            except Diverged as reason:
                raise UserError(f"training stopped: {reason}; lower --training.learning-rate") from None
            index, n_tokens = index + 1, n_tokens + len(rows)
            on_step(n_tokens, metrics)
            # Signals reach ranks at different steps; all stop after the same one.
            stopping = trainee.ranks.sum_number(len(stops)) > 0
            due = n_tokens // interval > (n_tokens - len(rows)) // interval
            if stopping or due or index == stream.n_steps:
                state = {"fingerprint": origin.fingerprint, "parts": origin.parts, "n_tokens": n_tokens}
                folder = save_checkpoint(checkpoints, index, trainee, {**state, "stream": stream.state()})
                if stopping:
                    raise Interrupted(f"interrupted at step {index}; saved as {folder}")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return n_tokens


def _resumed(trainee: ShardedTrainee, stream: Stream, checkpoints: Path, origin: Origin) -> tuple[int, int]:
    """The step and the number of tokens to continue from; 0 and 0 where there is no checkpoint."""
    folders = checkpoint_folders(checkpoints)
    if not folders:
        return 0, 0
    state = load_checkpoint(folders[-1], trainee)
    origin.require(state, folders[-1])
    stream.restore(state["stream"])
    return state["step"], state["n_tokens"]


@torch.no_grad()
def finish(
    trainee: ShardedTrainee, rows: Tensor, folder: Path, *, scale: float, centre: Tensor | None, record: dict[str, Any]
) -> dict[str, float]:
    """Calibrates the L0 on rows [n, d_in] at E‖x‖² = 1, makes the SAE read raw activations, and writes its slices.

    scale: the C by which raw activations were divided; centre: the row, in raw units, taken off before. Returns the
    calibration. Raises UserError when a slice cannot be written.
    """
    sae = trainee.sae.eval()
    calibration = calibrate(sae, rows, trainee.shard)
    sae.fold_scale(scale)
    if centre is not None:
        sae.fold_centre(centre)
    sae.config = dataclasses.replace(sae.config, record={})
    save_slices(sae, trainee.shard, folder, {"calibration": calibration, "rows_left_out": trainee.n_left_out, **record})
    return calibration
