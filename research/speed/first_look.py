"""How long `monosemy demo` takes until there is something to look at, and (`--whole`) in all.

Run: python -m research.speed.first_look [--whole] [--folder runs/first-look] [--out FILE]

Two demos from an empty store of activations, with the 8-bit screen where the processor has it and without; model and
text are there already, as after a first download. Recorded: wall seconds until the address of the pages is printed, or
until the end, and the processor's seconds of all its processes. Whatever else the machine does makes the wall seconds
longer, the processor's hardly.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from monosemy.run import machine
from monosemy.support.files import cache_folder
from research.records import record_path, write_record

DOWNLOADED = ("models", "packages")
"""What the cache has before the first second."""


def timed_demo(folder: Path, *, screen: bool, whole: bool) -> dict[str, Any]:
    """Seconds of one demo in an empty folder with a cache of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    cache = folder / "cache"
    cache.mkdir(parents=True)
    for part in DOWNLOADED:
        (cache / part).symlink_to((cache_folder() / part).absolute())
    environment = {**os.environ, "MONOSEMY_CACHE": str(cache.absolute())} | ({} if screen else {"MONOSEMY_SCREEN": "0"})
    before, started = _processor_seconds(), time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "monosemy", "demo", "--run", str(folder / "run")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    record: dict[str, Any] = {"screen": screen}
    for line in process.stdout:
        print(line, end="", flush=True)
        if "look at it now: http" in line:
            record["first_look"] = time.perf_counter() - started
            if not whole:
                process.send_signal(signal.SIGINT)
    process.wait()
    assert "first_look" in record, "no address was printed"
    if whole:
        assert process.returncode == 0, process.returncode
        record["whole"] = time.perf_counter() - started
    return record | {"processor": _processor_seconds() - before}


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("runs/first-look"))
    parser.add_argument("--out", type=Path, default=record_path("speed", "first_look"))
    options = parser.parse_args()
    record: dict[str, Any] = {"machine": machine(), "demos": []}
    for screen in (True, False):
        record["demos"].append(timed_demo(options.folder, screen=screen, whole=options.whole))
        write_record(options.out, record)
    print(record["demos"])


if __name__ == "__main__":
    main()
