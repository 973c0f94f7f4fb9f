"""Speeds for the plans in the table of docs/many-gpus.md, and a plan (`monosemy plan`) held to a real run.

Run: python -m research.scale.plans [--out FILE]

  speeds     seconds an operation of the model and of a step, of SmolLM2-135M at 16,384 latents on this machine
  check      the recipe `quick` with 8,192 latents on 10,000 tokens: what the plan says, and what `monosemy train` then
             takes: CPU seconds, the most memory (resident), bytes of the tensors in its files
CPU seconds, with one thread: other work shares the machine.

The table is made from the planner itself (research/scale/tables.py), with the measured speeds for this machine and
assumed ones for GPUs.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from safetensors import safe_open

from monosemy.models.sources import load_model
from monosemy.pipeline.planning.costs import measured_costs
from monosemy.pipeline.planning.plan import Question, plan_run
from monosemy.pipeline.planning.work import seconds_of, work_of
from monosemy.recipes import quick
from monosemy.run import machine
from monosemy.support.flags import flag_of, with_settings
from research.records import record_path, write_record
from research.scale.tables import sizes_of_table

SAMPLE_SECONDS = 0.05
CHANGES = {"d_sae": 8_192, "text.n_tokens": 10_000, "text.n_validation_tokens": 2_048, "evaluation.n_loss_tokens": 512}


def speeds() -> dict[str, float]:
    """Seconds an operation of the model and a unit of a step (N d m) on this machine."""
    sizes = sizes_of_table("135M", 16_384, dtype="float32")
    costs = measured_costs(sizes, load_model("embedded", checks=False), time.process_time)
    return {kind: costs[kind] for kind in ("operation", "step", "encode")}


def check() -> dict[str, Any]:
    """The recipe with more latents, planned and then done, on activations that no run has made before."""
    config = with_settings(quick(), CHANGES)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        plan = plan_run(config, run, Question(measure=False))
        costs = measured_costs(plan.sizes, load_model("embedded", checks=False), time.process_time)
        planned = {
            "seconds": sum(seconds_of(work_of(plan.sizes), costs).values()),
            "memory": max(stage.memory for stage in plan.stages),
            "sae_bytes": plan.plan.run_disk["SAEs"],
            "activation_bytes": plan.plan.cache_disk["activations"],
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "monosemy", "train", "quick", "--run", str(run), *_changes()],
            env=os.environ | {"MONOSEMY_QUIET": "1"},
            stdout=subprocess.DEVNULL,
        )
        peak = _peak(process)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = {"seconds": used.ru_utime + used.ru_stime, "memory": peak, "sae_bytes": _sae_bytes(run)}
    return {"planned": planned, "done": done}


def _changes() -> list[str]:
    """The flags of the run: its sizes, and a seed of the text that no run had before."""
    sizes = [word for name, value in CHANGES.items() for word in (flag_of(name), str(value))]
    return [*sizes, "--text.seed", str(int(time.time()))]


def _peak(process: subprocess.Popen[bytes]) -> int:
    """The most memory that is resident for the process until it ends, in bytes."""
    peak, over = 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not over.wait(SAMPLE_SECONDS):
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except OSError:
                return
            held = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
            peak = max(peak, 1024 * max(held, default=0))

    watcher = threading.Thread(target=sample)
    watcher.start()
    status = process.wait()
    over.set()
    watcher.join()
    assert status == 0, status
    return peak


def _sae_bytes(run: Path) -> int:
    total = 0
    for path in run.glob("saes/*/*/sae.safetensors"):
        with safe_open(path, "pt") as file:
            names = file.keys()
            total += sum(file.get_tensor(name).nbytes for name in names)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=record_path("scale", "plans"))
    out = parser.parse_args().out
    write_record(out, {"machine": machine(), "speeds": speeds(), "check": check()})
    print(f"record: {out}")


if __name__ == "__main__":
    main()
