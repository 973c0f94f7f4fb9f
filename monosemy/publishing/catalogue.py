"""`monosemy catalogue`: families of published SAEs, and how to open one.

Place on the path: `families.py` → [a table, or the facts of some families] → the terminal. No network is asked.
"""

from __future__ import annotations

from monosemy.publishing.families import FAMILIES, UNKNOWN_REPOSITORY, Family, families
from monosemy.publishing.room import ROOM
from monosemy.support.arguments import Parser

UNKNOWN = "not known here"


def run_catalogue(words: list[str]) -> None:
    """`monosemy catalogue [NAME]`: prints the table of families, or all facts of those of a name or model."""
    summary = next(command.summary for command in ROOM.commands if command.name == "catalogue")
    parser = Parser("monosemy catalogue", summary, examples=("monosemy catalogue", "monosemy catalogue gemma-2-2b"))
    parser.add_argument("name", nargs="?", help="A family or a model, e.g. gemma-2-2b. (default: a table of all)")
    name = parser.parse_args(words).name
    print("\n\n".join(map(facts_text, families(name))) if name is not None else table_text())


def table_text() -> str:
    """All families in a table: name, models, and the pattern of an SAE's name on the hub."""
    head = ("family", "models", "repository/path")
    rows = [head, *((f.name, ", ".join(f.models) or UNKNOWN, f.pattern) for f in FAMILIES)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(
        [
            *lines,
            "",
            f"{UNKNOWN_REPOSITORY} stands for repositories that are {UNKNOWN}.",
            f"monosemy catalogue {FAMILIES[0].name} tells more, and how to open one.",
        ]
    )


def facts_text(family: Family) -> str:
    """Everything that is known of a family, and the call that opens one of its SAEs."""
    facts = [
        ("name on the hub", family.pattern),
        ("models", ", ".join(family.models)),
        ("sites", family.sites),
        ("widths", family.widths),
        ("L0s", family.l0s),
        ("input", family.input_transform),
        ("licence", family.licence),
        ("Neuronpedia id", family.neuronpedia),
        ("in sae-lens's list", family.registered),
        ("open one" if family.exists else "a name's form", f'load_sae("{family.example_name}")'),
    ]
    width = max(len(label) for label, _ in facts)
    return "\n".join([family.title, *(f"  {label:{width}s}  {value or UNKNOWN}" for label, value in facts)])
