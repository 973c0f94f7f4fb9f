"""What the documents show of the commands' output, from results/examples.json: blocks of code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from research.markdown import markdown

Record = Mapping[str, Any]
GAP = "  "


def tables(records: Mapping[str, Record]) -> dict[str, str]:
    record = records["examples"]
    return {
        "start": block(record["start"]["lines"]),
        "find": block(columns(record["find"])),
        "ablate": block([record["ablate"]["command"], "", *columns(record["ablate"])]),
        "bias": block([record["bias"]["command"], "", *record["bias"]["lines"]]),
        "commands": markdown(["example", "command"], [[name, command_of(row)] for name, row in examples_of(record)]),
    }


def examples_of(record: Record) -> list[tuple[str, Record]]:
    return [(name, row) for name, row in record.items() if name in ("start", "find", "ablate", "bias")]


def command_of(row: Record) -> str:
    return f"`{row.get('command', 'make demo')}`"


def columns(row: Record) -> list[str]:
    """The headings and the texts beneath, each column as wide as its widest line."""
    lines = [*row["headings"], *row["texts"]]
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    return [GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def block(lines: Sequence[str]) -> str:
    return "\n".join(["```", *lines, "```"])
