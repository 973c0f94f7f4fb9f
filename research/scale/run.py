"""A slice of a dictionary of millions of latents, at its real size, and the messages that ranks exchange.

Run: python -m research.scale.run [--latents 531250] [--steps 200] [--out FILE] [--dry]

  share      training steps of a TopK SAE of this many latents on one core: CPU seconds of forward pass, gradients and
             update (Adam, firing counts), and the most memory held. All k active latents of a row are on this rank, so
             it decodes what R ranks would share. 531,250 latents are a 64th of 34 million.
  messages   what a rank sends in a step, by axis of the mesh, counted on two processes in training (gloo)
  collectives  all-reduces of some sizes on two processes, median wall seconds
The rows are random: the work of a step depends on sizes and on k, not on what the rows say. Each part is written to the
record as soon as it is measured, the share every `SAVE_STEPS` steps, with the number of those that its medians are of.
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

from monosemy.config import TrainingConfig
from monosemy.saes.base import SaeConfig
from monosemy.support.files import read_json, write_json
from monosemy.support.rank_group import joined
from monosemy.training.distributed.losses import rows_of_batch
from monosemy.training.distributed.ranks import LATENTS, TOKENS, mesh_of
from monosemy.training.distributed.trainee import ShardedTrainee
from research import common
from research.records import record_path

D_IN, L0, ROWS, START_ROWS = 576, 64, 128, 256
SMALL = {"n_rows": 1024, "d_sae": 8192, "steps": 6}
"""The training whose messages are counted: their number and size do not depend on the latents, but for gradients."""
DRY = {"n_rows": 64, "d_sae": 256, "steps": 2}
SIZES = (4, 64 << 10, 1 << 20, 2_359_296, 16 << 20)
"""Bytes of the all-reduces that are timed; the fourth is x̂ of 1,024 rows at d 576."""
REPEATS = 15
SAVE_STEPS = 20


def share(n_latents: int, n_steps: int, save: Callable[[dict[str, Any]], None]) -> None:
    """Steps of one rank's slice, after one that does not count; `save` takes what was measured so far, now and then."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        ranks = mesh_of(1, torch.device("cpu"))
        trainee = _trainee(ranks, n_latents, ROWS, n_steps + 1)
        seconds: dict[str, list[float]] = {"forward": [], "gradients": [], "update": []}
        for step in range(n_steps + 1):
            marks = [time.process_time()]
            trainee._rows = rows_of_batch(_rows(ROWS, step), ranks)
            forward = trainee.forward(trainee._rows.x, step)
            marks.append(time.process_time())
            trainee.differentiate(forward.output.total, step)
            marks.append(time.process_time())
            trainee.update(trainee._rows.x, step, forward)
            marks.append(time.process_time())
            for name, start, end in zip(seconds, marks, marks[1:], strict=False):
                seconds[name].append(end - start)
            left = (n_steps - step) * (marks[-1] - marks[0])
            print(f"step {step} of {n_steps}: {marks[-1] - marks[0]:.1f} s of CPU, {left:.0f} s to go", flush=True)
            if step == n_steps or (step and step % SAVE_STEPS == 0):
                save(_measured(n_latents, {name: times[1:] for name, times in seconds.items()}))
    finally:
        dist.destroy_process_group()


def _measured(n_latents: int, seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The record of the steps whose CPU seconds these are, by part of the step."""
    sizes = {"n_latents": n_latents, "d_in": D_IN, "n_rows": ROWS, "l0": L0, "n_steps": len(seconds["forward"])}
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {**sizes, "cpu_seconds": medians, "peak_bytes": peak, "weight_bytes": 2 * 4 * D_IN * n_latents}


def _trainee(ranks: Any, n_latents: int, n_rows: int, n_steps: int) -> ShardedTrainee:
    config = TrainingConfig(batch_tokens=n_rows, dead_fraction=1.0)
    described = SaeConfig("topk", D_IN, n_latents, float(L0))
    trainee = ShardedTrainee.of(described, ranks, config, n_steps=n_steps, n_tokens=n_steps * n_rows)
    trainee.initialise(_rows(START_ROWS, seed=1000))
    return trainee


def _rows(n_rows: int, seed: int) -> Tensor:
    return torch.randn(n_rows, D_IN, generator=torch.Generator().manual_seed(seed)) / D_IN**0.5


def messages(out: Path, sizes: Mapping[str, int]) -> None:
    """Trains on both meshes of two processes and writes what a rank sends in a step, and how long sums take."""
    device = torch.device("cpu")
    with joined(dict):
        record: dict[str, Any] = {"sizes": dict(sizes), "axes": {}}
        for axis, n_latent_shards in ((LATENTS, 2), (TOKENS, 1)):
            ranks = mesh_of(n_latent_shards, device)
            trainee = _trainee(ranks, sizes["d_sae"], sizes["n_rows"], sizes["steps"])
            ranks.messages.clear()
            ranks.n_bytes.clear()
            for step in range(sizes["steps"]):
                trainee.step(_rows(sizes["n_rows"], step), step)
            per_step = {"messages": ranks.messages[axis], "bytes": ranks.n_bytes[axis]}
            record["axes"][axis] = {name: count / sizes["steps"] for name, count in per_step.items()}
        record["collectives"] = [{"bytes": size, "seconds": _sum_seconds(size)} for size in SIZES]
        if dist.get_rank() == 0:
            write_json(out, record)


def _sum_seconds(n_bytes: int) -> float:
    tensor, seconds = torch.ones(n_bytes // 4), []
    for _ in range(REPEATS):
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(tensor)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _started(rank: int, port: int, out: Path, sizes: Mapping[str, int]) -> None:
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    messages(out, sizes)


def _free_port() -> int:
    with closing(socket.socket()) as chosen:
        chosen.bind(("localhost", 0))
        return int(chosen.getsockname()[1])


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=531_250)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=record_path("scale"))
    parser.add_argument("--dry", action="store_true", help="Small messages, to see that the command works.")
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    exchanged = arguments.out.with_suffix(".messages.json")
    sizes = DRY if arguments.dry else SMALL
    torch.multiprocessing.spawn(_started, (_free_port(), exchanged, sizes), nprocs=2)
    before = read_json(arguments.out) if arguments.out.exists() else {}
    record = {"messages": read_json(exchanged), **({"share": before["share"]} if "share" in before else {})}
    exchanged.unlink()
    common.save(arguments.out, record)
    share(arguments.latents, arguments.steps, lambda part: common.save(arguments.out, {**record, "share": part}))


if __name__ == "__main__":
    main()
