"""The search by meaning, on the embedded model's tokens and embedding: what is near is found, what is not is said."""

from __future__ import annotations

import pytest
from app_cases import EMBEDDED_NAME as NAME
from app_cases import EMBEDDED_SITE as SITE
from app_cases import Server
from concept_runs import ANGER, BRACKETS, CONCEPTS, GENDER, MONTHS, concept_run

from monosemy.app import schema
from monosemy.models.adapter import LanguageModel

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory, embedded_model: LanguageModel):
    with Server(concept_run(tmp_path_factory.mktemp("run") / "run", embedded_model)) as server:
        yield lambda words: server.send("POST", f"/api/f/{SITE}/{NAME}/meaning", {"q": words})


@pytest.mark.parametrize(
    ("words", "latent"),
    [("gender", GENDER), ("anger", ANGER), ("bracket", BRACKETS), ("calendar month", MONTHS)],
)
def test_a_concept_is_found_though_no_label_or_peak_has_its_word(ask, words, latent):
    label, peaks = CONCEPTS[latent]
    assert not any(word in label or f" {word}" in peaks for word in words.split())
    answer = ask(words)
    schema.MeaningSearch.model_validate(answer)
    first, *others = answer["hits"]
    assert first["latent"] == latent
    assert first["score"] >= answer["near"]
    assert all(hit["score"] < answer["near"] for hit in others)


@pytest.mark.parametrize("words", ["photosynthesis", "asteroid", "gradient descent"])
def test_of_what_is_not_there_the_nearest_is_given_and_is_not_called_near(ask, words):
    answer = ask(words)
    assert answer["hits"]
    assert all(hit["score"] < answer["near"] for hit in answer["hits"])
    assert all(hit["by"] for hit in answer["hits"])
