"""Connects the ranks of a run through torch.distributed, and finds out which of them is missing, ended or differs.

Place on the path: command line → **group** → `ranks`, which everything else asks. `torchrun` (or `monosemy …
--processes`, which calls its launcher) sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; ranks then meet at a store
(TCPStore) and exchange objects by gloo, on GPUs too, since no tensor passes between them. Before every exchange stands
a monitored barrier, whose error names the rank that did not come.

Limits: only Python objects of trusted processes are exchanged (pickle), as torch.distributed does it.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from monosemy.support import ranks
from monosemy.support.numbers import duration_text
from monosemy.support.ranks import LostError, RankError

if TYPE_CHECKING:
    from torch.distributed import Store

RENDEZVOUS_SECONDS = "MONOSEMY_RENDEZVOUS_SECONDS"
"""The environment variable with the number of seconds that ranks wait for each other at the start."""
DEFAULT_RENDEZVOUS_SECONDS = 300
_CALL, _OVER, _BY_FAILURE = "call", "over", "by failure"
"""Keys of the store: every rank answers the first; the second's value says that the work is over, and how."""
_CALL_SECONDS = 15.0
"""How long a rank that is there may take to answer, whatever it computes meanwhile."""
_STORE_SECONDS = 15.0
"""How long the word of the first rank that fails may take to come, once its store is gone."""
PATIENCE = timedelta(days=7)
"""How long a rank waits for the others' work: one may still train when another has done its share."""
_MOST_RANKS = 100_000
_ANSWER_SECONDS = 10.0
"""How long a store that accepts a connection may take to answer, beyond the wait for it to be there."""
_OTHER_PORT = "set MASTER_PORT to a free one for all ranks"
_LINGER_SECONDS = 0.5
"""How long the host of the store outlives what it has told the others, so that it reaches them."""


@contextlib.contextmanager
def joined(versions: Callable[[], Mapping[str, str]]) -> Iterator[None]:
    """Connects this process with the other ranks within the block; does nothing where there are none.

    `versions` are those of Python and packages, which must be the same everywhere. Raises RankError, naming rank and
    cause, when a port is in use, a rank does not come in time, or versions differ.
    """
    if ranks.n_ranks() > 1 or not ranks.asked_for():
        yield
        return
    # numba would take every core in each of the processes; torchrun has set OMP_NUM_THREADS.
    if threads := os.environ.get("OMP_NUM_THREADS"):
        os.environ.setdefault("NUMBA_NUM_THREADS", threads)
    # gloo would add lines of its own to the one that says which rank failed, and why.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    group = connect()
    ranks.enter(group)
    ranks.agree("versions", dict(versions()), "install the same versions everywhere")
    yield
    # Only after success: the group and its store must outlive a failure until the others know of it.
    ranks.barrier()
    group.leave(failed=False)
    ranks.enter(None)


class GlooGroup:
    """The connection of this process with the other ranks (`ranks.Group`).

    A thread answers for this process when another one asks who is there, and waits for the word of the first rank that
    fails; on a connection of its own (`watched`), since the store may end with that rank before this one asks.
    `processes`: the processes of all ranks, by rank. `of_launcher`: the store is torchrun's, and does not end with
    rank 0.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        store: Store,
        *,
        watched: Store,
        processes: Sequence[str],
        hosts_store: bool,
        of_launcher: bool,
    ) -> None:
        self.rank, self.size, self._store, self._processes = rank, size, store, processes
        self._hosts_store, self._of_launcher = hosts_store, of_launcher
        self._failed = False
        self._watcher = threading.Thread(target=self._watch, args=(watched,), daemon=True)
        self._watcher.start()

    def _watch(self, watched: Store) -> None:
        with contextlib.suppress(RuntimeError):  # the store was killed with its host
            watched.wait([_CALL], PATIENCE)
            watched.set(_present(self.rank), "")
            watched.wait([_OVER], PATIENCE)
            self._failed = watched.get(_OVER) == _BY_FAILURE.encode()

    def barrier(self) -> None:
        import torch.distributed as dist

        try:
            dist.monitored_barrier(timeout=PATIENCE)
        except RuntimeError as error:
            raise ended(error) from None

    def gathered(self, value: Any) -> list[Any]:
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        self.barrier()
        try:
            dist.all_gather_object(values, value)
        except RuntimeError as error:
            raise ended(error) from None
        return values

    def from_first(self, value: Any) -> Any:
        import torch.distributed as dist

        values = [value]
        self.barrier()
        try:
            dist.broadcast_object_list(values, src=0)
        except RuntimeError as error:
            raise ended(error) from None
        return values[0]

    def fails_first(self) -> bool:
        if self._failed:
            return False
        try:
            first = bool(self._store.compare_set("failed", "", str(self.rank)) == str(self.rank).encode())
            if first:
                self._end(_BY_FAILURE)
            return first
        except RuntimeError:  # the store has ended with its host: rank 0 failed and said so, or it was killed
            self._watcher.join(_STORE_SECONDS)
            return not self._failed and self.rank == 1

    def another_failed(self) -> bool:
        return self._failed

    def absent(self) -> list[int]:
        others = [number for number in range(self.size) if number != self.rank]
        ends = time.monotonic() + _CALL_SECONDS
        try:
            self._store.set(_CALL, "")
            while True:
                silent = [n for n in others if not self._store.check([_present(n)])]
                gone = [n for n in silent if not _runs(self._processes[n])]
                # Of this machine's processes it is known at once; those of others are only waited for.
                if self._failed or len(gone) == len(silent):
                    break
                if time.monotonic() > ends:
                    gone += [n for n in silent if _runs(self._processes[n]) is None]
                    break
                time.sleep(0.01)
        except RuntimeError:  # the store is gone
            return [] if self._of_launcher else [0]
        return [] if self._failed else sorted(set(gone))

    def _end(self, how: str) -> None:
        self._store.set(_OVER, how)
        self._store.set(_CALL, "")  # who waits to be asked goes on to the key above

    def leave(self, *, failed: bool) -> None:
        import torch.distributed as dist

        if failed:
            if self._hosts_store:
                time.sleep(_LINGER_SECONDS)
            return
        self._end("by success")
        self._watcher.join()
        self.barrier()  # the store ends with its host, when all have heard it
        dist.destroy_process_group()


def is_of_connection(error: RuntimeError) -> bool:
    """Whether an error of torch says that another rank is gone; exchanges of tensors raise them as they come."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or re.search(r"gloo|NCCL|peer|[Cc]onnection", str(error)) is not None


def ended(error: RuntimeError) -> LostError:
    """The error of a rank that can no longer reach another one, which is named if it can be known."""
    named = re.search(r"Rank (\d+) failed|from rank (\d+)", str(error))
    # Else torch's line gives a place in its source and an address, neither of which says which rank it was.
    if named:
        others = [int(named[1] or named[2])]
    else:
        others = ranks.absent()
    if len(others) == 1:
        return LostError(f"rank {others[0]} was killed or cannot be reached; run the same command to continue")
    if others:
        numbers = ", ".join(map(str, others))
        return LostError(f"ranks {numbers} were killed or cannot be reached; run the same command to continue")
    reason = _first_line(error)
    return LostError(
        f"rank {ranks.rank()} has lost its connection to another one ({reason}); run the same command to continue"
    )


def connect() -> GlooGroup:
    """Meets the other ranks. Raises RankError, naming rank and cause, when that fails."""
    import torch.distributed as dist

    size = _whole("WORLD_SIZE", 2, _MOST_RANKS, least=2)
    own = _whole("RANK", 0, size - 1, least=0)
    host, port = os.environ.get("MASTER_ADDR", "localhost"), _whole("MASTER_PORT", 29_500, 65_535)
    seconds = _whole(RENDEZVOUS_SECONDS, DEFAULT_RENDEZVOUS_SECONDS, round(PATIENCE.total_seconds()))
    limit = timedelta(seconds=seconds)
    # torchrun's own store outlives the ranks; without it (srun, mpirun) rank 0 opens one.
    of_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    hosts = own == 0 and not of_torchrun
    try:
        server = _within(
            seconds + _ANSWER_SECONDS,
            lambda: dist.TCPStore(host, port, size, is_master=hosts, timeout=limit, wait_for_workers=False),
        )
    except (RuntimeError, TimeoutError) as error:
        raise _unreachable(own, host, port, error) from None
    # A restart by torchrun must not read what the attempt before it has left.
    prefix = f"monosemy/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    store = dist.PrefixStore(prefix, server)
    if store.add(f"here/{own}", 1) > 1 and not of_torchrun:
        raise RankError(
            f"rank {own}: another rank {own} has come to {host}:{port} before, perhaps of another run; {_OTHER_PORT}"
        )
    keys = [f"process/{number}" for number in range(size)]
    store.set(keys[own], _own_process())
    try:
        store.wait(keys, limit)
        dist.init_process_group("gloo", store=store, rank=own, world_size=size, timeout=PATIENCE)
    except RuntimeError as error:
        missing = _missing(store, keys)
        who = f"rank{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))} did not come" if missing else ""
        raise RankError(
            f"rank {own}: {who or _first_line(error)} within {duration_text(seconds)} at {host}:{port}; start all "
            f"{size} with the same MASTER_ADDR and MASTER_PORT, or wait longer by {RENDEZVOUS_SECONDS}"
        ) from None
    watched = dist.PrefixStore(prefix, dist.TCPStore(host, port, size, is_master=False, timeout=limit))
    processes = [store.get(key).decode() for key in keys]
    return GlooGroup(own, size, store, watched=watched, processes=processes, hosts_store=hosts, of_launcher=of_torchrun)


def _own_process() -> str:
    """This process, as the other ranks know it: its machine, number and start."""
    import psutil

    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time()}"


def _runs(process: str) -> bool | None:
    """Whether a process of this machine, named as above, is there; None for one of another machine."""
    import psutil

    host, number, began = process.rsplit(" ", 2)
    if host != socket.gethostname():
        return None
    try:
        there = psutil.Process(int(number))
        return there.create_time() == float(began) and there.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _present(rank: int) -> str:
    """The key of the store that a rank sets when it is asked whether it is there."""
    return f"present/{rank}"


def _whole(variable: str, default: int, most: int, *, least: int = 1) -> int:
    """The whole number in an environment variable. Raises RankError for anything else and for one out of range."""
    text = os.environ.get(variable, str(default))
    with contextlib.suppress(ValueError):
        if least <= int(text) <= most:
            return int(text)
    raise RankError(
        f"{variable} is {text!r}, but must be a whole number from {least} to {most}, e.g. {default}; set it for all "
        "ranks, or leave it out"
    )


def _within(seconds: float, open_store: Callable[[], Store]) -> Store:
    """What `open_store` returns or raises. Raises TimeoutError where it does neither within so many seconds.

    torch waits without end for a program that accepts its connection and says nothing.
    """
    future: Future[Store] = Future()

    def run() -> None:
        try:
            future.set_result(open_store())
        except Exception as error:  # whatever it is, for the caller
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(seconds)


def _unreachable(own: int, host: str, port: int, error: Exception) -> RankError:
    if own == 0 and "EADDRINUSE" in str(error):
        return RankError(f"rank 0: port {port} is in use; {_OTHER_PORT}")
    if isinstance(error, TimeoutError):
        return RankError(f"rank {own}: another program than rank 0 listens at {host}:{port}; {_OTHER_PORT}")
    return RankError(
        f"rank {own}: rank 0 does not answer at {host}:{port} ({_first_line(error)}); start it, or set MASTER_ADDR and "
        f"MASTER_PORT to where it listens; {RENDEZVOUS_SECONDS} says how long to wait"
    )


def _missing(store: Store, keys: Sequence[str]) -> list[int]:
    with contextlib.suppress(RuntimeError):
        return [number for number, key in enumerate(keys) if not store.check([key])]
    return []


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
