"""One's own text: windows, chats, rarities, two texts compared, evidence as files, `monosemy trace`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from app_cases import LIVE_NAME, LIVE_SITE, Server, model_run
from feature_runs import open_tiny

from monosemy.app import own_text, schema
from monosemy.app.catalogue import Catalogue
from monosemy.app.evidence import Evidence, _rarest, written
from monosemy.app.live import LiveModel, read_text
from monosemy.app.rarity import one_in
from monosemy.app.trace_command import run_trace
from monosemy.app.transcript import parse_chat, written_chat
from monosemy.errors import UserError
from monosemy.features.store.settings import LEVELS

BASE = f"/api/f/{LIVE_SITE}/{LIVE_NAME}"
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def live(run: Path) -> LiveModel:
    return LiveModel(Catalogue(run))


@pytest.mark.parametrize(("n", "longest"), [(1, 8), (8, 8), (9, 8), (100, 63), (1000, 64)])
def test_windows_cover_every_token_once_and_overlap(n: int, longest: int):
    parts = list(own_text.windows(n, longest))
    assert [token for _, fresh, stop in parts for token in range(fresh, stop)] == list(range(n))
    assert all(stop - start <= longest for start, _, stop in parts)
    assert all(fresh - start == min(own_text.OVERLAP, longest // 4) for start, fresh, _ in parts[1:])


def test_every_window_is_read_as_the_model_reads_it_alone(live: LiveModel):
    """The model has 64 positions, one of them for the separator."""
    text = "".join(chr(97 + (7 * i) % 26) for i in range(100))
    sae = live.catalogue.sae(LIVE_SITE, LIVE_NAME)
    reading = read_text(live, sae, text)
    assert (reading.n_windows, reading.n_dropped, len(reading.pieces)) == (2, 0, 101)
    model, weights = live.model(), live.sae(sae)
    start = 63 - 63 // 4
    window = torch.tensor([[256, *model.tokenizer(text[start:])["input_ids"]]])
    code = weights.encode(model.activations(window, [LIVE_SITE])[LIVE_SITE][0])
    for position in range(64, 101):
        latents, values = (part.tolist() for part in code.row(position - start))
        own = reading.position == position
        activations = dict(zip(reading.latent[own].tolist(), reading.value[own].tolist(), strict=True))
        expected = {i: v for i, v in zip(latents, values, strict=True) if v > 0}
        assert activations == pytest.approx(expected, rel=1e-4)


def test_a_rarity_is_the_rate_times_the_share_above(tmp_path: Path):
    database = open_tiny(tmp_path)
    levels, values = database.quantiles(0)
    assert levels.tolist() == pytest.approx(LEVELS)
    rate, n_tokens = 2 / 48, 48
    latent = np.zeros(3, np.int64)
    value = np.array([0.5, (values[5] + values[6]) / 2, 1e9], np.float32)
    # below every quantile: as often as it fires; between two of them; beyond all: once in the whole text at most
    between = 1 / max(rate * (1 - (levels[5] + levels[6]) / 2), 1 / n_tokens)
    assert one_in(database, latent, value).tolist() == pytest.approx([1 / rate, between, n_tokens], rel=1e-4)
    assert one_in(database, np.array([3]), np.ones(1)).tolist() == [n_tokens]  # never fired
    assert np.isnan(one_in(None, latent, value)).all()


def test_transcripts_are_taken_apart():
    lines = "User: hi\nthere\n\nAssistant: hello: you\nSYSTEM: x"
    assert parse_chat(lines) == [
        {"role": "user", "content": "hi\nthere"},
        {"role": "assistant", "content": "hello: you"},
        {"role": "system", "content": "x"},
    ]
    assert parse_chat('[{"role": "user", "content": "hi"}]') == [{"role": "user", "content": "hi"}]
    logged = '{"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}]}'
    assert parse_chat(logged) == [{"role": "user", "content": "ab"}]
    call = '{"function": {"name": "search", "arguments": "{\\"q\\": 1}"}}'
    calling = f'\ufeff[{{"role": "assistant", "content": null, "tool_calls": [{call}]}}]'
    assert parse_chat(calling) == [{"role": "assistant", "content": 'search({"q": 1})'}]
    for text, words in (
        ('{"text": "hi"}', "an object with one as messages"),
        ('[{"role": "user", "content": [{"type": "image_url"}]}]', "a content of text, got"),
        ('[{"role": "tool", "content": null}]', "a content of text, got"),
        ("hello\nUser: x", "names no speaker"),
        ("", "no messages"),
        ("[1]", "role and content"),
        ("[" * 100_000, "no JSON"),
    ):
        with pytest.raises(UserError, match=words):
            parse_chat(text)


def test_tokens_know_whose_message_they_are_in(run: Path):
    live = LiveModel(Catalogue(run))
    sae = live.catalogue.sae(LIVE_SITE, LIVE_NAME)
    with pytest.raises(UserError, match="no chat template"):
        read_text(live, sae, "User: hi", chat=True)
    live.model().tokenizer.chat_template = TEMPLATE
    reading = read_text(live, sae, "User: ab\nAssistant: ab", chat=True)
    assert "".join(reading.pieces[1:]) == "<user>ab<assistant>ab"
    assert reading.roles == [""] * 7 + ["user"] * 2 + [""] * 11 + ["assistant"] * 2
    assert written_chat(live.model(), [{"role": "user", "content": "ab"}]).spans == ((6, 8, "user"),)


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if messages[0]['role'] != 'system' %}a user{% endif %}"
)


@pytest.mark.parametrize(
    "contents", [["user", "assistant", "user"], ["u", "s", "_"], [" user\n", "<|im_start|>user", "u"], ["", "m", "a"]]
)
def test_contents_that_stand_in_what_the_template_writes_are_told_from_it(live: LiveModel, contents: list[str]):
    model = live.model()
    messages = [{"role": r, "content": c} for r, c in zip(("user", "assistant", "user"), contents, strict=True)]
    before, model.tokenizer.chat_template = model.tokenizer.chat_template, CHATML
    try:
        transcript = written_chat(model, messages)
    finally:
        model.tokenizer.chat_template = before
    expected, at = [], 0
    for message in messages:
        start = at + len(f"<|im_start|>{message['role']}\n")
        stop = start + len(message["content"].strip())
        at = stop + len("<|im_end|>\n")
        expected += [(start, stop, message["role"])] if stop > start else []
    assert list(transcript.spans) == expected
    assert [transcript.text[start:stop] for start, stop, _ in transcript.spans] == [c.strip() for c in contents if c]
    roles = transcript.roles_at(list(range(1, len(transcript.text) + 1)))
    inside = [next((role for start, stop, role in expected if start <= i < stop), "") for i in range(len(roles))]
    assert roles == inside


def test_two_texts_are_compared_both_ways(run: Path):
    with Server(run) as server:
        answer = server.send("POST", f"{BASE}/text-difference", {"text": "In July", "other": "In May"})
        schema.TextDifference.model_validate_json(json.dumps(answer))
        back = server.send("POST", f"{BASE}/text-difference", {"text": "In May", "other": "In July"})
        assert [row["latent"] for row in answer["rows"]] == [row["latent"] for row in back["rows"]]
        assert (answer["n_first"], answer["n_second"]) == (back["n_second"], back["n_first"])
        assert [row["first"] for row in answer["rows"]] == [row["second"] for row in back["rows"]]
        same = server.send("POST", f"{BASE}/text-difference", {"text": "In July", "other": "In July"})
        assert same["n_first"] == same["n_second"] == 0
        assert (answer["n_dropped_first"], answer["n_dropped_second"]) == (0, 0)
        body = {"text": "In July", "other": "In May", "format": "json"}
        status, headers, content = server.ask("POST", f"{BASE}/evidence", body)
        assert (status, headers["content-type"]) == (200, "application/json")
        assert [row["latent"] for row in json.loads(content)["latents"]] == [row["latent"] for row in answer["rows"]]


def test_the_evidence_holds_every_firing_in_each_format(live: LiveModel):
    reading = read_text(live, live.catalogue.sae(LIVE_SITE, LIVE_NAME), 'a="b"')
    evidence = Evidence(reading, {int(i): f"=label {i}" for i in reading.latent}, {"SAE": "<b>x</b>"})
    rows = list(csv.DictReader(io.StringIO(written(evidence, "csv"))))
    assert [int(row["latent"]) for row in rows] == reading.latent.tolist()
    assert [float(row["activation"]) for row in rows] == pytest.approx(reading.value.tolist())
    assert {json.loads(row["text"]) for row in rows} == set('a="b')
    assert all(row["label"].startswith("'=") for row in rows)  # no formula for a spreadsheet
    document = json.loads(written(evidence, "json"))
    assert document["firings"]["token"] == reading.position.tolist()
    assert len(document["latents"]) == len(set(reading.latent.tolist()))
    page = written(evidence, "html")
    assert "&lt;b&gt;x" in page
    assert "<b>x" not in page
    with pytest.raises(UserError, match="csv, json, html"):
        written(evidence, "pdf")


def test_the_page_shows_the_most_unusual_firing_of_every_token():
    position, latent = np.array([0, 0, 0, 2, 2, 3]), np.array([7, 5, 6, 1, 2, 9])
    rare = np.array([10.0, 30.0, 30.0, np.nan, np.nan, 5.0])
    value = np.arange(6, 0, -1, dtype=np.float32)
    arrays = {"is_read": np.ones(4, bool), "position": position, "latent": latent, "value": value, "one_in": rare}
    reading = own_text.Reading(list("abcd"), [], [], 0, n_windows=1, **arrays)
    assert _rarest(reading) == [
        {"latent": 5, "one_in": 30.0},
        None,
        {"latent": 1, "one_in": None},
        {"latent": 9, "one_in": 5.0},
    ]


def test_in_a_chat_what_fires_on_the_template_alone_comes_last():
    """Latent 1 fires on the template alone, most unusually; latent 2 peaks there and fires in a message too."""
    arrays = {
        "position": np.array([0, 0, 2, 3]),
        "latent": np.array([1, 2, 2, 3]),
        "value": np.array([9.0, 8.0, 3.0, 1.0], np.float32),
        "one_in": np.array([900.0, 800.0, 50.0, 20.0]),
        "is_read": np.ones(4, bool),
    }
    reading = own_text.Reading(list("abcd"), [], ["", "", "user", "assistant"], 0, n_windows=1, **arrays)
    assert [(row["latent"], row["peak"], row["n_tokens"]) for row in reading.summary()] == [
        (2, 2, 2),
        (3, 3, 1),
        (1, 0, 1),
    ]
    plain = own_text.Reading(list("abcd"), [], [], 0, n_windows=1, **arrays)
    assert [(row["latent"], row["peak"]) for row in plain.summary()] == [(1, 0), (2, 0), (3, 3)]


def test_the_evidence_is_downloaded(run: Path):
    with Server(run) as server:
        status, headers, content = server.ask("POST", f"{BASE}/evidence", {"text": "In July", "format": "csv"})
        assert (status, headers["content-type"]) == (200, "text/csv; charset=utf-8")
        assert content.decode().startswith("token,text,role,latent")
        assert server.refusal("POST", f"{BASE}/evidence", {"text": "In July", "format": "pdf"})[0] == 400


def test_the_command_prints_writes_and_compares(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text, other = tmp_path / "a.txt", tmp_path / "b.txt"
    text.write_text("In July")
    other.write_text("In May")
    run_trace([str(run), str(text), "--top", "3"])
    printed = capsys.readouterr().out
    assert printed.startswith("8 tokens; ")
    assert "«" in printed
    run_trace([str(run), str(text), "--out", str(tmp_path / "a.csv")])
    assert (tmp_path / "a.csv").read_text().startswith("token,text")
    run_trace([str(run), str(text), "--against", str(other)])
    printed = capsys.readouterr().out
    assert "not in the other" in printed
    assert "«" in printed, "what fires in one text alone is shown where it fires"


def test_bad_input_is_refused_before_the_model_is_loaded(run: Path, tmp_path: Path):
    text = tmp_path / "a.txt"
    text.write_text("In July")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xff")
    for words, reason in (
        ([str(tmp_path / "none.txt")], "cannot read"),
        ([str(tmp_path / "bad.txt")], "UTF-8"),
        ([str(text), "--out", str(tmp_path / "x.pdf")], r"\.csv, \.json, \.html"),
        ([str(text), "--out", str(tmp_path / "x.pdf"), "--against", str(text)], r"\.csv, \.json, \.html"),
        ([str(text), "--out", str(tmp_path / "x.csv"), "--sae", "nothing"], "nothing"),
    ):
        with pytest.raises(UserError, match=reason):
            run_trace([str(run), *words])
