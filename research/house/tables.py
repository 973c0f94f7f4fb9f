"""The tables of README.md and docs/architecture.md, from results/house.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research.markdown import markdown

Record = Mapping[str, Any]


def tables(records: Mapping[str, Record]) -> dict[str, str]:
    before, after = records["house"]["before"], records["house"]["after"]
    return {"whole": whole_table(before, after), "rooms": rooms_table(after)}


def whole_table(before: Record, after: Record) -> str:
    sides = (before, after)
    rows = {
        "files": [f"{sum(room['files'] for room in side['rooms'])}" for side in sides],
        "lines": [f"{sum(room['lines'] for room in side['rooms']):,}" for side in sides],
        "import circles": [f"{len(side['circles'])}" for side in sides],
        "longest function, lines": [f"{side['longest_function_lines']}" for side in sides],
        "functions with more than eight parameters": [f"{side['functions_over_8_parameters']}" for side in sides],
        "vague names, share of bound names": [f"{100 * side['vague_share']:.2f}%" for side in sides],
        "comment lines per hundred lines of code": [f"{side['comments_per_100_code_lines']:.1f}" for side in sides],
        "`# fmt: skip`": [f"{side['fmt_skips']}" for side in sides],
        "tracked lines of JSON": [f"{side['tracked_json_lines']:,}" for side in sides],
        "`monosemy --help`, seconds of CPU": [f"{side['help_cpu_seconds']:.2f}" for side in sides],
    }
    return markdown(["", "before", "now"], [[measure, *cells] for measure, cells in rows.items()])


def rooms_table(after: Record) -> str:
    rows = [
        [
            f"`{room['room']}`",
            f"{room['files']}",
            f"{room['lines']:,}",
            f"{100 * room['comment_lines'] / max(1, room['code_lines']):.1f}",
        ]
        for room in after["rooms"]
    ]
    return markdown(["room", "files", "lines", "comments per hundred lines"], rows)
