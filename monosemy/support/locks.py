"""Locks between processes: one holder at a time, freed by the kernel when the holder ends, however it ends.

Place on the path: beneath whatever two processes must not do at once (write a run, build a database, fetch a model,
change notes). The lock is `filelock`'s, taken on a file that exists for nothing else and stays there; the holder writes
its process number into it, so that whoever is refused can say who is in the way. Worker processes forked by the
holder do not keep the lock.

Limits: no lock across machines on file systems that have none.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from monosemy.support.files import explain_os_error

if TYPE_CHECKING:
    from filelock import FileLock  # imported where it is used: 40 ms that `monosemy --help` need not wait


class LockedError(Exception):
    """Another holder has the lock. `holder` is its process number, or "unknown"."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"held by process {holder}")
        self.holder = holder

    @property
    def held_here(self) -> bool:
        """Whether this very process holds it."""
        return self.holder == str(os.getpid())


def acquire(path: Path) -> FileLock:
    """Takes the lock at `path` at once; it is held until `release()`.

    Raises LockedError when it is taken, UserError when the lock's file cannot be made.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, blocking=False, thread_local=False, on_acquired=_sign)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise LockedError(_holder(path)) from None
    except OSError as error:
        raise explain_os_error(error, path) from error
    return lock


@contextmanager
def waiting_for(path: Path, final: Path) -> Iterator[None]:
    """Holds the lock at `path`, once whoever has it is done, while `final` is written.

    Nothing is held on file systems without locks. Raises UserError when the lock's file cannot be made.
    """
    from filelock import FileLock

    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(poll_interval=0.01)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise explain_os_error(error, final) from error
    try:
        yield
    finally:
        lock.release()


def _sign(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def _holder(path: Path) -> str:
    with suppress(OSError):
        return path.read_bytes()[:32].decode(errors="replace").strip() or "unknown"
    return "unknown"
