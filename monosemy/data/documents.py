"""What every kind of text becomes first: documents, long ones cut into sections.

Place on the data's path: the readers (`local`, `embedded`, `hub`) yield `Document`s, `packing` shuffles and
packs them. A file or speech longer than `section_chars` is cut at blank lines, so that a corpus of a few long
works still shuffles well; the sections keep their `origin`, and one origin never lies on both sides of the
train/validation split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Document:
    """A piece of text that is packed as a whole."""

    text: str
    source: str
    """Name of the text source, e.g. `english`."""
    index: int
    """Number among the documents of its source, in reading order."""
    origin: str
    """The work it is (a section of): a file, a row, an article. The split never divides an origin."""


@dataclass(frozen=True)
class TextSource:
    """One stream of documents and what is known about it before reading it."""

    name: str
    read: Callable[[], Iterator[Document]]
    """Starts reading from the first document; the order is the same each time."""
    identity: dict[str, Any]
    """What decides the documents' content (hashes, pinned versions), as JSON: goes into the fingerprint."""
    licence: str = "not stated"
    share: float = 1.0
    """Share of the tokens this source gets in its mix; the shares of a mix add up to 1."""
    facts: dict[str, Any] = field(default_factory=dict)
    """More for the record (origin, files), outside the fingerprint."""
    prepare: Callable[[], None] = lambda: None
    """Downloads what `read` needs, once; `read` does it too, but then inside the tokenising stage."""


def section_chars(context_length: int) -> int:
    """Length from which a document is cut at the next blank line: about eight sequences, at least 8,192."""
    return max(8192, 32 * context_length)


def cut_sections(lines: Iterable[str], limit: int) -> Iterator[str]:
    """Cuts a text, given as lines with their line ends, into sections; joined together they are the text.

    A section ends at the first blank line after `limit` characters, or after any line at `2 limit`.
    """
    section: list[str] = []
    n_chars = 0
    for line in lines:
        section.append(line)
        n_chars += len(line)
        if n_chars >= 2 * limit or (n_chars >= limit and not line.strip()):
            yield "".join(section)
            section, n_chars = [], 0
    if section:
        yield "".join(section)
