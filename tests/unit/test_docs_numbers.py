"""Every number of README.md and docs/ agrees with a record in docs/results/.

What is proven: the sentences and rows of `docs_claims.py` and the tables that scripts print are what the records give,
digit by digit; every other measurement is a rounding of some number of a record that its section names, under the names
of its row and column. What is not: that a number which the second way matches stands for the right measure of the right
dictionary (a record with many numbers holds many roundings; those that a neighbour would match as well are counted as
unspecific, not as proven), that a record is true, and anything about the passages of docs/results/unrecorded.json
(which say why they have none).
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs_claims import claims, generated
from docs_numbers import Checker, Number, Outcome

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
UNMATCHED = {"docs/results.md": 401}
"""Numbers that nothing proves yet, all in the prose. Lower this as claims are added; never raise it."""
UNSPECIFIC = {"docs/performance.md": 0.04, "docs/results.md": 0.06, "docs/circuits.md": 0.12}
"""The largest share of a document's numbers that agree with a record as their neighbours would."""


@pytest.fixture(scope="module")
def checker() -> Checker:
    return Checker(ROOT, claims(ROOT), generated(ROOT))


@pytest.fixture(scope="module")
def outcomes(checker) -> dict[str, Outcome]:
    return {document: checker.check(document) for document in DOCUMENTS}


def said(number: Number) -> str:
    text = (ROOT / number.document).read_text()
    line = text.count("\n", 0, number.start) + 1
    return f"{number.document}:{line}: {number.text} in …{text[max(0, number.start - 40) : number.end + 30]!r}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_sentences_and_tables_are_what_the_records_give(outcomes, document):
    assert not outcomes[document].complaints


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_number_has_a_record(outcomes, document):
    outcome = outcomes[document]
    unmatched = outcome.by_status.get("unmatched", [])
    print(document, {status: len(numbers) for status, numbers in outcome.by_status.items()})
    assert len(unmatched) <= UNMATCHED.get(document, 0), "\n".join(map(said, unmatched))
    total = sum(map(len, outcome.by_status.values()))
    unspecific = outcome.by_status.get("unspecific", [])
    assert len(unspecific) <= UNSPECIFIC.get(document, 0) * total, "\n".join(map(said, unspecific))


def test_the_readmes_numbers_are_all_rendered_from_records(outcomes):
    """All but the versions of Python, which pyproject.toml has."""
    assert set(outcomes["README.md"].by_status) == {"claimed", "unrecorded"}
    assert [number.text for number in outcomes["README.md"].by_status["unrecorded"]] == ["3.13"]
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    least, above = re.findall(r"3\.(\d+)", wanted)
    assert f"Python 3.{least}–3.{int(above) - 1}" in (ROOT / "README.md").read_text()


def test_what_is_not_recorded_says_why(checker):
    for entry in checker.unrecorded:
        assert set(entry) - {"through"} == {"document", "passage", "source"}
        assert len(entry["source"]) > 10, entry


def changed(text: str, number: Number) -> str:
    """The document with one added to the number's last digit (9 becomes 8), every other letter where it was."""
    digits = number.text.removesuffix("k")
    at = number.start + len(digits) - 1
    return text[:at] + ("8" if text[at] == "9" else str(int(text[at]) + 1)) + text[at + 1 :]


def sample(outcome: Outcome, n: int, seed: int) -> Iterator[Number]:
    """Measurements in n different lines."""
    numbers = [n for status, found in outcome.by_status.items() if status != "unrecorded" for n in found]
    random.Random(seed).shuffle(numbers)
    text = (ROOT / numbers[0].document).read_text()
    lines: set[int] = set()
    for number in numbers:
        line = text.count("\n", 0, number.start)
        if line not in lines and len(lines) < n:
            lines.add(line)
            yield number


@pytest.mark.parametrize(
    ("document", "least"), [("docs/performance.md", 0.9), ("docs/steering.md", 0.9), ("docs/results.md", 0.9)]
)
def test_a_changed_digit_is_noticed(checker, outcomes, document, least):
    """About 50 measurements, each with one added to its last digit: how many of them are complained about."""
    numbers = list(sample(outcomes[document], 50, seed=0))
    text = (ROOT / document).read_text()
    for number in numbers:
        text = changed(text, number)
    before = {n.start: status for status, found in outcomes[document].by_status.items() for n in found}
    after = {n.start: status for status, found in checker.check(document, text).by_status.items() for n in found}
    noticed = [n for n in numbers if before[n.start] != "unmatched" and proof_lost(before[n.start], after[n.start])]
    print(f"{document}: {len(noticed)} of {len(numbers)} changed digits noticed")
    assert len(noticed) >= least * len(numbers), "\n".join(said(n) for n in numbers if n not in noticed)


def proof_lost(before: str, after: str) -> bool:
    """A sentence that is no longer rendered or a number without a record: either fails the tests above."""
    return after == "unmatched" or (before == "claimed" and after != "claimed")
