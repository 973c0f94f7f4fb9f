"""Starts the ranks of a group, without torchrun and with it, kills one of them, and collects what they print."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

_SCRIPT = """
import os, signal, sys
from monosemy.errors import UserError
from monosemy.support import ranks
from monosemy.support.rank_group import joined
rank = int(os.environ["RANK"])
versions = {"torch": "2.8" if rank else "2.7"} if "other versions" in sys.argv else {}
try:
    with joined(lambda: versions):
        %s
except UserError as error:
    if (line := ranks.speaks(error)) is not None:
        print("error:", line, file=sys.stderr)
    ranks.end(2)
"""


class Ended(NamedTuple):
    """How a rank ended."""

    status: int
    output: str
    errors: list[str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_ranks(
    body: str, n_ranks: int, *words: str, port: int | None = None, only: int | None = None
) -> list[subprocess.Popen[str]]:
    """Starts ranks that run `body` as a group; `only` starts one of them, so that it waits for the others."""
    script = _SCRIPT % body.replace("\n", "\n        ")
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    port = port or free_port()
    env = {**os.environ, **threads, "MONOSEMY_QUIET": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", script, *words],
            env={**env, "WORLD_SIZE": str(n_ranks), "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (range(n_ranks) if only is None else [only])
    ]


def ended(processes: list[subprocess.Popen[str]]) -> list[Ended]:
    """Waits for all, and returns how they ended, in the order of the ranks."""
    outputs = [process.communicate(timeout=300) for process in processes]
    return [
        Ended(process.returncode, output, errors.splitlines())
        for process, (output, errors) in zip(processes, outputs, strict=True)
    ]


def under_torchrun(n_processes: int, words: Sequence[str]) -> list[str]:
    """The command that runs `monosemy WORDS` by torch's own launcher, on a port of its own."""
    torchrun = Path(sysconfig.get_path("scripts")) / "torchrun"
    return [str(torchrun), "--standalone", "--nproc-per-node", str(n_processes), "-m", "--", "monosemy", *words]


def kill_rank(launcher: subprocess.Popen[str], number: int) -> None:
    """Kills one rank of those that a launcher has started."""
    children = psutil.Process(launcher.pid).children()
    next(child for child in children if child.environ().get("RANK") == str(number)).send_signal(signal.SIGKILL)
