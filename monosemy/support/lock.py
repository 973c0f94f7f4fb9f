"""One writer at a time for a feature database.

Place on the path: beside `build` and `explanations`, the two that write. A build copies the explanations there are and
then replaces the folder; one written between the two would be lost. Whoever comes second is refused, at once.

The lock is the kernel's (flock) on a file beside the folder: it ends with the process that holds it, however that ends.
Limits: none across machines on file systems without such locks.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from monosemy.errors import UserError
from monosemy.support import files


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Holds the database in `folder` (which need not exist yet) against other writers.

    Raises UserError when another build or `explain` holds it, or the folder cannot be written to.
    """
    path = folder.with_name(f".{folder.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise files.explain_os_error(error, path) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise files.explain_os_error(error, path) from error
            holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
            raise UserError(
                f"the features in {folder} are being built or explained by process {holder}; wait for it or stop it"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)
