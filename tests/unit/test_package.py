"""A wheel, built and installed elsewhere, has everything: the command, the pages, the report's parts, its version."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from app_cases import page_run
from wheels import ROOT, build_wheel, fetch, pages, pip, script_of

import monosemy

DATA = {".html", ".css", ".js", ".svg", ".woff2", ".png", ".ico", ".json", ".toml", ".typed"}
"""The kinds of files, beside modules, that the package reads."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def site(wheel) -> Path:
    """A folder into which the wheel alone is installed; its dependencies are those of this environment."""
    pip(sys.executable, "install", "--no-deps", "--no-index", "--target", wheel.parent / "site", wheel)
    return wheel.parent / "site"


def installed(site: Path, *words: str | Path, **options) -> subprocess.Popen[str]:
    """The installed command, away from the source tree."""
    command = [sys.executable, site / "bin" / "monosemy", *words]
    return subprocess.Popen(
        list(map(str, command)), cwd=site.parent, env=with_path(site), stdout=subprocess.PIPE, text=True, **options
    )


def with_path(site: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(site)}


def test_the_wheel_holds_every_file_that_the_package_reads(wheel):
    tracked = subprocess.run(["git", "ls-files", "monosemy"], cwd=ROOT, capture_output=True, text=True, check=True)
    needed = {
        name
        for name in tracked.stdout.split()
        if not name.startswith("monosemy/app/web/") and Path(name).suffix in DATA | {".py"}
    }
    assert needed - set(zipfile.ZipFile(wheel).namelist()) == set()


def test_the_metadata_has_the_version_of_the_source_and_the_pythons_that_are_supported(wheel):
    with zipfile.ZipFile(wheel) as files:
        (name,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_string(files.read(name).decode())
    assert metadata["Version"] == monosemy.__version__
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {monosemy.__version__}\n" in citation
    pythons = [c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier") if " :: 3." in c]
    assert pythons == ["3.11", "3.12", "3.13"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    assert set(metadata.get_all("Provides-Extra")) == set(project["optional-dependencies"])


def test_the_installed_command_helps_and_serves_the_pages(site, tmp_path):
    helped = installed(site, "--help")
    text = helped.communicate(timeout=60)[0]
    assert helped.returncode == 0
    assert "\n  try " in text
    assert f"version {monosemy.__version__}" in text
    tried = installed(site, "try", "--help")
    assert "--no-open" in tried.communicate(timeout=60)[0]
    assert tried.returncode == 0
    # with its defaults it would fetch a model; it reads its settings and rooms, and refuses
    tried = installed(site, "try", "--tokens", "100k", stderr=subprocess.PIPE)
    assert "a first look needs text of 150,000 tokens or more, got 100,000" in tried.communicate(timeout=120)[1]
    assert tried.returncode == 2
    run = page_run(tmp_path / "run")
    with pages([sys.executable, site / "bin" / "monosemy"], run, cwd=site.parent, env=with_path(site)) as address:
        assert len(script_of(address)) > 50_000
        assert b'"saes"' in fetch(f"{address}api/run")
    assert str(site) in subprocess.run(
        [sys.executable, "-c", "import monosemy; print(monosemy.__file__)"],
        cwd=tmp_path, env=with_path(site), capture_output=True, text=True,
    ).stdout  # fmt: skip
