"""Finds a run's model and text on this machine, from any folder and after a move.

A run identifies its model and its text by their fingerprints, not by their paths. run.json keeps the path as it was
typed. For a model or text on the local disk, `sources.json` beside it keeps the absolute path and the path relative to
the run folder. They are looked for in this order:

  1. where the user says they are now (`--model`, `--text`)
  2. the path as typed, if it still leads to one of the next two
  3. the path relative to the run folder (both were moved together)
  4. the absolute path (only the run was moved, or the command is given in another folder)
  5. the path as typed

What is found must have the fingerprint that the run began with. If it does, its place is remembered from then on.
sources.json is the only file of a run that holds paths of the machine: leave it out when you pass a run on.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from monosemy.config import RunConfig
from monosemy.errors import UserError
from monosemy.layout import RunFiles
from monosemy.support import files

FORMAT = 1
Kind = Literal["model", "text", "rows"]


@dataclass(frozen=True)
class Moved:
    """The present paths of model, text and rows, as the user gives them; empty where none is given."""

    model: str = ""
    text: str = ""
    rows: str = ""


NOT_MOVED = Moved()


def add_moved(parser: argparse.ArgumentParser, *, text: bool = True, short: bool = True) -> None:
    """Adds `--model`, and for commands that read the text `--activations` and `--text` (`short`) or `--text.source`."""
    parser.add_argument(
        "--model",
        "--model.source",
        dest="moved_model",
        metavar="NEWPATH",
        default="",
        help="Where the run's model is now, if it was moved.",
    )
    if text:
        parser.add_argument(
            *(["--text"] if short else []),
            "--text.source",
            dest="moved_text",
            metavar="NEWPATH",
            default="",
            help="Where the run's text is now, if it was moved.",
        )
        parser.add_argument(
            "--activations",
            "--rows.source",
            dest="moved_rows",
            metavar="NEWPATH",
            default="",
            help="Where the run's file of activations is now, if it was moved.",
        )


def moved_of(arguments: argparse.Namespace) -> Moved:
    """The present paths that the flags of `add_moved` give."""
    return Moved(arguments.moved_model, getattr(arguments, "moved_text", ""), getattr(arguments, "moved_rows", ""))


def find_source(
    folder: Path, config: RunConfig, provenance: Mapping[str, Any], kind: Kind, *, moved: Moved = NOT_MOVED
) -> str:
    """The source to load: a path, or what was typed if that is not a path.

    Raises UserError when the run began with a path and nothing is there any more.
    """
    typed = getattr(config, kind).source
    if now := getattr(moved, kind):
        return now
    places = _places(folder, kind)
    if not places and not _was_path(typed, provenance, kind):
        return typed
    as_typed = Path(typed).expanduser()
    for place in places:
        if place.exists():
            # As typed if that is the same place, so that messages show the user's own words.
            return typed if as_typed.exists() and as_typed.samefile(place) else str(place)
    if as_typed.exists():
        return typed
    raise UserError(
        f"the {kind} of run {folder} is no longer at {places[-1] if places else typed}; restore it there, or say where "
        f"it is now: --{'activations' if kind == 'rows' else kind} NEWPATH"
    )


def remember_sources(folder: Path, **sources: str) -> None:
    """Remembers in sources.json where the run's model and text were found, for those on the local disk."""
    document: dict[str, Any] = {"format": FORMAT}
    for kind, source in sources.items():
        path = Path(source).expanduser()
        if source != "embedded" and path.exists():
            absolute = os.path.abspath(path)
            document[kind] = {"absolute": absolute, "from_run": os.path.relpath(absolute, folder.absolute())}
    if _read(folder) != document:
        files.write_json(RunFiles(folder).sources, document)


def _places(folder: Path, kind: Kind) -> list[Path]:
    """The remembered places, the one relative to the run folder first; none if nothing is remembered."""
    place = _read(folder).get(kind)
    if not isinstance(place, dict):
        return []
    beside = os.path.normpath(folder.absolute() / str(place.get("from_run", "")))
    return [Path(beside), Path(str(place.get("absolute", "")))]


def _read(folder: Path) -> dict[str, Any]:
    """The content of sources.json; empty for a missing or damaged file, whose loss only costs convenience."""
    try:
        document = files.read_json(RunFiles(folder).sources)
    except UserError:
        return {}
    return document if isinstance(document, dict) and document.get("format") == FORMAT else {}


def _was_path(typed: str, provenance: Mapping[str, Any], kind: Kind) -> bool:
    """Whether a run began with a path, for runs of older versions, which kept no sources.json."""
    # A model that was fingerprinted and has no commit did not come from the hub.
    if kind == "model":
        model = provenance.get("model", {})
        return typed != "embedded" and "fingerprint" in model and model.get("commit") is None
    return typed.startswith((".", "/", "~")) or bool(Path(typed).suffix and not typed.startswith("embedded"))
