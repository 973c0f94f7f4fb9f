"""What the server answers is what the models say, and the front-end's types are made from these models."""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Any

import pytest
from app_cases import LIVE_NAME, LIVE_SITE, OTHER, Server, model_run, page_run
from feature_runs import NAME, SITE
from pydantic import TypeAdapter, ValidationError

from monosemy.app import schema, typescript
from monosemy.app.catalogue import Catalogue
from monosemy.app.live import LiveModel
from monosemy.app.meaning import Meanings
from monosemy.errors import UserError
from monosemy.steering import request

BASE, LIVE = f"/api/f/{SITE}/{NAME}", f"/api/f/{LIVE_SITE}/{LIVE_NAME}"
STEER = {"site": LIVE_SITE, "name": LIVE_NAME, "prompt": "In July", "n_tokens": 2, "edits": [{"latent": 3, "value": 8}]}


def check(kind: Any, answer: Any) -> None:
    """Through JSON once more: that is what the pages read."""
    TypeAdapter(kind).validate_json(json.dumps(answer))


def test_the_front_ends_types_were_made_from_the_models():
    assert typescript.TARGET.read_text("utf-8") == typescript.render(), "run `make web` and commit web/src/types.ts"


def test_every_answer_about_latents_is_what_the_models_say(tmp_path: Path):
    with Server(page_run(tmp_path / "run")) as server:
        check(schema.RunInfo, server.get("/api/run"))
        check(schema.ModelStatus, server.get("/api/model"))
        check(schema.FeatureInfo, server.get(f"{BASE}/info"))
        check(schema.LatentList, server.get(f"{BASE}/latents"))
        check(schema.Highlights, server.get(f"{BASE}/highlights"))
        for latent in (0, 3):  # one with everything, one that never fired
            check(schema.LatentPage, server.get(f"{BASE}/latent/{latent}"))
        check(schema.LabelSearch, server.get(f"{BASE}/search?q=a"))
        check(schema.TokenSearch, server.get(f"{BASE}/token?text=a"))
        for view in ("matched", "only_a", "only_b"):
            pair = f"a={SITE}/{NAME}&b={SITE}/{OTHER}"
            check(schema.Comparison, server.get(f"/api/compare?{pair}&by=correlation&view={view}"))
        change = {"site": SITE, "name": NAME, "latent": 0, "text": "a note"}
        check(schema.Notes, server.send("PUT", "/api/notes", change))
        check(schema.Notes, server.get("/api/notes"))


def test_a_search_by_meaning_is_what_the_models_say(tmp_path: Path):
    model, pages = Catalogue(model_run(tmp_path / "model")), Catalogue(page_run(tmp_path / "pages"))
    sae, database = pages.features(SITE, NAME)
    found = Meanings(LiveModel(model)).search(sae, database, "July", 3)
    check(schema.MeaningSearch, found)
    assert len(found["hits"]) <= 3
    assert all(0 < hit["score"] <= 1 + 1e-5 and hit["by"] for hit in found["hits"])


def test_every_answer_of_the_model_is_what_the_models_say(tmp_path: Path):
    with Server(model_run(tmp_path / "run")) as server:
        check(schema.TextResult, server.send("POST", f"{LIVE}/text", {"text": "In July", "latent": 3}))
        for address, body, kind in (
            ("/api/steer", STEER, schema.SteerEvent),
            ("/api/sweep", STEER | {"values": [1, 2.5]}, schema.SweepEvent),
        ):
            lines = [json.loads(line) for line in server.ask("POST", address, body)[2].splitlines()]
            assert {line["kind"] for line in lines} >= {"end", "start" if kind is schema.SteerEvent else "strength"}
            for line in lines:
                check(kind, line)


def test_an_answer_with_another_key_or_type_is_noticed():
    answer = {"total": 1, "offset": 0, "columns": [], "rows": []}
    check(schema.LatentList, answer)
    for wrong in (answer | {"more": 1}, answer | {"total": "1"}, {"total": 1}):
        with pytest.raises(ValidationError):
            check(schema.LatentList, wrong)


def test_the_words_of_steering_are_those_that_it_takes():
    assert typing.get_args(schema.Operation) == tuple(request.OPERATIONS)
    assert typing.get_args(schema.SteerColumn) == request.COLUMNS


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "site must be str, got nothing"),
        ({"site": "a", "name": 3}, "name must be str, got 3"),
        ({"site": "a", "name": "b", "latent": True}, "latent must be int, got True"),
        ({"site": "a", "name": "b", "latent": "7"}, "latent must be int, got '7'"),
        ({"site": "a", "name": "b", "latent": 1.0}, "latent must be int, got 1.0"),
        ({"site": "a", "name": "b", "latent": 1, "bookmark": None}, "bookmark must be bool, got nothing"),
        (
            {"site": "a", "name": "b", "latent": 1, "before": ["y" * 99]},
            "before must be str, got ['yy",
        ),
    ],
)
def test_a_body_is_refused_in_one_line(body: dict[str, Any], words: str):
    with pytest.raises(UserError) as refusal:
        schema.parse_body(schema.NoteChange, body)
    assert str(refusal.value).startswith(words)
    assert "\n" not in str(refusal.value)
