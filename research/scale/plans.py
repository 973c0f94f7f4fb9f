"""Speeds for the plans in the table of docs/many-gpus.md, and a plan (`monosemy plan`) held to a real run.

Run: python -m research.scale.plans [--out FILE]

  speeds     seconds an operation of the model and of a step, of SmolLM2-135M at 16,384 latents on this machine
  check      the recipe `quick`: what `monosemy plan` says, and what `monosemy train` then takes: wall seconds, the most
             memory that belongs to the process alone (RssAnon), bytes of the tensors in its files

The table is made from the planner itself (research/scale/tables.py), with the measured speeds for this machine and
assumed ones for GPUs.
"""

from __future__ import annotations

import argparse
import os
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
from monosemy.recipes import quick
from monosemy.run import machine
from research.records import record_path, write_record
from research.scale.tables import sizes_of_table

SAMPLE_SECONDS = 0.05


def speeds() -> dict[str, float]:
    """Seconds an operation of the model and a unit of a step (N d m) on this machine."""
    costs = measured_costs(sizes_of_table("135M", 16_384, dtype="float32"), load_model("embedded", checks=False))
    return {kind: costs[kind] for kind in ("operation", "step", "encode")}


def check() -> dict[str, Any]:
    """The recipe `quick`, planned and then done, in an empty cache folder but for the model."""
    config = quick()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        plan = plan_run(config, run, Question())
        planned = {
            "seconds": sum(stage.seconds or 0 for stage in plan.stages),
            "memory": max(stage.memory for stage in plan.stages),
            "sae_bytes": plan.plan.run_disk["SAEs"],
            "activation_bytes": plan.plan.cache_disk["activations"],
        }
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "monosemy", "train", "quick", "--run", str(run), "--text.seed", _fresh_seed()],
            env=os.environ | {"MONOSEMY_QUIET": "1"},
            stdout=subprocess.DEVNULL,
        )
        peak = _peak(process)
        done = {"seconds": time.perf_counter() - started, "memory": peak, "sae_bytes": _sae_bytes(run)}
    return {"planned": planned, "done": done}


def _fresh_seed() -> str:
    """A seed of the text that no run had before, so that its activations are not in the cache."""
    return str(int(time.time()))


def _peak(process: subprocess.Popen[bytes]) -> int:
    """The most memory of the process alone until it ends, in bytes."""
    peak, over = 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not over.wait(SAMPLE_SECONDS):
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except OSError:
                return
            held = [int(line.split()[1]) for line in lines if line.startswith("RssAnon")]
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
