"""The browser's server over the real embedded model: a text's latents and a steered answer, from a cold start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from app_cases import Server

from monosemy.config import RunConfig, to_json
from monosemy.models.adapter import LanguageModel
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
from monosemy.saes.storage import save_sae
from monosemy.support.files import write_json

pytestmark = pytest.mark.integration
SITE, NAME = "layers.12.resid_post", "topk-l0_32-s0"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, embedded_model: LanguageModel) -> Path:
    """A run of the embedded model with a random SAE, marked with the model's real fingerprint."""
    folder = tmp_path_factory.mktemp("run")
    model = {"name": embedded_model.name, "fingerprint": embedded_model.fingerprint, "commit": None}
    record = {"model": model, "text": {"separator_token": 0, "bos_token": None}}
    write_json(folder / "run.json", {"format": 1, "config": to_json(RunConfig()), "provenance": record})
    sae = build_sae(SaeConfig("topk", 576, 1152, 32.0, site=SITE, scale=146.0))
    save_sae(sae, folder / "saes" / SITE / NAME)
    return folder


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
