"""The tables of README.md, from results/mutation.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monosemy.features.explain.scores import wilson
from research.markdown import markdown

Record = Mapping[str, Any]


def tables(records: Mapping[str, Record]) -> dict[str, str]:
    record = records["mutation"]
    return {"modules": modules_table(record["modules"]), "survivors": survivors_table(record["survivors"])}


def modules_table(modules: Sequence[Record]) -> str:
    """Per module and, in the last line, over all: the intervals are Wilson's, of the mutants drawn."""
    whole = {name: sum(module[name] for module in modules) for name in ("mutants", "drawn", "killed", "killed_again")}
    rows = [[f"`{module['module'].removeprefix('monosemy/')}`", *cells(module)] for module in modules]
    return markdown(
        ["module", "mutants", "drawn", "killed before [95%]", "after [95%]"], [*rows, ["all", *cells(whole)]]
    )


def cells(counts: Record) -> list[str]:
    scores = (score(counts[name], counts["drawn"]) for name in ("killed", "killed_again"))
    return [f"{counts['mutants']:,}", f"{counts['drawn']}", *scores]


def score(n_killed: int, n_drawn: int) -> str:
    low, high = (100 * end for end in wilson(n_killed / n_drawn, n_drawn))
    return f"{n_killed} = {100 * n_killed / n_drawn:.0f}% [{low:.0f}, {high:.0f}]"


def survivors_table(survivors: Sequence[Record]) -> str:
    rows = [
        [
            f"`{survivor['module'].removeprefix('monosemy/')}` `{survivor['function']}`",
            f"`{code(survivor['before'])}`",
            f"`{code(survivor['after'])}`",
            "survives" if survivor["again"] in ("survived", "unreached") else "killed",
            survivor["reading"],
        ]
        for survivor in survivors
    ]
    return markdown(["where", "code", "fault", "now", "reading"], rows)


def code(text: str) -> str:
    """The first line of a piece of code, as a table's cell can hold it."""
    line = text.splitlines()[0]
    line = line if len(line) <= 60 else line[:59] + "…"
    return line.replace("|", "\\|")
