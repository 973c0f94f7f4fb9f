"""Reads text on the user's disk: one file in any format of `formats`, or a folder of such files.

Place on the data's path: a local `TextConfig.source` -> documents. Each row is a document, with its content in
`TextConfig.column` (`columns`); a .txt file is a document as a whole. Long documents are cut into sections. A folder is
read recursively; files of other kinds are ignored, and counted in the record. Texts must be UTF-8. Half a surrogate
pair (from JSON) becomes U+FFFD, and the record counts the documents.

Files are read as they are needed, several side by side, so that a folder of files with one topic each still gives a
mixed stream. A file is identified by the SHA-256 of its bytes; above 2 GiB, by that of its size and of 64 evenly spaced
pieces of 1 MiB.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from monosemy.data.chats import ChatTemplate
from monosemy.data.columns import Content
from monosemy.data.documents import Document, TextSource, cut_sections, section_tokens
from monosemy.data.formats import json_file, json_lines, parquet, plain_sections, table
from monosemy.data.opened import COMPRESSIONS, format_of, shown
from monosemy.errors import UserError, near_matches
from monosemy.support.files import sha256
from monosemy.support.text_input import replace_halves

FORMATS = (".txt", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_OPEN_FILES = 16
_SAMPLED_ABOVE_BYTES = 2 << 30


def is_text_file(name: str) -> bool:
    """Whether a file of this name is read. Compressed Parquet files are not, since Parquet compresses its content."""
    kind, compression = format_of(name)
    return kind in FORMATS and not (kind == ".parquet" and compression)


def local_source(
    path: Path, column: str, limit: int, chat: ChatTemplate, *, known_as: Path | None = None
) -> TextSource:
    """The text source of a file or folder, whose documents are cut after `limit` characters.

    `known_as` is the former path of a text that was moved: the documents' origins and the fingerprint stay those of
    that path. Raises UserError when there is nothing readable.
    """
    path = path.expanduser()
    if not path.exists():
        near = near_matches(path.name, os.listdir(path.parent)) if path.parent.is_dir() else []
        hint = f"; did you mean {' or '.join(str(path.parent / name) for name in near)}?" if near else ""
        raise UserError(f"text file or folder {shown(path)} does not exist{hint}")
    root = path if path.is_dir() else path.parent
    files, n_empty, n_ignored = _text_files(path)
    if len(files) == 0:
        raise _nothing_to_read(path, n_empty, n_ignored)
    known_as = known_as or path
    names = {file: shown(file.relative_to(root).as_posix()) for file in files}
    if not path.is_dir():
        names = {path: shown(known_as.name)}

    def read() -> Iterator[Document]:
        readers = (_documents(file, names[file], column, limit, chat=chat) for file in files)
        for index, document in enumerate(_interleave(readers, _OPEN_FILES)):
            yield replace(document, index=index)

    return TextSource(
        name="local",
        read=read,
        identity={"files": {names[file]: content_hash(file) for file in files}, "column": column},
        facts={"path": shown(known_as), "n_files": len(files), "n_empty_files": n_empty, "n_ignored_files": n_ignored},
    )


def documents_of(content: Content, source: str, origin: str, limit: int, *, chat: ChatTemplate) -> Iterator[Document]:
    """Yields the document of a row, or the sections of a long one, all with index 0."""
    notes: tuple[str, ...] = ()
    # Token ids are cut at a fixed length, since they have no lines.
    if isinstance(content, np.ndarray):
        length = section_tokens(limit)
        parts = [content[start : start + length] for start in range(0, len(content), length)]
        for part in parts:
            yield Document("", source, 0, origin, ids=part, notes=("cut",) if len(parts) > 1 else ())
        return
    if isinstance(content, list):
        content, notes = chat.write(content, origin)
    if (whole := replace_halves(content)) != content:
        content, notes = whole, (*notes, "replaced")
    sections = list(cut_sections(content.splitlines(keepends=True), limit)) if len(content) > limit else [content]
    for section in sections:
        yield Document(section, source, 0, origin, notes=("cut", *notes) if len(sections) > 1 else notes)


def _nothing_to_read(path: Path, n_empty: int, n_ignored: int) -> UserError:
    """The error for a file or folder without readable text: of another kind, empty, or a folder of such."""
    endings = f"{', '.join(FORMATS)} (all but the last also with {', '.join(COMPRESSIONS)})"
    if not path.is_dir() and n_ignored:
        return UserError(
            f"{shown(path)}: text files must end in one of {endings}, got {path.suffix!r}; rename or convert it"
        )
    if n_empty:
        folder_remark = " (so is every text file in it)" if path.is_dir() else ""
        return UserError(f"{shown(path)} is empty{folder_remark}; choose another")
    return UserError(f"folder {shown(path)} holds no {endings} file; choose another folder or file")


def content_hash(path: Path) -> str:
    """A hash that identifies a file's content; of files above 2 GiB only a sample is read (module docstring)."""
    size = path.stat().st_size
    if size <= _SAMPLED_ABOVE_BYTES:
        return sha256(path)
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for i in range(64):
            file.seek((size - (1 << 20)) * i // 63)
            digest.update(file.read(1 << 20))
    return "sampled-" + digest.hexdigest()


def _text_files(path: Path) -> tuple[list[Path], int, int]:
    """(text files that are not empty, number of empty ones, number of files of other kinds)."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    else:
        files = [path]
    texts = [p for p in files if is_text_file(p.name)]
    filled = [p for p in texts if p.stat().st_size > 0]
    # Ordered by a hash of the name, so that files with neighbouring names, such as the chapters of a book, are not read
    # side by side.
    filled.sort(key=lambda p: hashlib.sha256(os.fsencode(p.relative_to(path).as_posix())).digest())
    return filled, len(texts) - len(filled), len(files) - len(texts)


def _interleave(readers: Iterator[Iterator[Document]], n_open: int) -> Iterator[Document]:
    """Takes one document from each of `n_open` readers in turn; a reader that has ended is replaced by the next one."""
    running = list(islice(readers, n_open))
    while running:
        for reader in list(running):
            document = next(reader, None)
            if document is not None:
                yield document
                continue
            # The next reader takes the place of the one that ended, so that `n_open` stay open.
            following = next(readers, None)
            at = running.index(reader)
            running[at : at + 1] = [] if following is None else [following]


def _documents(path: Path, name: str, column: str, limit: int, *, chat: ChatTemplate) -> Iterator[Document]:
    """Yields every document of one file, all with index 0."""
    kind = format_of(path.name)[0]
    if kind == ".txt":
        for origin, section, cut_line in plain_sections(path, name, limit):
            yield Document(section, "local", 0, origin, notes=("cut",) if cut_line else ())
        return
    rows: Iterator[tuple[str, Content]]
    if kind in (".csv", ".tsv"):
        rows = table(path, name, column, "," if kind == ".csv" else "\t")
    elif kind == ".parquet":
        rows = parquet(path, name, column)
    else:
        rows = json_file(path, name, column) if kind == ".json" else json_lines(path, name, column)
    for origin, content in rows:
        yield from documents_of(content, "local", origin, limit, chat=chat)
