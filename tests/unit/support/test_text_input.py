"""Text that comes in holds characters only, and what goes out as JSON is JSON."""

from __future__ import annotations

import json
import math

import orjson
import pytest

from monosemy.errors import UserError
from monosemy.support import files, json_text
from monosemy.support.metrics import MetricsWriter
from monosemy.support.text_input import replace_halves, require_characters


def test_what_is_no_character_is_refused_with_the_reason():
    assert require_characters("the prompt", "café 😀 \0\u202e") == "café 😀 \0\u202e"
    typed = b"caf\xe9".decode("utf-8", "surrogateescape")  # as Python reads a word of the command line
    with pytest.raises(UserError, match=r"the prompt holds the byte E9 \(place 4\), which is not UTF-8") as caught:
        require_characters("the prompt", typed)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"--find holds half a surrogate pair, \\ud83d \(place 1\)"):
        require_characters("--find", "\ud83d")


def test_documents_have_it_replaced():
    assert replace_halves("a\ud83d b\udce9") == "a\ufffd b\ufffd"
    assert replace_halves("whole 😀") == "whole 😀"


def test_json_is_json_whatever_the_values():
    text = json_text.dumps({"a": [math.nan, 1.5, (math.inf,)], "b": {"c": -math.inf}, "d": "x\ud83dy é", "n": 3})
    assert json.loads(text) == {"a": [None, 1.5, [None]], "b": {"c": None}, "d": "x\ud83dy é", "n": 3}
    strict = json_text.dumps({"a": math.nan, "é": [math.inf, "\x00\u2028"]})
    assert orjson.loads(strict) == {"a": None, "é": [None, "\x00\u2028"]}
    assert "\n" not in strict
    with pytest.raises(TypeError):
        json_text.dumps({"a": {1, 2}})


def test_file_names_that_are_not_utf8_survive_in_our_files(tmp_path):
    name = b"caf\xe9.txt".decode("utf-8", "surrogateescape")
    files.write_json(tmp_path / "run.json", {"source": name})
    assert files.read_json(tmp_path / "run.json") == {"source": name}
    (tmp_path / "run.json").read_bytes().decode("utf-8")
    MetricsWriter(tmp_path / "metrics.jsonl").append([{"loss": math.nan, "name": name}])
    assert json.loads((tmp_path / "metrics.jsonl").read_bytes()) == {"loss": None, "name": name}
