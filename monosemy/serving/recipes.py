"""Steering recipes of the server: named edits, each of which makes a model of its own, `MODEL:NAME`.

Place on the path: words of the command line, a file, the address of a page → [recipe] → served model. Three forms:

    music=1312:set:0.4:norm,40:ablate                     edits as `monosemy steer --edit` takes them
    music=http://127.0.0.1:8321/steer/SITE/NAME?e=…       the address of the steering page
    music.json                                            a recipe's file, such as RUN/recipes/music.json

With several SAEs served, edits are of the first, or of the one that an address or a file's "sae" names; an edit may
name another (`SITE/NAME:12:ablate`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from monosemy.config import from_json
from monosemy.errors import UserError
from monosemy.steering.recipe import FIX, SteeringRecipe, read_recipes, recipe_values
from monosemy.steering.request import Edit, Positions, check_agreement, written_edit, written_positions
from monosemy.support import files

_DESCRIPTIVE = ("prompt", "instruction", "model", "about")
MAX_EDITS = 64
_NAME = re.compile(r"[\w.-]{1,64}")
_OTHER = re.compile(r"[^\w.-]+")
_RULE = "a recipe is NAME=LATENT:OPERATION[:VALUE[:UNIT]],…, NAME=ADDRESS of the steering page, or a file.json"


@dataclass(frozen=True)
class Recipe:
    """Named edits of latents."""

    name: str
    edits: tuple[Edit, ...]
    sae: str = ""
    """`SITE/NAME` of the SAE that is meant by edits without a name; empty: the first that is served."""
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


def kept_recipes(run: Path) -> list[Recipe]:
    """The recipes that a run keeps, by names that a model id can have; those that cannot be read are left out."""
    entries = [entry for entry in read_recipes(run) if isinstance(entry, SteeringRecipe)]
    return [
        Recipe(_fit(entry.name), entry.edits, entry.sae, positions=entry.positions, keep_error=entry.keep_error)
        for entry in entries
        if len(entry.edits) <= MAX_EDITS
    ]


def _fit(name: str) -> str:
    """A recipe's name, which may be any text, as the end of a model's id."""
    return _OTHER.sub("-", name)[:64]


def _from_address(name: str, address: str) -> Recipe:
    """The recipe that the steering page writes into its address: `/steer/SITE/NAME?e=EDITS&at=…&error=…`."""
    parts = urlsplit(address)
    sae = unquote(parts.path.partition("/steer/")[2]).strip("/")
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    if not query.get("e"):
        raise UserError(f"the address of recipe {name!r} names no latent to change (e=…); choose one on the page first")
    edits = tuple(written_edit(part) for part in query["e"].split(","))
    positions = written_positions(query.get("at", "all"))
    return Recipe(name, edits, sae, positions=positions, keep_error=query.get("error") != "drop")


def _from_file(path: Path) -> Recipe:
    values = recipe_values(files.read_json(path, fix=FIX), str(path))
    for key in ("name", "edits"):
        if not values.get(key):
            raise UserError(f"the recipe {path} needs {key!r}")
    # what a recipe of the steering page says beside its edits is of its own prompt, and its name may be any text
    served = {key: value for key, value in values.items() if key not in _DESCRIPTIVE}
    return from_json(Recipe, served | {"name": _fit(str(values["name"]))}, str(path))
