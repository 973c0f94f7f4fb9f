"""The numbers of README.md and docs/*.md against the records in docs/results/.

A document is read block by block: table rows and paragraphs; code, settings (`L0 32`, `batch 512`), years, versions
and one-digit counts are no measurements. Every other number is, in this order:

    claimed     in a sentence or row that `docs_claims.py` renders anew from the records
    generated   in a table that a script of research/ prints from its record
    recorded    the rounding of a number in a record that its section names, under the names that its row, column or
                sentence gives (architectures, libraries, widths); and no neighbour (last digit ± 1) would be
    unspecific  the same, but a neighbour would pass as well: agreement that proves little
    unrecorded  in a passage that docs/results/unrecorded.json lists, with the reason
    unmatched   none of these

Only the first three are proven. Records are scoped by names, not by meaning: a number that stands in the wrong row of
the right dictionary, or that two measures of one dictionary share, is not told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

NUMBER = re.compile(
    r"(?<![\w.,/^])(?P<sign>[-−+±])?(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?P<kilo>k\b)?"
    r"(?!\d|[.,]\d|[A-Za-z]\d|[A-Z]\b)"
)
SETTING = re.compile(
    r"\b(?:d|m|N|k|n|d_ff|d_sae|L0s?|[Ll]ayers?|batch|seeds?|rounds|steps?|β₂|β₁|λ(?: of| =)?|[Ll]atent|rate"
    r"|torch|Python|sae-lens|dictionary-learning|eai-sparsify|arXiv) $"
)
"""What stands before the number of a setting, a name or a version."""
ALIASES = {
    "relu+l1": "relu",
    "batchtopk": "batch_topk",
    "frozen": "frozen_random",
}
"""Names of the documents that the records write otherwise."""
SPAN = re.compile(r"`[^`]*`|\$[^$]*\$|\[[^\]\d][^\]]*\]\([^)]*\)")


def value_of(shown: str) -> float:
    plain = shown.replace(",", "").replace("−", "-").lstrip("±+").removesuffix("k")
    return float(plain) * (1000 if shown.endswith("k") else 1)


def steps_of(shown: str) -> tuple[float, ...]:
    """What the last shown digit may stand for: trailing zeros of a whole number may be rounding."""
    digits = shown.removesuffix("k").replace(",", "")
    unit = 1000.0 if shown.endswith("k") else 1.0
    if "." in digits:
        return (unit * 10.0 ** -len(digits.split(".")[1]),)
    zeros = len(digits) - len(digits.rstrip("0"))
    return (unit,) if zeros < 2 else (unit, unit * 10.0**zeros)


@dataclass(frozen=True)
class Number:
    """One number of a document: where it stands and what it says."""

    document: str
    start: int
    end: int
    text: str
    companions: tuple[str, ...] = ()
    """The other numbers of `0.74 [0.60, 1.12]` or `0.160 ±.004`, which one entry of a record must hold together."""


@dataclass
class Outcome:
    """What became of a document's numbers; `complaints` are claims and tables that do not stand in it."""

    by_status: dict[str, list[Number]] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)

    def add(self, status: str, number: Number) -> None:
        self.by_status.setdefault(status, []).append(number)

    def count(self, *statuses: str) -> int:
        return sum(len(self.by_status.get(status, ())) for status in statuses)

    def unproven(self) -> list[Number]:
        return [n for status in ("unspecific", "unmatched") for n in self.by_status.get(status, ())]


class Leaves:
    """The numbers of some records, each with the names on its path: keys, short strings and whole numbers beside it."""

    def __init__(self, records: Sequence[Any]) -> None:
        self._rows: list[tuple[float, frozenset[str], int]] = []
        """(value, names, number of the mapping it stands in)"""
        self._n_groups = 0
        for record in records:
            self._walk(record, frozenset(), 0, top=True)
        self.values = np.array([row[0] for row in self._rows])
        self.groups = np.array([row[2] for row in self._rows])
        self._masks: dict[str, np.ndarray] = {}
        self._at: dict[str, list[int]] = {}
        for i, (_, names, _) in enumerate(self._rows):
            for name in names:
                self._at.setdefault(name, []).append(i)

    def _walk(self, node: Any, names: frozenset[str], group: int, top: bool = False) -> None:
        if isinstance(node, dict):
            self._n_groups += 1
            group = self._n_groups
            if not top:
                names |= {word for value in node.values() for word in _scalar_names(value)}
            for key, value in node.items():
                self._walk(value, names | set(words(str(key))), group)
            if top and isinstance(node.get("rows"), list):
                self._faster(node["rows"])
        elif isinstance(node, list):
            for value in node:
                self._walk(value, names, group)
            if 2 <= len(node) <= 40 and all(_is_number(v) for v in node):
                for derived in (float(np.mean(node)), (max(node) - min(node)) / 2):
                    self._rows.append((derived, names, group))
        elif _is_number(node):
            self._rows.append((float(node), names, group))

    def _faster(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Steps of a library ÷ ours of the same architecture and width, named `faster`."""
        ours = {(row.get("d_sae"), row.get("name")): row for row in rows}
        for row in rows:
            library, _, architecture = str(row.get("name")).rpartition(" ")
            own = ours.get((row.get("d_sae"), architecture))
            if library and own:
                names = {"faster", str(row["d_sae"]), *words(str(row["name"]))}
                self._rows.append((row["ratio"] / own["ratio"], frozenset(names), 0))

    @property
    def vocabulary(self) -> Collection[str]:
        return self._at.keys()

    def named(self, name: str) -> np.ndarray:
        if name not in self._masks:
            self._masks[name] = np.zeros(len(self._rows), dtype=bool)
            self._masks[name][self._at.get(name, [])] = True
        return self._masks[name]

    def narrowed(self, names: Sequence[str]) -> np.ndarray:
        """All leaves, narrowed name by name as long as some remain."""
        mask = np.ones(len(self.values), dtype=bool)
        for name in names:
            narrower = mask & self.named(name)
            mask = narrower if narrower.any() else mask
        return mask

    def have(
        self,
        value: float,
        step: float,
        companions: Sequence[str],
        mask: np.ndarray,
        scales: Sequence[float],
        signed: bool,
    ) -> bool:
        """A leaf of the mask that rounds to the value, its companions in the same mapping."""
        for scale in scales:
            groups = self._groups(value, step, scale, signed, mask)
            for shown in companions:
                groups &= self._groups(value_of(shown), steps_of(shown)[0], scale, signed, None)
            if groups:
                return True
        return False

    def _groups(self, value: float, step: float, scale: float, signed: bool, mask: np.ndarray | None) -> set[int]:
        values, groups = (self.values, self.groups) if mask is None else (self.values[mask], self.groups[mask])
        shown = values * scale if signed else np.abs(values) * scale
        target = value if signed else abs(value)
        return set(groups[np.abs(shown - target) <= 0.5 * step * (1 + 1e-6)].tolist())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _scalar_names(value: Any) -> list[str]:
    if isinstance(value, str) and len(value) <= 40:
        return words(value)
    return [str(int(value))] if _is_number(value) and abs(value) < 1e9 and float(value).is_integer() else []


def words(text: str) -> list[str]:
    """Names in a text, as records write them: `ReLU+L1` is relu, `9,216` is 9216, `**TopK**` is topk."""
    found = re.findall(r"\d{1,3}(?:,\d{3})+|[\w+-][\w+.-]*", text.lower())
    return [ALIASES.get(w, w).replace(",", "") for w in (w.strip(".-") for w in found) if w]


@dataclass(frozen=True)
class Block:
    """A table row or a paragraph; `names` are those of its row, `columns` those of each cell's column."""

    start: int
    text: str
    kind: str
    header: str = ""
    label: str = ""
    title: str = ""


def blocks(text: str) -> Iterator[Block]:
    """Rows and paragraphs outside of code."""
    fenced, header, label, title = False, "", "", ""
    paragraph: list[tuple[int, str]] = []
    position = 0
    for line in [*text.splitlines(keepends=True), "\n"]:
        bare = line.strip()
        is_row = bare.startswith("|")
        ends = not bare or is_row or bare.startswith(("```", "#", "- ", "![")) or line.startswith("    ")
        if paragraph and ends:
            title = "".join(part for _, part in paragraph)
            yield Block(paragraph[0][0], title, "paragraph", title=title)
            paragraph = []
        if bare.startswith("```"):
            fenced = not fenced
        elif fenced or (line.startswith("    ") and not is_row) or bare.startswith(("#", "![")):
            pass
        elif is_row:
            if not header:
                header, label = line, ""
                yield Block(position, line, "header", header, "", title)
            elif not set(bare) <= set("|-: "):
                cells = cells_of(line)
                first = cells[0][1].strip() or label
                label = first
                yield Block(position, line, "row", header, first, title)
        elif bare:
            paragraph.append((position, line))
        if not is_row:
            header = ""
        position += len(line)


def plain_row(line: str) -> str:
    """A row without bold type and without what pads its cells."""
    return "|".join(cell.strip() for cell in line.replace("**", "").strip().strip("|").split("|"))


def cells_of(row: str) -> list[tuple[int, str]]:
    """(offset, text) of a row's cells."""
    found, start = [], row.index("|") + 1
    for match in re.finditer(r"(?<!\\)\|", row[start:]):
        end = start + match.start()
        found.append((found[-1][0] + len(found[-1][1]) + 1 if found else start, row[:end]))
        found[-1] = (found[-1][0], row[found[-1][0] : end])
    return found


def measurements(document: str, block: Block) -> Iterator[Number]:
    text = SPAN.sub(lambda m: " " * len(m.group()), block.text)
    together = companions_in(text)
    for match in NUMBER.finditer(text):
        digits = match["digits"]
        sign = match["sign"] or ""
        if re.search(r"\w-$|\d:$", text[: match.start()]):
            continue  # x86-64, top-32, 2:43
        whole = digits.replace(",", "")
        trivial = "." not in whole and len(whole) < 2
        year = re.fullmatch(r"(19|20)\d\d", digits) is not None and "%" not in text[match.end() : match.end() + 1]
        after = text[match.end() : match.end() + 2]
        if trivial or year or SETTING.search(text[: match.start()]) or after[:1] in ("⁶", "·", "_"):
            continue
        if block.kind == "row" and not text[: match.start()].strip(" |"):
            continue  # the row's own label
        if re.search(r"\b(?:limits?|target|asked:|at most|at least) [\d, ]*$", text[: match.start()]):
            continue  # what was asked for, not what came
        if block.label == "target":
            continue
        shown = sign + digits + (match["kilo"] or "")
        start = block.start + match.start()
        others = tuple(other for at, other in together.get(match.start(), ()) if at != match.start())
        yield Number(document, start, start + len(shown), shown, others)


def companions_in(text: str) -> dict[int, list[tuple[int, str]]]:
    """By the start of a number of `0.74 [0.60, 1.12]` or `0.160 ±.004`: (start, text) of all of them."""
    one = re.sub(r"\?P<\w+>", "", NUMBER.pattern)
    found: dict[int, list[tuple[int, str]]] = {}
    interval = rf"(?P<value>{one})[%×]? \[(?P<low>{one})[%×]?, (?P<high>{one})[%×]?\]"
    for pattern in (interval, rf"(?P<value>{one})%? (?P<half>±{one})"):
        for match in re.finditer(pattern, text):
            names = [name for name in ("value", "low", "high", "half") if name in match.groupdict()]
            parts = [(match.start(name), match[name].replace(" ", "")) for name in names]
            for start, _ in parts:
                found.setdefault(start, parts)
    return found


class Checker:
    """Documents under `root` against the records under `root`/docs/results."""

    def __init__(self, root: Path, claims: Sequence[tuple[str, str]], generated: Sequence[str]) -> None:
        """`claims`: (document, rendered passage); `generated`: tables as scripts print them."""
        self.root = root
        self.claims = claims
        self.generated_rows = {plain_row(line) for table in generated for line in table.splitlines()}
        self.generated_headers = {plain_row(table.strip().splitlines()[0]) for table in generated}
        self._leaves: dict[tuple[str, ...], Leaves] = {}

    @cached_property
    def records(self) -> dict[str, Any]:
        paths = sorted((self.root / "docs" / "results").glob("*.json"))
        return {path.name: json.loads(path.read_text()) for path in paths if path.name != "unrecorded.json"}

    @cached_property
    def unrecorded(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads((self.root / "docs" / "results" / "unrecorded.json").read_text())
        return found

    def leaves(self, names: tuple[str, ...]) -> Leaves:
        if names not in self._leaves:
            self._leaves[names] = Leaves([self.records[name] for name in names])
        return self._leaves[names]

    def records_at(self, text: str) -> list[tuple[int, tuple[str, ...]]]:
        """(start, records) of every section: the files it names, else those of the section above it."""
        starts = [(m.start(), len(m.group(1))) for m in re.finditer(r"(?m)^(#{1,4}) ", _without_code(text))]
        by_depth: dict[int, tuple[str, ...]] = {}
        found = []
        for i, (start, depth) in enumerate(starts):
            end = starts[i + 1][0] if i + 1 < len(starts) else len(text)
            named = tuple(sorted(set(re.findall(r"results/(\w+\.json)", text[start:end])) & set(self.records)))
            above = next((by_depth[d] for d in range(depth - 1, 0, -1) if by_depth.get(d)), ())
            by_depth = {d: files for d, files in by_depth.items() if d < depth} | {depth: named or above}
            found.append((start, named or above))
        return found

    def check(self, document: str, text: str | None = None) -> Outcome:
        text = (self.root / document).read_text() if text is None else text
        outcome = Outcome()
        passages = [(passage, None) for name, passage in self.claims if name == document]
        claimed = self._spans(text, passages, outcome, "the records say")
        listed = [
            (entry["passage"], entry.get("through")) for entry in self.unrecorded if entry["document"] == document
        ]
        unrecorded = self._spans(text, listed, outcome, "listed as unrecorded, but not there")
        sections = self.records_at(text)
        for block in blocks(text):
            files = next((names for start, names in reversed(sections) if start <= block.start), ())
            for number in measurements(document, block):
                if any(start <= number.start < end for start, end in claimed):
                    outcome.add("claimed", number)
                elif any(start <= number.start < end for start, end in unrecorded):
                    outcome.add("unrecorded", number)
                elif block.kind != "paragraph" and plain_row(block.header) in self.generated_headers:
                    outcome.add("generated" if plain_row(block.text) in self.generated_rows else "unmatched", number)
                else:
                    outcome.add(self._status(number, block, self.leaves(files)) if files else "unmatched", number)
        return outcome

    @staticmethod
    def _spans(
        text: str, passages: Sequence[tuple[str, str | None]], outcome: Outcome, said: str
    ) -> list[tuple[int, int]]:
        """Where the passages stand, whatever the line breaks; with a second text: up to the end of that."""
        spans = []
        for passage, last in passages:
            first, through = (r"\s+".join(map(re.escape, (part or "").split())) for part in (passage, last))
            pattern = f"(?s){first}.*?{through}" if last else first
            matches = list(re.finditer(pattern, text))
            spans += [match.span() for match in matches]
            if not matches:
                outcome.complaints.append(f"{said}: {passage}")
        return spans

    def _status(self, number: Number, block: Block, leaves: Leaves) -> str:
        mask, around = self._scope(number, block, leaves)
        scales = _scales(number, around)
        signed = block.kind == "row" and number.text[0] in "+-−"
        status = "unmatched"
        for step in steps_of(number.text):
            value, others = value_of(number.text), number.companions
            if leaves.have(value, step, others, mask, scales, signed):
                beside = (value - step, value + step)
                if not any(leaves.have(near, step, others, mask, scales, signed) for near in beside):
                    return "recorded"
                status = "unspecific"
        return status

    def _scope(self, number: Number, block: Block, leaves: Leaves) -> tuple[np.ndarray, str]:
        """The leaves that a number may come from, and the text that tells its unit."""
        at = number.start - block.start
        if block.kind == "row":
            cells = cells_of(block.text)
            index = max(i for i, (start, _) in enumerate(cells) if start <= at)
            headers = [text for _, text in cells_of(block.header)]
            column = headers[index] if index < len(headers) else ""
            texts = [block.label, *(t for _, t in cells[:index] if not re.search(r"\d[.\d]", t)), column]
            names = [w for t in texts for w in words(t) if w in leaves.vocabulary]
            return leaves.narrowed(names), " ".join([*texts, cells[index][1], block.title[-300:]])
        before, after = block.text[:at], block.text[at:]
        sentence = re.split(r"(?<=[.:;])\s", before)[-1]
        rest = re.split(r"(?<=[.:;])\s", after)[0]
        named_before = [w for w in words(sentence) if w in leaves.vocabulary and not w[0].isdigit()]
        named_after = [w for w in words(rest) if w in leaves.vocabulary and not w[0].isdigit()]
        masks = [leaves.named(w) for w in (*named_before[-1:], *named_after[:1])]
        mask = np.logical_or.reduce(masks) if masks else np.ones(len(leaves.values), dtype=bool)
        return mask, rest[:60]


def _scales(number: Number, around: str) -> list[float]:
    scales = [1.0]
    if "%" in around or "per cent" in around:
        scales.append(100.0)
    if re.search(r"\bms\b", around):
        scales.append(1000.0)
    if "million" in around:
        scales.append(1e-6)
    if "MB" in around:
        scales.append(1e-6)
    if "GB" in around:
        scales.append(1e-9)
    return scales


def _without_code(text: str) -> str:
    """The text with code blocks blanked, so that their comments are no headings."""
    return re.sub(r"(?ms)^```.*?^```", lambda m: re.sub(r"[^\n]", " ", m.group()), text)
