"""Does a run on two processes with a thread each lose time beside one process with two threads?

    python -m research.scale.processes --folder runs/processes [--tokens 40k] [--rounds 3] [--in-slices]

Each round makes the same run twice, in turn, from an empty store of activations: twelve SAEs, four at each of three
sites, which the processes share out; with `--in-slices`, three SAEs at one site, each in two slices. `seconds`: of the
whole command and of its stages, and of training on every process, which shows how even the shares are. The tables give
medians of the rounds' ratios. Limits: one machine, whose two cores all share.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monosemy.run import machine, read_stages
from monosemy.support.files import cache_folder, read_json
from research.records import record_path, write_record
from research.scale.tables import processes_table

SITES = ("layers.8.resid_post", "layers.12.resid_post", "layers.16.resid_post")
SHARED = ["--sites", *SITES, "--architectures", "topk", "batch_topk", "jumprelu", "gated"]
RUN = (
    "demo --l0 32 --text.n-validation-tokens 8k --evaluation.n-loss-tokens 1024"
    " --evaluation.no-frozen-random --evaluation.no-pca"
)
SLICED = "--sites layers.12.resid_post --architectures topk batch_topk jumprelu --d-sae 16384"
STAGES = ("activations", "training")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/processes"))
    parser.add_argument("--tokens", default="40k")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=record_path("scale", "processes"))
    parser.add_argument("--in-slices", action="store_true")
    options = parser.parse_args()
    key, words = ("rounds_in_slices", SLICED.split()) if options.in_slices else ("rounds", SHARED)
    record = read_json(options.out) if options.out.is_file() else {}
    tokens_key = key.replace("rounds", "tokens")
    record |= {"machine": machine(), tokens_key: options.tokens, key: []}
    for number in range(options.rounds):
        # In turn, and the other first in the next round: a machine that slows down hits both alike.
        counts = (1, 2) if number % 2 == 0 else (2, 1)
        seconds = {}
        for n in counts:
            slices = ["--shard-latents", f"{n}"] if options.in_slices and n > 1 else []
            seconds[f"{n}"] = run_seconds(options.folder, ["--tokens", options.tokens, *words, *slices], n)
        record[key].append(seconds)
        write_record(options.out, record)
    print(processes_table(record))


def run_seconds(folder: Path, words: Sequence[str], n_processes: int) -> dict[str, Any]:
    """Seconds of one run on this many processes, from nothing but the model and the text."""
    run, cache = folder / f"{n_processes}", folder / "cache"
    for stale in (run, cache):
        shutil.rmtree(stale, ignore_errors=True)
    cache.mkdir(parents=True)
    for part in ("models", "packages"):
        (cache / part).symlink_to((cache_folder() / part).absolute())
    command = [sys.executable, "-m", "monosemy", "train", *RUN.split(), *words, "--run", str(run)]
    command += ["--processes", f"{n_processes}"]
    started = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, "MONOSEMY_CACHE": str(cache.absolute())})
    whole = time.perf_counter() - started
    stages = read_stages(run)
    ranks = stages["training"]["record"].get("seconds_of_processes", [stages["training"]["seconds"]])
    return {"whole": whole, **{stage: stages[stage]["seconds"] for stage in STAGES}, "ranks": ranks}


if __name__ == "__main__":
    main()
