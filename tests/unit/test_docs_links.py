"""Every relative link of the documents leads to a file that exists, and every anchor to one of its headings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "research").glob("*/README.md"),
    ]
)


def prose(document: Path) -> str:
    """A document without its blocks of code and its code words, in which brackets are no links."""
    return re.sub(r"```.*?```|`[^`\n]*`", "``", document.read_text(), flags=re.DOTALL)


def targets(document: Path) -> list[str]:
    """Where the relative links, pictures included, lead."""
    in_brackets = re.findall(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)", prose(document))
    named = re.findall(r"^\[[^\]]+\]:\s*(\S+)", prose(document), flags=re.MULTILINE)
    in_html = re.findall(r"""(?:href|src|srcset)=["']([^"' ]+)""", prose(document))
    return [link for link in in_brackets + named + in_html if not re.match(r"[a-z][a-z0-9+.-]*:|//", link)]


def anchors(document: Path) -> set[str]:
    """The anchors that a forge gives the headings: small letters, no punctuation, hyphens for spaces."""
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    names: list[str] = []
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, flags=re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        n_before = sum(earlier == name for earlier in names)
        names.append(name)
        if n_before:
            names.append(f"{name}-{n_before}")
    return {*names, *re.findall(r"""<a (?:id|name)=["']([^"']+)""", text)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_anchors_exist(document):
    dead = []
    for link in targets(document):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            dead.append(link)
    assert not dead


def test_a_dead_link_would_be_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Is it so?\n\n[a](page.md#is-it-so) [b](gone.md) ![c](c.png) [d](https://e.org/x) `[f](code.md)`\n"
    )
    assert targets(page) == ["page.md#is-it-so", "gone.md", "c.png"]
    assert anchors(page) == {"is-it-so"}
