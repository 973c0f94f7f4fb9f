"""What a page of the built site would ask other places for: nothing may be. `make docs` fails where something is found.

Read are the tags that load something by themselves, style sheets, and what makes the theme's own script fetch: a
diagram (from unpkg.com) or a repository's figures (from its forge). Links that a reader follows are no requests.

Run: python docs/site_requests.py site
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

LOADS = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src",),
    "image": ("href", "xlink:href"),
    "img": ("src", "srcset"),
    "input": ("src",),
    "link": ("href",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "track": ("src",),
    "use": ("href", "xlink:href"),
    "video": ("src", "poster"),
}
"""The tags that load what an attribute names, without a click."""
ONLY_NAMED = {"canonical", "alternate", "next", "prev", "author", "license"}
"""Kinds of <link> that name a page and load nothing."""
FETCHED_BY_THE_THEME = re.compile(r'class="[^"]*\bmermaid\b|data-md-component="source"')
_STYLE = re.compile(r"""(?:url\(\s*|@import\s+(?!url))["']?([^"')\s]+)""")
_ELSEWHERE = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//|(?:https?|ftp|wss?):", re.IGNORECASE)


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self._in_style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self._in_style = tag == "style"
        self.addresses += _STYLE.findall(attributes.get("style", ""))
        if tag == "link" and ONLY_NAMED & set(attributes.get("rel", "").split()):
            return
        for name in LOADS.get(tag, ()):
            value = attributes.get(name, "")
            parts = value.split(",") if name == "srcset" and not value.startswith("data:") else [value]
            self.addresses += [part.split()[0] for part in parts if part.strip()]
        if tag == "meta" and attributes.get("http-equiv", "").lower() == "refresh":
            self.addresses += re.findall(r"url=(\S+)", attributes.get("content", ""))

    def handle_endtag(self, tag: str) -> None:
        self._in_style = self._in_style and tag != "style"

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.addresses += _STYLE.findall(data)


def requests_of(path: Path) -> Iterator[str]:
    """The addresses elsewhere that a page or style sheet loads by itself, and what would make the theme fetch."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".css":
        addresses = _STYLE.findall(text)
    else:
        addresses = _Page(text).addresses
        yield from FETCHED_BY_THE_THEME.findall(text)
    yield from (address for address in addresses if _ELSEWHERE.match(address))


def requests_of_site(site: Path) -> list[str]:
    """`page: address` of everything in the folder. Raises ValueError for a folder without pages."""
    pages = sorted(path for path in site.rglob("*") if path.suffix in (".html", ".css", ".svg"))
    if not any(path.suffix == ".html" for path in pages):
        raise ValueError(f"{site} has no pages: make docs")
    return [f"{path.relative_to(site)}: {address}" for path in pages for address in requests_of(path)]


if __name__ == "__main__":
    if asked := requests_of_site(Path(sys.argv[1])):
        sys.exit("\n".join(["error: the site would ask other places for:", *asked]))
