"""`monosemy catalogue`: families of published SAEs, and how to open one.

Place on the path: `families.py` → [a table, or the facts of some families] → the terminal. No network is asked.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from monosemy.publishing.families import READ_ON, SOURCES, Family, all_families, families
from monosemy.publishing.room import ROOM
from monosemy.support.arguments import Parser
from monosemy.support.numbers import count_text

UNKNOWN = "not known here"
_MOST = 8
"""Of more families than this only the table is printed."""
_WIDTH = 116


def run_catalogue(words: list[str]) -> None:
    """`monosemy catalogue [NAME]`: prints the table of families, or all facts of those of a name or model."""
    summary = next(command.summary for command in ROOM.commands if command.name == "catalogue")
    examples = ("monosemy catalogue", "monosemy catalogue gemma-2-2b", "monosemy catalogue gpt2-small-res-jb")
    parser = Parser("monosemy catalogue", summary, examples=examples)
    parser.add_argument(
        "name", nargs="?", help="A family, a model or a part of their names, e.g. gemma-2-2b. (default: a table of all)"
    )
    name = parser.parse_args(words).name
    matches = all_families() if name is None else families(name)
    print("\n\n".join(map(facts_text, matches)) if len(matches) <= _MOST else table_text(matches))


def table_text(matches: Sequence[Family]) -> str:
    """Families under the models that they are of, with the repository of each on the hub."""
    of_models: dict[tuple[str, ...], list[Family]] = {}
    for family in matches:
        of_models.setdefault(family.models, []).append(family)
    width = max(len(family.name) for family in matches)
    lines = []
    for models, members in of_models.items():
        lines.append(", ".join(models) if len(models) < 3 else f"{models[0]} … {models[-1]}, {len(models)} models")
        lines += [f"  {family.name:{width}s}  {family.repository}" for family in members]
    return "\n".join(
        [
            *lines,
            "",
            f"{len(matches)} families, as of {READ_ON}; {{…}} stands for what differs between their SAEs.",
            f"monosemy catalogue {matches[0].name} tells more, and how to open one; so does a model's name.",
        ]
    )


def facts_text(family: Family) -> str:
    """Everything that is known of a family, and the command and the call that open one of its SAEs."""
    neuronpedia = family.neuronpedia
    if neuronpedia and family.neuronpedia_example:
        neuronpedia = f"{neuronpedia}; e.g. {family.neuronpedia_example}"
    facts = [
        ("family", family.name),
        ("repository", family.repository),
        ("path", family.path),
        ("models", ", ".join(family.models)),
        ("sites", family.sites),
        ("layers", family.layers),
        ("widths", family.widths),
        ("L0s", family.l0s),
        ("input", family.input),
        ("licence", family.licence),
        ("Neuronpedia id", neuronpedia),
        *([("note", family.note)] if family.note else []),
        ("in sae-lens's list", count_text(family.registered) if family.registered else "none"),
        ("source", f"{', '.join(SOURCES[source] for source in family.sources)}; read on {READ_ON}"),
    ]
    width = max(len(label) for label, _ in facts)
    lines = [family.title]
    for label, value in facts:
        head = f"  {label:{width}s}  "
        lines += textwrap.wrap(
            value or UNKNOWN,
            _WIDTH,
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join([*lines, *(f"  {label:{width}s}  {line}" for label, line in opening(family))])


def opening(family: Family) -> tuple[tuple[str, str], ...]:
    """The command and the call that open the family's example, each with a label; or the reason that none does.

    They are longer than the terminal is wide where the name is: broken, they could not be copied.
    """
    name = family.example_name
    if not family.layout:
        return (("open it", "monosemy does not read this layout; a name's form is"), ("", name))
    command = " ".join(filter(None, ("monosemy evaluate", name, family.options, "--text my-texts.jsonl")))
    return (("measure it", command), ("in Python", f'load_sae("{name}")'))
