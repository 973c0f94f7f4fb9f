"""Where a run's model and text lie on this machine, so that they are found from any folder and after a move.

A run stands on a model and a text, which it knows by their fingerprints; where they lie is no part of it. run.json
keeps what was typed. For a model or text on the local disk `sources.json` beside it keeps the absolute path and the
path relative to the run folder, and they are looked for in this order:

  1. where the user says now (`--model`, `--text`)
  2. what was typed, where it still leads to one of the next two
  3. relative to the run folder (both were moved together)
  4. the absolute path (the run alone was moved, or the command is given in another folder)
  5. what was typed

Whatever is found must have the fingerprint that the run began with; a place that passes is the one kept from then on.
sources.json is the only file of a run that holds paths of the machine: leave it out when you hand a run on.
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
Kind = Literal["model", "text"]


@dataclass(frozen=True)
class Moved:
    """Where the user says that the model and the text are now; empty where nothing is said."""

    model: str = ""
    text: str = ""


NOT_MOVED = Moved()


def add_moved(parser: argparse.ArgumentParser, *, text: bool = True, short: bool = True) -> None:
    """Adds `--model` and, for commands that read the text, `--text` (`short`) or its long name, `--text.source`."""
    parser.add_argument(
        "--model",
        "--model.source",
        dest="moved_model",
        metavar="NEWPATH",
        default="",
        help="where the run's model is now, if it was moved",
    )
    if text:
        parser.add_argument(
            *(["--text"] if short else []),
            "--text.source",
            dest="moved_text",
            metavar="NEWPATH",
            default="",
            help="where the run's text is now, if it was moved",
        )


def moved_of(arguments: argparse.Namespace) -> Moved:
    """What the flags of `add_moved` say."""
    return Moved(arguments.moved_model, getattr(arguments, "moved_text", ""))


def find_source(
    folder: Path, config: RunConfig, provenance: Mapping[str, Any], kind: Kind, moved: Moved = NOT_MOVED
) -> str:
    """The source to load now: a path, or what was typed where that is no path. Raises UserError when the run began with
    a path at which nothing is any more."""
    typed = getattr(config, kind).source
    if now := getattr(moved, kind):
        return now
    places = _places(folder, kind)
    if not places and not _was_path(typed, provenance, kind):
        return typed
    as_typed = Path(typed).expanduser()
    for place in places:
        if place.exists():
            return typed if as_typed.exists() and as_typed.samefile(place) else str(place)
    if as_typed.exists():
        return typed
    raise UserError(
        f"the {kind} of run {folder} is no longer at {places[-1] if places else typed}; restore it there, or say where "
        f"it is now: --{kind} NEWPATH"
    )


def remember_sources(folder: Path, **sources: str) -> None:
    """Notes where the run's model and text were found, those that are on the local disk."""
    document: dict[str, Any] = {"format": FORMAT}
    for kind, source in sources.items():
        path = Path(source).expanduser()
        if source != "embedded" and path.exists():
            absolute = os.path.abspath(path)
            document[kind] = {"absolute": absolute, "from_run": os.path.relpath(absolute, folder.absolute())}
    if _read(folder) != document:
        files.write_json(RunFiles(folder).sources, document)


def _places(folder: Path, kind: Kind) -> list[Path]:
    place = _read(folder).get(kind)
    if not isinstance(place, dict):
        return []
    beside = os.path.normpath(folder.absolute() / str(place.get("from_run", "")))
    return [Path(beside), Path(str(place.get("absolute", "")))]


def _read(folder: Path) -> dict[str, Any]:
    """What is known; nothing of a file that is missing or damaged, which only costs the convenience."""
    try:
        document = files.read_json(RunFiles(folder).sources)
    except UserError:
        return {}
    return document if isinstance(document, dict) and document.get("format") == FORMAT else {}


def _was_path(typed: str, provenance: Mapping[str, Any], kind: Kind) -> bool:
    """Whether a run of an older version, which kept no sources.json, began with a path: its model has no commit."""
    if kind == "model":
        model = provenance.get("model", {})
        return typed != "embedded" and "fingerprint" in model and model.get("commit") is None
    return typed.startswith((".", "/", "~")) or bool(Path(typed).suffix and not typed.startswith("embedded"))
