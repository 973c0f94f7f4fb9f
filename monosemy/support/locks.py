"""Locks between processes: one holder at a time, freed by the kernel when the holder ends, however it ends.

Place on the path: beneath everything that two processes must not do at once (write a run, build a database, fetch a
model, change notes). The lock comes from `filelock` and is held on a file that serves no other purpose and is never
removed. The holder writes its process number into the file, so that a process that is refused can say who holds the
lock. Worker processes that the holder forks do not keep the lock.

Limits: there is no lock across machines on file systems that do not support it.
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
    """Another process holds the lock. `holder` is its process number, or "unknown"."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"held by process {holder}")
        self.holder = holder

    @property
    def held_here(self) -> bool:
        """Whether this process itself holds the lock."""
        return self.holder == str(os.getpid())


def acquire(path: Path) -> FileLock:
    """Takes the lock at `path` without waiting; it is held until `release()`.

    Raises LockedError when another process holds it, and UserError when the lock's file cannot be created.
    """
    from filelock import FileLock, Timeout

    # Not thread-local: a lock that one thread has taken may be released in another.
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
    """Waits for the lock at `path` and holds it within the block, while `final` is written.

    On file systems without locks nothing is held. Raises UserError when the lock's file cannot be created.
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
    """Writes this process's number into the lock's file."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def _holder(path: Path) -> str:
    """The process number in the lock's file, or "unknown"."""
    with suppress(OSError):
        return path.read_bytes()[:32].decode(errors="replace").strip() or "unknown"
    return "unknown"
