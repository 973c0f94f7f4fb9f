"""The browser's server over the real embedded model: a text's latents and a steered answer, from a cold start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from app_cases import EMBEDDED_NAME as NAME
from app_cases import EMBEDDED_SITE as SITE
from app_cases import Server, embedded_run

from monosemy.models.adapter import LanguageModel

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, embedded_model: LanguageModel) -> Path:
    return embedded_run(tmp_path_factory.mktemp("run"), embedded_model)


def test_a_text_and_a_steered_answer_from_a_server_that_had_no_model_yet(run: Path):
    with Server(run) as server:
        assert server.get("/api/model")["state"] == "absent"
        text = "In July 1969 — l’été — the crew landed."
        answer = server.send("POST", f"/api/f/{SITE}/{NAME}/text", {"text": text})
        state = server.get("/api/model")
        assert (state["state"], state["name"], state["chat"]) == ("ready", "SmolLM2-135M-Instruct", True)
        assert "".join(answer["tokens"]) == "<|endoftext|>" + text
        assert answer["l0"][0] == 0
        assert max(answer["l0"]) <= 32
        assert sum(answer["l0"]) > 0
        request = {
            "site": SITE,
            "name": NAME,
            "prompt": "Say hello.",
            "n_tokens": 5,
            "columns": ["default", "steered", "random"],
            "edits": [{"latent": 3, "operation": "add", "value": 0.5, "unit": "norm"}],
        }
        status, _, content = server.ask("POST", "/api/steer", request)
        assert status == 200
        events = [json.loads(line) for line in content.splitlines()]
        measured = {event["column"]: event for event in events if event["kind"] == "measure"}
        assert set(measured) == {"default", "steered", "random"}
        assert measured["default"]["mean_kl"] == 0
        assert measured["steered"]["mean_kl"] > 0
