"""The built pages belong to their source: by the hashes that the build recorded, and by building anew where Node is."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import monosemy

APP = Path(monosemy.__file__).parent / "app"
WEB, STATIC = APP / "web", APP / "static"
STALE = "the built pages don't match their source: run `make web` and commit monosemy/app/static"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def source_hash(web: Path) -> str:
    """As build.mjs computes it: one line per file, hash and path, sorted by path, hashed once more."""
    top = [web / name for name in ("build.mjs", "package.json", "package-lock.json", "tsconfig.json")]
    files = top + [path for path in (web / "src").rglob("*") if path.is_file()]
    lines = {path.relative_to(web).as_posix(): sha256(path) for path in files}
    text = "".join(f"{lines[name]}  {name}\n" for name in sorted(lines))
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_built_pages_come_from_this_source():
    record = json.loads((STATIC / "build.json").read_text())
    assert record["source_sha256"] == source_hash(WEB), STALE


def test_no_built_file_was_changed_added_or_lost():
    record = json.loads((STATIC / "build.json").read_text())["files"]
    there = {path.relative_to(STATIC).as_posix(): sha256(path) for path in STATIC.rglob("*") if path.is_file()}
    there.pop("build.json")
    assert there == record, STALE


def test_a_changed_source_is_noticed(tmp_path):
    copy = Path(shutil.copytree(WEB, tmp_path / "web", ignore=shutil.ignore_patterns("node_modules")))
    assert source_hash(copy) == source_hash(WEB)
    (copy / "src" / "app.tsx").write_text("export {};\n")
    assert source_hash(copy) != source_hash(WEB)


@pytest.mark.skipif(
    not (shutil.which("node") and (WEB / "node_modules").is_dir()),
    reason="no Node or no packages (`make web` installs them); the recorded hashes are checked all the same",
)
def test_building_again_gives_the_same_bytes(tmp_path):
    subprocess.run(["node", str(WEB / "build.mjs"), str(tmp_path / "static")], check=True, timeout=120)
    for name in json.loads((STATIC / "build.json").read_text())["files"]:
        assert (tmp_path / "static" / name).read_bytes() == (STATIC / name).read_bytes(), STALE


def test_the_pages_ask_no_other_host_for_anything():
    for name in ("index.html", "app.js", "app.css", "theme.js"):
        text = (STATIC / name).read_text()
        assert "//cdn" not in text
        assert "https://" not in text.replace("https://www.w3.org/", "")


@pytest.mark.parametrize(("name", "most"), [("app.js", 200_000), ("graph.js", 65_000), ("app.css", 32_000)])
def test_the_pages_stay_light(name, most):
    """Bytes before compression: what a first visit reads, and what every exported graph carries."""
    assert (STATIC / name).stat().st_size < most


def test_every_word_of_the_pages_glossary_stands_on_a_page():
    source = (WEB / "src" / "parts" / "term.tsx").read_text()
    terms = source.split("export const TERMS = {")[1].split("} as const;")[0]
    words = re.findall(r'^  "?([\w ]+?)"?: "', terms, re.MULTILINE)
    assert len(words) > 15
    pages = "".join(path.read_text() for path in (WEB / "src").rglob("*.tsx") if path.name != "term.tsx")
    assert [word for word in words if f'word="{word}"' not in pages] == []
