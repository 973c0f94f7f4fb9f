"""The HTML building blocks of the report: sortable tables, figures in both themes, the page.

Place on the data's path: below `page.py`, on the frame of `support/html`. The only script sorts tables; without it, the
page shows the same content.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass

from monosemy.report.canvas import Drawing
from monosemy.support.html import Html, details, document, escape, join, read_part
from monosemy.support.numbers import fixed_text

__all__ = ["Cell", "Html", "bullets", "details", "escape", "facts", "figure", "join", "page", "table"]

NUMBER, LONG = Html(' class="n"'), Html(' class="long"')
LONG_TEXT = 32
"""The number of characters above which the text of a cell may break into lines."""


@dataclass(frozen=True)
class Cell:
    """The text of a table cell, and the number that it is sorted by (by its text if None)."""

    text: str
    sort: float | None = None


def table(
    caption: str, headings: Sequence[str], rows: Sequence[Sequence[Cell | str]], *, muted: Sequence[int] = ()
) -> Html:
    """A sortable table with a caption. The first cell of each row is its heading; `muted` are the rows of controls."""
    # A column with any number in it is aligned as numbers.
    numeric = [any(_is_number(row[i]) for row in rows) for i in range(len(headings))]
    head = join(
        Html('<th scope="col"{}><button type="button">{}</button></th>').format(NUMBER if number else "", heading)
        for heading, number in zip(headings, numeric, strict=True)
    )
    body = join(_row(row, number in muted) for number, row in enumerate(rows))
    return Html(
        '<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table class="sortable">'
        "<caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    ).format(caption=caption, head=head, body=body)


def _is_number(cell: Cell | str) -> bool:
    return isinstance(cell, Cell) and cell.sort is not None


def _row(row: Sequence[Cell | str], muted: bool) -> Html:
    first, *others = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
    return Html('<tr{}><th scope="row">{}</th>{}</tr>').format(
        Html(' class="control"') if muted else "", first.text, join(map(_cell, others))
    )


def _cell(cell: Cell) -> Html:
    if cell.sort is None:
        return Html("<td{}>{}</td>").format(LONG if len(cell.text) > LONG_TEXT else "", cell.text)
    # The script sorts an empty key, a missing value, as infinity.
    key = cell.sort if math.isfinite(cell.sort) else ""
    return Html('<td{} data-sort="{}">{}</td>').format(NUMBER, key, cell.text)


def facts(caption: str, rows: Sequence[tuple[str, str]]) -> Html:
    """A two-column table of names and values."""
    body = join(Html('<tr><th scope="row">{}</th><td>{}</td></tr>').format(*row) for row in rows)
    return Html(
        '<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table class="facts">'
        '<caption>{caption}</caption><thead><tr><th scope="col">What</th><th scope="col">Value</th></tr>'
        "</thead><tbody>{body}</tbody></table></div>"
    ).format(caption=caption, body=body)


def figure(drawing: Drawing) -> Html:
    """A figure with its caption, light or dark according to the reader's system."""
    light, dark = (base64.b64encode(png).decode() for png in (drawing.light, drawing.dark))
    return Html(
        '<figure style="max-width:{width}px"><picture>'
        '<source media="(prefers-color-scheme: dark)" srcset="data:image/png;base64,{dark}">'
        '<img loading="lazy" decoding="async" alt="{alt}" src="data:image/png;base64,{light}"></picture>'
        "<figcaption>{caption}</figcaption></figure>"
    ).format(width=fixed_text(drawing.width * 100, 0), dark=dark, alt=drawing.alt, light=light, caption=drawing.caption)


def bullets(items: Sequence[str]) -> Html:
    """A bulleted list of sentences."""
    return Html("<ul>{}</ul>").format(join(Html("<li>{}</li>").format(item) for item in items))


def page(title: str, lede: Html, contents: Sequence[tuple[str, str]], body: Html, *, foot: str) -> str:
    """The whole page. `contents` holds (anchor, text) of the sections."""
    return document(
        "report/report.html",
        title=title,
        style=read_part("report/report.css"),
        script=read_part("report/sort.js"),
        skip="Skip to the results",
        lede=lede,
        contents=contents,
        body=body,
        foot=foot,
    )
