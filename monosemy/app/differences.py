"""The latents in which two texts differ, for the page and as a file: CSV, JSON or one HTML page.

Place on the path: two `Reading`s of one SAE, labels → [differences] → page, download, `monosemy trace --against --out`.
A latent's difference, between its most unusual activations in the two texts:

    ln N_first − ln N_second,   N = 1 and so ln N = 0 for a text in which it is silent

where it is that strong on one in N tokens (`rarity`). Without features it is the difference of its largest values as
shares of its maximum. The files hold every latent that fires in either text; the page those that differ most.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from monosemy.app.catalogue import Dictionary
from monosemy.app.evidence import N_LATENTS, context_text, rarity_text, safe_cell, shaded_text
from monosemy.app.lists import at
from monosemy.errors import unknown
from monosemy.features.export import html_page
from monosemy.support import json_text
from monosemy.support.html import Html, join
from monosemy.support.numbers import activation_text, count_text
from monosemy.support.visible import visible

if TYPE_CHECKING:
    from monosemy.app.own_text import Reading

MOST_DIFFERENCES = 200
"""Rows of the page's answer."""
SIDES = ("first", "second")
_Row = dict[str, Any]


@dataclass(frozen=True)
class LatentDifference:
    """A latent in two texts: its rows of `Reading.summary`, None where it is silent."""

    latent: int
    label: str
    first: _Row | None
    second: _Row | None
    difference: float

    @property
    def fires_in(self) -> str:
        """first, second or both"""
        if self.first is None or self.second is None:
            return "first" if self.second is None else "second"
        return "both"


@dataclass(frozen=True)
class TextDifferences:
    """Two readings, and every latent that fires in either, the largest difference first."""

    readings: tuple[Reading, Reading]
    latents: list[LatentDifference]

    def count(self, fires_in: str) -> int:
        """Latents that fire in the first, in the second, or in both."""
        return sum(row.fires_in == fires_in for row in self.latents)


def differences(sae: Dictionary, first: Reading, second: Reading) -> TextDifferences:
    """Every latent of two readings. Of equal differences the lower latent comes first."""
    rows = [{row["latent"]: row for row in reading.summary()} for reading in (first, second)]
    pairs = {i: (rows[0].get(i), rows[1].get(i)) for i in {**rows[0], **rows[1]}}
    sizes = {i: _height(sae, i, pair[0]) - _height(sae, i, pair[1]) for i, pair in pairs.items()}
    ranked = sorted(sizes, key=lambda i: (-abs(sizes[i]), i))
    labels = sae.labels(ranked)
    return TextDifferences(
        (first, second),
        [LatentDifference(i, label, *pairs[i], difference=sizes[i]) for i, label in zip(ranked, labels, strict=True)],
    )


def _height(sae: Dictionary, latent: int, row: _Row | None) -> float:
    if row is None:
        return 0.0
    if row["one_in"]:
        return math.log(row["one_in"])
    return float(row["value"]) / (at(sae.columns, "max", latent) or float(row["value"]))


def difference_answer(texts: TextDifferences) -> dict[str, Any]:
    """What the page shows (`schema.TextDifference`)."""

    def side(row: _Row | None) -> _Row | None:
        return None if row is None else {key: row[key] for key in ("value", "one_in", "n_tokens")}

    return {
        "rows": [
            {"latent": row.latent, "label": row.label, "first": side(row.first), "second": side(row.second)}
            for row in texts.latents[:MOST_DIFFERENCES]
        ],
        **{f"n_{where}": texts.count(where) for where in (*SIDES, "both")},
        **{f"n_dropped_{name}": reading.n_dropped for name, reading in zip(SIDES, texts.readings, strict=True)},
    }


def written_differences(texts: TextDifferences, about: Mapping[str, str], kind: str) -> str:
    """The file's text. Raises UserError for another kind than csv, json and html."""
    if kind not in _WRITERS:
        raise unknown("format", kind[:20], _WRITERS)
    return _WRITERS[kind](texts, about)


def _csv(texts: TextDifferences, about: Mapping[str, str]) -> str:
    file = io.StringIO()
    table = csv.writer(file)
    columns = ("activation", "one_in_tokens", "n_tokens", "peak", "context")
    table.writerow(
        ["latent", "label", "fires_in", "difference", *(f"{side}_{column}" for side in SIDES for column in columns)]
    )
    for row in texts.latents:
        cells: list[Any] = [row.latent, safe_cell(row.label), row.fires_in, repr(row.difference)]
        for reading, side in zip(texts.readings, (row.first, row.second), strict=True):
            cells += [""] * len(columns) if side is None else _cells(reading, side)
        table.writerow(cells)
    return file.getvalue()


def _cells(reading: Reading, row: _Row) -> list[Any]:
    context = json.dumps(context_text(reading, row["peak"]), ensure_ascii=False)
    rare = "" if row["one_in"] is None else repr(row["one_in"])
    return [repr(row["value"]), rare, row["n_tokens"], row["peak"], context]


def _json(texts: TextDifferences, about: Mapping[str, str]) -> str:
    def side(row: _Row | None) -> _Row | None:
        return None if row is None else {key: value for key, value in row.items() if key != "latent"}

    return json_text.dumps(
        {
            "about": dict(about),
            "texts": {
                name: {"tokens": reading.pieces, "roles": reading.roles or None, "n_dropped": reading.n_dropped}
                for name, reading in zip(SIDES, texts.readings, strict=True)
            },
            "latents": [
                {
                    "latent": row.latent,
                    "label": row.label,
                    "fires_in": row.fires_in,
                    "difference": row.difference,
                    "first": side(row.first),
                    "second": side(row.second),
                }
                for row in texts.latents
            ],
        }
    )


def _html(texts: TextDifferences, about: Mapping[str, str]) -> str:
    parts = [_alone(texts, side, number) for number, side in enumerate(SIDES)]
    how = (
        "A token's shade says how unusual its most unusual latent is, of those that are silent in the other text: the "
        "darkest is as strong on one in 100,000 tokens or fewer. Point at a token for the latent."
    )
    facts = html_page.table("Where this comes from", ["What", "Which"], list(about.items()))
    body = Html('<article id="texts"><p>{}</p>{}{}{}</article>').format(how, join(parts), _both(texts), facts)
    return html_page.page(
        "Which latents fire in one of two texts", Html("<p>{}</p>").format(about.get("SAE", "")), [], body, foot=Html()
    )


def _alone(texts: TextDifferences, side: str, number: int) -> Html:
    """A text, shaded by what fires in it alone, and the table of these latents."""
    reading = texts.readings[number]
    alone = [row for row in texts.latents if row.fires_in == side]
    is_own = np.isin(reading.latent, [row.latent for row in alone])
    own = replace(
        reading,
        position=reading.position[is_own],
        latent=reading.latent[is_own],
        value=reading.value[is_own],
        one_in=reading.one_in[is_own],
    )
    firings = [(row, row.first or row.second or {}) for row in alone[:N_LATENTS]]
    rows = [
        [*_named(row), *_side_cells(firing), _place(reading, firing), f"{firing['n_tokens']}"]
        for row, firing in firings
    ]
    table = html_page.table(
        f"{_share(len(rows), len(alone))} fire in the {side} text only",
        ["Latent", "Label", "Activation", "As strong on", "Strongest at", "Tokens"],
        rows,
        numeric=(2, 3, 5),
    )
    text = shaded_text(own, {row.latent: row.label for row in alone})
    return Html('<h2>The {} text</h2><p class="ctx">{}</p>{}').format(side, text, table)


def _both(texts: TextDifferences) -> Html:
    both = [row for row in texts.latents if row.first is not None and row.second is not None]
    rows = [[*_named(row), *_side_cells(row.first or {}), *_side_cells(row.second or {})] for row in both[:N_LATENTS]]
    return html_page.table(
        f"{_share(len(rows), len(both))} fire in both texts",
        ["Latent", "Label", "First", "As strong on", "Second", "As strong on"],
        rows,
        numeric=(2, 3, 4, 5),
    )


def _share(n_shown: int, n: int) -> str:
    if n_shown < n:
        return f"The {n_shown} that differ most of {count_text(n)} latents that"
    return f"{count_text(n)} latents that"


def _named(row: LatentDifference) -> list[str]:
    return [str(row.latent), row.label]


def _side_cells(firing: _Row) -> list[str]:
    return [activation_text(firing["value"]), rarity_text(firing["one_in"])]


def _place(reading: Reading, firing: _Row) -> str:
    return visible(context_text(reading, firing["peak"]))


_WRITERS: dict[str, Callable[[TextDifferences, Mapping[str, str]], str]] = {"csv": _csv, "json": _json, "html": _html}
