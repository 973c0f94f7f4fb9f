"""A text full of control characters, overrides and characters of no width, in everything that is printed or written."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import feature_runs
import pyarrow.parquet as pq
import pytest

from monosemy.features.export.circuit_tracer import export_circuit_tracer
from monosemy.features.export.html import export_html
from monosemy.features.export.neuronpedia import export_neuronpedia
from monosemy.features.export.parquet import export_parquet
from monosemy.report import markup

HOSTILE = " Ju\x00\x01\x1b[31m\x07\x9b2J\u202e\u2066\u2028\ufeff\u200b\x7fly"
BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    words = [HOSTILE.encode() if token == feature_runs.JULY else word for token, word in enumerate(feature_runs.WORDS)]
    monkeypatch.setattr(feature_runs, "WORDS", words)
    monkeypatch.setattr(feature_runs, "_labels", lambda: [(f"“{HOSTILE}”", {"hints": [HOSTILE]})] * feature_runs.M)
    monkeypatch.setattr(feature_runs, "DOCUMENTS", [(0, HOSTILE, HOSTILE)])
    folder = feature_runs.write_feature_run(tmp_path / "run")
    feature_runs.FeatureDatabase.open(folder / "features" / feature_runs.SITE / feature_runs.NAME).write_explanations(
        {0: (HOSTILE, {"scores": {"detection_random": {"auroc": 0.99}}})}
    )
    return folder


@pytest.fixture
def database(run):
    return feature_runs.FeatureDatabase.open(run / "features" / feature_runs.SITE / feature_runs.NAME)


def acting(text: str) -> set[str]:
    """Characters that act on a terminal, turn a text round or are not seen."""
    return {
        c
        for c in text
        if (unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in "\n\t")
        or unicodedata.bidirectional(c) in BIDI
    }


def test_the_terminal_gets_nothing_that_acts(run):
    code = "import sys; from monosemy.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "show", str(run), "0"]
    done = subprocess.run(command, capture_output=True, check=True, env=os.environ | {"PYTHONIOENCODING": "utf-8"})
    output = done.stdout.decode()
    assert "Ju␀␁␛[31m␇⟨U+9B⟩2J⟨U+202E⟩⟨U+2066⟩↵∅∅␡ly" in output.replace("\n", "")
    assert acting(output) == set()


def test_a_refusal_shows_what_was_typed_without_acting(run, tmp_path):
    code = "import sys; from monosemy.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "show", str(run), "0", "--sae", "a\x1b[31m\u202eb"]
    done = subprocess.run(command, capture_output=True, check=False, env=os.environ | {"PYTHONIOENCODING": "utf-8"})
    assert done.returncode == 2
    assert acting(done.stderr.decode()) == set()


def test_html_pages_hold_nothing_that_acts(database, tmp_path):
    assert acting(export_html(database, [0], tmp_path / "page.html").read_text("utf-8")) == set()
    assert acting(markup.table(HOSTILE, [HOSTILE], [[HOSTILE]]) + markup.bullets([HOSTILE])) == set()


def test_data_files_hold_the_text_but_for_nul(database, tmp_path):
    expected = HOSTILE.replace("\0", "␀")
    bulk = export_neuronpedia(database, tmp_path / "bulk")
    lines = [line for path in bulk.rglob("*.gz") for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    assert any(expected in row.get("tokens", []) for row in map(json.loads, lines))
    assert not any("\\u0000" in line or "\0" in line for line in lines)
    tables = export_parquet(database, tmp_path / "tables")
    assert pq.read_table(tables / "vocabulary.parquet")["text"].to_pylist()[feature_runs.JULY] == expected
    assert not any("\0" in str(pq.read_table(path).to_pylist()) for path in tables.glob("*.parquet"))
    (traced,) = export_circuit_tracer(database, tmp_path / "traced", [0]).glob("*.json")
    assert "\\u0000" not in traced.read_text("utf-8")
    assert expected in json.loads(traced.read_text("utf-8"))["examples_quantiles"][0]["examples"][0]["tokens"]
