"""Starts the ranks of one command on this machine, `--processes N`, through torch.distributed's own launcher.

Place on the path: command line → **launch** → N processes of the same command, which `joined` connects. It is what
`torchrun --nproc-per-node N -m monosemy …` does, with one line in place of its report: a rank that ends for a reason
prints it itself, and of one that was killed the line is printed here.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from typing import NoReturn

from monosemy.errors import Interrupted, UserError
from monosemy.support import ranks

INTERRUPTED = 130
"""The exit status of a rank that saved its work after a signal."""
_KEPT = "finished work is kept; run the same command to continue"
_SAVED = "have saved their work; run the same command to continue"


def launch(n_processes: int, words: Sequence[str]) -> NoReturn:
    """Runs `monosemy WORDS` in N processes and exits as they do. Raises UserError, naming the rank, if one is killed.

    Each takes an equal share of the cores, unless OMP_NUM_THREADS says how many threads each has.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in logging.root.manager.loggerDict:
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # the one line below says what its warnings say
    share = max(1, n_cores() // n_processes)
    os.environ[ranks.LAUNCHED] = "1"
    os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(share))
    with tempfile.TemporaryDirectory(prefix="monosemy-") as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=n_processes,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",  # any free port
            run_id=f"monosemy-{os.getpid()}",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "monosemy", *words)
        except ChildFailedError as error:
            number, failure = min(error.failures.items(), key=lambda item: _order(item[1].exitcode))
            if failure.exitcode < 0:
                name = signal.Signals(-failure.exitcode).name
                reason = ", often because memory ran out" if name == "SIGKILL" else ""
                raise UserError(f"rank {number} was ended by {name}{reason}; {_KEPT}") from None
            if failure.exitcode == INTERRUPTED:
                raise Interrupted(f"rank {number} was interrupted; all {_SAVED}") from None
            if failure.exitcode == ranks.LOST:
                raise UserError(f"rank {number} has lost its connection to the others; {_KEPT}") from None
            sys.exit(failure.exitcode)
        except SignalException:
            raise Interrupted(f"interrupted; all processes {_SAVED}") from None
    sys.exit(0)


def _order(status: int) -> int:
    """Which of the exit statuses of several ranks says most: a kill, then an end that was told, then what follows."""
    if status == ranks.LOST:
        return 3
    if status == -signal.SIGTERM:  # torch ends the others so
        return 2
    return 0 if status < 0 else 1


def n_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
