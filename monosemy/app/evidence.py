"""Writes which latents fire where in one's own text as a file that others can check: CSV, JSON or one HTML page.

Place on the path: `Reading`, labels → [text of a file] → download, `monosemy trace --out`. CSV and JSON hold every
firing's latent, label, activation and how unusual it is (`rarity`); the page holds the most unusual firing of every
token and a table of latents.
Tokens stand in CSV as JSON strings, so that white space is seen and no spreadsheet takes one for a formula.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from monosemy.errors import unknown
from monosemy.features.export import html_page
from monosemy.support import json_text
from monosemy.support.html import Html, join
from monosemy.support.numbers import activation_text, count_text
from monosemy.support.visible import visible

if TYPE_CHECKING:
    from monosemy.app.own_text import Reading

N_LATENTS = 60
"""Latents in the table of the page."""
_COMMON, _DECADES = 1, 4
"""Decades of “one in so many tokens” without a shade, and from there to the darkest."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Evidence:
    """A reading with what it takes to understand it elsewhere."""

    reading: Reading
    labels: Mapping[int, str]
    about: Mapping[str, str]
    """Where it comes from, for people: model, SAE, tokens behind the rarities, version."""


def rarity_text(value: float | None) -> str:
    """`1 in 5,200 tokens`; `–` where it is not known."""
    return "–" if value is None or value != value else f"1 in {count_text(value)} tokens"


def written(evidence: Evidence, kind: str) -> str:
    """The file's text. Raises UserError for another kind than those of `WRITERS`."""
    if kind not in WRITERS:
        raise unknown("format", kind[:20], WRITERS)
    return WRITERS[kind][0](evidence)


def _csv(evidence: Evidence) -> str:
    reading, file = evidence.reading, io.StringIO()
    table = csv.writer(file)
    table.writerow(["token", "text", "role", "latent", "label", "activation", "one_in_tokens"])
    columns = (reading.position, reading.latent, reading.value, reading.one_in)
    for position, latent, value, rare in zip(*(column.tolist() for column in columns), strict=True):
        label, role = evidence.labels.get(latent, ""), reading.roles[position] if reading.roles else ""
        text = json.dumps(reading.pieces[position], ensure_ascii=False)
        rarity = "" if rare != rare else repr(rare)
        table.writerow([position, text, safe_cell(role), latent, safe_cell(label), repr(value), rarity])
    return file.getvalue()


def safe_cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def context_text(reading: Reading, peak: int) -> str:
    """A token in guillemets, with some of the text around it."""
    pieces = reading.pieces
    return "".join(pieces[max(0, peak - 6) : peak]) + f"«{pieces[peak]}»" + "".join(pieces[peak + 1 : peak + 4])


def _json(evidence: Evidence) -> str:
    reading = evidence.reading
    document = {
        "about": dict(evidence.about),
        "tokens": reading.pieces,
        "roles": reading.roles or None,
        "special": reading.special,
        "n_dropped": reading.n_dropped,
        "latents": [row | {"label": evidence.labels.get(row["latent"], "")} for row in reading.summary()],
        "firings": {
            "token": reading.position.tolist(),
            "latent": reading.latent.tolist(),
            "activation": reading.value.tolist(),
            "one_in_tokens": [None if rare != rare else rare for rare in reading.one_in.tolist()],
        },
    }
    return json_text.dumps(document)


def _html(evidence: Evidence) -> str:
    reading, summary = evidence.reading, evidence.reading.summary()
    rows = [_row(evidence, row) for row in summary[:N_LATENTS]]
    table = html_page.table(
        f"The {len(rows)} most unusual of {count_text(len(summary))} latents that fire",
        ["Latent", "Label", "Activation", "As strong on", "Strongest at", "Tokens"],
        rows,
        numeric=(2, 3, 5),
    )
    facts = html_page.table("Where this comes from", ["What", "Which"], list(evidence.about.items()))
    how = (
        "A token's shade says how unusual its most unusual latent is: the darkest is as strong on one in 100,000 "
        "tokens or fewer. Point at a token for the latent."
    )
    scroll = Html('<div class="scroll" tabindex="0" role="region" aria-label="Latents, table">{}</div>')
    body = Html('<article id="text"><p>{}</p><p class="ctx">{}</p>{}{}</article>').format(
        how, shaded_text(reading, evidence.labels), scroll.format(table), facts
    )
    name = "Which latents fire in a text"
    return html_page.page(name, Html("<p>{}</p>").format(evidence.about.get("SAE", "")), [], body, foot=Html())


def _row(evidence: Evidence, row: Mapping[str, Any]) -> list[str]:
    return [
        str(row["latent"]),
        evidence.labels.get(row["latent"], ""),
        activation_text(row["value"]),
        rarity_text(row["one_in"]),
        visible(context_text(evidence.reading, row["peak"])),
        f"{row['n_tokens']}",
    ]


def shaded_text(reading: Reading, labels: Mapping[int, str]) -> Html:
    """The text, every token shaded by how unusual its most unusual firing is."""
    return join(_token(reading.pieces[i], firing, labels) for i, firing in enumerate(_rarest(reading)))


def _rarest(reading: Reading) -> list[dict[str, Any] | None]:
    """Per token the firing that is most unusual for its latent: `latent` and `one_in`."""
    rare = np.nan_to_num(reading.one_in)
    order = np.lexsort((-rare, reading.position))  # stable: of equals the strongest stays first
    positions, first = np.unique(reading.position[order], return_index=True)
    best = order[first]
    rarest: list[dict[str, Any] | None] = [None] * len(reading.pieces)
    for position, latent, n in zip(positions.tolist(), reading.latent[best].tolist(), rare[best].tolist(), strict=True):
        rarest[position] = {"latent": latent, "one_in": n or None}
    return rarest


def _token(piece: str, firing: Mapping[str, Any] | None, labels: Mapping[int, str]) -> Html:
    if firing is None:
        return Html("<span>{}</span>").format(piece)
    decades = math.log10(firing["one_in"] or 1.0)
    level = min(9, max(0, round(9 * (decades - _COMMON) / _DECADES)))
    about = f"{firing['latent']} {labels.get(firing['latent'], '')}: {rarity_text(firing['one_in'])}"
    return Html('<span class="a{}" title="{}">{}</span>').format(level, about, piece)


WRITERS: dict[str, tuple[Callable[[Evidence], str], str]] = {
    "csv": (_csv, "text/csv; charset=utf-8"),
    "json": (_json, "application/json"),
    "html": (_html, "text/html; charset=utf-8"),
}
"""By the ending of the file's name: what writes it, and its media type."""
