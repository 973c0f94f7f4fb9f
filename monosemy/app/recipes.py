"""The steering recipes of a run: their list, and keeping or forgetting one.

Place on the path: RUN/recipes → [recipes] → the steering page. `monosemy steer --recipe` reads the same files.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from monosemy.app.answers import answer, body_of, json_body
from monosemy.app.catalogue import Catalogue
from monosemy.app.live import MAX_EDITS, LiveModel
from monosemy.app.openapi import described
from monosemy.app.schema import RecipeName, Recipes
from monosemy.errors import UserError
from monosemy.steering.recipe import (
    FORMAT,
    VERSION,
    SteeringRecipe,
    forget_recipe,
    read_recipes,
    recipe_from_json,
    save_recipe,
)


def recipe_list(catalogue: Catalogue) -> dict[str, Any]:
    """The recipes of the run (`schema.Recipes`); what cannot be read is listed among the problems."""
    entries = list(read_recipes(catalogue.folder))
    recipes = [entry.to_json() for entry in entries if isinstance(entry, SteeringRecipe)]
    for recipe in recipes:
        del recipe["format"], recipe["version"]
    return {"recipes": recipes, "problems": [str(entry) for entry in entries if isinstance(entry, UserError)]}


def keep_recipe(catalogue: Catalogue, body: dict[str, Any]) -> None:
    """Writes the recipe in a body, in the place of one of the same name. Raises UserError for latents that do not
    exist."""
    recipe = recipe_from_json({"format": FORMAT, "version": VERSION, **body}, "the request")
    if len(recipe.edits) > MAX_EDITS:
        raise UserError(f"at most {MAX_EDITS} latents are edited together, got {len(recipe.edits)}")
    for edit in recipe.edits:
        catalogue.sae_of(edit.sae).check_latent(edit.latent)
    save_recipe(catalogue.folder, recipe, replaces=True)


def add_routes(app: FastAPI, catalogue: Catalogue, model: LiveModel) -> None:
    """Routes that list, keep and forget recipes; each answers all of them."""

    @app.get("/api/recipes", **described("Steering recipes of the run", answers=Recipes))
    async def read() -> Response:
        return answer(recipe_list(catalogue))

    @app.put("/api/recipes", **described("Keeps a recipe", body=SteeringRecipe, answers=Recipes))
    async def keep(request: Request) -> Response:
        keep_recipe(catalogue, await json_body(request))
        return answer(recipe_list(catalogue))

    @app.post("/api/recipes/forget", **described("Forgets a recipe", body=RecipeName, answers=Recipes))
    async def forget(request: Request) -> Response:
        forget_recipe(catalogue.folder, (await body_of(RecipeName, request)).name)
        return answer(recipe_list(catalogue))
