"""Labelled texts of a user's own file: JSON lines or CSV with a column of texts and one of labels.

Place on the path: file → [texts, labels, groups] → probe. The label has two values. The positive one is what a high
score of the probe stands for: named, or true, 1, yes or the like where the other is their opposite, or else the rarer
one. Texts of one group (an author, a conversation) never stand on both sides of a split; equal texts are of one group.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monosemy.errors import UserError, unknown
from monosemy.support.numbers import count_text, counted_text
from monosemy.support.text_input import replace_halves

MAX_BYTES = 1_000_000_000
MAX_TEXTS = 50_000
MAX_CHARACTERS = 60_000
"""Of a text from which a probe is trained."""
MIN_OF_LABEL = 10
"""Texts that each label needs: with fewer, an AUROC on held-out ones says nothing."""
_OPPOSITES = (("true", "false"), ("1", "0"), ("yes", "no"), ("positive", "negative"), ("pos", "neg"))
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Columns:
    """The names of a file's columns."""

    text: str = "text"
    label: str = "label"
    group: str = ""
    """Empty: the column `group` where there is one."""


@dataclass(frozen=True)
class LabelledTexts:
    """n texts with a label of two values."""

    texts: list[str]
    is_positive: Array
    """bool [n]"""
    group: Array
    """int64 [n]: equal for texts that belong together."""
    positive: str
    negative: str
    grouped: bool
    """Whether the groups are the file's own."""
    n_contradictions: int
    """Texts that occur with both labels."""

    @property
    def n_groups(self) -> int:
        return len(np.unique(self.group))


def read_labelled(path: Path, columns: Columns, positive: str = "") -> LabelledTexts:
    """The texts of a file. Raises UserError, naming the row, for what cannot be learnt from."""
    rows, names = _rows(path), set[str]()
    texts, labels, groups = [], [], []
    group_column = columns.group
    for number, row in rows:
        names |= row.keys()
        if number == 1 and not group_column and "group" in row:
            group_column = "group"
        for kind, column in (("text", columns.text), ("label", columns.label), ("group", group_column)):
            if column and column not in row:
                raise unknown(
                    f"column of {kind}s in row {number} of {path}", column, list(row), fix=f"give --{kind}-column"
                )
        texts.append(_text(row[columns.text], number, path, most_characters=MAX_CHARACTERS))
        labels.append(_label(row[columns.label], number, path))
        groups.append(str(row[group_column]) if group_column else "")
        if len(texts) > MAX_TEXTS:
            raise UserError(f"{path} has more than the {MAX_TEXTS} texts that a probe takes; leave some out")
    if not texts:
        raise UserError(f"{path} has no rows; give JSON lines or CSV with columns {columns.text} and {columns.label}")
    positive, negative = _two_labels(labels, positive, path)
    is_positive = np.array([label == positive for label in labels])
    for label, n in ((positive, int(is_positive.sum())), (negative, int((~is_positive).sum()))):
        if n < MIN_OF_LABEL:
            n_text = counted_text(n, "text")
            raise UserError(f"{path} has {n_text} labelled {label!r}, a probe needs at least {MIN_OF_LABEL} of each")
    signs_by_text: dict[str, set[str]] = {}
    for text, label in zip(texts, labels, strict=True):
        signs_by_text.setdefault(text, set()).add("+" if label == positive else "-")
    numbers = _joined(texts, groups if group_column else None)
    contradictions = sum(len(of_text) > 1 for of_text in signs_by_text.values())
    return LabelledTexts(
        texts,
        is_positive,
        group=numbers,
        positive=positive,
        negative=negative,
        grouped=bool(group_column),
        n_contradictions=contradictions,
    )


def read_texts(path: Path, column: str, *, most_characters: int = MAX_CHARACTERS) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of every row of a file, without labels. Raises UserError, naming the row."""
    for number, row in _rows(path):
        if column not in row:
            raise unknown(f"column of texts in row {number} of {path}", column, list(row), fix="name it text")
        yield number, _text(row[column], number, path, most_characters=most_characters)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, row) of a file. Raises UserError for one that cannot be read."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} is larger than {MAX_BYTES // 10**6} MB; leave some texts out")
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a .jsonl or .csv file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no UTF-8 text; save it as UTF-8") from None
    if path.suffix.lower() not in ENDINGS:
        raise unknown("ending of a file of texts", path.suffix or path.name, ENDINGS)
    yield from ENDINGS[path.suffix.lower()](content, path)


def _json_rows(content: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(filter(str.strip, content.split("\n")), start=1):
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"row {number} of {path} is not JSON ({error}); write one object a line") from None
        if not isinstance(row, dict):
            raise UserError(f"row {number} of {path} is no object; write one such as {{'text': …, 'label': …}}")
        yield number, row


def _table_rows(content: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    csv.field_size_limit(max(len(content), csv.field_size_limit()))
    reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    try:
        for number, row in enumerate(reader, start=1):
            if None in row or None in row.values():
                raise UserError(f"row {number} of {path} has another number of cells than its heading; quote the texts")
            yield number, row
    except csv.Error as error:
        raise UserError(f"{path} is no CSV that can be read ({error}); quote texts with commas or line ends") from None


def _text(value: Any, number: int, path: Path, *, most_characters: int) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"row {number} of {path} has no text, got {str(value)[:40]!r}; write some or leave it out")
    if len(value) > most_characters:
        raise UserError(
            f"the text in row {number} of {path} has {count_text(len(value))} characters; at most "
            f"{count_text(most_characters)} are taken: cut it in two"
        )
    return replace_halves(value)


def _label(value: Any, number: int, path: Path) -> str:
    """The label as text: JSON's true and 1.0 as people write them."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if not isinstance(value, str | int | float) or not str(value).strip():
        raise UserError(f"row {number} of {path} has no label, got {str(value)[:40]!r}")
    return str(value).strip()


def _two_labels(labels: Sequence[str], positive: str, path: Path) -> tuple[str, str]:
    """(positive, negative); with a positive label of more than two, the others count as one."""
    counts = Counter(labels)
    if positive and positive not in counts:
        raise unknown(f"label in {path}", positive, list(counts), fix="give --positive one of them")
    if len(counts) == 1:
        raise UserError(f"all {len(labels)} texts of {path} are labelled {labels[0]!r}; a probe needs two labels")
    if len(counts) > 2:
        if not positive:
            texts = ", ".join(repr(label) for label, _ in counts.most_common(6))
            raise UserError(
                f"{path} has {len(counts)} labels ({texts}{', …' if len(counts) > 6 else ''}); give --positive LABEL "
                "to tell it from all others"
            )
        return positive, f"not {positive}"
    if not positive:
        by_lower = {label.lower(): label for label in counts}
        pair = next((p for p in _OPPOSITES if set(p) == set(by_lower)), None)
        positive = by_lower[pair[0]] if pair else min(counts, key=lambda label: (counts[label], label))
    return positive, next(label for label in counts if label != positive)


def _joined(texts: Sequence[str], groups: Sequence[str] | None) -> Array:
    """Numbers of groups; equal texts join the groups that they stand in."""
    parents: dict[tuple[str, str], tuple[str, str]] = {}

    def root(key: tuple[str, str]) -> tuple[str, str]:
        while parents.setdefault(key, key) != key:
            parents[key] = parents[parents[key]]
            key = parents[key]
        return key

    keys = []
    for number, text in enumerate(texts):
        group = ("group", groups[number]) if groups is not None else ("text", text)
        parents[root(group)] = root(("text", text))
        keys.append(group)
    roots = [root(key) for key in keys]
    number_of = {key: number for number, key in enumerate(dict.fromkeys(roots))}
    return np.array([number_of[key] for key in roots], np.int64)


ENDINGS = {".jsonl": _json_rows, ".ndjson": _json_rows, ".csv": _table_rows, ".tsv": _table_rows}
"""By the ending of a file's name: what reads its rows."""
