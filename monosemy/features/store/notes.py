"""Bookmarks and notes on latents, kept in RUN/notes.json.

Place on the path: beside the feature database. They have a file of their own because the database may be rebuilt at any
time, and what a person wrote must survive that.

    {"format": 1, "notes": [{"site", "name", "latent", "bookmark", "text", "changed"}]}

There is one entry per latent, sorted by site, name and latent. Every change reads, edits and replaces the whole file
under a lock (`.notes.lock`, which the kernel releases when its holder dies), so two browsers on one run don't undo each
other's changes. A change names only what it changes; the rest stays as it is in the file, whatever the writer last saw.
Limits: without `before`, the last writer of a latent's text wins. A file that cannot be read is never overwritten.
"""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from monosemy.errors import UserError
from monosemy.layout import RunFiles
from monosemy.support import files, locks
from monosemy.support.numbers import count_text

FORMAT = 1
MAX_CHARACTERS = 20_000
"""Length of the longest note, in characters."""


class ChangedError(UserError):
    """Raised when the note has changed since its writer last saw it."""


@dataclass(frozen=True)
class Note:
    """A person's bookmark and note on one latent. `changed` is a time in ISO 8601, UTC."""

    site: str
    name: str
    latent: int
    bookmark: bool
    text: str
    changed: str


def read_notes(run: Path) -> list[Note]:
    """All notes of a run folder, in order; an empty list if the file does not exist yet.

    Raises UserError when the file is damaged or of a newer format.
    """
    path = RunFiles(run).notes
    if not path.exists():
        return []
    document = files.read_json(path, fix="restore it or move it away")
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        version = document.get("format") if isinstance(document, dict) else None
        raise UserError(f"{path} has format {version!r}, this version of monosemy reads {FORMAT}; upgrade monosemy")
    try:
        return [_note(**entry) for entry in document["notes"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is not a list of notes ({error}); restore it or move it away") from None


def put_note(
    run: Path,
    site: str,
    name: str,
    latent: int,
    *,
    bookmark: bool | None = None,
    text: str | None = None,
    before: str | None = None,
) -> list[Note]:
    """Durably changes the bookmark or the text of one latent, or both, and returns all notes of the run.

    None leaves a value as it is. An entry with neither bookmark nor text is removed. `before` is the text that the
    writer of `text` last saw. Raises ChangedError if another text has been written since, and UserError for a text
    longer than `MAX_CHARACTERS`, an unreadable notes.json, or a folder that cannot be written.
    """
    if text is not None and len(text) > MAX_CHARACTERS:
        raise UserError(
            f"a note takes at most {count_text(MAX_CHARACTERS)} characters, got {count_text(len(text))}; shorten it"
        )
    key = (site, name, latent)
    # read and write under one lock: between them no other process may change the file
    with locks.waiting_for(RunFiles(run).notes_lock, RunFiles(run).notes):
        notes_by_key = {(note.site, note.name, note.latent): note for note in read_notes(run)}
        old_note = notes_by_key.pop(key, None)
        old_bookmark, old_text = (old_note.bookmark, old_note.text) if old_note else (False, "")
        # a text that is already there is no conflict: a repeated request must not be refused
        if text is not None and before is not None and old_text not in (before, text):
            raise ChangedError(
                f"the note on latent {latent} was changed elsewhere meanwhile; look at it, then save again"
            )
        # what the change leaves out is filled in from the file as it is now
        bookmark = old_bookmark if bookmark is None else bookmark
        text = old_text if text is None else text
        if bookmark or text.strip():
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            notes_by_key[key] = Note(site, name, latent, bookmark, text=text, changed=now)
        notes = [notes_by_key[entry] for entry in sorted(notes_by_key)]
        files.write_json(RunFiles(run).notes, {"format": FORMAT, "notes": [asdict(note) for note in notes]})
    return notes


def _note(**entry: Any) -> Note:
    note = Note(**entry)
    if not isinstance(note.latent, int) or not isinstance(note.text, str):
        raise TypeError(f"unexpected values in {entry}")
    return note
