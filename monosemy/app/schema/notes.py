"""Notes on latents.

Place on the path: as the package says, whose rules hold here too.
"""

from __future__ import annotations

from monosemy.app.schema.steering import SaeBody
from monosemy.app.schema.wire import Wire


class NoteChange(SaeBody):
    """`PUT /api/notes`. What is left out stays; with neither bookmark nor text left, the entry goes."""

    latent: int
    bookmark: bool = False
    text: str = ""
    before: str = ""
    """The text that the writer of `text` saw: 409 when another one was written since."""


class Note(Wire):
    site: str
    name: str
    latent: int
    bookmark: bool
    text: str
    changed: str
    """ISO 8601, set by the server."""
    label: str
    """The latent's label at hand; empty without features."""


class Notes(Wire):
    """`GET /api/notes`, and the answer to a change."""

    notes: list[Note]
