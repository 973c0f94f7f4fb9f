"""Text on the user's disk: .txt, .jsonl and .parquet files, or a folder of them.

Place on the data's path: a local `TextConfig.source` -> documents. A .txt file is one document (cut into
sections when long; a line holding only `<|endoftext|>` ends a document, as in published story corpora); each
JSON line and each Parquet row is one, its text in `TextConfig.column`. A folder is read recursively; its other
files are ignored, and counted in the record. Texts must be UTF-8. Line ends become `\\n`; nothing else is changed.

Files are read as they are needed, several side by side, so that a folder of files with one topic each still
gives a mixed stream. A file is identified by the SHA-256 of its bytes (over 2 GiB: of its size and 64 evenly
spaced MiB).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from monosemy.data.documents import Document, TextSource, cut_sections
from monosemy.errors import UserError, near_matches
from monosemy.files import sha256

SUFFIXES = (".txt", ".jsonl", ".parquet")
SEPARATOR_LINE = "<|endoftext|>"
_OPEN_FILES = 16
_SAMPLED_ABOVE_BYTES = 2 << 30


def local_source(path: Path, column: str, limit: int) -> TextSource:
    """The text source of a file or folder; `limit` is the length from which .txt documents are cut.

    Raises UserError when nothing readable is there, or a file is empty.
    """
    path = path.expanduser()
    if not path.exists():
        near = near_matches(path.name, os.listdir(path.parent)) if path.parent.is_dir() else []
        hint = f"; did you mean {' or '.join(str(path.parent / name) for name in near)}?" if near else ""
        raise UserError(f"text file or folder {path} does not exist{hint}")
    root = path if path.is_dir() else path.parent
    files, n_empty, n_ignored = _text_files(path)
    if len(files) == 0:
        wanted = ", ".join(SUFFIXES)
        if not path.is_dir() and n_ignored:
            raise UserError(
                f"{path}: text files must end in one of {wanted}, got {path.suffix!r}; rename or convert it"
            )
        if n_empty:
            raise UserError(
                f"{path} is empty{' (so is every text file in it)' if path.is_dir() else ''}; choose another"
            )
        raise UserError(f"folder {path} holds no {wanted} file; choose another folder or file")
    names = {file: file.relative_to(root).as_posix() for file in files}

    def read() -> Iterator[Document]:
        readers = (_texts(file, names[file], column, limit) for file in files)
        for index, (origin, text) in enumerate(_interleave(readers, _OPEN_FILES)):
            yield Document(text, "local", index, origin)

    return TextSource(
        name="local",
        read=read,
        identity={"files": {names[file]: content_hash(file) for file in files}, "column": column},
        facts={"path": str(path), "n_files": len(files), "n_empty_files": n_empty, "n_ignored_files": n_ignored},
    )


def content_hash(path: Path) -> str:
    """Hash that identifies a file's content; see the module's docstring for files over 2 GiB."""
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
    """(text files that hold something, number of empty ones, number of files of other kinds)."""
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    else:
        found = [path]
    texts = [p for p in found if p.suffix.lower() in SUFFIXES]
    filled = [p for p in texts if p.stat().st_size > 0]
    # Order by a hash of the name: neighbours in the alphabet (a book's chapters) are not read side by side.
    filled.sort(key=lambda p: hashlib.sha256(p.relative_to(path).as_posix().encode()).digest())
    return filled, len(texts) - len(filled), len(found) - len(texts)


def _interleave(readers: Iterator[Iterator[tuple[str, str]]], n_open: int) -> Iterator[tuple[str, str]]:
    """One text of each reader in turn, `n_open` readers at a time."""
    running = list(islice(readers, n_open))
    while running:
        for reader in list(running):
            text = next(reader, None)
            if text is not None:
                yield text
                continue
            following = next(readers, None)
            at = running.index(reader)
            running[at : at + 1] = [] if following is None else [following]


def _texts(path: Path, name: str, column: str, limit: int) -> Iterator[tuple[str, str]]:
    """(origin, text) of every document of one file."""
    try:
        if path.suffix.lower() == ".txt":
            yield from _plain_texts(path, name, limit)
        elif path.suffix.lower() == ".jsonl":
            yield from _json_texts(path, name, column)
        else:
            yield from _parquet_texts(path, name, column)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, with `\\n` ends; UserError names the first byte that isn't text."""
    # Splitting the bytes at 0x0A is safe: in UTF-8 that byte is never part of another character.
    with path.open("rb") as file:
        start = _skip_mark(file, path)
        for raw in file:
            if (at := raw.find(0)) >= 0:
                raise UserError(f"{path} is binary: zero byte at offset {start + at}; text must be UTF-8")
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                at = start + error.start
                raise UserError(
                    f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {at}; "
                    f"convert it, e.g. `iconv -f latin1 -t utf-8`, or choose another file"
                ) from None
            start += len(raw)
            yield line[:-2] + "\n" if line.endswith("\r\n") else line


def _skip_mark(file: BinaryIO, path: Path) -> int:
    """Skips a UTF-8 byte order mark and returns the offset of the text; UserError for UTF-16."""
    head = file.read(3)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(
            f"{path} is not UTF-8: its byte order mark at offset 0 says UTF-16; convert it, `iconv -f utf-16 -t utf-8`"
        )
    start = 3 if head == b"\xef\xbb\xbf" else 0
    file.seek(start)
    return start


def _plain_texts(path: Path, name: str, limit: int) -> Iterator[tuple[str, str]]:
    lines = _lines(path)
    ended = False
    part = 0

    def until_separator() -> Iterator[str]:
        nonlocal ended
        for line in lines:
            if line.strip() == SEPARATOR_LINE:
                return
            yield line
        ended = True

    while not ended:
        for section in cut_sections(until_separator(), limit):
            yield (name if part == 0 else f"{name}#{part}"), section
        part += 1


def _json_texts(path: Path, name: str, column: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path} line {number} is not JSON ({error}); each line must be one JSON object") from None
        if not isinstance(row, dict):
            raise UserError(f"{path} line {number} is not a JSON object but a {type(row).__name__}; write one per line")
        yield f"{name}#{number}", text_of_row(row, column, f"{path} line {number}")


def text_of_row(row: dict, column: str, where: str) -> str:
    """The text of a row; a null is an empty text. UserError when the column is missing or isn't text."""
    if column not in row:
        raise missing_column(column, list(row), where)
    text = row[column]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise UserError(f"{where}: column {column!r} holds {type(text).__name__}, not text; choose a column of text")
    return text


def missing_column(column: str, existing: list[str], where: str) -> UserError:
    """The error for a `TextConfig.column` that isn't there."""
    near = near_matches(column, existing)
    hint = f" did you mean {' or '.join(map(repr, near))}?" if near else ""
    return UserError(f"{where} has no column {column!r};{hint} columns: {', '.join(existing)}; set the text's `column`")


def _parquet_texts(path: Path, name: str, column: str) -> Iterator[tuple[str, str]]:
    try:
        file = pq.ParquetFile(path)
        if column not in file.schema_arrow.names:
            raise missing_column(column, file.schema_arrow.names, str(path))
        kind = file.schema_arrow.field(column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise UserError(f"{path}: column {column!r} holds {kind}, not text; choose a column of text")
        row = 0
        for batch in file.iter_batches(batch_size=1024, columns=[column]):
            for text in batch.column(0).to_pylist():
                yield f"{name}#{row}", text or ""
                row += 1
    except pa.ArrowInvalid as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{path} is not a readable Parquet file ({first}); restore or replace it") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} column {column!r} is not UTF-8 ({error.reason}); rewrite it as text") from None
