"""The memory of a step and of a checkpoint beside weights and moments, at several numbers of rows.

    python -m research.scale.memory [--n-latents 65536] [--out FILE]

Every case is a process of its own: resident memory before the dictionary is built, the most that was resident at its
start, while four steps ran, and while a checkpoint was written (TopK, the least rows). The planner's figures
(support/step_memory.py) have to hold all of them. The cases that are not in slices are measured without the 8-bit
screen too, as on processors that lack it. Rows are random.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from monosemy.config import TrainingConfig
from monosemy.run import machine
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
from monosemy.support.step_memory import START_ROWS
from monosemy.training.distributed.checkpoint import save_checkpoint
from monosemy.training.distributed.ranks import mesh_of
from monosemy.training.distributed.trainee import ShardedTrainee
from monosemy.training.trainee import Trainee
from research.records import record_path, write_record

D_IN, L0, STEPS, WARM_LATENTS = 576, 64, 4, 4_096
IN_SLICES = ("topk", "batch_topk", "jumprelu")
ROWS = (128, 1_024)
WHOLE = ("topk", "batch_topk", "jumprelu", "gated", "relu")
"""With the larger number of rows."""
SHARE = 531_250
"""A 64th of 34 million latents: TopK with the larger number of rows."""


def cases(n_latents: int) -> list[dict[str, Any]]:
    sliced = [(name, n_latents, n_rows, True) for name in IN_SLICES for n_rows in ROWS]
    whole = [(name, n_latents // 4, ROWS[-1], False) for name in WHOLE]
    rows = [*sliced, ("topk", SHARE, ROWS[-1], True), *whole]
    with_screen = [{"architecture": name, "n_latents": m, "n_rows": n, "in_slices": cut} for name, m, n, cut in rows]
    return [*with_screen, *({**case, "screen": False} for case in with_screen if not case["in_slices"])]


def measured(architecture: str, n_latents: int, n_rows: int, *, in_slices: bool) -> dict[str, int]:
    """The bytes of one case, in this process. Linux: the kernel's own high-water mark, set back before each part."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    writes = in_slices and architecture == "topk" and n_rows == ROWS[0]
    with tempfile.TemporaryDirectory() as folder:
        small = _untrained(architecture, WARM_LATENTS, n_rows, in_slices=in_slices)
        _train(small, n_rows)  # what libraries and compiled code take, once
        if writes:
            save_checkpoint(Path(folder) / "small", 1, small, {})  # type: ignore[arg-type]
        del small
        before = _resident("VmRSS")
        trainee = _untrained(architecture, n_latents, n_rows, in_slices=in_slices)
        start, steps = _train(trainee, n_rows)
        record = {"start_bytes": start - before, "step_bytes": steps - before}
        if writes:
            _forget_peak()
            save_checkpoint(Path(folder) / "whole", 1, trainee, {})  # type: ignore[arg-type]
            record["checkpoint_bytes"] = _resident("VmHWM") - before
    return record


def _untrained(architecture: str, n_latents: int, n_rows: int, *, in_slices: bool) -> Trainee:
    config = TrainingConfig(batch_tokens=n_rows)
    described = SaeConfig(architecture, D_IN, n_latents, float(L0))
    if in_slices:
        ranks = mesh_of(1, torch.device("cpu"))
        return ShardedTrainee.of(described, ranks, config, n_steps=2 * STEPS, n_tokens=2 * STEPS * n_rows)
    return Trainee(build_sae(described), config, n_steps=2 * STEPS, n_train_tokens=2 * STEPS * n_rows)


def _train(trainee: Trainee, n_rows: int) -> tuple[int, int]:
    """The most memory that was resident at the start, and while the steps ran."""
    batches, rows = [_rows(n_rows, seed) for seed in range(STEPS)], _rows(START_ROWS, seed=1000)
    _forget_peak()
    trainee.initialise(rows)
    start = _resident("VmHWM")
    _forget_peak()
    for step, batch in enumerate(batches):
        trainee.step(batch, step)
    return start, _resident("VmHWM")


def _rows(n_rows: int, seed: int) -> torch.Tensor:
    return torch.randn(n_rows, D_IN, generator=torch.Generator().manual_seed(seed)) / D_IN**0.5


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-latents", type=int, default=65_536)
    parser.add_argument("--out", type=Path, default=record_path("scale", "memory"))
    parser.add_argument("--case", type=json.loads, help="Measures one case and prints it.")
    options = parser.parse_args()
    if options.case:
        print(json.dumps({**options.case, "weights_and_moments": 3 * 8 * D_IN * options.case["n_latents"]}))
        print(json.dumps(measured(**{key: value for key, value in options.case.items() if key != "screen"})))
        return
    rows: list[dict[str, Any]] = []
    for case in cases(options.n_latents):
        command = [sys.executable, "-m", "research.scale.memory", "--case", json.dumps(case)]
        environment = os.environ | ({} if case.get("screen", True) else {"MONOSEMY_SCREEN": "0"})
        lines = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.splitlines()
        rows.append({key: value for line in lines[-2:] for key, value in json.loads(line).items()})
        print(rows[-1], flush=True)
        write_record(options.out, {"machine": machine(), "d_in": D_IN, "l0": L0, "cases": rows})


if __name__ == "__main__":
    main()
