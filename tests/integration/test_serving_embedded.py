"""The real embedded model behind OpenAI's interface, asked by OpenAI's own client; and a probe trained on real text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from app_cases import EMBEDDED_NAME, EMBEDDED_SITE, embedded_run
from serving_cases import ApiServer, served_run

from monosemy.app.probe_command import run_probe
from monosemy.models.adapter import LanguageModel
from monosemy.serving.recipes import Recipe
from monosemy.steering.generate import steer
from monosemy.steering.request import Edit, SteeringRequest

pytestmark = pytest.mark.integration
EDIT = Edit(3, "add", 0.5, "norm")
QUESTION = "Say hello."


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, embedded_model: LanguageModel) -> Path:
    return embedded_run(tmp_path_factory.mktemp("run"), embedded_model)


def test_a_chat_is_answered_as_steering_answers_it_and_streams(run: Path, embedded_model: LanguageModel):
    served = served_run(run, (EMBEDDED_SITE, EMBEDDED_NAME), recipes=[Recipe("pushed", (EDIT,))])
    request = SteeringRequest(QUESTION, (EDIT,), columns=("default", "steered"), n_tokens=8, measure=False)
    columns = steer(served.model, served.first.sae, request, served.first.scales)
    with ApiServer(served) as server:
        client = server.client()
        for model, column in ((served.name, "default"), (f"{served.name}:pushed", "steered")):
            messages = [{"role": "user", "content": QUESTION}]
            body: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": 8, "temperature": 0}
            answer = client.chat.completions.create(**body)
            assert answer.choices[0].message.content == columns[column]["text"]
            pieces = [
                chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**body, stream=True)
            ]
            assert "".join(pieces) == columns[column]["text"]
        tokens = answer.choices[0].model_extra["monosemy"]["tokens"]  # of the recipe's own latent
        assert all(len(token["activations"]) == 1 for token in tokens)


def test_a_probe_on_real_texts_is_trained_and_served(run: Path, tmp_path: Path):
    """Which of two languages a sentence is in: even a random dictionary's latents tell that."""
    english = ["The ship left the harbour in the morning.", "We had bread and cheese.", "She wrote him a long letter."]
    french = [
        "Le navire a quitté le port au matin.",
        "Nous avions du pain et du fromage.",
        "Elle lui écrivit une lettre.",
    ]
    rows = [
        {"text": f"{sentence} {number}", "label": language}
        for language, sentences in (("en", english), ("fr", french))
        for sentence in sentences
        for number in range(5)
    ]
    labelled, probe = tmp_path / "texts.jsonl", tmp_path / "french.probe.json"
    labelled.write_text("\n".join(map(json.dumps, rows)))
    run_probe([str(run), str(labelled), "--positive", "fr", "--out", str(probe)])
    measured = json.loads(probe.read_text())["measured"]
    assert measured["auroc"]["raw activations, mean"]["value"] > 0.9
    served = served_run(run, (EMBEDDED_SITE, EMBEDDED_NAME), monitors=[probe])
    with ApiServer(served) as server:
        answer = server.client().completions.create(model=served.name, prompt=rows[-1]["text"], max_tokens=1)
        (verdict,) = answer.choices[0].model_extra["monosemy"]["monitors"]["prompt"]
    assert (verdict["name"], verdict["kind"], 0 <= verdict["score"] <= 1) == ("texts", "probe", True)
    assert verdict["flagged"] == (verdict["score"] >= verdict["threshold"])
