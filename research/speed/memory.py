"""Peak memory of a training step beyond parameters and optimizer state, in dense [N, d_sae] float32 buffers.

Each row runs in a process of its own; the peak is the high-water mark of its resident memory over five steps, less what
is resident before the first (weights, moments, batches, and libraries after a warm-up at a small width). Rows: every
architecture at L0 32; `+ aux` with a tenth of the latents dead; `dense` where a third of the latents is active, as at
the start of training, so that dense products are taken; `two at a time` for two SAEs side by side, per SAE.

Run: python -m research.speed.memory [--width 36864] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil
import torch

from monosemy.saes.registry import ARCHITECTURES
from monosemy.training.workers import Workers
from research import common
from research.records import record_path
from research.speed import step as single

ROWS = {name: name for name in ARCHITECTURES}
ROWS |= {f"{name} + aux": name for name in ("topk", "batch_topk")}
ROWS |= {f"{name} dense": name for name in ("relu", "jumprelu")}
ROWS |= {"topk two at a time": "topk"}


def child(row: str, width: int, n: int, d: int) -> None:
    torch.manual_seed(0)
    architecture, n_saes = ROWS[row], 2 if row.endswith("two at a time") else 1
    l0 = width / 3 if row.endswith("dense") else single.L0
    dead = 0.1 if row.endswith("aux") else 0.0
    warm = single.trainee(architecture, torch.randn(64, d) / d**0.5, 512)
    for index in range(3):
        warm.step(torch.randn(64, d) / d**0.5, single.N_STEPS // 2 + index)
    batches = [torch.randn(n, d) / d**0.5 for _ in range(2)]
    trainees = [single.trainee(architecture, batches[0][:64], width, l0=l0, dead=dead) for _ in range(n_saes)]
    for trainee in trainees:
        for moment in (*trainee.optimizer.first.values(), *trainee.optimizer.second.values()):
            moment.add_(0)  # touched, so resident
    before = psutil.Process().memory_info().rss
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # resets the high-water mark
    with Workers(n_saes, torch.device("cpu")) as workers:
        for index in range(5):
            workers.run(
                [partial(trainee.step, batches[index % 2], single.N_STEPS // 2 + index) for trainee in trainees]
            )
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    peak = int(status["VmHWM"].split()[0]) * 1024
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"extra": (peak - before) / n_saes, "peak": peak, "ever": highest * 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=36_864)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--d", type=int, default=576)
    parser.add_argument("--child")
    parser.add_argument("--out", type=Path, default=record_path("speed", "memory"))
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.width, arguments.batch, arguments.d)
        return
    buffer, gradients = 4 * arguments.batch * arguments.width, 2 * 4 * arguments.d * arguments.width
    buffers = {}
    for row in ROWS:
        command = [sys.executable, "-m", "research.speed.memory", "--child", row, "--width", str(arguments.width)]
        command += ["--batch", str(arguments.batch), "--d", str(arguments.d)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        extra = json.loads(done.stdout.splitlines()[-1])["extra"]
        buffers[row] = extra / buffer
        print(
            f"{row:20s} {extra / 1e6:7.0f} MB beyond weights and moments = {extra / buffer:.2f} buffers of "
            f"{buffer / 1e6:.0f} MB, gradients of both matrices ({gradients / buffer:.2f}) included"
        )
    common.save(arguments.out, {"d_sae": arguments.width, "batch": arguments.batch, "buffers": buffers})


if __name__ == "__main__":
    main()
