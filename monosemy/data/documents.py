"""What every kind of text becomes first: documents, long ones cut into sections.

Place on the data's path: the readers (`local`, `embedded`, `hub`) yield `Document`s, `packing` shuffles and
packs them. A file, row or speech longer than `section_chars` is cut at blank lines, so that a corpus of a few long
works still shuffles well; the sections keep their `origin`, and one origin lies on both sides of the
train/validation split only where whole works cannot fill both (see `split`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int32]


@dataclass(frozen=True)
class Document:
    """A piece of text, or of token ids, that is packed as a whole."""

    text: str
    """Empty where there are `ids`."""
    source: str
    """Name of the text source, e.g. `english`."""
    index: int
    """Number among the documents of its source, in reading order."""
    origin: str
    """The work it is (a section of): a file, a row, an article."""
    ids: TokenIds | None = None
    """The tokens themselves, where the text is given as ids."""
    notes: tuple[str, ...] = ()
    """What the reader did to it, counted in the record: keys of `READER_NOTES`."""

    @property
    def size(self) -> int:
        """Characters, or tokens where they are given."""
        return len(self.text) if self.ids is None else len(self.ids)

    @property
    def brings_frame(self) -> bool:
        """Whether special tokens at its ends are part of it, as in chats and in token ids."""
        return self.ids is not None or "chat" in self.notes

    @cached_property
    def digest(self) -> int:
        """64 bits of a hash of the content alone: equal for copies."""
        content = self.text.encode("utf-8", "surrogatepass") if self.ids is None else self.ids.tobytes()
        return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


READER_NOTES = {
    "cut": "sections of rows or lines that were cut because of their length",
    "chat": "chats written out by the model's chat template",
    "system": "chats whose system message was put before the first user message (the template takes none)",
    "replaced": "documents with half surrogate pairs, each replaced by U+FFFD",
}


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


def section_tokens(limit: int) -> int:
    """Length of the sections of a document given as token ids, for sections of `limit` characters."""
    return limit // 4


def cut_sections(lines: Iterable[str], limit: int) -> Iterator[str]:
    """Cuts a text, given as lines with their line ends, into sections; joined together they are the text.

    A section ends at the first blank line after `limit` characters, or after any line at `2 limit`. A line longer
    than that is itself cut, after a space where it has one.
    """
    section: list[str] = []
    n_chars = 0
    for line in (piece for whole in lines for piece in _cut_line(whole, limit)):
        section.append(line)
        n_chars += len(line)
        if n_chars >= 2 * limit or (n_chars >= limit and not line.strip()):
            yield "".join(section)
            section, n_chars = [], 0
    if section:
        yield "".join(section)


def _cut_line(line: str, limit: int) -> Iterator[str]:
    """The line, or pieces of at most `limit` characters of one longer than `2 limit`."""
    start = 0
    while len(line) > 2 * limit and len(line) - start > limit:
        end = line.rfind(" ", start, start + limit) + 1 or start + limit
        yield line[start:end]
        start = end
    yield line[start:]
