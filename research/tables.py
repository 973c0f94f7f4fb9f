"""Tables of the documents, filled in from the studies' records.

A table stands between two comments, and what is between them is this script's:

    <!-- table: speed/step -->
    …
    <!-- end -->

Run: python -m research.tables            fills README.md, docs/ and every study's README.md
     python -m research.tables STUDY …    prints all tables of a study
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from monosemy.errors import UserError
from monosemy.support.files import write_text
from research import records
from research.examples import tables as examples
from research.formats import tables as formats
from research.frontier import tables as frontier
from research.graphs import tables as graphs
from research.heads import tables as heads
from research.house import tables as house
from research.interpretability import tables as interpretability
from research.jacobian import tables as jacobian
from research.mutation import tables as mutation
from research.outliers import tables as outliers
from research.peers import tables as peers
from research.planted import tables as planted
from research.probing import tables as probing
from research.run_folders import run
from research.scale import tables as scale
from research.speed import tables as speed
from research.stability import tables as stability
from research.steering import tables as steering
from research.transcoders import tables as transcoders

REPOSITORY = Path(__file__).parents[1]
STUDIES: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, str]]] = {
    "examples": examples.tables,
    "formats": formats.tables,
    "frontier": frontier.tables,
    "graphs": graphs.tables,
    "heads": heads.tables,
    "house": house.tables,
    "interpretability": interpretability.tables,
    "jacobian": jacobian.tables,
    "mutation": mutation.tables,
    "outliers": outliers.tables,
    "peers": peers.tables,
    "planted": planted.tables,
    "probing": probing.tables,
    "scale": scale.tables,
    "speed": speed.tables,
    "stability": stability.tables,
    "steering": steering.tables,
    "transcoders": transcoders.tables,
}
"""What makes a study's tables from its records, by their names."""
PLACE = re.compile(r"(<!-- table: (\w+)/([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


@cache
def tables(study: str) -> Mapping[str, str]:
    return STUDIES[study](records.records_of(study))


def filled(text: str) -> str:
    """The document with every table as its record gives it. Raises UserError for a table that no study has."""

    def table(match: re.Match[str]) -> str:
        before, study, name, after = match.groups()
        if study not in STUDIES or name not in tables(study):
            names = ", ".join(tables(study)) if study in STUDIES else ", ".join(STUDIES)
            raise UserError(f"no table {study}/{name}; there are: {names}")
        return f"{before}{tables(study)[name]}\n{after}"

    return PLACE.sub(table, text)


def documents() -> list[Path]:
    pages = (REPOSITORY / "docs").glob("*.md")
    studies = records.ROOT.glob("*/README.md")
    return [*(path for path in [REPOSITORY / "README.md"] if path.exists()), *sorted(pages), *sorted(studies)]


def main() -> None:
    for study in sys.argv[1:]:
        if study not in STUDIES:
            raise UserError(f"no study {study!r}; there are: {', '.join(STUDIES)}")
        print("\n\n".join(f"{study}/{name}\n\n{table}" for name, table in tables(study).items()))
    for path in documents() if len(sys.argv) == 1 else ():
        text = path.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            write_text(path, new)
            print(f"written: {path}")


if __name__ == "__main__":
    run(main)
