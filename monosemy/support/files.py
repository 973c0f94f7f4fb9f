"""Durable writes and hashes: nothing on disk is ever half-written under its final name.

A write goes to a new name in the same folder, is flushed to the device (fsync), then renamed over the
final name, and the folder itself is flushed: after a kill or a power cut, the final name holds either the
old content or the new, whole.
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
    """Where downloads, converted models, tokens and activations are kept: $MONOSEMY_CACHE, else
    $XDG_CACHE_HOME/monosemy, else ~/.cache/monosemy."""
    if configured := os.environ.get("MONOSEMY_CACHE"):
        return Path(configured).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "monosemy"


def explain_os_error(error: OSError, path: Path) -> UserError:
    """A full disk, a read-only or missing folder, as one line a user can act on."""
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
    """Raises UserError when `path`, a file to write or (`folder`) a folder to fill, could not be written to.

    Tried for real, with a few bytes in the nearest folder there is: rights alone tell nothing of a read-only file
    system or a full disk. `label` leads the message, e.g. `--out`.
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
    """Raises UserError, with the way to move it, when the cache folder cannot be written to."""
    require_writable(cache_folder(), "the cache folder (MONOSEMY_CACHE)", folder=True)


@contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """Yields a temporary path beside `final`; on success it is fsynced and renamed to `final`.

    Raises UserError for a full disk or an unwritable folder; the previous content of `final` stays.
    """
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        os.replace(temporary, final)
        sync(final.parent)
    except OSError as error:
        raise explain_os_error(error, final) from error
    finally:
        with suppress(OSError):  # nothing may hide the error on its way out
            temporary.unlink()


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """As `atomic_path` for a whole folder: all its files are fsynced, then it is renamed into place.

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
    """Clears away what killed writes left anywhere under `folder`: unfinished temporaries are removed, and a folder
    that had been moved aside for a replacement that never arrived is put back.

    Only for a folder that no other process is writing to.
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
    """fsync of a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON durably; NaN and infinities are refused (they are not JSON)."""
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
    write_text(path, json_text.whole_characters(text) + "\n")


def read_json(path: Path) -> Any:
    """Reads JSON; a missing, truncated or non-JSON file is a UserError that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); restore it or delete it to redo that stage") from None


def sha256(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Hex SHA-256 of a file's bytes; `progress` receives the bytes read so far."""
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
    """Bytes free on the file system that would hold `path` (which need not exist yet)."""
    return shutil.disk_usage(existing_parent(path)).free
