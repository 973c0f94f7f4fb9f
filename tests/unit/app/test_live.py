"""The user's own text and steering through the server, on a tiny random model that is loaded at first need."""

from __future__ import annotations

import http.client
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from app_cases import LIVE_NAME, LIVE_SITE, Server, model_run

from monosemy.app.catalogue import Catalogue
from monosemy.app.live import LiveModel, read_text, steer_events, steering_request
from monosemy.app.own_text import kept_rows
from monosemy.errors import UserError
from monosemy.models.sources import load_model
from monosemy.saes.storage import load_sae
from monosemy.steering.edits import SiteEdit
from monosemy.support.tensors import save_tensors

BASE = f"/api/f/{LIVE_SITE}/{LIVE_NAME}"
STEER = {
    "site": LIVE_SITE,
    "name": LIVE_NAME,
    "prompt": "In July",
    "n_tokens": 4,
    "columns": ["default", "steered"],
    "edits": [{"latent": 5, "operation": "set", "value": 8, "unit": "raw"}],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[Server]:
    with Server(run) as started:
        yield started


def events(server: Server, path: str, body: Any) -> list[dict[str, Any]]:
    status, headers, content = server.ask("POST", path, body)
    assert status == 200, content
    assert headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in content.splitlines()]


def test_the_model_is_absent_until_it_is_needed_and_then_ready(run: Path):
    with Server(run) as server:
        assert server.get("/api/model")["state"] == "absent"
        assert server.get("/api/run")["saes"][0]["column_source"] == "evaluation"
        assert server.get(f"{BASE}/latents?sort=n_fired&order=desc&limit=1")["rows"][0]["latent"] == 63
        assert server.get("/api/model")["state"] == "absent"  # lists need none
        assert server.send("POST", "/api/model/load", {})["state"] in ("loading", "ready")
        deadline = time.monotonic() + 300
        while server.get("/api/model")["state"] == "loading" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.get("/api/model")["state"] == "ready"


def test_without_features_pages_say_the_command_that_builds_them(server: Server):
    status, error = server.refusal("GET", f"{BASE}/latent/0")
    assert status == 404
    assert f"monosemy features {server_folder(server)} --saes {LIVE_SITE}/{LIVE_NAME}" in error


def server_folder(server: Server) -> str:
    return server.get("/api/run")["build_command"].removeprefix("monosemy features ")


def test_the_code_of_a_text_is_the_saes_own(run: Path, server: Server):
    answer = server.send("POST", f"{BASE}/text", {"text": "In July", "top": 50, "latent": 5})
    assert answer["tokens"] == ["<eos>", *"In July"]
    assert answer["special"] == [0]
    model = load_model(str(run / "model"), device="cpu")
    sae = load_sae(run / "saes" / LIVE_SITE / LIVE_NAME)
    ids = torch.tensor([[256, *model.tokenizer("In July")["input_ids"]]])
    code = sae.encode(model.activations(ids, [LIVE_SITE])[LIVE_SITE][0])
    assert answer["top"][0] == []  # the first position, on which no SAE is trained
    for position in range(1, ids.shape[1]):
        sent = {entry["latent"]: entry["value"] for entry in answer["top"][position]}
        latents, values = (part.tolist() for part in code.row(position))
        expected = {i: v for i, v in zip(latents, values, strict=True) if v > 0}
        assert sent == pytest.approx(expected, rel=1e-4)
        assert answer["trace"][position] == pytest.approx(expected.get(5, 0.0), rel=1e-4)
        assert answer["l0"][position] == len(expected)
    strongest = max((entry["value"], entry["latent"]) for top_entries in answer["top"] for entry in top_entries)
    assert (answer["summary"][0]["value"], answer["summary"][0]["latent"]) == strongest


def test_a_character_of_several_tokens_stands_on_the_first_of_them(server: Server):
    assert server.send("POST", f"{BASE}/text", {"text": "a—b"})["tokens"] == ["<eos>", "a", "—", "", "", "b"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"text": ""}, "1 to 60,000 characters"),
        ({"text": "x" * 60_001}, "got 60,001"),
        ({}, "text must be str, got nothing"),
        ({"text": "a", "latent": 64}, "latents 0 to 63"),
        ({"text": "a", "top": "many"}, "top must be int"),
    ],
)
def test_bad_texts_are_refused(server: Server, body: dict[str, Any], words: str):
    status, error = server.refusal("POST", f"{BASE}/text", body)
    assert status in (400, 404)
    assert words in error


def test_steering_streams_columns_and_measures(server: Server):
    steer_events = events(server, "/api/steer", STEER)
    kinds = [event["kind"] for event in steer_events]
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    assert {event["column"] for event in steer_events if event["kind"] == "measure"} == {"default", "steered"}
    measured = next(event for event in steer_events if event["kind"] == "measure" and event["column"] == "steered")
    # the edited activation is encoded again, which its other directions shift a little
    assert [token["edited_activations"][0] for token in measured["tokens"]] == pytest.approx([8] * 4, abs=0.5)
    assert all(token["activations"][0] < 4 for token in measured["tokens"])


def test_unit_max_is_the_maximum_that_the_page_tells(tmp_path: Path):
    catalogue = Catalogue(model_run(tmp_path / "run"))
    entry = catalogue.sae(LIVE_SITE, LIVE_NAME)
    statistics = {
        "firing_count": torch.arange(64) % 2,
        "max": torch.arange(64) % 2 * 3.0,
        "sum": torch.ones(64).double(),
    }
    save_tensors(entry.folder / "latents.safetensors", statistics, {"n_tokens": "1000"})
    entry.built_columns = {"max": np.where(np.arange(64) == 8, np.nan, 7).astype(np.float32)}
    entry.built_columns["max"].flags.writeable = False  # as it is read from its file
    assert [entry.steering_max(latent) for latent in (5, 6, 8)] == [(3, "validation"), (7, "features"), None]
    live = LiveModel(catalogue)
    for latent in (5, 6):
        edit = {"latent": latent, "operation": "set", "value": 2, "unit": "max"}
        request = steering_request(live.catalogue, entry, STEER | {"edits": [edit]})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            start = next(iter(steer_events(live, entry, request)))
        assert start["columns"][1]["edits"][0]["value"] == 2 * entry.steering_max(latent)[0]  # type: ignore[index]
    silent = steering_request(
        live.catalogue, entry, STEER | {"edits": [{"latent": 8, "operation": "set", "value": 2, "unit": "max"}]}
    )
    with pytest.raises(UserError, match="latent 8 never fired"):
        next(iter(steer_events(live, entry, silent)))


def test_own_text_drops_what_the_runs_rule_drops(run: Path):
    live = LiveModel(Catalogue(run))
    entry = live.catalogue.sae(LIVE_SITE, LIVE_NAME)
    norms = live.model().activations(torch.tensor([[256, *range(65, 75)]]), [LIVE_SITE])[LIVE_SITE][0].norm(dim=1)
    ids = list(range(65, 75))
    limit = float(norms[1:].sort().values[4])
    keep = kept_rows(norms[1:, None], ids, live.model(), live.catalogue.config, outlier_norm=limit)
    assert keep.tolist()[1:] == (norms[2:] <= limit).tolist()  # the first position goes in any case
    assert read_text(live, entry, "In July").l0()[1:] == [4] * 7


def test_a_sweep_answers_every_strength_in_order(server: Server):
    values = [0, 1, 2, 4, 8, 16]
    sweep_events = events(server, "/api/sweep", STEER | {"values": values})
    assert [event["value"] for event in sweep_events if event["kind"] == "strength"] == values
    assert sweep_events[-1]["kind"] == "end"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"edits": [{"latent": 64, "operation": "set", "value": 1}]}, "latents 0 to 63"),
        ({"edits": [{"latent": 1, "operation": "set", "value": 1, "unit": "maxx"}]}, "did you mean 'max'"),
        ({"edits": [{"latent": latent} for latent in range(17)]}, "at most 16"),
        ({"n_tokens": 257}, "at most 256"),
        ({"prompt": "x" * 60_001}, "at most 60,000 characters"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"colour": "red"}, "colour"),
        ({"name": "gated"}, "this run has no SAE"),
        ({"prompt": "x" * 70}, "64"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_written(server: Server, change: dict[str, Any], words: str):
    status, error = server.refusal("POST", "/api/steer", STEER | change)
    assert status in (400, 404)
    assert words in error
    assert events(server, "/api/steer", STEER)[-1]["kind"] == "end"  # and the next one runs


def test_bad_strengths_are_refused(server: Server):
    for values in ([], [1] * 25, ["1"], [None], [True]):
        assert server.refusal("POST", "/api/sweep", STEER | {"values": values})[0] == 400


def test_strengths_without_an_answer_are_an_error_behind_the_others(
    server: Server,
):
    sweep_events = events(server, "/api/sweep", {**STEER, "values": [0, 2, 1e30]})
    assert [event["value"] for event in sweep_events if event["kind"] == "strength"] == [0, 2]
    assert sweep_events[-1]["kind"] == "error"
    assert sweep_events[-1]["error"].startswith("strength 1e+30: the change is too strong: ")
    strong = [{"latent": 5, "operation": "add", "value": 1e30, "unit": "raw"}]
    status, error = server.refusal("POST", "/api/steer", {**STEER, "edits": strong})
    assert status == 400
    assert "nothing of the text is left; lower the strength" in error


def test_one_stream_at_a_time_and_leaving_stops_it(server: Server):
    first = server.connect()
    long = STEER | {"n_tokens": 48, "measure": False, "prompt": "a"}
    first.request("POST", "/api/steer", json.dumps(long), {"Content-Type": "application/json"})
    answer = first.getresponse()
    assert json.loads(answer.readline())["kind"] == "start"
    status, error = server.refusal("POST", "/api/steer", STEER)
    assert (status, "another text is being written" in error) == (409, True)
    assert server.send("POST", f"{BASE}/text", {"text": "meanwhile"})["l0"]  # a text is answered in between
    hang_up(first, answer)
    deadline = time.monotonic() + 60
    while server.ask("POST", "/api/steer", STEER)[0] == 409 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert events(server, "/api/steer", STEER)[-1]["kind"] == "end"


def test_leaving_a_sweep_stops_it_long_before_its_end(server: Server, monkeypatch: pytest.MonkeyPatch):
    edit, passes = SiteEdit.__call__, []

    def slow(self: SiteEdit, x: torch.Tensor, place: Any) -> torch.Tensor:
        passes.append(len(x))
        time.sleep(0.1)
        return edit(self, x, place)

    monkeypatch.setattr(SiteEdit, "__call__", slow)
    connection = server.connect()
    body = STEER | {"values": [1, 2, 3, 4, 5], "n_tokens": 40, "prompt": "a"}  # 40 passes, then the measures
    connection.request("POST", "/api/sweep", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    first = json.loads(answer.readline())
    assert (first["kind"], first["done"], first["n_tokens"]) == ("progress", 0, 40)
    hang_up(connection, answer)
    n_before = len(passes)
    deadline = time.monotonic() + 60
    while server.ask("POST", "/api/steer", STEER)[0] == 409:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    n_steered = 2 * STEER["n_tokens"] + 2  # the answer that was let in at last: its tokens and measures, at most
    assert len(passes) < n_before + n_steered + 20


def hang_up(connection: http.client.HTTPConnection, answer: http.client.HTTPResponse) -> None:
    answer.close()
    connection.close()


def test_a_model_that_has_changed_is_refused_with_the_reason(tmp_path: Path):
    folder = model_run(tmp_path / "run")
    document = json.loads((folder / "run.json").read_text())
    document["provenance"]["model"] = {"name": "tiny", "fingerprint": "another"}
    (folder / "run.json").write_text(json.dumps(document))
    with Server(folder) as server:
        status, error = server.refusal("POST", f"{BASE}/text", {"text": "a"})
        assert status == 503
        assert "has changed since this run was made" in error
        assert server.get("/api/model")["state"] == "failed"
