"""Records: what a study measured, as compact JSON in its folder `results/`, one row a line.

A record is what the study's tables, figures and sentences are made from, not all that a run saw: what a table does not
need (single seeds' curves, answers, histograms) stays in the run's folder and comes again with the command. Numbers
have seven significant digits. A file reads like a table: what fits on a line is one line, and small values share one.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from monosemy.support.files import read_json, write_text

ROOT = Path(__file__).parent
DIGITS = 7
WIDTH = 1_200
"""Letters a line, beyond which a mapping or a list is broken up."""
SMALL = 400
"""Letters up to which a value shares a line."""


def record_path(study: str, name: str = "") -> Path:
    """research/STUDY/results/NAME.json; the name is the study's own where it has one record."""
    return ROOT / study / "results" / f"{name or study}.json"


def figures_folder(study: str) -> Path:
    return ROOT / study / "figures"


def records_of(study: str) -> dict[str, Any]:
    """All records of a study, by name."""
    return {path.stem: read_json(path) for path in sorted((ROOT / study / "results").glob("*.json"))}


def write_record(path: Path, record: Mapping[str, Any], without: Collection[str] = ()) -> None:
    """Writes a record, rounded and without the entries whose path matches (`rules/*/tasks`; * matches any path)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "\n".join(_lines(pruned(rounded(record), without))) + "\n")


def rounded(value: Any) -> Any:
    """Every float with DIGITS significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


def pruned(value: Any, without: Collection[str], path: str = "") -> Any:
    if isinstance(value, list):
        return [pruned(item, without, f"{path}/{i}") for i, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    paths = {key: f"{path}/{key}".removeprefix("/") for key in value}
    return {
        key: pruned(item, without, paths[key])
        for key, item in value.items()
        if not any(fnmatch(paths[key], pattern) for pattern in without)
    }


def _lines(value: Any, prefix: str = "") -> list[str]:
    """The JSON of a value, broken up only where it is wider than a line; `prefix`: its key."""
    text = _dump(value)
    if len(prefix + text) <= WIDTH or not isinstance(value, dict | list) or not value:
        return [prefix + text]
    keyed = value.items() if isinstance(value, dict) else (("", item) for item in value)
    parts = [_lines(item, f"{_dump(key)}: " if key != "" or isinstance(value, dict) else "") for key, item in keyed]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return [prefix + opening, *_joined(parts), closing]


def _joined(parts: Iterable[list[str]]) -> list[str]:
    """The parts with commas between them; small values share a line."""
    lines: list[str] = []
    shared = False
    for part in parts:
        if lines:
            lines[-1] += ","
        single = len(part) == 1 and len(part[0]) <= SMALL
        if shared and single and len(lines[-1]) + len(part[0]) < WIDTH:
            lines[-1] += " " + part[0]
        else:
            lines += part
        shared = single
    return lines


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
