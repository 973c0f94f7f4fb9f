"""What activations of one's own add to the program: settings, and activations that take the place of a model's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monosemy.rooms import Room

if TYPE_CHECKING:
    from monosemy.rows.settings import RowsConfig


def reads_rows(settings: RowsConfig) -> bool:
    """Whether a run with these settings is trained on a table of rows."""
    return bool(settings.source)


ROOM = Room(
    name="rows",
    settings="monosemy.rows.settings:RowsConfig",
    takes_part=reads_rows,
    requirements="monosemy.rows.requirements:REQUIREMENTS",
    activations="monosemy.rows.prepare:prepare_run_rows",
    features="monosemy.rows.features:row_source",
    descriptive=("text", "image", "image_folder"),
)
