"""Every number of README.md, docs/ and the studies' READMEs agrees with a record in research/*/results/.

What is proven: the tables that research/tables.py fills in and the sentences of `docs_claims.py` are what the records
give, digit by digit. What is not: that a record is true, and anything about the passages of unrecorded.json (which say
why they have none: nearly all are settings).
"""

from __future__ import annotations

import random
import re
import tomllib
from pathlib import Path

import pytest
from docs_claims import claims
from docs_numbers import Number, Outcome, check, unrecorded

from research.tables import PLACE, documents, filled

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["CONTRIBUTING.md", *(path.relative_to(ROOT).as_posix() for path in documents())]
MAX_LINES = 2_000
"""Lines of all records together."""


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    rendered = claims()
    return {document: check(document, (ROOT / document).read_text(), rendered) for document in DOCUMENTS}


def place(number: Number) -> str:
    text = (ROOT / number.document).read_text()
    line = text.count("\n", 0, number.start) + 1
    return f"{number.document}:{line}: {number.text} in …{text[max(0, number.start - 40) : number.end + 30]!r}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_sentences_are_what_the_records_give(outcomes, document):
    assert not outcomes[document].complaints


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tables_are_what_the_records_give(document):
    text = (ROOT / document).read_text()
    assert filled(text) == text, "python -m research.tables fills it anew"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_number_has_a_record(outcomes, document):
    unmatched = outcomes[document].by_status.get("unmatched", [])
    assert not unmatched, "\n".join(map(place, unmatched))


def test_every_study_has_a_readme_with_its_command_and_no_record_is_bulky():
    lines = 0
    for study in sorted(path.parent for path in (ROOT / "research").glob("*/results")):
        text = (study / "README.md").read_text()
        assert f"python -m research.{study.name}." in text, study.name
        assert f"<!-- table: {study.name}/" in text, study.name
        lines += sum(path.read_text().count("\n") for path in study.glob("results/*.json"))
    assert lines <= MAX_LINES
    assert len((ROOT / "docs" / "results.md").read_text().splitlines()) <= 150


def test_the_readmes_numbers_are_all_rendered_from_records(outcomes):
    """All but the versions of Python, which pyproject.toml has."""
    assert set(outcomes["README.md"].by_status) == {"claimed", "unrecorded"}
    assert [number.text for number in outcomes["README.md"].by_status["unrecorded"]] == ["3.13"]
    requirement = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    least, above = re.findall(r"3\.(\d+)", requirement)
    assert f"Python 3.{least}–3.{int(above) - 1}" in (ROOT / "README.md").read_text()


def test_what_is_not_recorded_says_why():
    for entry in unrecorded():
        assert set(entry) - {"through"} == {"document", "passage", "source"}
        assert len(entry["source"]) > 10, entry


def test_a_changed_digit_is_noticed(outcomes):
    """Every claimed number with one added to its last digit (9 becomes 8): its document then lacks a claim."""
    rendered = claims()
    for document, outcome in outcomes.items():
        text = (ROOT / document).read_text()
        for number in outcome.by_status.get("claimed", []):
            at = number.start + len(number.text.removesuffix("k")) - 1
            digit = "8" if text[at] == "9" else str(int(text[at]) + 1)
            assert check(document, text[:at] + digit + text[at + 1 :], rendered).complaints, place(number)


def test_a_changed_digit_in_a_table_is_noticed():
    n_tables = 0
    for path in documents():
        text = path.read_text()
        for table in PLACE.finditer(text):
            n_tables += 1
            digits = [
                match.start() for match in re.finditer(r"\d", text) if table.end(1) <= match.start() < table.end()
            ]
            at = random.Random(n_tables).choice(digits)
            assert filled(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]) == text
    assert n_tables > 30
