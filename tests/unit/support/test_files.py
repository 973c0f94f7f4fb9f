"""Durable writes: whole before or whole after, whatever happens in between."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monosemy.errors import UserError
from monosemy.support import files

OLD, NEW = "old " * 50_000, "new! " * 50_000

# Rewrites one file with alternating contents until it is killed.
WRITER = f"""
import sys
from pathlib import Path
from monosemy.support import files
path = Path(sys.argv[1])
print("ready", flush=True)
while True:
    files.write_text(path, {OLD[:4]!r} * 50_000)
    files.write_text(path, {NEW[:5]!r} * 50_000)
"""

FOLDER_WRITER = """
import sys
from pathlib import Path
from monosemy.support import files
folder = Path(sys.argv[1])
print("ready", flush=True)
for version in range(1, 1_000_000):
    with files.atomic_folder(folder) as new:
        for name in "abcd":
            (new / name).write_text(str(version))
"""


@contextlib.contextmanager
def running(program: str, argument: Path):
    """A Python process that has printed `ready`; killed for good at the end."""
    process = subprocess.Popen([sys.executable, "-c", program, str(argument)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("delay", [0.002, 0.005, 0.011, 0.017, 0.023, 0.031])
def test_killed_write_leaves_the_old_or_the_new_content(tmp_path, delay):
    path = tmp_path / "state.txt"
    path.write_text(OLD)
    with running(WRITER, path) as process:
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert path.read_text() in (OLD, NEW)
    files.clear_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["state.txt"]


@pytest.mark.parametrize("delay", [0.003, 0.007, 0.013, 0.019])
def test_killed_folder_write_leaves_one_version_whole(tmp_path, delay):
    folder = tmp_path / "sae"
    with files.atomic_folder(folder) as new:
        for name in "abcd":
            (new / name).write_text("0")
    with running(FOLDER_WRITER, folder) as process:
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    files.clear_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["sae"]
    assert sorted(p.name for p in folder.iterdir()) == ["a", "b", "c", "d"]
    assert len({p.read_text() for p in folder.iterdir()}) == 1


def test_killed_between_the_two_renames_of_a_folder(tmp_path):
    """The moment when the old folder is aside and the new one not yet in place."""
    (tmp_path / ".sae.123.old").mkdir()
    (tmp_path / ".sae.123.old" / "a").write_text("old")
    (tmp_path / ".sae.123.tmp").mkdir()
    files.clear_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["sae"]
    assert (tmp_path / "sae" / "a").read_text() == "old"


def test_clearing_leaves_other_hidden_files_alone(tmp_path):
    hidden = [tmp_path / ".gitignore", tmp_path / ".notes.tmp", tmp_path / "a.1.tmp"]
    for path in hidden:
        path.write_text("mine")
    files.clear_leftovers(tmp_path)
    assert all(path.read_text() == "mine" for path in hidden)


def test_failing_writer_leaves_the_old_content_and_no_temporary(tmp_path):
    path = tmp_path / "state.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"a": float("nan")})
    with pytest.raises(ZeroDivisionError), files.atomic_path(path) as temporary:
        temporary.write_text(f"half {1 / 0}")
    with pytest.raises(ZeroDivisionError), files.atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "a").write_text(f"half {1 / 0}")
    assert files.read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]


FILE_TOO_LARGE = """
import resource, signal, sys
from pathlib import Path
from monosemy.support import files
from monosemy.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
print("ready", flush=True)
try:
    files.write_text(Path(sys.argv[1]), "x" * 100_000)
except UserError as error:
    print(error)
"""


def test_write_that_the_system_cuts_short(tmp_path):
    """A real limit on file sizes: the write fails half-way with EFBIG."""
    path = tmp_path / "state.txt"
    path.write_text("old")
    with running(FILE_TOO_LARGE, path) as process:
        out = process.stdout.read()
    assert out.startswith(f"cannot write {path}")
    assert out.count("\n") == 1
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["state.txt"]


@pytest.fixture
def full_disk(tmp_path):
    """A real file system of 64 kB with nothing left on it; skipped where mounting is not permitted."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if mount is None or os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root; the write cut short above covers the path elsewhere")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_keeps_what_was_there(full_disk):
    path = full_disk / "state.txt"
    files.write_text(path, "old")
    assert files.free_bytes(full_disk / "not" / "yet") <= 64 * 1024
    with pytest.raises(UserError, match=f"cannot write {path}: the disk is full; free space"):
        files.write_text(path, "x" * 200_000)
    with pytest.raises(UserError, match="the disk is full"), files.atomic_folder(full_disk / "sae") as new:
        (new / "weights").write_bytes(b"x" * 200_000)
    assert path.read_text() == "old"
    assert [p.name for p in full_disk.iterdir()] == ["state.txt"]


def test_device_full_on_flush(tmp_path, monkeypatch):
    """Some file systems report a full device only when flushing."""
    path = tmp_path / "state.txt"
    path.write_text("old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="the disk is full"):
        files.write_text(path, "new")
    assert path.read_text() == "old"


def test_unwritable_folder(tmp_path):
    """As an ordinary user: root may write anywhere, so the write is made by a process that gave root up."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "state.txt").write_text("old")
    folder.chmod(0o555)
    program = """
import os, sys
from pathlib import Path
from monosemy.support import files
from monosemy.errors import UserError
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
print("ready", flush=True)
try:
    files.write_text(Path(sys.argv[1]), "new")
except UserError as error:
    print(error)
"""
    for parent in [tmp_path, *tmp_path.parents]:  # pytest's folders are closed to other users
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    with running(program, folder / "state.txt") as process:
        out = process.stdout.read()
    folder.chmod(0o755)
    assert "permission denied; choose a folder you may write to" in out
    assert (folder / "state.txt").read_text() == "old"


def test_file_where_a_folder_is_needed(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match=r"is a file, not a folder|a file of that name is in the way"):
        files.write_text(tmp_path / "taken" / "state.txt", "new")


def test_reading_names_the_file(tmp_path):
    with pytest.raises(UserError, match=r"missing\.json does not exist"):
        files.read_json(tmp_path / "missing.json")
    for damaged in (b'{"a": 1', b"\xff\xfe", b""):
        (tmp_path / "damaged.json").write_bytes(damaged)
        with pytest.raises(UserError, match=r"damaged\.json is not valid JSON"):
            files.read_json(tmp_path / "damaged.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_json_round_trip(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "value.json"
    files.write_json(path, value)
    assert files.read_json(path) == value


def test_sha256_and_progress(tmp_path):
    data = bytes(range(256)) * 40_000
    (tmp_path / "data").write_bytes(data)
    progress: list[int] = []
    assert files.sha256(tmp_path / "data", progress.append) == hashlib.sha256(data).hexdigest()
    assert progress == sorted(progress)
    assert progress[-1] == len(data)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"MONOSEMY_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/monosemy"),
        ({}, "/home-of-test/.cache/monosemy"),
    ],
)
def test_cache_folder(monkeypatch, variables, expected):
    for name in ("MONOSEMY_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home-of-test")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert files.cache_folder() == Path(expected)


@pytest.mark.parametrize("folder", [False, True])
def test_what_can_be_written_passes_and_leaves_nothing(tmp_path, folder):
    files.require_writable(tmp_path / "new" / "deep" / "out", "--out", folder=folder)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path, folder, reason in [
        (tmp_path / "file", True, "--out .* is a file; give the path of a folder"),
        (tmp_path, False, "--out .* is a folder; give the path of a file"),
        (tmp_path / "file" / "below", True, "a part of the path is a file"),
        (tmp_path / "file" / "below", False, "a part of the path is a file"),
        (Path("/proc/none"), True, "no file or folder can be made there"),
        (Path("/proc/none/out.json"), False, "no file or folder can be made there"),
        (tmp_path / ("x" * 300), True, "the name is too long"),
    ]:
        with pytest.raises(UserError, match=reason) as refused:
            files.require_writable(path, "--out", folder=folder)
        assert "\n" not in str(refused.value)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_cache_that_cannot_be_written_names_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MONOSEMY_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="MONOSEMY_CACHE=FOLDER puts the cache elsewhere"):
        files.require_cache()
    with pytest.raises(UserError, match="MONOSEMY_CACHE=FOLDER puts the cache elsewhere"):
        files.write_json(files.cache_folder() / "notes.json", {})
    monkeypatch.setenv("MONOSEMY_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"MONOSEMY_CACHE.* is a file"):
        files.require_cache()
