"""Writes files durably and hashes them: a file is never half-written under its final name.

A write goes to a temporary name in the same folder, is flushed to the device (fsync) and renamed to the final name;
then the folder itself is flushed. After a kill or a power cut, the final name holds either the complete old content or
the complete new one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from monosemy.errors import UserError
from monosemy.support import json_text

_LEFTOVER = re.compile(r"\.(?P<name>.+)\.\d+\.(?P<kind>tmp|old)")


def cache_folder() -> Path:
    """The folder for downloads, converted models, tokens and activations.

    It is $MONOSEMY_CACHE if set, else $XDG_CACHE_HOME/monosemy, else ~/.cache/monosemy.
    """
    if configured := os.environ.get("MONOSEMY_CACHE"):
        return Path(configured).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "monosemy"


def explain_os_error(error: OSError, path: Path) -> UserError:
    """The UserError for a failed write to `path`, in one line that tells the user what to do."""
    reason = {
        errno.ENOSPC: "the disk is full; free space or choose another folder",
        errno.EDQUOT: "the disk quota is used up; free space or choose another folder",
        errno.EACCES: "permission denied; choose a folder you may write to",
        errno.EPERM: "permission denied; choose a folder you may write to",
        errno.EROFS: "the file system is read-only; choose another folder",
        errno.ENOTDIR: "a part of the path is a file, not a folder; choose another path",
        errno.EEXIST: "a file of that name is in the way; choose another path",
        errno.ENOENT: "no file or folder can be made there; choose another path",
        errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    }.get(error.errno or 0, error.strerror or str(error))
    fix = "; MONOSEMY_CACHE=FOLDER puts the cache elsewhere" if path.is_relative_to(cache_folder()) else ""
    return UserError(f"cannot write {path}: {reason}{fix} (what was there before is untouched)")


def require_writable(path: Path, label: str, *, folder: bool = False) -> None:
    """Raises UserError when `path`, a file or (with `folder`) a folder, could not be written to.

    It writes a few bytes into the nearest existing folder, because permissions alone do not reveal a read-only file
    system or a full disk. The message begins with `label`, e.g. `--out`.
    """
    path = path.expanduser()
    try:
        if path.exists() and path.is_dir() != folder:
            kind, expected_kind = ("a folder", "file") if path.is_dir() else ("a file", "folder")
            raise UserError(f"{label} {path} is {kind}; give the path of a {expected_kind}")
        place = existing_parent(path if folder else path.parent)
        if not place.is_dir():
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(bytes(4096))
    except OSError as error:
        raise explain_os_error(error, path) from error


def require_cache() -> None:
    """Raises UserError when the cache folder cannot be written to; the message says how to move it."""
    require_writable(cache_folder(), "the cache folder (MONOSEMY_CACHE)", folder=True)


@contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """Yields a temporary path beside `final`; if the block succeeds, it is flushed to disk and renamed to `final`.

    Raises UserError for a full disk or an unwritable folder; the previous content of `final` then stays.
    """
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        # In this order: the content must be on the device before the name points to it, and the name is on the device
        # only once the folder is.
        sync(temporary)
        os.replace(temporary, final)
        sync(final.parent)
    except OSError as error:
        raise explain_os_error(error, final) from error
    finally:
        with suppress(OSError):  # an error here must not hide the one being raised
            temporary.unlink()


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """As `atomic_path`, for a folder: all its files are flushed to disk, then it is renamed to `final`.

    An existing `final` is replaced only once the new folder is complete.
    """
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    discarded = final.with_name(f".{final.name}.{os.getpid()}.old")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            sync(path)
        # A folder cannot be renamed over one that is not empty, so the old one is moved aside first. After a kill
        # between the two renames, `clear_leftovers` puts it back.
        if final.exists():
            os.replace(final, discarded)
        os.replace(temporary, final)
        sync(final.parent)
    except OSError as error:
        raise explain_os_error(error, final) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(discarded, ignore_errors=True)


def clear_leftovers(folder: Path) -> None:
    """Clears up what killed writes left under `folder`; no other process may be writing there.

    Unfinished temporaries are removed. A folder that was moved aside, and whose replacement never arrived, is put back.
    """
    leftovers = [path for path in folder.rglob(".*") if _LEFTOVER.fullmatch(path.name)]
    for path in leftovers:
        match = _LEFTOVER.fullmatch(path.name)
        final = path.with_name(match["name"]) if match else path
        if match and match["kind"] == "old" and not final.exists():
            os.replace(path, final)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flushes a file or a folder to the device (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Writes text durably as UTF-8, with escapes for half surrogate pairs. Raises UserError when it cannot."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON durably. Raises ValueError for NaN and infinities, which are not JSON, UserError when it cannot."""
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
    write_text(path, json_text.whole_characters(text) + "\n")


def read_json(path: Path, *, fix: str = "restore it or delete it to redo that stage") -> Any:
    """Reads JSON. Raises UserError, naming the file, when it is missing or not valid JSON.

    fix: what to do about a file that is damaged. The default is for what a stage of a run has written.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); {fix}") from None


def sha256(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of a file in hex; `progress` receives the number of bytes read so far."""
    digest = hashlib.sha256()
    done = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
            done += len(block)
            if progress:
                progress(done)
    return digest.hexdigest()


def existing_parent(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    path = path.expanduser().absolute()
    while not path.exists():
        path = path.parent
    return path


def free_bytes(path: Path) -> int:
    """The bytes that are free on the file system of `path`, which need not exist yet."""
    return shutil.disk_usage(existing_parent(path)).free
