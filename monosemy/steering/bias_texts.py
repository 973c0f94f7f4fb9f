"""Texts with two continuations each, in one group or two: what a bias is measured on, read from a file.

Place on the path: a .csv, .tsv or .jsonl file → [items, split into halves] → bias. Columns, or keys of each line:

    group     the side that the text belongs to; two different ones, or none for a single group
    text      what the model reads; may be empty where `first` and `second` are whole sentences
    first     a continuation …
    second    … and the one that it is compared with; both may be given once for all rows (`--words she he`)
    item      texts with the same item are averaged and stay together in one half (e.g. an occupation in several
              sentences); every text by itself where there is none

In each group the items are dealt out in turns: the first, third, … to search on, the second, fourth, … to judge on.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from monosemy.errors import UserError, unknown
from monosemy.support.numbers import counted_text
from monosemy.support.text_input import require_characters

COLUMNS = ("group", "text", "first", "second", "item")
MIN_ITEMS = 4
"""Items of a group at least: two in each half, so that there are intervals."""
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class BiasText:
    """One text with its two continuations."""

    group: str
    text: str
    first: str
    second: str
    item: str
    """Texts of a group with the same item belong together."""

    def __post_init__(self) -> None:
        for name in ("text", "first", "second"):
            require_characters(f"the {name}", getattr(self, name))
        if not self.first or not self.second:
            raise UserError(
                f"{self._where} has no pair of continuations: give columns 'first' and 'second', or --words A B"
            )
        if self.first == self.second:
            raise UserError(f"{self._where} has the same continuation twice, {self.first!r}: nothing can be compared")

    @property
    def _where(self) -> str:
        return f"the row {(self.text or self.first)[:40]!r}"


@dataclass(frozen=True)
class BiasTexts:
    """All texts, with their one or two groups in the order of first mention."""

    texts: tuple[BiasText, ...]

    def __post_init__(self) -> None:
        if not self.texts:
            raise UserError("no texts: a bias is measured on at least one group of texts")
        if len(self.groups) > 2:
            raise UserError(
                f"a bias lies between two groups (or in one), got {len(self.groups)}: {', '.join(self.groups[:6])}; "
                "keep two"
            )

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(text.group for text in self.texts))

    def items(self, group: str) -> list[str]:
        """The items of a group, in the order of first mention."""
        return list(dict.fromkeys(text.item for text in self.texts if text.group == group))

    def halves(self) -> tuple[BiasTexts, BiasTexts]:
        """(texts to search on, texts to judge on). Raises UserError for a group of fewer than `MIN_ITEMS` items."""
        to_search: set[tuple[str, str]] = set()
        for group in self.groups:
            items = self.items(group)
            if len(items) < MIN_ITEMS:
                name = f"group {group!r}" if group else "the file"
                raise UserError(
                    f"{name} has {counted_text(len(items), 'item')}, and at least {MIN_ITEMS} are needed, half of them "
                    "to search on and half to judge on; add more"
                )
            to_search |= {(group, item) for item in items[0::2]}
        search = tuple(text for text in self.texts if (text.group, text.item) in to_search)
        judge = tuple(text for text in self.texts if (text.group, text.item) not in to_search)
        return BiasTexts(search), BiasTexts(judge)


def of_templates(groups: Mapping[str, Sequence[str]], templates: Iterable[str], first: str, second: str) -> BiasTexts:
    """Every word of every group in every template (`The {} said that`), with the same two continuations."""
    return BiasTexts(
        tuple(
            BiasText(group, template.format(word), first, second, item=word)
            for group, words in groups.items()
            for word in words
            for template in templates
        )
    )


def read_bias_texts(path: Path, words: Sequence[str] = ()) -> BiasTexts:
    """The texts of a file; `words` are the two continuations of rows that have none of their own.

    Raises UserError for a file that cannot be read, another ending, unknown or missing columns, and as `BiasTexts`
    does.
    """
    path = path.expanduser()
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a .csv, .tsv or .jsonl file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no UTF-8 text; save it as UTF-8") from None
    rows = list(_rows(path, content))
    if not rows:
        raise UserError(f"{path} has no rows; each is a text with its group and continuations")
    for key in dict.fromkeys(key for row in rows for key in row):
        if key not in COLUMNS:
            raise unknown("column", str(key), COLUMNS)
    first, second = words or ("", "")
    return BiasTexts(
        tuple(
            BiasText(
                row.get("group", ""),
                row.get("text", ""),
                row.get("first") or first,
                row.get("second") or second,
                item=row.get("item") or f"row {number}",
            )
            for number, row in enumerate(rows, start=1)
        )
    )


def _rows(path: Path, content: str) -> Iterable[dict[str, str]]:
    ending = path.suffix.lower()
    if ending in _DELIMITERS:
        reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=_DELIMITERS[ending], strict=True)
        try:
            for row in reader:
                if None in row:
                    raise UserError(
                        f"{path}, line {reader.line_num}: more cells than columns; put texts with commas in quotes"
                    )
                yield {key.strip(): value or "" for key, value in row.items()}
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: {error}") from None
    elif ending in (".jsonl", ".ndjson"):
        for number, line in enumerate(content.splitlines(), start=1):
            if line.strip():
                yield _object(path, number, line)
    else:
        raise UserError(f"{path} ends in {ending or 'nothing'!r}; give a .csv, .tsv or .jsonl file")


def _object(path: Path, number: int, line: str) -> dict[str, str]:
    try:
        row: Any = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise UserError(f"{path}, line {number}: not JSON ({error})") from None
    if not isinstance(row, dict) or not all(isinstance(value, str) for value in row.values()):
        raise UserError(f'{path}, line {number}: give an object of texts, e.g. {{"group": "a", "text": "…"}}')
    return row
