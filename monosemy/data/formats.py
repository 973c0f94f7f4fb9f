"""Reads the rows of a text file of any supported format.

Place on the data's path: lines (`opened`) or a Parquet file -> **(origin, content)** -> documents (`local`).

  .txt                plain text; a line with only `<|endoftext|>` ends a document, as in published story corpora
  .jsonl, .ndjson     one object per line
  .json               a list of objects, an object of lists (one per column), a single object, or JSON lines
  .csv, .tsv          fields quoted with ", column names in the first line; a .csv whose names are separated by ; is
                      read with that separator
  .parquet            any layout of strings, bytes, lists and structs

All are read as a stream except .json, which is read as a whole and may hold 1 GiB of text. A single row is always held
in memory as a whole.
The origin of a row is `file#number`: the line of a .jsonl or .csv file, counted from 1, or the row of a .parquet or
.json file, counted from 0.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from monosemy.data.columns import Content, content_of, missing_column
from monosemy.data.documents import cut_sections
from monosemy.data.opened import lines, shown
from monosemy.errors import UserError

SEPARATOR_LINE = "<|endoftext|>"
_MOST_JSON_CHARS = 1 << 30


def plain_sections(path: Path, name: str, limit: int) -> Iterator[tuple[str, str, bool]]:
    """Yields (origin, section, whether a line was cut) of a .txt file, with documents cut after `limit` characters.

    Separator lines end a document; the documents after the first have the origins `name#1`, `name#2`, …
    """
    all_lines = lines(path)
    ended = False
    cut_line = False
    part = 0

    def until_separator() -> Iterator[str]:
        # All calls share `all_lines`, so each continues where the one before stopped.
        nonlocal ended, cut_line
        for line in all_lines:
            if line.strip() == SEPARATOR_LINE:
                return
            cut_line |= len(line) > 2 * limit
            yield line
        ended = True

    while not ended:
        for section in cut_sections(until_separator(), limit):
            yield (name if part == 0 else f"{name}#{part}"), section, cut_line
        part += 1


def json_lines(path: Path, name: str, column: str) -> Iterator[tuple[str, Content]]:
    """Yields (origin, content) of the rows of a file of JSON lines. Raises UserError naming the line at fault."""
    for number, line in enumerate(lines(path), 1):
        if not line.strip():
            continue
        where = f"{shown(path)} line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # also a number of thousands of digits
            raise UserError(f"{where} is not JSON ({error}); each line must be one JSON object") from None
        if not isinstance(row, dict):
            raise UserError(f"{where} is not a JSON object but a {type(row).__name__}; write one per line")
        yield f"{name}#{number}", content_of(row, column, where)


def json_file(path: Path, name: str, column: str) -> Iterator[tuple[str, Content]]:
    """Yields (origin, content) of the rows of a .json file, which may also hold JSON lines. Raises UserError."""
    pieces: list[str] = []
    n_chars = 0
    for line in lines(path):
        pieces.append(line)
        n_chars += len(line)
        if n_chars > _MOST_JSON_CHARS:
            raise UserError(
                f"{shown(path)} holds more than 1 GiB, and a .json file is read whole; "
                "write it as JSON lines, e.g. `jq -c '.[]' file.json > file.jsonl`"
            )
    text = "".join(pieces)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if _holds_lines(pieces):
            yield from json_lines(path, name, column)
            return
        raise UserError(f"{shown(path)} is not JSON ({error}); correct it, or name JSON lines .jsonl") from None
    del pieces, text
    for number, row in enumerate(_rows(value, column, path)):
        where = f"{shown(path)} row {number}"
        if not isinstance(row, dict):
            raise UserError(f"{where} is not a JSON object but a {type(row).__name__}; a list must hold objects")
        yield f"{name}#{number}", content_of(row, column, where)


def _holds_lines(pieces: list[str]) -> bool:
    """Whether the first line that is not blank is a complete JSON object."""
    first = next((line for line in pieces if line.strip()), "")
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _rows(value: Any, column: str, path: Path) -> Iterator[Any]:
    """The rows of the value of a .json file: a list of rows, an object with a list per column, or a single row."""
    if isinstance(value, list):
        yield from value
        return
    if not isinstance(value, dict):
        raise UserError(f"{shown(path)} holds {type(value).__name__}; give a list of objects or one object")
    top = column if column in value else _first_step(column)
    texts = value.get(top)
    if isinstance(texts, list) and texts and all(isinstance(item, str | list | None) for item in texts):
        for item in texts:
            yield {top: item}
    else:
        yield value


def _first_step(column: str) -> str:
    """The first name in the path of a nested column."""
    return column.split(".")[0].split("[")[0]


def table(path: Path, name: str, column: str, delimiter: str) -> Iterator[tuple[str, Content]]:
    """Yields (origin, content) of the rows of a .csv or .tsv file. Raises UserError naming the line at fault."""
    # The module's limit of 128 KiB a field is too small for documents.
    csv.field_size_limit(sys.maxsize)
    all_lines = lines(path)
    first = next(all_lines, "")
    if delimiter == "," and "," not in first and ";" in first:
        delimiter = ";"

    def given() -> Iterator[str]:
        yield first
        yield from all_lines

    reader = csv.reader(given(), delimiter=delimiter, strict=True)
    number = 1
    try:
        header = next(reader, [])
        for fields in _numbered_from(reader):
            number, values = fields
            if values:
                yield f"{name}#{number}", _field(header, values, column, f"{shown(path)} line {number}")
    except csv.Error as error:
        raise UserError(
            f"{shown(path)} line {max(number, reader.line_num)} is not {path.suffix} ({error}); "
            "fields that hold quotes or line ends must be quoted"
        ) from None


def _numbered_from(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yields (line on which the row begins, fields) of the remaining rows."""
    # A quoted field may span lines, and the reader knows only the line it has reached.
    begins = reader.line_num + 1
    for fields in reader:
        yield begins, fields
        begins = reader.line_num + 1


def _field(header: list[str], values: list[str], column: str, where: str) -> str:
    """The field of a row in the named column. Raises UserError for a missing column or another number of fields."""
    if column not in header:
        raise missing_column(column, header, where)
    if len(values) != len(header):
        raise UserError(
            f"{where} has {len(values)} fields, and the first line names {len(header)}; "
            "quote fields that hold the separator"
        )
    return values[header.index(column)]


def parquet(path: Path, name: str, column: str) -> Iterator[tuple[str, Content]]:
    """Yields (origin, content) of the rows of a Parquet file. Raises UserError when it cannot be read."""
    try:
        with path.open("rb") as opened_file:
            file = pq.ParquetFile(opened_file)
            names = file.schema_arrow.names
            top = column if column in names else _first_step(column)
            if top not in names:
                raise missing_column(column, names, shown(path))
            if names.count(top) > 1:
                raise UserError(f"{shown(path)} has {names.count(top)} columns named {top!r}; rename all but one")
            kind = file.schema_arrow.field(top).type
            if pa.types.is_primitive(kind):
                raise UserError(f"{shown(path)}: column {top!r} holds {kind}, not text; choose a column of text")
            row = 0
            for batch in file.iter_batches(batch_size=1024, columns=[top]):
                for value in batch.column(0).to_pylist():
                    yield f"{name}#{row}", content_of({top: value}, column, f"{shown(path)} row {row}")
                    row += 1
    except UnicodeDecodeError as error:
        raise UserError(f"{shown(path)} column {column!r} is not UTF-8 ({error.reason}); rewrite it as text") from None
    except OSError as error:
        # Errors of the operating system have a number; those that pyarrow raises for damaged files have none.
        if error.errno is not None:
            raise UserError(f"cannot read {shown(path)}: {error.strerror}") from error
        raise _unreadable(path, error) from None
    except pa.ArrowException as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    first = str(error).splitlines()[0]
    return UserError(f"{shown(path)} is not a readable Parquet file ({first}); restore or replace it")
