"""Steering recipes of the server: named edits, each of which makes a model of its own, `MODEL:NAME`.

Place on the path: words of the command line, a file, the address of a page → [recipe] → served model. Three forms:

    music=1312:set:0.4:norm,40:ablate                     edits as `monosemy steer --edit` takes them
    music=http://127.0.0.1:8321/steer/SITE/NAME?e=…       the address of the steering page
    music.json                                            {"format": "monosemy-recipe", "version": 1, "name", "edits": [
                                                          {"latent", "operation", "value", "unit"}], …}

With several SAEs served, edits are of the first, or of the one that an address or a file's "sae" names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from monosemy.config import from_json
from monosemy.errors import UserError
from monosemy.steering.request import Edit, Positions, check_agreement
from monosemy.support import files

FORMAT, VERSION = "monosemy-recipe", 1
MAX_EDITS = 64
_NAME = re.compile(r"[\w.-]{1,64}")
_RULE = "a recipe is NAME=LATENT:OPERATION[:VALUE[:UNIT]],…, NAME=ADDRESS of the steering page, or a file.json"


@dataclass(frozen=True)
class Recipe:
    """Named edits of latents of one SAE."""

    name: str
    edits: tuple[Edit, ...]
    sae: str = ""
    """`SITE/NAME`; empty: the first SAE that is served."""
    positions: Positions = field(default_factory=Positions)
    keep_error: bool = True

    def __post_init__(self) -> None:
        if self.name and not _NAME.fullmatch(self.name):
            raise UserError(f"a recipe's name has 1 to 64 letters, digits, '.', '_' and '-', got {self.name[:80]!r}")
        if not 0 < len(self.edits) <= MAX_EDITS:
            raise UserError(f"a recipe has 1 to {MAX_EDITS} edits, {self.name!r} has {len(self.edits)}")
        check_agreement(self.edits)


def read_recipe(words: str) -> Recipe:
    """The recipe that a word of the command line gives. Raises UserError for what is none."""
    name, equals, rest = words.partition("=")
    if not equals or not _NAME.fullmatch(name):
        if words.endswith(".json"):
            return _from_file(Path(words).expanduser())
        raise UserError(f"{_RULE}; got {words[:80]!r}")
    if "/steer/" in rest:
        return _from_address(name, rest)
    return Recipe(name, tuple(written_edit(part) for part in rest.split(",")))


def written_edit(text: str) -> Edit:
    """Parses an edit such as `12:set:8:max`. Raises UserError for any other form."""
    parts = text.strip().split(":")
    rule = "an edit is written LATENT:OPERATION[:VALUE[:UNIT]], e.g. 12:set:8:max"
    if not 2 <= len(parts) <= 4:
        raise UserError(f"{rule}; got {text[:80]!r}")
    try:
        latent, value = int(parts[0]), float(parts[2]) if len(parts) > 2 else 0.0
    except ValueError:
        raise UserError(f"{rule}; got {text[:80]!r}") from None
    return Edit(latent, parts[1], value, parts[3] if len(parts) > 3 else "raw")


def _from_address(name: str, address: str) -> Recipe:
    """The recipe that the steering page writes into its address: `/steer/SITE/NAME?e=EDITS&at=…&error=…`."""
    parts = urlsplit(address)
    sae = unquote(parts.path.partition("/steer/")[2]).strip("/")
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    if not query.get("e"):
        raise UserError(f"the address of recipe {name!r} names no latent to change (e=…); choose one on the page first")
    edits = tuple(written_edit(part) for part in query["e"].split(","))
    positions = _positions(query.get("at", "all"))
    return Recipe(name, edits, sae, positions=positions, keep_error=query.get("error") != "drop")


def _positions(text: str) -> Positions:
    start, dash, stop = text.partition("-")
    if dash and start.isdigit() and (stop.isdigit() or not stop):
        return Positions("range", int(start), int(stop) if stop else None)
    return Positions(text)


def _from_file(path: Path) -> Recipe:
    document = files.read_json(path)
    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        raise UserError(f"{path} is no recipe file: it must hold an object with format {FORMAT!r}")
    if document.get("version") != VERSION:
        raise UserError(f"{path} has version {document.get('version')!r} of the recipe file, this one reads {VERSION}")
    values: dict[str, Any] = {key: value for key, value in document.items() if key not in ("format", "version")}
    for key in ("name", "edits"):
        if not values.get(key):
            raise UserError(f"the recipe {path} needs {key!r}")
    return from_json(Recipe, values, str(path))
