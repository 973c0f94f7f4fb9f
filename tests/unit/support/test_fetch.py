"""Archives are fetched by the real pip, here from a folder of files made by the tests."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from monosemy.errors import UserError
from monosemy.support.fetch import CONTENTS, PackageFile, _largest_file, fetch

METADATA = "Metadata-Version: 2.1\nName: tiny-text\nVersion: 1.0\nRequires-Python: >=99\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def make_wheel(folder: Path, extra: dict[str, str] | None = None) -> PackageFile:
    path = folder / "tiny_text-1.0-py3-none-any.whl"
    members = {
        "tiny_text/a.txt": "one",
        "tiny_text/b.json": "{}",
        "tiny_text-1.0.dist-info/METADATA": METADATA,
        "tiny_text-1.0.dist-info/WHEEL": WHEEL,
        "tiny_text-1.0.dist-info/RECORD": "",
        **(extra or {}),
    }
    with zipfile.ZipFile(path, "w") as file:
        for name, text in members.items():
            file.writestr(name, text)
    return PackageFile("tiny-text==1.0", hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes as its only index; the cache is empty."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("MONOSEMY_CACHE", str(tmp_path / "cache"))
    return folder


def test_unpacks_once_and_needs_no_index_afterwards(index: Path) -> None:
    package = make_wheel(index)  # asks for a Python that doesn't exist: as data, that doesn't matter
    folder = fetch(package)
    assert (folder / "tiny_text" / "a.txt").read_text() == "one"
    assert folder.name == f"tiny-text-1.0-{package.sha256[:12]}"
    (index / "tiny_text-1.0-py3-none-any.whl").unlink()
    assert fetch(package) == folder
    assert not list(folder.parent.glob(".download-*"))


def test_damaged_files_are_fetched_again(index: Path) -> None:
    package = make_wheel(index)
    folder = fetch(package)
    (folder / "tiny_text" / "a.txt").write_text("two")
    assert (fetch(package) / "tiny_text" / "a.txt").read_text() == "one"
    (folder / CONTENTS).write_text('{"tiny_text/a.txt"')
    assert (fetch(package) / "tiny_text" / "b.json").exists()


def test_wrong_hash_is_refused_and_leaves_nothing(index: Path) -> None:
    make_wheel(index)
    package = PackageFile("tiny-text==1.0", "0" * 64)
    with pytest.raises(UserError, match=r"tiny-text==1\.0.*SHA-256 differs"):
        fetch(package)
    assert not package.folder.exists()


def test_nothing_cached_and_no_connection(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nothing listens there
    with pytest.raises(UserError) as caught:
        fetch(PackageFile("tiny-text==1.0", "1" * 64))
    message = str(caught.value)
    assert "tiny-text==1.0" in message
    assert "no connection to the package index" in message
    assert "PIP_FIND_LINKS" in message
    assert "\n" not in message


def test_member_pattern_and_hostile_names(index: Path) -> None:
    package = make_wheel(index, {"../outside.txt": "x", "/absolute.txt": "x"})
    texts = PackageFile(package.requirement, package.sha256, "*.txt")
    folder = fetch(texts)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert names == [CONTENTS, "tiny_text/a.txt"]
    assert not list(folder.parent.parent.rglob("outside.txt"))
    assert fetch(package) != folder
    with pytest.raises(UserError, match="holds no file"):
        fetch(PackageFile(package.requirement, package.sha256, "*.gguf"))


def test_source_archive(index: Path) -> None:
    setup = "[build-system]\nrequires=[]\nbuild-backend='backend'\nbackend-path=['.']\n"
    backend = (
        "import os\n"
        "def prepare_metadata_for_build_wheel(folder, config_settings=None):\n"
        "    os.makedirs(os.path.join(folder, 'tiny_text-1.0.dist-info'), exist_ok=True)\n"
        f"    open(os.path.join(folder, 'tiny_text-1.0.dist-info', 'METADATA'), 'w').write({METADATA!r})\n"
        "    return 'tiny_text-1.0.dist-info'\n"
        "def build_wheel(*a, **k): raise RuntimeError('never built')\n"
    )
    path = index / "tiny_text-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, text in {
            "pyproject.toml": setup,
            "backend.py": backend,
            "data/a.txt": "one",
            "PKG-INFO": METADATA,
        }.items():
            entry = tarfile.TarInfo(f"tiny_text-1.0/{name}")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    folder = fetch(PackageFile("tiny-text==1.0", hashlib.sha256(path.read_bytes()).hexdigest()))
    assert (folder / "tiny_text-1.0" / "data" / "a.txt").read_text() == "one"


def test_unwritable_cache(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = make_wheel(index)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MONOSEMY_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="cannot write"):
        fetch(package)


def test_threads_that_fetch_together_all_get_it(index: Path) -> None:
    package = make_wheel(index)
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(fetch(package))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders == [package.folder] * 3
    assert (package.folder / "tiny_text" / "a.txt").read_text() == "one"


def test_progress_of_a_download_survives_folders_that_vanish_under_it(tmp_path: Path) -> None:
    """pip makes and removes temporary folders all the time; a walk that meets one half removed must go on."""
    (tmp_path / "archive.part").write_bytes(b"x" * 5000)
    stop = threading.Event()

    def churn(k: int) -> None:
        while not stop.is_set():
            inner = tmp_path / f"pip-{k}" / "unpack" / "metadata"
            inner.mkdir(parents=True, exist_ok=True)
            (inner / "file").write_bytes(b"y")
            shutil.rmtree(tmp_path / f"pip-{k}")

    workers = [threading.Thread(target=churn, args=(k,)) for k in range(3)]
    for worker in workers:
        worker.start()
    try:
        assert {_largest_file(tmp_path) for _ in range(2000)} == {5000}
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert _largest_file(tmp_path / "gone") == 0
