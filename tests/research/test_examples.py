"""The documents' examples: what is kept of a command's output, and that the documents show the recorded commands."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from app_cases import page_run
from rich.console import Console
from rich.table import Table

from monosemy.errors import UserError
from research.examples import run as examples
from research.examples import tables
from research.records import records_of

ROOT = Path(__file__).parents[2]


def test_columns_are_kept_without_the_lines_of_the_table(capsys):
    table = Table(expand=True)
    for heading in ("default", "steered: latent 3 (months) set 5"):
        table.add_column(heading, ratio=1)
    table.add_row("one two three four five six", "July August")
    Console(width=40, legacy_windows=False, file=sys.stdout).print(table)
    rows = examples.column_lines([*capsys.readouterr().out.splitlines(), "│ later │"])
    assert rows == {
        "headings": [["default", "steered: latent"], ["", "3 (months) set 5"]],
        "texts": [["one two three", "July August"], ["four five six", ""]],
    }
    assert tables.columns(rows)[2] == "one two three  July August"


def test_a_command_of_the_documents_is_run_beside_its_run(tmp_path, monkeypatch):
    run = page_run(tmp_path / "runs" / "other")
    monkeypatch.chdir(tmp_path)
    lines, _ = examples.printed("monosemy info runs/demo", run)
    assert any("runs/other" in line for line in lines)
    with pytest.raises(UserError, match="monosemy show runs/demo ended with status 2: error: "):
        examples.printed("monosemy show runs/demo", run)


def test_lines_of_the_first_minutes_are_found_in_what_the_demo_printed(tmp_path):
    log = tmp_path / "demo.log"
    log.write_text(
        "make: setting up\n 3.1 tokenise: 9/9 tokens (100%), took 1.3 s\r"
        "harvest: 1/9 tokens, about 14 min left in all\n"
        "harvest: 5/9 tokens, about 12 min left in all\ntraining the first SAE: 2/9 tokens, about 12 min left in all\n"
        "training the first SAE: 8/9 tokens, took 9.6 s\nfeatures: reading the text: 9/9, took 1.9 s\n"
        "look at it now: http://127.0.0.1:8321/  (the pages of runs/demo)\n"
    )
    lines = examples.start(tmp_path, log)["lines"]
    assert lines == [
        "tokenise: 9/9 tokens (100%), took 1.3 s",
        "harvest: 1/9 tokens, about 14 min left in all",
        "training the first SAE: 8/9 tokens, took 9.6 s",
        "features: reading the text: 9/9, took 1.9 s",
        "look at it now: http://127.0.0.1:8321/  (the pages of runs/demo)",
    ]
    log.write_text("tokenise: took 1 s\n")
    with pytest.raises(UserError, match=r"has no line 'harvest"):
        examples.start(tmp_path, log)


@pytest.mark.parametrize(
    ("document", "name"), [("README.md", "find"), ("docs/start.md", "find"), ("docs/steering.md", "ablate")]
)
def test_the_documents_show_the_output_of_the_command_that_they_name(document, name):
    """That the block beneath is the record's is tested with all tables; here, that the record is of this command."""
    text = (ROOT / document).read_text(encoding="utf-8")
    assert f"<!-- table: examples/{name} -->" in text
    assert records_of("examples")["examples"][name]["command"] in text


def test_no_block_of_a_document_shows_a_latents_output_by_hand():
    """Every block with the columns of a steered answer stands between the comments of a table."""
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = re.sub(r"<!-- table: .*?<!-- end -->", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not re.search(r"^default +steered", text, re.MULTILINE), path.name
        assert "left in all" not in text, path.name


def test_the_record_is_of_the_demo_and_is_printed_text():
    record = records_of("examples")["examples"]
    assert set(record) >= set(examples.EXAMPLES)
    assert record["find"]["headings"][0][0] == "default"
    assert "…" not in json.dumps(record["find"]["texts"])
