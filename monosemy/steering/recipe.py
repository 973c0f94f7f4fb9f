"""Steering recipes: edits worth keeping, each a small JSON file in its run, for the terminal, the pages and other
people.

Place on the path: page, `monosemy steer --save-recipe`, `monosemy bias --save-recipe` → [RUN/recipes/NAME.json] → the
same page and commands. A recipe says which latents of which SAEs are changed and how; its prompt and instruction are
what it was tried with. Strengths stay in the unit in which they were given.

    {"format": "monosemy-recipe", "version": 1, "name", "sae": "SITE/NAME", "edits": [{"sae": "SITE/NAME", "latent",
     "operation", "value", "unit"}], "positions", "keep_error", "prompt", "instruction", "model", "about"}

Limits: a latent is named by its number. An SAE that is trained again under the same name has other latents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from monosemy.config import from_json
from monosemy.errors import UserError, unknown
from monosemy.layout import RunFiles
from monosemy.steering.request import OWN_SAE, Edit, Positions, check_agreement
from monosemy.support import files

FORMAT, VERSION = "monosemy-recipe", 1
FIX = (
    "correct it there, or delete the file and keep the recipe again (monosemy steer with --save-recipe NAME, or on the "
    "steering page)"
)
"""What to do about a recipe's file that is no JSON: nothing makes it again by itself."""
MAX_NAME = 80
"""Length of the longest name, in characters."""


@dataclass(frozen=True)
class SteeringRecipe:
    """Edits by name. Raises UserError for no edit, an edit whose SAE is not named, and edits that contradict each
    other."""

    name: str
    sae: str
    """`SITE/NAME` of the SAE with which the steering page opens."""
    edits: tuple[Edit, ...]
    """Each names its SAE."""
    positions: Positions = field(default_factory=Positions)
    keep_error: bool = True
    prompt: str = ""
    """What it was tried on; may be empty."""
    instruction: str = ""
    """What the prompted column was told; may be empty."""
    model: str = ""
    """Name of the model that it was made with."""
    about: str = ""
    """Where it comes from, in a sentence; may be empty."""

    def __post_init__(self) -> None:
        if not self.name.strip() or len(self.name) > MAX_NAME:
            raise UserError(f"a recipe's name takes 1 to {MAX_NAME} characters, got {len(self.name)}")
        if not self.edits:
            raise UserError(f"recipe {self.name!r} has no edit; name at least one latent to change")
        for edit in self.edits:
            if edit.sae == OWN_SAE:
                raise UserError(
                    f"recipe {self.name!r} does not say of which SAE latent {edit.latent} is; add its 'sae'"
                )
        check_agreement(self.edits)

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, **asdict(self)}


def beside(edits: Iterable[Edit], sae: str) -> tuple[Edit, ...]:
    """Edits that name their SAEs, as those of a request about the SAE `sae`: its own need no name."""
    return tuple(replace(edit, sae=OWN_SAE) if edit.sae == sae else edit for edit in edits)


def fully_named(edits: Iterable[Edit], sae: str) -> tuple[Edit, ...]:
    """The edits of a request about the SAE `sae`, each with the name of its SAE: the inverse of `beside`."""
    return tuple(replace(edit, sae=sae) if edit.sae == OWN_SAE else edit for edit in edits)


def recipe_from_json(document: Any, place: str) -> SteeringRecipe:
    """The recipe in a JSON document; `place` is where it was found, for the errors.

    Raises UserError for a document of another kind or a newer format, and as `SteeringRecipe` does.
    """
    values = recipe_values(document, place)
    for key in ("name", "sae", "edits"):
        if key not in values:
            raise UserError(f"{place} is no whole steering recipe: it has no {key!r}")
    return from_json(SteeringRecipe, values, "recipe")


def recipe_values(document: Any, place: str) -> dict[str, Any]:
    """What a recipe's document holds beside its format. Raises UserError for another format or version."""
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UserError(f"{place} is no steering recipe: it must hold an object with format {FORMAT!r}")
    if (version := document.get("version")) != VERSION:
        raise UserError(f"{place} has version {version!r} of the recipe file, this one reads {VERSION}")
    return {key: value for key, value in document.items() if key not in ("format", "version")}


def read_recipes(run: Path) -> Iterator[SteeringRecipe | UserError]:
    """The recipes of a run in the order of their names; an error in the place of one that cannot be read."""
    for path in RunFiles(run).recipes():
        try:
            yield _read_recipe(path)
        except UserError as error:
            yield error


def find_recipe(run: Path, name: str) -> SteeringRecipe:
    """The recipe of the run with this name, or the one in the file of this path.

    Raises UserError, which lists the run's recipes, where there is neither, and for a file that is no recipe.
    """
    # a path has no place among the names of a run
    path = None if "/" in name or name.endswith(".json") else RunFiles(run).recipe(name)
    if path is None or not path.is_file():
        path = Path(name).expanduser()
    if not path.is_file():
        names = [entry.name for entry in read_recipes(run) if isinstance(entry, SteeringRecipe)]
        if not names:
            raise UserError(
                f"{run} has no recipe, and there is no file {name!r}; keep one: monosemy steer {run} --latent 12 "
                '--set 0.4 --unit norm --prompt "…" --save-recipe NAME'
            )
        raise unknown("recipe", name, names, fix="or give the path of a recipe's file")
    return _read_recipe(path)


def _read_recipe(path: Path) -> SteeringRecipe:
    """The recipe in a file. Raises UserError, which names the file, for anything else in it."""
    document = files.read_json(path, fix=FIX)
    try:
        return recipe_from_json(document, str(path))
    except UserError as error:
        raise error if str(path) in str(error) else UserError(f"{path}: {error}") from None


def save_recipe(run: Path, recipe: SteeringRecipe, *, replaces: bool = False) -> Path:
    """Writes a recipe into its run, and returns the file.

    Raises UserError for a name that cannot be a file's, and for one that is taken unless `replaces`.
    """
    path = RunFiles(run).recipe(recipe.name)
    if path.exists() and not replaces:
        raise UserError(f"{run} has a recipe {recipe.name!r} already; choose another name, or delete {path}")
    path.parent.mkdir(exist_ok=True)
    files.write_json(path, recipe.to_json())
    return path


def forget_recipe(run: Path, name: str) -> None:
    """Deletes a recipe of the run; does nothing where there is none of this name."""
    RunFiles(run).recipe(name).unlink(missing_ok=True)


def check_recipe_name(run: Path, name: str) -> None:
    """Raises UserError for a name under which no new recipe can be kept, before anything is written."""
    if not name.strip() or len(name) > MAX_NAME:
        raise UserError(f"a recipe's name takes 1 to {MAX_NAME} characters, got {len(name)}")
    path = RunFiles(run).recipe(name)
    if path.exists():
        raise UserError(f"{run} has a recipe {name!r} already; choose another name, or delete {path}")
    files.require_writable(path, "--save-recipe")


def labels_of(edits: Sequence[Edit]) -> list[str]:
    """The names of the other SAEs that edits name, once each."""
    return list(dict.fromkeys(edit.sae for edit in edits if edit.sae != OWN_SAE))
