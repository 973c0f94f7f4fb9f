"""Recipes are plain data: they survive JSON, and an unknown name is answered with the near ones."""

import pytest

from monosemy.config import RunConfig, from_json, to_json
from monosemy.errors import UserError
from monosemy.pipeline import check_config
from monosemy.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_round_trips_and_passes_the_checks_made_before_a_run(name):
    config = recipe(name)
    assert config.recipe == name
    assert from_json(RunConfig, to_json(config)) == config
    check_config(config)


def test_an_unknown_recipe_names_the_near_ones():
    with pytest.raises(UserError, match="did you mean 'demo'"):
        recipe("dmo")
