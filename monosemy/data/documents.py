"""Documents, the common form of every text; long ones are cut into sections.

Place on the data's path: the readers (`local`, `embedded`, `corpora`) yield `Document`s; `split` shuffles and `packing`
packs them. A file, row or speech longer than `section_chars` is cut at blank lines, so that even a corpus of a few long
works is shuffled well. Sections keep their `origin`. One origin is on both sides of the train/validation split only
where whole works cannot fill both (see `split`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Int32

TokenIds: TypeAlias = Int32[np.ndarray, " _"]
"""The tokens of one document, in order."""


@dataclass(frozen=True)
class Document:
    """A piece of text, or of token ids, that is packed as a unit."""

    text: str
    """The text; empty if it is given as `ids`."""
    source: str
    """The name of its text source, e.g. `english`."""
    index: int
    """Its number among the documents of its source, in reading order."""
    origin: str
    """The work that it is, or is a section of: a file, a row, an article."""
    _: KW_ONLY
    ids: TokenIds | None = None
    """The token ids, if the text is given as such."""
    notes: tuple[str, ...] = ()
    """Remarks of the reader, as keys of `READER_NOTES`; the record counts them."""

    @property
    def size(self) -> int:
        """Its number of characters, or of tokens if it is given as token ids."""
        return len(self.text) if self.ids is None else len(self.ids)

    @property
    def brings_frame(self) -> bool:
        """Whether it may have special tokens of its own at its ends, as chats and token ids do."""
        return self.ids is not None or "chat" in self.notes

    @cached_property
    def digest(self) -> int:
        """A 64-bit hash of the content alone, equal for copies."""
        # "surrogatepass", since a text may hold half a surrogate pair, which UTF-8 has no bytes for.
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
    """A stream of documents, with everything that is known about it before it is read."""

    name: str
    read: Callable[[], Iterator[Document]]
    """Starts reading at the first document; the order is the same each time."""
    identity: dict[str, Any]
    """Everything that decides the documents' content (hashes, pinned versions), as JSON; part of the fingerprint."""
    licence: str = "not stated"
    _: KW_ONLY
    share: float = 1.0
    """The source's share of the tokens of a mix; the shares of a mix add up to 1."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Further facts for the record (origin, files), not part of the fingerprint."""
    prepare: Callable[[], None] = lambda: None
    """Downloads the files that `read` needs. `read` would download them as well, but within the tokenising stage."""


def section_chars(context_length: int) -> int:
    """The number of characters after which a document is cut at the next blank line: about eight sequences of text,
    at least 8,192."""
    return max(8192, 32 * context_length)


def section_tokens(limit: int) -> int:
    """The length in tokens of sections of `limit` characters, for documents given as token ids."""
    return limit // 4


def cut_sections(lines: Iterable[str], limit: int) -> Iterator[str]:
    """Cuts a text, given as lines with their line ends, into sections; joined, these give the text again.

    A section ends at the first blank line after `limit` characters, or after any line once it has 2 · `limit`. A line
    longer than that is itself cut, after a space if possible.
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
    """Yields the line, or, if it is longer than 2 · `limit`, pieces of at most `limit` characters."""
    start = 0
    while len(line) > 2 * limit and len(line) - start > limit:
        # rfind gives −1 where there is no space, and −1 + 1 is false.
        end = line.rfind(" ", start, start + limit) + 1 or start + limit
        yield line[start:end]
        start = end
    yield line[start:]
