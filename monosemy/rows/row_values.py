"""What belongs to each row beside its numbers: a text, or a picture, from a column or from a file of its own.

Place on the path: the user's file → [values of some rows] → texts and thumbnails of the feature database. A *place* is
written as on the command line: the name of a column of the Parquet file that holds the rows, or a file with one entry
for each row: `titles.txt` (a line each), `titles.jsonl` (a string, or an object and the field to take:
`titles.jsonl:title`), `titles.parquet:title`.

Limits: files are read from start to end, and values of rows that are not asked for are dropped at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monosemy.activations.tables import SUFFIXES
from monosemy.errors import UserError, unknown
from monosemy.rows.parquet import iterate_column
from monosemy.rows.settings import RowsConfig
from monosemy.support.flags import flag_of
from monosemy.support.numbers import count_text

TEXT, IMAGE = flag_of("rows.text"), flag_of("rows.image")
LINES, OBJECTS, TABLE = ".txt", (".jsonl", ".ndjson"), ".parquet"
_SHOWN = f"a column of the Parquet file, or a file such as titles{LINES}, titles.jsonl:FIELD or titles{TABLE}:COLUMN"


@dataclass(frozen=True)
class Place:
    """Where the values are: a file, and the field or column in it."""

    path: Path
    field: str | None

    @staticmethod
    def parse(word: str, rows_file: Path | None, flag: str) -> Place:
        """The place that a word names; `rows_file` is the file with the rows, None where they are in no file.

        Raises UserError, which begins with `flag`, for a word that names neither a column nor a file.
        """
        path, field = _split(word)
        if path is not None:
            if not path.is_file():
                raise UserError(f"{flag} {word}: {path} does not exist; give {_SHOWN}")
            return Place(path, field)
        if rows_file is None or rows_file.suffix != TABLE:
            raise UserError(
                f"{flag} {word!r} would be a column of a Parquet file, and the rows are in {rows_file or 'none'}; give "
                f"a file with one entry for each row, such as titles{LINES} or titles.jsonl:FIELD"
            )
        return Place(rows_file, word)


def _split(word: str) -> tuple[Path | None, str | None]:
    """(file, field) of a word; (None, None) for one that names no file of a kind that can be read."""
    for text, field in ((word, None), word.rpartition(":")[::2]):
        path = Path(text).expanduser()
        if path.suffix in (LINES, *OBJECTS, TABLE) and (field is None or field):
            return path, field
    return None, None


def place_of(settings: RowsConfig, word: str, flag: str) -> Place:
    """The place of a run's texts or pictures. Raises UserError as `Place.parse`."""
    source = Path(settings.source or "").expanduser()
    return Place.parse(word, source if source.suffix in SUFFIXES else None, flag)


def check_described(settings: RowsConfig, n_rows: int) -> None:
    """Raises UserError, before anything is trained, where texts or pictures are not there for each of the rows."""
    first = np.zeros(1, int)
    if settings.text:
        texts_of(place_of(settings, settings.text, TEXT), first, n_rows, most_characters=1, flag=TEXT)
    if settings.image:
        values_of(place_of(settings, settings.image, IMAGE), first, n_rows, IMAGE)


def values_of(place: Place, rows: np.ndarray, n_rows: int, flag: str) -> dict[int, Any]:
    """The values of some rows (increasing numbers) of a table of `n_rows`.

    Raises UserError, which begins with `flag`, when the place has not one value for each row of the table, or cannot be
    read.
    """
    wanted = np.zeros(n_rows, bool)
    wanted[rows] = True
    values: dict[int, Any] = {}
    number = -1
    for number, value in enumerate(_values(place, flag)):
        if number < n_rows and wanted[number]:
            values[number] = value
    if number + 1 != n_rows:
        raise UserError(
            f"{flag} {place.path} has {count_text(number + 1)} entries, and there are {count_text(n_rows)} rows; give "
            "one for each row"
        )
    return values


def texts_of(place: Place, rows: np.ndarray, n_rows: int, *, most_characters: int, flag: str) -> list[str]:
    """The texts of some rows, cut to `most_characters`; numbers and dates as they are printed, nothing as ``.

    Raises UserError as `values_of` does, and for values that are no texts.
    """
    return [_text(value, most_characters, flag) for value in values_of(place, rows, n_rows, flag).values()]


def _text(value: Any, most_characters: int, flag: str) -> str:
    if isinstance(value, bytes | Mapping | list | tuple):
        raise UserError(f"{flag}: the values are {type(value).__name__}, not texts; choose a column or field of texts")
    text = " ".join(("" if value is None else str(value)).split())
    return text if len(text) <= most_characters else text[: most_characters - 1] + "…"


def _values(place: Place, flag: str) -> Iterator[Any]:
    """Every value of a place, in order."""
    if place.path.suffix == TABLE:
        yield from iterate_column(place.path, place.field, flag)
        return
    try:
        with place.path.open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file):
                content = line.rstrip("\r\n")
                yield content if place.path.suffix == LINES else _json_value(content, place, number, flag)
    except OSError as error:
        raise UserError(f"{flag} {place.path} cannot be read ({error.strerror})") from None


def _json_value(line: str, place: Place, number: int, flag: str) -> Any:
    """The value of one line of JSON."""
    try:
        value = json.loads(line)
    except ValueError:
        raise UserError(f"{flag} {place.path}: line {number + 1} is no JSON; write one value on each line") from None
    if not isinstance(value, dict):
        return value
    field = place.field or "text"
    if field not in value:
        raise unknown(f"field in line {number + 1} of {place.path}", field, list(value))
    return value[field]
