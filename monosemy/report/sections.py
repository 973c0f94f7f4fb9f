"""The sections that rooms add to the report: figures and HTML with an anchor.

Place on the data's path: a run folder → [a room's own results] → `Section` → page. A room names the function that reads
its section in `Room.report`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from monosemy.report.canvas import Drawing
from monosemy.report.markup import Html
from monosemy.rooms import load, rooms


@dataclass(frozen=True)
class Section:
    """A room's section in the report of one run."""

    anchor: str
    """Its id in the page."""
    title: str
    html: Html
    """The whole `<section>`, including its heading."""
    drawings: Mapping[str, Drawing]
    """The figures by name; they are also written into figures/."""


def read_sections(run_folder: Path) -> list[Section]:
    """The sections of every room that has something to report on the run. Raises UserError for damaged files."""
    read = [load(room.report)(run_folder) for room in rooms() if room.report]
    return [section for section in read if section is not None]
