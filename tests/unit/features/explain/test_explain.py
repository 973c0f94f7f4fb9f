"""Explanations by a chat model: written, scored, kept, resumed; over a real server on this machine and a real model."""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import feature_runs
import numpy as np
import pytest
import torch
from tiny_models import byte_tokenizer, random_module
from word_chat import WordChat

from monosemy.errors import UserError
from monosemy.features.explain import prompts
from monosemy.features.explain.answers import answer_probability, expected_digit
from monosemy.features.explain.chat import open_chat
from monosemy.features.explain.command import run_explain, score_lines
from monosemy.features.explain.explanations import choose_latents, deal, explain_latents
from monosemy.features.explain.journal import Journal
from monosemy.features.explain.prompts import Passage
from monosemy.features.explain.scores import simulation_score, wilson, yes_no_score
from monosemy.features.store.database import FeatureDatabase
from monosemy.features.store.write import writing

END, IN, JULY, THE, MARKET = (getattr(feature_runs, name) for name in ("END", "IN", "JULY", "THE", "MARKET"))
N_CONTEXTS = 40


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run in which latent 0 fires on “ July” in 32 contexts; in eight others nobody says July. Two
    contexts a document."""
    contexts = np.full((N_CONTEXTS, feature_runs.T), THE, np.int32)
    contexts[:, 0] = END
    contexts[:, 2::3] = MARKET
    contexts[:32, 5] = JULY
    groups = ["top"] * 16 + ["q4", "q3", "q2", "q1"] * 4 + ["near_miss"] * 4 + ["random"] * 4
    latent_examples = [(group, k, 5, {5: 8.0 - k / 8} if k < 32 else {}) for k, group in enumerate(groups)]
    order = {name: place for place, name in enumerate(feature_runs.GROUPS)}
    monkeypatch.setattr(feature_runs, "CONTEXTS", contexts)
    monkeypatch.setattr(feature_runs, "DOCUMENT_STARTS", [(2 * k * feature_runs.T, k) for k in range(N_CONTEXTS // 2)])
    examples = {0: sorted(latent_examples, key=lambda e: order[e[0]]), 1: [], 2: [], 3: []}
    monkeypatch.setattr(feature_runs, "EXAMPLES", examples)
    return feature_runs.write_feature_run(tmp_path / "run")


@pytest.fixture
def database(run: Path) -> FeatureDatabase:
    return open_it(run)


def open_it(run: Path) -> FeatureDatabase:
    return FeatureDatabase.open(run / "features" / feature_runs.SITE / feature_runs.NAME)


def test_a_right_explanation_scores_full_marks_and_lands_in_the_database(run: Path, database: FeatureDatabase) -> None:
    (explanation,) = explain_latents(database, [0], WordChat())
    scores = explanation.record["scores"]
    assert explanation.text == "July"
    for name in ("detection_random", "detection_near_miss", "fuzzing"):
        assert scores[name]["auroc"] == 1
        assert scores[name]["balanced_accuracy"] == 1
        assert scores[name]["auroc_low"] < 1  # a few texts prove little
        assert scores[name]["n_missing"] == 0
        assert 0 < scores[name]["n_positive_documents"] < scores[name]["n_positive"]
    assert scores["simulation"]["correlation"] > 0.95
    assert scores["detection_random"]["n_negative"] == scores["detection_near_miss"]["n_negative"] == 4
    again = open_it(run)
    assert again.label(0)["explanation"]["text"] == "July"
    assert again.label(0)["explanation"]["scores"]["fuzzing"] == scores["fuzzing"]
    assert again.labels([0]) == ["July"]
    lines = again.files.journal.read_text(encoding="utf-8").splitlines()
    kinds = {json.loads(line)["kind"] for line in lines}
    assert kinds == {"explanation", "detection", "fuzzing", "simulation"}
    assert all(json.loads(line)["messages"] and "answer" in json.loads(line) for line in lines)


def test_what_is_scored_on_was_not_shown_before(database: FeatureDatabase) -> None:
    prompt_passages, scored = deal(database, 0)
    assert len(prompt_passages) == len(scored) == 16
    assert not {(p.context, p.start) for p in prompt_passages} & {(p.context, p.start) for p in scored}
    assert {p.group for p in scored} == {"top", "q4", "q3", "q2", "q1"}


def test_a_killed_command_asks_only_what_is_left(database: FeatureDatabase) -> None:
    whole = WordChat()
    (expected,) = explain_latents(database, [0], whole)
    journal = database.files.journal
    n_lines = len(journal.read_text(encoding="utf-8").splitlines())
    journal.unlink()
    with pytest.raises(KeyboardInterrupt):
        list(explain_latents(database, [0], WordChat(limit=10)))
    with journal.open("a", encoding="utf-8") as file:
        file.write('{"key": "cut sho')
    rest = WordChat()
    (explanation,) = explain_latents(database, [0], rest)
    assert explanation == expected
    assert rest.n_questions == whole.n_questions - 10
    assert len(journal.read_text(encoding="utf-8").splitlines()) == n_lines + 1
    last = WordChat()
    assert list(explain_latents(database, [0], last)) == [expected]
    assert last.n_questions == 0
    other = WordChat(name="another")
    list(explain_latents(database, [0], other))
    assert other.n_questions == whole.n_questions


def test_explaining_and_building_never_write_at_once(database: FeatureDatabase) -> None:
    with writing(database.folder), pytest.raises(UserError, match=f"built or explained by process {os.getpid()}"):
        next(explain_latents(database, [0], WordChat()))
    first = explain_latents(database, [0, 3], WordChat())
    next(first)
    with pytest.raises(UserError, match="wait for it"), writing(database.folder):
        pass
    list(first)
    with writing(database.folder):  # free again
        pass


def test_line_ends_inside_a_text_cut_no_answer_off(database: FeatureDatabase) -> None:
    path, chat = database.files.journal, WordChat()
    messages = [{"role": "user", "content": "one\u2028two\u2029three\u0085four\x0bfive\x1csix"}]
    assert Journal(path).ask(chat, 0, "detection", messages, question=lambda: "a\u2028b") == "a\u2028b"
    again = Journal(path)
    assert again.ask(chat, 0, "detection", messages, question=lambda: "asked again") == "a\u2028b"
    assert again.n_asked == 0


def test_silent_latents_are_left_out_with_a_reason(database: FeatureDatabase) -> None:
    (explanation,) = explain_latents(database, [3], WordChat())
    assert explanation.text == ""
    assert "too few" in explanation.record["skipped"]["explanation"]
    assert open_it(database.folder.parents[2]).label(3)["explanation"] is None
    with pytest.raises(UserError, match="latents 0 to 3"):
        list(explain_latents(database, [0, 99], WordChat()))
    assert choose_latents(database, 5) == []  # none fired often enough, says this database's column


# --- a server ---------------------------------------------------------------------------------------------------------


@contextmanager
def server(**settings: Any) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server of OpenAI's chat interface whose model is WordChat: (address, requests seen)."""
    requests: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, {"data": [{"id": name} for name in settings.get("models", ["word-chat"])]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append({"body": body, "authorization": self.headers.get("Authorization")})
            if status := settings.get("status"):
                self._send(status, {"error": {"message": "not with me"}})
            elif settings.get("no_system") and body["messages"][0]["role"] == "system":
                self._send(400, {"error": {"message": "System role not supported"}})
            elif body.get("top_logprobs", 0) > settings.get("most_alternatives", 20):
                self._send(400, {"error": {"message": "too many logprobs"}})
            else:
                self._send(200, {"choices": [answer(body)]})

        def _send(self, status: int, document: dict[str, Any]) -> None:
            data = json.dumps(document).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}", requests
    finally:
        listening.shutdown()
        listening.server_close()


def answer(body: dict[str, Any]) -> dict[str, Any]:
    """One choice, as such a server writes it."""
    chat, messages = WordChat(), body["messages"]
    if "marked words have in common" in messages[-1]["content"]:
        return {"message": {"content": chat.reply(messages, 60)}}
    if body["max_tokens"] == 1:
        p, text = chat.yes(messages)
        assert p is not None
        alternatives = [{"token": "Yes", "logprob": math.log(p)}, {"token": " no", "logprob": math.log(1 - p)}]
        tokens = [{"token": text, "top_logprobs": alternatives}]
    else:
        pieces = [line.removesuffix("\t?") for line in messages[-1]["content"].split("\n")]
        digits = chat.digits(messages[:-1], pieces)
        assert digits is not None
        tokens, text = [], ""
        for piece, digit in zip(pieces, digits, strict=True):
            for token in (piece, "\t", f"{digit:.0f}", "\n"):
                tokens.append({"token": token, "top_logprobs": [{"token": token, "logprob": 0.0}]})
                text += token
    choice: dict[str, Any] = {"message": {"content": text}}
    return choice | ({"logprobs": {"content": tokens}} if body.get("logprobs") else {})


def test_a_server_gives_the_same_scores_as_the_model_itself(
    run: Path, database: FeatureDatabase, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a secret")
    (direct,) = explain_latents(database, [0], WordChat("another"))
    with server(most_alternatives=5) as (url, requests):
        run_explain([str(run), "--chat", url, "--latents", "0"])
    explanation = open_it(run).label(0)["explanation"]
    assert explanation["text"] == direct.text
    assert explanation["scores"].keys() == direct.record["scores"].keys()
    assert explanation["scores"]["fuzzing"]["auroc"] == pytest.approx(direct.record["scores"]["fuzzing"]["auroc"])
    assert explanation["scores"]["simulation"] == direct.record["scores"]["simulation"]
    assert (
        sum(request["body"].get("top_logprobs") == 20 for request in requests) == 1
    )  # refused once, then five asked for
    assert all(request["authorization"] == "Bearer a secret" for request in requests)  # this machine
    assert "a secret" not in (database.files.journal).read_text(encoding="utf-8")
    output = capsys.readouterr().out
    assert "July" in output
    assert "AUROC 1.00 [" in output
    assert "16 firing, 4 not" in output


def test_a_server_without_log_probabilities_is_read_by_its_words(database: FeatureDatabase) -> None:
    with server(most_alternatives=0) as (url, _):
        (explanation,) = explain_latents(database, [0], open_chat(url, "word-chat"))
    assert explanation.record["answers_from_words"] > 30
    assert explanation.record["scores"]["detection_random"]["auroc"] == 1
    assert "simulation" not in explanation.record["scores"]
    assert "log-probabilities" in explanation.record["skipped"]["simulation"]
    assert any("read from words" in line for line in score_lines(explanation.record))


def test_a_server_whose_template_takes_no_system_message_is_asked_without(
    run: Path, database: FeatureDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    with server(no_system=True) as (url, requests):
        run_explain([str(run), "--chat", url, "--latents", "0"])
    assert sum(request["body"]["messages"][0]["role"] == "system" for request in requests) == 1  # refused once
    assert requests[1]["body"]["messages"][0]["content"].startswith("You study a unit inside a language model.")
    output = capsys.readouterr().out
    assert "note: word-chat takes no system message; ours stands at the start of the first user message" in output
    assert "July" in output


def test_servers_that_fail_are_explained_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with server() as (url, _):
        pass
    with pytest.raises(UserError, match="does not answer"):
        open_chat(url)
    with server(models=["small", "large"]) as (url, _), pytest.raises(UserError, match=r"2 models \(small, large\)"):
        open_chat(url)
    for status, fix in ((401, "OPENAI_API_KEY"), (404, "--model"), (302, "302")):
        with server(status=status) as (url, _), pytest.raises(UserError, match=fix):
            open_chat(url).reply([{"role": "user", "content": "hello"}], 5)
    for wrong in ("ftp://host/v1", "http://", "http://user:word@host/v1"):
        with pytest.raises(UserError, match="--chat"):
            open_chat(wrong)
    with pytest.raises(UserError, match="leave it out"):
        open_chat("embedded", "large")
    monkeypatch.setenv("OPENAI_API_KEY", "a secret")
    from monosemy.features.explain.chat_server import _key_for

    assert _key_for("http://localhost:8000/v1") == _key_for("https://example.org/v1") == "a secret"
    assert _key_for("http://example.org/v1") is None  # never in clear text over a network


# --- a local model ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model whose tokenizer knows Yes and No, without a chat template."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["Yes", "No"])
    random_module("llama", vocab_size=260, max_position_embeddings=400).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_local_models_answers_are_its_own_probabilities(folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    chat = open_chat(str(folder))
    messages = [{"role": "user", "content": "Is it?"}]
    module, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)

    def after(text: str) -> Any:
        with torch.no_grad():
            return module(torch.tensor([tokenizer.encode(text)])).logits[0, -1].softmax(-1)

    prompt = "User: Is it?\n\nAssistant:"
    row = after(prompt)
    yes, no = (float(row[tokenizer.convert_tokens_to_ids(word)]) for word in ("Yes", "No"))
    probability, _ = chat.yes(messages)
    assert probability == pytest.approx(yes / (yes + no), rel=1e-5)
    digits = chat.digits(messages, ["a", "b"])
    assert digits is not None
    ids = [tokenizer.convert_tokens_to_ids(d) for d in "0123456789"]
    for piece, digit in zip(("a\t", "a\tunknown\nb\t"), digits, strict=True):
        p = after(prompt + piece)[ids].double()
        assert digit == pytest.approx(float((p * torch.arange(10)).sum() / p.sum()), rel=1e-4)
    assert chat.reply(messages, 6) == chat.reply(messages, 6)
    assert not chat.fits([{"role": "user", "content": "x" * 390}], 20)
    assert chat.digits([{"role": "user", "content": "x" * 390}], ["a"]) is None


def with_template(folder: Path, target: Path, template: str) -> str:
    shutil.copytree(folder, target)
    (target / "chat_template.jinja").write_text(template, encoding="utf-8")
    return str(target)


def test_a_template_without_a_system_role_gets_ours_in_the_first_user_message(folder: Path, tmp_path: Path) -> None:
    turns = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}"
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + turns
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it?"}]
    folded = [{"role": "user", "content": "Be brief.\n\nIs it?"}]
    chat = open_chat(with_template(folder, tmp_path / "refuses", refuses))
    assert chat.note == "refuses takes no system message; ours stands at the start of the first user message"
    assert chat.yes(messages) == open_chat(with_template(folder, tmp_path / "takes", turns)).yes(folded)
    with pytest.raises(UserError, match=r"the chat template of broken fails \(TemplateSyntaxError.*another --chat"):
        open_chat(with_template(folder, tmp_path / "broken", "{% for m in messages %}"))


def test_a_chat_model_too_short_for_any_question_is_refused_before_one_is_asked(
    folder: Path, database: FeatureDatabase
) -> None:
    chat = open_chat(str(folder))  # 400 positions, one a byte
    with pytest.raises(UserError, match=r"the positions of .* do not hold even the question; choose a --chat model"):
        next(explain_latents(database, [0], chat))
    assert chat.yes([{"role": "user", "content": "x" * 390}]) == (None, "")


def test_two_models_of_one_name_share_no_answers(folder: Path, tmp_path: Path) -> None:
    same, other = tmp_path / "a" / "model", tmp_path / "b" / "model"
    shutil.copytree(folder, same)
    shutil.copytree(folder, other)
    torch.manual_seed(1)
    random_module("llama", vocab_size=260, max_position_embeddings=400, initializer_range=0.5).save_pretrained(other)
    first, copy, second = open_chat(str(folder)), open_chat(str(same)), open_chat(str(other))
    assert copy.name == second.name
    assert first.identity == copy.identity != second.identity


# --- prompts and scores -----------------------------------------------------------------------------------------------


def test_marks_stand_around_words_not_spaces() -> None:
    assert prompts.marked([" in", " July", "  ", " Au", "gust"], [False, True, False, True, True]) == (
        " in «July»   «August»"
    )
    passage = Passage("top", ("a", " b", " c", " d"), (0.0, 9.0, 2.0, 3.5), 0, start=0, document=0)
    assert passage.firing() == [False, True, False, True]
    wrong = prompts.wrong_marks(
        Passage("top", (" a", " b", " c"), (0.0, 9.0, 0.0), 0, start=0, document=0), [0.7, 0.1, 0.3]
    )
    assert wrong == [False, False, True]
    assert prompts.wrong_marks(Passage("top", (" a",), (1.0,), 0, start=0, document=0), [0.5]) is None


@pytest.mark.parametrize(
    ("reply", "phrase"),
    [
        ("Names of months.", "Names of months"),
        ("The marked words are:\n\n1. “names of months”\n2. rest", "names of months"),
        ("**Answer: names of months**", "Answer: names of months"),
        ("Explanation: names of months", "names of months"),
        ("  \n", ""),
    ],
)
def test_replies_are_read_down_to_the_phrase(reply: str, phrase: str) -> None:
    assert prompts.read_explanation(reply) == phrase


def test_missing_answers_are_counted_never_averaged() -> None:
    score = yes_no_score([0.9, None, 0.8], [0.1, None], [0, 1, 2], [3, 4])
    assert (score["auroc"], score["n_positive"], score["n_negative"], score["n_missing"]) == (1.0, 2, 1, 2)
    assert (score["n_positive_documents"], score["n_negative_documents"]) == (2, 1)  # those that were read
    nothing = yes_no_score([None], [0.5], [0], [1])
    assert nothing["auroc"] is None
    assert nothing["n_missing"] == 1
    assert answer_probability([("maybe", 0.9)]) is None
    assert answer_probability([(" YES", 0.3), ("yes", 0.1), ("No", 0.4)]) == pytest.approx(0.5)
    assert expected_digit([("3", 0.5), (" 5", 0.5), ("x", 0.9)]) == pytest.approx(4)
    assert expected_digit([("12", 1.0)]) is None


def test_balanced_accuracy_and_its_interval_are_right() -> None:
    score = yes_no_score([0.9] * 8 + [0.1] * 2, [0.2] * 15 + [0.8] * 5, range(10), range(20))
    assert score["balanced_accuracy"] == pytest.approx((0.8 + 0.75) / 2)
    assert wilson(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Wilson (1927), 8 of 10
    a, b = wilson(0.8, 10), wilson(0.75, 20)
    low = 0.775 - math.hypot(0.8 - a[0], 0.75 - b[0]) / 2
    assert score["balanced_accuracy_low"] == pytest.approx(low)


def test_intervals_count_documents_not_passages() -> None:
    """The same answers prove less when they are all of two documents."""
    yes, no = [0.9] * 8 + [0.1] * 2, [0.2] * 15 + [0.8] * 5
    apart = yes_no_score(yes, no, range(10), range(20))
    together = yes_no_score(yes, no, [k % 2 for k in range(10)], [k % 2 for k in range(20)])
    for name in ("auroc", "balanced_accuracy"):
        assert together[name] == apart[name]
        assert together[f"{name}_low"] < apart[f"{name}_low"] - 0.1
        assert together[f"{name}_high"] > apart[f"{name}_high"]
    a, b = wilson(0.8, 2), wilson(0.75, 2)
    assert together["balanced_accuracy_low"] == pytest.approx(0.775 - math.hypot(0.8 - a[0], 0.75 - b[0]) / 2)
    random = np.random.default_rng(0)
    shared = [random.normal(size=12) * (1 + 3 * (k == 0)) for k in range(6)]
    true = [s for s in shared for _ in range(4)]
    simulated = [t + random.normal(size=12) for t in true]
    sides = [[x.tolist() for x in side] for side in (simulated, true)]
    blocked = simulation_score(*sides, [k // 4 for k in range(24)])
    free = simulation_score(*sides, range(24))
    assert blocked["correlation"] == free["correlation"]
    assert blocked["n_documents"] == 6
    widths = [score["correlation_high"] - score["correlation_low"] for score in (blocked, free)]
    assert widths[0] > widths[1]
    assert simulation_score(*sides, [k % 4 for k in range(24)])["correlation_low"] is None  # four documents


def test_simulation_is_pearsons_correlation_over_all_tokens() -> None:
    random = np.random.default_rng(0)
    true = [random.normal(size=12) for _ in range(8)]
    simulated = [t + random.normal(size=12) for t in true]
    score = simulation_score([s.tolist() for s in simulated], [t.tolist() for t in true], range(8))
    expected = np.corrcoef(np.concatenate(simulated), np.concatenate(true))[0, 1]
    assert score["correlation"] == pytest.approx(expected)
    assert score["correlation_low"] < expected < score["correlation_high"]
    assert simulation_score([[1.0, 1.0]], [[0.0, 2.0]], [0])["correlation"] is None
    assert simulation_score([[0.0, 1.0]], [[0.0, 2.0]], [0])["correlation_low"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--chat", "embedded", "--latents", "99"], "latents 0 to 3"),
        (["--chat", "embedded", "--latents", "1", "--n", "2"], "not both"),
        (["--chat", "embedded", "--n", "0"], "at least 1"),
        (["--chat", "nowhere/at/all", "--latents", "1"], "nowhere/at/all"),
    ],
)
def test_bad_words_are_refused(run: Path, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_explain([str(run), *words])
