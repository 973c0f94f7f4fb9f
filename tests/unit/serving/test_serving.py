"""The server of OpenAI's interface over a tiny random model, asked by OpenAI's own client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
from app_cases import LIVE_NAME, LIVE_SITE
from serving_cases import ApiServer, chat_run, served_run

from monosemy.app.live import steering_scales
from monosemy.errors import UserError
from monosemy.models.prompts import chat_ids, chat_text
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
from monosemy.saes.storage import save_sae
from monosemy.serving import api, http_docs, schema
from monosemy.serving.recipes import Recipe, kept_recipes, read_recipe
from monosemy.serving.served import Place, Served
from monosemy.serving.stops import StopText
from monosemy.steering.generate import stream
from monosemy.steering.recipe import SteeringRecipe, save_recipe
from monosemy.steering.request import Edit, SteeringRequest
from monosemy.steering.saes import SteeredSae
from monosemy.support.moved import NOT_MOVED

EDITS = (Edit(5, "set", 6.0), Edit(9, "ablate"))
MESSAGES: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "In July"}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def served(run: Path) -> Served:
    monitors = run / "monitors.json"
    entries = [{"name": "low", "latent": 5, "threshold": 1e-6}, {"name": "high", "latent": 5, "threshold": 1e6}]
    monitors.write_text(json.dumps({"format": "monosemy-monitor", "version": 1, "monitors": entries}))
    return served_run(run, recipes=[Recipe("pushed", EDITS)], latents=["first=5", "40"], monitors=[monitors])


@pytest.fixture(scope="module")
def server(served: Served) -> Iterator[ApiServer]:
    with ApiServer(served) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: ApiServer) -> openai.OpenAI:
    return server.client()


@pytest.fixture(scope="module")
def model(served: Served) -> str:
    return served.name


def steered(served: Served, **options: Any) -> dict[str, dict[str, Any]]:
    """{kind: event} of the steered column, as `monosemy steer` writes and measures it."""
    request = SteeringRequest("In July", EDITS, columns=("steered",), chat=False, **options)
    sae = served.first
    events = stream(served.model, sae.sae, request, steering_scales(sae.entry, sae.sae))
    return {event["kind"]: event for event in events}


def test_models_are_the_model_and_its_recipes(client: openai.OpenAI, model: str):
    assert [entry.id for entry in client.models.list()] == [model, f"{model}:pushed"]
    entry = client.models.retrieve(f"{model}:pushed").model_extra["monosemy"]
    assert [edit["latent"] for edit in entry["edits"]] == [5, 9]
    with pytest.raises(openai.NotFoundError, match="unknown model"):
        client.models.retrieve("nobody")


def test_a_text_is_continued_as_the_model_alone_continues_it(client: openai.OpenAI, served: Served, model: str):
    answer = client.completions.create(model=model, prompt="In July", max_tokens=5, temperature=0)
    ids = served.model.tokenizer("In July")["input_ids"]
    n_prompt = len(ids)
    for _ in range(5):
        ids.append(int(served.model.module(torch.tensor([ids])).logits[0, -1].argmax()))
    choice = answer.choices[0]
    assert choice.text == served.model.tokenizer.decode(ids[n_prompt:])
    assert [token["token"] for token in choice.model_extra["monosemy"]["tokens"]] == ids[n_prompt:]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (n_prompt, 5)
    assert choice.finish_reason == "length"


def test_a_recipe_steers_as_the_command_does_and_tokens_bring_their_activations(
    client: openai.OpenAI, served: Served, model: str
):
    expected = steered(served, n_tokens=5)
    answer = client.completions.create(model=f"{model}:pushed", prompt="In July", max_tokens=5, temperature=0)
    choice, extension = answer.choices[0], answer.model_extra["monosemy"]
    assert choice.text == expected["done"]["text"]
    assert (extension["recipe"], [ref["name"] for ref in extension["latents"]]) == ("pushed", ["first", "40"])
    for token, measured in zip(
        choice.model_extra["monosemy"]["tokens"], expected["measure"]["tokens"], strict=True
    ):  # of latent 5
        assert token["activations"][0] == pytest.approx(measured["activations"][0], abs=1e-4)
        assert token["edited_activations"][0] == pytest.approx(measured["edited_activations"][0], abs=1e-4)


def test_edits_of_the_request_are_those_of_a_recipe(client: openai.OpenAI, served: Served, model: str):
    extension = {"edits": [{"latent": 5, "operation": "set", "value": 6}, {"latent": 9, "operation": "ablate"}]}
    answer = client.completions.create(
        model=model, prompt="In July", max_tokens=5, temperature=0, extra_body={"monosemy": extension}
    )
    assert answer.choices[0].text == steered(served, n_tokens=5, measure=False)["done"]["text"]
    assert answer.model_extra["monosemy"]["recipe"] == "request"


def test_a_stream_is_the_whole_answer_in_pieces(client: openai.OpenAI, model: str):
    body: dict[str, Any] = {"model": f"{model}:pushed", "messages": MESSAGES, "max_tokens": 6, "temperature": 0}
    whole = client.chat.completions.create(**body)
    chunks = list(client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True}))
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert choices[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for choice in choices) == whole.choices[0].message.content
    tokens = [t for c in choices for t in (c.model_extra.get("monosemy") or {}).get("tokens", [])]
    assert tokens == whole.choices[0].model_extra["monosemy"]["tokens"]
    assert choices[-1].finish_reason == whole.choices[0].finish_reason == "length"
    assert choices[-1].model_extra["monosemy"]["monitors"] == whole.choices[0].model_extra["monosemy"]["monitors"]
    assert chunks[-1].usage == whole.usage


def test_a_chat_is_written_with_the_template(client: openai.OpenAI, served: Served, model: str):
    answer = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=1, temperature=0)
    ids = chat_ids(served.model.tokenizer, chat_text(served.model.tokenizer, MESSAGES, "tiny", ""))
    assert answer.usage.prompt_tokens == len(ids)
    token = int(served.model.module(torch.tensor([ids])).logits[0, -1].argmax())
    assert answer.choices[0].model_extra["monosemy"]["tokens"][0]["token"] == token


def test_monitors_judge_the_messages_and_the_answer(client: openai.OpenAI, served: Served, model: str):
    answer = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=4, temperature=0)
    extension = answer.choices[0].model_extra["monosemy"]
    ids = chat_ids(served.model.tokenizer, text := chat_text(served.model.tokenizer, MESSAGES, "tiny", ""))
    code = served.first.sae.encode(served.model.activations(torch.tensor([ids]), [LIVE_SITE])[LIVE_SITE][0])
    values = code.to_dense()[:, 5].detach().numpy()
    inside = np.zeros(len(ids), bool)
    for message in MESSAGES:  # a token is a byte here
        start = text.index(f"<{message['role']}>") + len(message["role"]) + 2
        inside[start : start + len(message["content"])] = True
    (low, high), inner = extension["monitors"]["prompt"], np.where(inside, values, 0)
    assert low["score"] == pytest.approx(float(inner.max()), rel=1e-4, abs=1e-6)
    assert low["n_tokens"] == int((inner >= 1e-6).sum())
    assert not high["flagged"]
    assert ("low" in extension["flags"]["prompt"]) == low["flagged"] == (inner.max() >= 1e-6)
    own = [token["activations"][0] or 0.0 for token in extension["tokens"]]
    assert extension["monitors"]["answer"][0]["score"] == pytest.approx(max(own), abs=1e-4)
    assert answer.model_extra["monosemy"]["flags"] == extension["flags"]


def test_several_answers_differ_by_their_draws_alone_and_a_seed_repeats_them(client: openai.OpenAI, model: str):
    body: dict[str, Any] = {"model": model, "prompt": ["In", "July"], "max_tokens": 8, "n": 2, "temperature": 1.5}
    first, again = (client.completions.create(**body, seed=7) for _ in range(2))
    texts = [choice.text for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2, 3]
    assert texts == [choice.text for choice in again.choices]
    assert texts[0] != texts[1]
    drawn = client.completions.create(**body)
    repeated = client.completions.create(**body, seed=drawn.model_extra["monosemy"]["seed"])
    assert [choice.text for choice in drawn.choices] == [choice.text for choice in repeated.choices]


def test_log_probabilities_are_the_models_own(client: openai.OpenAI, served: Served, model: str):
    answer = client.chat.completions.create(
        model=model, messages=MESSAGES, max_tokens=2, temperature=0, logprobs=True, top_logprobs=3
    )
    entries = answer.choices[0].logprobs.content
    ids = chat_ids(served.model.tokenizer, chat_text(served.model.tokenizer, MESSAGES, "tiny", ""))
    expected = served.model.module(torch.tensor([ids])).logits[0, -1].log_softmax(-1).topk(3)
    assert [entry.logprob for entry in entries[0].top_logprobs] == pytest.approx(expected.values.tolist(), abs=1e-4)
    assert entries[0].logprob == pytest.approx(float(expected.values[0]), abs=1e-4)


def test_a_stop_sequence_ends_the_text_before_it(client: openai.OpenAI, model: str):
    body: dict[str, Any] = {"model": model, "prompt": "In July", "max_tokens": 8, "temperature": 0}
    text = client.completions.create(**body).choices[0].text
    stop = text[3:5]
    choice = client.completions.create(**body, stop=[stop]).choices[0]
    assert (choice.text, choice.finish_reason) == (text[: text.index(stop)], "stop")
    pieces = [chunk.choices[0].text for chunk in client.completions.create(**body, stop=stop, stream=True)]
    assert "".join(pieces) == choice.text


@pytest.mark.parametrize(
    ("pieces", "stops", "released"),
    [
        (["ab", "c", "d"], ["cd"], ["ab", "", ""]),
        (["ab", "c", "x"], ["cd"], ["ab", "", "cx"]),
        (["a<", "/s", ">b"], ["</s>"], ["a", "", ""]),
        (["aab"], ["ab", "aa"], [""]),
        (["a", "a"], [], ["a", "a"]),
    ],
)
def test_what_may_begin_a_stop_sequence_is_held_back(pieces: list[str], stops: list[str], released: list[str]):
    text = StopText(stops)
    assert [text.add(piece) for piece in pieces] == released


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": "other"}, openai.NotFoundError, "unknown model 'other'; this server has: "),
        ({"n": 9}, openai.BadRequestError, "n must be from 1 to 8"),
        ({"temperature": -1}, openai.BadRequestError, "temperature must be from 0"),
        ({"top_p": 0}, openai.BadRequestError, "top_p must be above 0"),
        ({"messages": []}, openai.BadRequestError, "messages is empty"),
        ({"messages": [{"role": "tool", "content": "x"}]}, openai.BadRequestError, "role must be one of system"),
        ({"messages": "hello"}, openai.BadRequestError, "messages must be list"),
        ({"max_tokens": 65}, openai.BadRequestError, "exceed the 64 positions"),
        ({"frequency_penalty": 1.0}, openai.BadRequestError, "frequency_penalty is not supported"),
        ({"tools": [{"type": "function"}]}, openai.BadRequestError, "tools is not supported"),
        ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "response_format is not supported"),
        ({"top_logprobs": 3}, openai.BadRequestError, "needs logprobs"),
        ({"stop": [""]}, openai.BadRequestError, "none of them empty"),
        ({"extra_body": {"monosemy": {"latents": ["x"]}}}, openai.BadRequestError, "a latent is written"),
        ({"extra_body": {"monosemy": {"latents": [64]}}}, openai.BadRequestError, "has latents 0 to 63"),
        ({"extra_body": {"monosemy": {"edits": [{"latent": 64}]}}}, openai.BadRequestError, "0 to 63"),
        ({"extra_body": {"monosemy": {"edits": [{}]}}}, openai.BadRequestError, "needs a latent"),
        ({"extra_body": {"monosemy": {"sae": "a/b", "edits": [{"latent": 1}]}}}, openai.BadRequestError, "unknown SAE"),
        (
            {"extra_body": {"monosemy": {"edits": [{"latent": 1, "operation": "add", "value": 1e30}]}}},
            openai.BadRequestError,
            "too strong",
        ),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
def test_bad_requests_are_refused_in_openais_form(
    client: openai.OpenAI,
    model: str,
    change: dict[str, Any],
    error: type[openai.APIStatusError],
    words: str,
    streams: bool,
):
    body: dict[str, Any] = {"model": model, "messages": MESSAGES, "max_tokens": 2} | change
    with pytest.raises(error) as caught:
        client.chat.completions.create(**body, stream=streams)
    assert words in caught.value.body["message"]
    assert "\n" not in caught.value.body["message"]
    assert caught.value.body["type"] == "invalid_request_error"


def test_answers_and_chunks_are_what_the_models_say(server: ApiServer, model: str):
    body = {"model": f"{model}:pushed", "messages": MESSAGES, "max_tokens": 3, "logprobs": True}
    status, _, content = server.ask("POST", "/v1/chat/completions", body)
    assert status == 200
    assert schema.Completion.model_validate_json(content).choices[0].monosemy.monitors.prompt[0].name == "low"
    schema.ModelList.model_validate_json(server.ask("GET", "/v1/models")[2])
    schema.Failure.model_validate_json(server.ask("POST", "/v1/completions", {})[2])
    streamed = body | {"stream": True, "stream_options": {"include_usage": True}}
    events = server.ask("POST", "/v1/chat/completions", streamed)[2].split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    for event in events[:-2]:
        schema.Completion.model_validate_json(event.removeprefix(b"data: "))


def test_the_page_on_http_was_made_from_the_applications():
    text = http_docs.TARGET.read_text("utf-8")
    assert http_docs.filled(text) == text, "run `python -m monosemy.serving.http_docs` and commit docs/http-api.md"
    for words in ("POST /v1/chat/completions", "POST /api/steer", "#### MonitorVerdict", "#### SteeringRequest"):
        assert words in text


def test_other_addresses_and_broken_bodies_are_refused_in_openais_form(server: ApiServer):
    for method, path, body, status in (
        ("GET", "/", None, 404),
        ("POST", "/v1/embeddings", {}, 404),
        ("GET", "/v1/chat/completions", None, 405),
        ("POST", "/v1/completions", b"{", 400),
        ("POST", "/v1/completions", [], 400),
        ("POST", "/v1/completions", b"x" * 300_000, 413),
    ):
        got, _, content = server.ask(method, path, body)
        assert (got, set(json.loads(content)["error"])) == (status, {"message", "type", "param", "code"}), path


def test_strangers_are_refused(server: ApiServer):
    for headers in (
        {"Host": "evil.example"},
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        status, _, content = server.ask("GET", "/v1/models", headers=headers)
        assert (status, json.loads(content)["error"]["type"]) == (403, "invalid_request_error"), headers


def test_beyond_loopback_a_key_is_needed(served: Served):
    with ApiServer(served, host="0.0.0.0") as server:  # bound to loopback here, but with the access of any address
        assert server.access.token is not None
        with pytest.raises(openai.AuthenticationError, match="give the server's key"):
            server.client("wrong").models.list()
        assert server.ask("GET", f"/v1/models?token={server.access.token}")[0] == 401
        assert len(server.client(server.access.token).models.list().data) == 2
    with ApiServer(served, key="a-key-of-ones-own") as server:
        with pytest.raises(openai.AuthenticationError):
            server.client().models.list()
        assert server.client("a-key-of-ones-own").models.list().data


def test_a_queue_that_is_full_says_so(client: openai.OpenAI, model: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(api, "MAX_WAITING", 0)
    with pytest.raises(openai.RateLimitError, match="try again in a moment"):
        client.completions.create(model=model, prompt="a", max_tokens=1)


@pytest.mark.parametrize(
    ("words", "recipe"),
    [
        ("a=5:set:6,9:ablate", Recipe("a", (Edit(5, "set", 6.0), Edit(9, "ablate")))),
        (
            f"a=http://127.0.0.1:8321/steer/{LIVE_SITE}/{LIVE_NAME}?e=5%3Aset%3A0.4%3Anorm&error=drop&prompt=x",
            Recipe("a", (Edit(5, "set", 0.4, "norm"),), f"{LIVE_SITE}/{LIVE_NAME}", keep_error=False),
        ),
    ],
)
def test_recipes_are_read_from_words_and_addresses(words: str, recipe: Recipe):
    assert read_recipe(words) == recipe


def test_recipes_are_read_from_files(tmp_path: Path):
    path = tmp_path / "a.json"
    values = {"format": "monosemy-recipe", "version": 1, "name": "a", "edits": [{"latent": 5, "operation": "ablate"}]}
    path.write_text(json.dumps(values))
    assert read_recipe(str(path)) == Recipe("a", (Edit(5, "ablate"),))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("5:set:6", "a recipe is NAME="),
        ("a b=5:set:6", "a recipe is NAME="),
        ("a=5", "an edit is written"),
        ("a=5:sett:1", "did you mean 'set'"),
        ("a=5:set:1,5:ablate", "would add up"),
        ("a=http://x/steer/S/N?at=all", "names no latent"),
        ("missing.json", "does not exist"),
    ],
)
def test_recipes_that_are_none_are_refused(words: str, message: str):
    with pytest.raises(UserError, match=message):
        read_recipe(words)


def test_a_recipe_may_edit_latents_of_two_saes_at_two_sites(run: Path):
    folder = run / "saes" / "layers.2.resid_post" / LIVE_NAME
    save_sae(build_sae(SaeConfig("topk", 32, 64, 4.0, site="layers.2.resid_post", scale=2.0)), folder)
    other = f"layers.2.resid_post/{LIVE_NAME}"
    edits = (Edit(5, "set", 6.0), Edit(7, "set", 4.0, sae=other))
    places = [Place(run, ((LIVE_SITE, LIVE_NAME), ("layers.2.resid_post", LIVE_NAME)), NOT_MOVED)]
    served = Served(places, recipes=[Recipe("both", edits)])
    request = SteeringRequest("In July", edits, columns=("steered",), chat=False, n_tokens=4)
    first, second = served.saes.values()
    others = {other: SteeredSae(second.sae, second.scales)}
    expected = {e["kind"]: e for e in stream(served.model, first.sae, request, first.scales, others=others)}
    with ApiServer(served) as server:
        client = server.client()
        answer = client.completions.create(model=f"{served.name}:both", prompt="In July", max_tokens=4, temperature=0)
    assert answer.choices[0].text == expected["done"]["text"]
    assert [ref["sae"] for ref in answer.model_extra["monosemy"]["latents"]] == [first.label, other]
    for token, measured in zip(
        answer.choices[0].model_extra["monosemy"]["tokens"], expected["measure"]["tokens"], strict=True
    ):
        assert token["edited_activations"] == pytest.approx(measured["edited_activations"], abs=1e-4)


def test_recipes_that_the_run_keeps_are_served_unless_they_cannot_be(tmp_path: Path):
    run, label = chat_run(tmp_path / "run"), f"{LIVE_SITE}/{LIVE_NAME}"
    for name, edit in (
        ("calm tone", Edit(5, "ablate", sae=label)),
        ("gone", Edit(64, "ablate", sae=label)),
        ("elsewhere", Edit(1, "ablate", sae="layers.9.mlp_out/x")),
        ("taken", Edit(6, "ablate", sae=label)),
    ):
        save_recipe(run, SteeringRecipe(name, edit.sae, (edit,)))
    served = served_run(run, recipes=[Recipe("taken", EDITS)], kept_recipes=kept_recipes(run))
    assert {name: recipe.edits for name, recipe in served.recipes.items()} == {
        "taken": EDITS,
        "calm-tone": (Edit(5, "ablate", sae=label),),
    }
    reasons = {line.split("'")[1]: line for line in served.left_out}
    assert "out of range" in reasons["gone"]
    assert "unknown SAE 'layers.9.mlp_out/x'" in reasons["elsewhere"]
    assert "another recipe has this name" in reasons["taken"]


def test_what_the_command_line_gets_wrong_is_refused_before_the_model_is_loaded(run: Path, tmp_path: Path):
    for options, message in (
        ({"recipes": [Recipe("a", (Edit(64, "ablate"),))]}, "latent 64 is out of range"),
        ({"recipes": [Recipe("a", EDITS), Recipe("a", EDITS)]}, "several recipes are named 'a'"),
        ({"latents": ["x"]}, "a latent is written"),
        ({"latents": ["a/b:3"]}, "unknown SAE 'a/b'"),
        ({"monitors": [tmp_path / "none.json"]}, "cannot read"),
    ):
        with pytest.raises(UserError, match=message):
            served_run(run, **options)
