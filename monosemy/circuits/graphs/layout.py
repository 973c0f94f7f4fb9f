"""Where the graphs of a run are stored: the only place that spells out the names of their files.

Place on the path: `monosemy graph --run RUN` writes them, `monosemy browse RUN` lists and shows them. Each graph of one
prompt has a folder RUN/graphs/<name>, whose name is made of the prompt:

    page.json      the graph as its page draws it  circuits/graphs/page_data.py
    graph.json     the same for Neuronpedia        circuits/graphs/page_data.py, circuits/graphs/graph_json.py
    nodes.parquet, edges.parquet   its tables      circuits/graphs/command.py
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from monosemy.layout import RunFiles

_SLUG = 40
"""Characters of a prompt that its folder's name shows at most."""


@dataclass(frozen=True)
class GraphFiles:
    """The files of one graph in `folder`, whether or not they exist."""

    folder: Path

    @property
    def page(self) -> Path:
        return self.folder / "page.json"

    @property
    def neuronpedia(self) -> Path:
        return self.folder / "graph.json"

    @property
    def nodes(self) -> Path:
        return self.folder / "nodes.parquet"

    @property
    def edges(self) -> Path:
        return self.folder / "edges.parquet"


def graph_folder(run: Path, prompt: str) -> Path:
    """The folder of a prompt's graph in a run."""
    return RunFiles(run).folder / "graphs" / folder_name(prompt)


def graphs_of_run(run: Path) -> Iterator[GraphFiles]:
    """The graphs of a run that a page can show, by name."""
    for path in sorted((RunFiles(run).folder / "graphs").glob("*/page.json")):
        yield GraphFiles(path.parent)


def folder_name(prompt: str) -> str:
    """`slug_of` the prompt, with a hash behind it where other prompts would have the same."""
    slug = slug_of(prompt)
    if prompt.replace(" ", "-") == slug:
        return slug
    return f"{slug}-{hashlib.sha256(prompt.encode(errors='backslashreplace')).hexdigest()[:6]}"


def slug_of(text: str) -> str:
    """A folder's name made of a text's first words."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_SLUG].strip("-") or "prompt"
