"""The numbers of the documents: which are proven by a record, which are listed as having none, and which are neither.

Tables between `<!-- table: … -->` and `<!-- end -->` are filled in by a script (research/tables.py) and compared whole
by another test. Code, settings (`L0 32`, `batch 512`), the level of intervals (95%), years, versions and one-digit
counts are no measurements. Every other number must stand

    in a sentence that `docs_claims.py` renders anew from the records (`claimed`), or
    in a passage that unrecorded.json lists, with the reason (`unrecorded`); else it is `unmatched`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

NUMBER = re.compile(
    r"(?<![\w.,/^])[-−+±]?(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:k\b)?"
    r"(?!\d|[.,]\d|[A-Za-z]\d|[A-Z]\b)"
)
SETTING = re.compile(
    r"\b(?:d|m|N|k|n|d_ff|d_sae|L0s?|[Ll]ayers?|batch|seeds?|rounds|steps?|β₂|β₁|λ(?: of| =)?|[Ll]atent|rate"
    r"|torch|Python|sae-lens|dictionary-learning|eai-sparsify|arXiv) $"
    r"|\b(?:limits?|target|asked:|at most|at least) [\d, ]*$"
)
"""What stands before the number of a setting, a name, a version or a limit."""
PART = re.compile(r"\w-$|\d:$|×$")
"""Before a number: x86-64, top-32, 2:43, ×10."""
TABLE = re.compile(r"(?ms)^<!-- table: .*?^<!-- end -->\n")
CODE = re.compile(r"(?ms)^```.*?^```|^(?: {4}|#|!\[)[^\n]*$|^\|[-:| ]+\|$")
"""Fenced and indented code, headings, pictures and the line under a table's header."""
SPAN = re.compile(r"`[^`]*`|\$[^$]*\$|\[[^\]\d][^\]]*\]\([^)]*\)")
UNRECORDED = Path(__file__).with_name("unrecorded.json")


@dataclass(frozen=True)
class Number:
    """One number of a document: where it stands and what it says."""

    document: str
    start: int
    end: int
    text: str


@dataclass
class Outcome:
    """What became of a document's numbers; `complaints`: claims and listed passages that do not stand in it."""

    by_status: dict[str, list[Number]] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)


def unrecorded() -> list[dict[str, str]]:
    entries: list[dict[str, str]] = json.loads(UNRECORDED.read_text(encoding="utf-8"))
    return entries


def check(document: str, text: str, claims: Sequence[tuple[str, str]]) -> Outcome:
    """`claims`: (document, passage as the records give it)."""
    outcome = Outcome()
    rendered = [(passage, None) for name, passage in claims if name == document]
    passages = [(entry["passage"], entry.get("through")) for entry in unrecorded() if entry["document"] == document]
    claimed = _spans(text, rendered, outcome, "the records say")
    without = _spans(text, passages, outcome, "listed as unrecorded, but not there")
    for number in measurements(document, text):
        statuses = (
            status for status, spans in (("claimed", claimed), ("unrecorded", without)) if _within(number, spans)
        )
        outcome.by_status.setdefault(next(statuses, "unmatched"), []).append(number)
    return outcome


def measurements(document: str, text: str) -> Iterator[Number]:
    plain = prose(text)
    for match in NUMBER.finditer(plain):
        digits, line_start = match["digits"], plain.rfind("\n\n", 0, match.start()) + 1
        before = re.sub(r"\s+", " ", plain[line_start : match.start()])
        whole, after = digits.replace(",", ""), plain[match.end() : match.end() + 1]
        trivial = "." not in whole and len(whole) < 2
        year = re.fullmatch(r"(19|20)\d\d", digits) and after != "%"
        level = digits == "95" and after == "%"
        if not (trivial or year or level or SETTING.search(before) or PART.search(before) or after in ("⁶", "·", "_")):
            yield Number(document, match.start(), match.end(), match.group())


def prose(text: str) -> str:
    """The document with everything blanked that is not prose or a hand-made table, every letter at its place."""
    for pattern in (TABLE, CODE, SPAN):
        text = pattern.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), text)
    return text


def _spans(
    text: str, passages: Sequence[tuple[str, str | None]], outcome: Outcome, complaint: str
) -> list[tuple[int, int]]:
    """Where the passages stand, whatever the line breaks; with a second text: up to the end of that."""
    spans = []
    for passage, last in passages:
        first, through = (r"\s+".join(map(re.escape, (part or "").split())) for part in (passage, last))
        matches = list(re.finditer(f"(?s){first}.*?{through}" if last else first, text))
        spans += [match.span() for match in matches]
        if not matches:
            outcome.complaints.append(f"{complaint}: {passage}")
    return spans


def _within(number: Number, spans: Sequence[tuple[int, int]]) -> bool:
    return any(start <= number.start < end for start, end in spans)
