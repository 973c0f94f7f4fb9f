"""Steering recipes: written, read again, named on the command line, and refused with a way out."""

from __future__ import annotations

import re

import orjson
import pytest
import torch

from monosemy.errors import UserError
from monosemy.steering import command
from monosemy.steering.recipe import (
    SteeringRecipe,
    beside,
    find_recipe,
    forget_recipe,
    fully_named,
    read_recipes,
    recipe_from_json,
    save_recipe,
)
from monosemy.steering.request import Edit, Positions
from monosemy.steering.saes import SteeredSae

SAE, OTHER = "layers.2.resid_post/jumprelu-l0_4-s0", "layers.2.resid_post/topk-l0_4-s0"
RECIPE = SteeringRecipe(
    "Two of them",
    SAE,
    (Edit(5, "set", 0.4, "norm", sae=SAE), Edit(7, "ablate", sae=OTHER)),
    Positions("range", 3, 9),
    prompt="The mill",
    model="tiny",
)


def test_a_recipe_comes_back_as_it_was_kept(run):
    path = save_recipe(run, RECIPE)
    assert path == run / "recipes" / "Two of them.json"
    assert find_recipe(run, "Two of them") == find_recipe(run, str(path)) == RECIPE
    with pytest.raises(UserError, match="has a recipe 'Two of them' already"):
        save_recipe(run, RECIPE)
    save_recipe(run, RECIPE, replaces=True)
    (run / "recipes" / "broken.json").write_text("{}")
    recipe, problem = read_recipes(run)
    assert recipe == RECIPE
    assert "broken.json is no steering recipe" in str(problem)
    forget_recipe(run, "Two of them")
    forget_recipe(run, "Two of them")
    assert len(list(read_recipes(run))) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace(',\n "sae"', '\n "sae"'),
            r"not valid JSON \(Expecting ',' delimiter: line 5 column 2",
        ),
        (lambda text: "?" + text, r"JSON \(Expecting value: line 1 column 1"),
        (lambda text: text.replace('"set"', '"sett"'), "unknown operation 'sett'"),
    ],
)
def test_a_file_that_is_broken_is_to_be_corrected_or_kept_again(run, change, message):
    path = save_recipe(run, RECIPE)
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError) as caught:
        find_recipe(run, RECIPE.name)
    for problem in (*read_recipes(run), caught.value):
        assert re.search(message, str(problem))
        assert str(path) in str(problem)
        assert "stage" not in str(problem)
        assert ("--save-recipe" in str(problem)) == ("JSON" in message)
        assert "\n" not in str(problem)


def test_edits_name_their_sae_or_are_the_request_s_own():
    own = beside(RECIPE.edits, SAE)
    assert [edit.sae for edit in own] == ["", OTHER]
    assert fully_named(own, SAE) == RECIPE.edits
    assert beside(RECIPE.edits, OTHER)[1].sae == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "has version 2 of the recipe file, this one reads 1"),
        ({"edits": []}, "has no edit"),
        ({"edits": [{"latent": 5}]}, "does not say of which SAE latent 5 is"),
        ({"name": "x" * 81}, "takes 1 to 80 characters, got 81"),
        ({"sea": "x"}, "unknown setting 'recipe.sea'; did you mean 'recipe.sae'"),
        ({"edits": [{"latent": 5, "sae": SAE, "operation": "sett"}]}, "unknown operation 'sett'"),
        ({"edits": [{"latent": 5, "sae": SAE}, {"latent": 5, "sae": SAE}]}, "is edited by set twice"),
    ],
)
def test_what_is_no_recipe_is_one_line(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        recipe_from_json(RECIPE.to_json() | changes, "the file")
    assert "\n" not in str(caught.value)


def test_a_name_that_no_file_can_have_is_refused(run):
    with pytest.raises(UserError, match="recipe 'a:b' cannot be a file name"):
        save_recipe(run, SteeringRecipe("a:b", SAE, RECIPE.edits))
    with pytest.raises(UserError, match=r"has no recipe, and there is no file 'x'; keep one: .*--save-recipe NAME"):
        find_recipe(run, "x")
    save_recipe(run, RECIPE)
    with pytest.raises(UserError, match="unknown recipe 'Two of then'; did you mean 'Two of them'"):
        find_recipe(run, "Two of then")


def test_the_command_steers_with_several_saes_keeps_the_edits_and_makes_them_again(
    run, monkeypatch, tiny_model, capsys
):
    from steering_cases import scales_of, tiny_sae

    model = tiny_model("llama")
    sae = tiny_sae(model)
    scales = scales_of(sae, torch.randn(50, 32, generator=torch.Generator().manual_seed(0)))
    monkeypatch.setattr(command, "load_run", lambda *_: (model, sae, scales))
    # the run's SAEs on disk are of another width than this model: the other one is loaded in its place
    monkeypatch.setattr(
        SteeredSae, "load", staticmethod(lambda folder, device: SteeredSae(tiny_sae(model, "jumprelu")))
    )
    words = [str(run), "--prompt", "The mill", "--tokens", "4"]
    edits = ["--edit", "5:set:3:norm", "--edit", "topk-l0_4-s0:7:add:2", "--edit", f"{SAE}:9:ablate"]
    command.run_steer([*words, *edits, "--save-recipe", "both", "--positions", "1-"])
    printed = capsys.readouterr().out
    assert "7 of " in printed
    recipe = find_recipe(run, "both")
    assert [(edit.sae, edit.latent, edit.unit) for edit in recipe.edits] == [
        (SAE, 5, "norm"),
        (OTHER, 7, "raw"),
        (SAE, 9, "raw"),
    ]
    assert recipe.positions == Positions("range", 1, None)
    command.run_steer([str(run), "--recipe", "both", "--tokens", "4", "--json"])
    start = orjson.loads(capsys.readouterr().out.splitlines()[0])
    steered = next(column for column in start["columns"] if column["column"] == "steered")
    assert steered["prompt"] == "The mill"
    assert [(edit["sae"], edit["latent"]) for edit in steered["edits"]] == [("", 5), (OTHER, 7), ("", 9)]
    command.run_steer([*words, *edits, "--sweep", "0", "2"])
    assert "perplexity" in capsys.readouterr().out
    for wrong, message in (
        (["--edit", "topk-l0_5-s0:7:add:2"], "unknown SAE 'topk-l0_5-s0'; did you mean"),
        (["--edit", "topk-l0_4-s0:32:add:2"], f"latent 32 of {OTHER} is out of range; {OTHER} has latents 0 to 31"),
        (["--edit", "5:ablate", "--save-recipe", "both"], "has a recipe 'both' already"),
    ):
        with pytest.raises(UserError, match=message):
            command.run_steer([*words, *wrong])
