"""A wheel of this tree, and what a command answers that was installed from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import monosemy

ROOT = Path(monosemy.__file__).parents[1]


def build_wheel(folder: Path) -> Path:
    """The wheel, built in a copy of the tree and without a package index."""
    shutil.copytree(
        ROOT / "monosemy", folder / "monosemy", ignore=shutil.ignore_patterns("node_modules", "__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    pip(sys.executable, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder, folder)
    (built,) = folder.glob("*.whl")
    return built


def pip(python: str | Path, command: str, *words: str | Path) -> None:
    """Runs pip of an interpreter; fails with what pip says."""
    called = [python, "-m", "pip", "--disable-pip-version-check", command, "--quiet", *words]
    done = subprocess.run(list(map(str, called)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@contextmanager
def pages(command: list[str | Path], run: Path, **options) -> Iterator[str]:
    """The address of a run's pages, served by an installed command."""
    served = subprocess.Popen(
        [*map(str, command), "browse", str(run), "--port", "0", "--no-open"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    assert served.stdout is not None
    try:
        yield next(word for word in served.stdout.readline().split() if word.startswith("http://"))
    finally:
        served.terminate()
        served.communicate(timeout=30)


def fetch(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return answer.read()


def script_of(address: str) -> bytes:
    """The script that a page loads."""
    path = fetch(address).decode().partition('<script type="module" src="')[2].partition('"')[0]
    return fetch(f"{address.rstrip('/')}/{path.lstrip('/')}")


def bare_environment() -> dict[str, str]:
    """This process's variables, without those that would bring its own packages in."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
