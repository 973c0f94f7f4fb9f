"""The page's built files, kept in memory. An address is only ever a key of this table, never a path.

Place on the path: monosemy/app/static/ (built from web/) → [assets] → server.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("static")
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".woff2": "font/woff2",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
}
MISSING = (
    b"<!doctype html><meta charset=utf-8><title>monosemy</title><p>The page was not built into this installation. "
    b"In a checkout run <code>make web</code>, then start again. The API answers under <code>/api/</code>."
)
REPORT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "sandbox allow-scripts allow-popups; frame-ancestors 'none'"
)
"""Content-security policy of the run's own report.html, which contains its styles and scripts.

`sandbox` without `allow-same-origin` gives the report an origin of its own, from which it cannot reach the API.
"""


@dataclass(frozen=True)
class Asset:
    """A file to serve; `tag` is its ETag, a hash of the content in quotation marks."""

    content: bytes
    media_type: str
    tag: str


def load_assets(folder: Path = FOLDER) -> dict[str, Asset]:
    """Every built file by its name relative to the folder; if nothing was built, index.html explains how to build."""
    assets = {
        path.relative_to(folder).as_posix(): _asset(path.read_bytes(), TYPES[path.suffix])
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in TYPES and not path.name.startswith(".")
    }
    assets.setdefault("index.html", _asset(MISSING, TYPES[".html"]))
    return assets


def _asset(content: bytes, media_type: str) -> Asset:
    return Asset(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def matches_tag(header: str, tag: str) -> bool:
    """Whether an If-None-Match header names the tag."""
    # a browser may list several tags
    return tag in re.split(r"\s*,\s*", header.strip())
