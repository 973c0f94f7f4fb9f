"""HTML building blocks of the report: escaped text, tables that sort, figures in both themes, the page's frame.

Place on the data's path: below `page.py`. Everything is inline; a content security policy forbids the page to load
anything. The script only sorts tables: without it the page reads the same.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from monosemy.report.canvas import Drawing
from monosemy.support.visible import visible_lines

NUMBER, LONG = ' class="n"', ' class="long"'
LONG_TEXT = 32
"""Letters above which a cell of text may break into lines."""


@dataclass(frozen=True)
class Cell:
    """Text of a table cell and what it is sorted by (the text when None)."""

    text: str
    sort: float | None = None


def escape(text: object) -> str:
    """Text as HTML; what would not be seen, or would turn the page's text round, as signs."""
    return html.escape(visible_lines(str(text)))


def table(
    caption: str, headings: Sequence[str], rows: Sequence[Sequence[Cell | str]], *, muted: Sequence[int] = ()
) -> str:
    """A sortable table with a caption; the first cell of a row is its heading; `muted` are rows of controls."""
    numeric = [any(_is_number(row[i]) for row in rows) for i in range(len(headings))]
    head = "".join(
        f'<th scope="col"{NUMBER if number else ""}><button type="button">{escape(heading)}</button></th>'
        for heading, number in zip(headings, numeric, strict=True)
    )
    body = "".join(_row(row, number in muted) for number, row in enumerate(rows))
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table class="sortable">'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _is_number(cell: Cell | str) -> bool:
    return isinstance(cell, Cell) and cell.sort is not None


def _row(row: Sequence[Cell | str], muted: bool) -> str:
    cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
    shown = [f'<th scope="row">{escape(cells[0].text)}</th>']
    for cell in cells[1:]:
        key = "" if cell.sort is None else f' data-sort="{cell.sort if math.isfinite(cell.sort) else ""}"'
        kind = NUMBER if cell.sort is not None else LONG if len(cell.text) > LONG_TEXT else ""
        shown.append(f"<td{kind}{key}>{escape(cell.text)}</td>")
    kind = ' class="control"' if muted else ""
    return f"<tr{kind}>{''.join(shown)}</tr>"


def facts(caption: str, rows: Sequence[tuple[str, str]]) -> str:
    """A two-column table of names and values."""
    body = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table class="facts">'
        f'<caption>{escape(caption)}</caption><thead><tr><th scope="col">What</th><th scope="col">Value</th></tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )


def figure(drawing: Drawing) -> str:
    """A figure with its caption, light or dark as the reader's system asks."""
    light, dark = (base64.b64encode(png).decode() for png in (drawing.light, drawing.dark))
    return (
        f'<figure style="max-width:{drawing.width * 100:.0f}px"><picture>'
        f'<source media="(prefers-color-scheme: dark)" srcset="data:image/png;base64,{dark}">'
        f'<img alt="{escape(drawing.alt)}" src="data:image/png;base64,{light}"></picture>'
        f"<figcaption>{escape(drawing.caption)}</figcaption></figure>"
    )


def details(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def bullets(items: Sequence[str]) -> str:
    """A list of plain sentences."""
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def page(title: str, lede: str, contents: Sequence[tuple[str, str]], body: str, foot: str) -> str:
    """The whole document. `contents`: (anchor, text) of the sections; `body` and `lede` are HTML already."""
    links = "".join(f'<li><a href="#{escape(anchor)}">{escape(text)}</a></li>' for anchor, text in contents)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the results</a>
<header><h1>{escape(title)}</h1>{lede}</header>
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main id="main">
{body}
</main>
<footer><p>{escape(foot)}</p></footer>
<script>{SCRIPT}</script>
</body>
</html>
"""


POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

STYLE = """
:root{--bg:#ffffff;--ink:#1b1f24;--muted:#59616a;--line:#d9dde2;--soft:#f4f6f8;--accent:#1C4ED8;--warn:#9a3412;--warnbg:#fff4ec}
@media (prefers-color-scheme:dark){:root{--bg:#15181d;--ink:#e8eaed;--muted:#a3abb5;--line:#343b44;--soft:#1d2127;
--accent:#8fb0ff;--warn:#ffb989;--warnbg:#2a1f18}}
*{box-sizing:border-box}
html{scroll-behavior:smooth}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
body{margin:0 auto;padding:1.5rem 1.25rem 4rem;max-width:1120px;background:var(--bg);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif}
h1{font-size:1.75rem;line-height:1.2;margin:.4rem 0 1rem;letter-spacing:-.01em}
h2{font-size:1.3rem;margin:2.8rem 0 .6rem;padding-top:.9rem;border-top:1px solid var(--line)}
nav+main>section:first-child>h2{border-top:0;margin-top:1.4rem}
.short{font-weight:600;font-size:1.06rem}
h3{font-size:1.05rem;margin:2rem 0 .5rem}
p,ul,figcaption,summary{max-width:78ch}
.lede{font-size:1.06rem}
ul{padding-left:1.2rem}li{margin:.3rem 0}
a{color:var(--accent)}
.skip{position:absolute;left:-999px}.skip:focus{left:1rem;top:.5rem;background:var(--bg);padding:.4rem .8rem}
nav ul{list-style:none;padding:.5rem 0;margin:1rem 0 0;display:flex;flex-wrap:wrap;gap:.2rem 1.3rem;max-width:none;
border-bottom:1px solid var(--line);font-size:.93rem}
nav li{margin:0}
.note{background:var(--warnbg);border-left:4px solid var(--warn);padding:.5rem 1rem;margin:1rem 0}
.note h3{margin:.3rem 0;color:var(--warn)}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,470px),1fr));gap:1rem}
figure{margin:1rem 0}
figure img{width:100%;height:auto;display:block}
figcaption{font-size:.88rem;color:var(--muted);margin-top:.45rem}
.scroll{overflow-x:auto;margin:1rem 0}
:is(.scroll,button,summary,a):focus-visible{outline:2px solid var(--accent);outline-offset:2px}
table{border-collapse:collapse;font-size:.87rem;font-variant-numeric:tabular-nums;line-height:1.35}
caption{text-align:left;font-weight:600;padding:.2rem 0 .5rem;font-size:.92rem}
th,td{padding:.32rem .75rem .32rem .3rem;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
td,tbody th{white-space:nowrap}
thead th{border-bottom:2px solid var(--line);vertical-align:bottom;padding-right:.4rem}
tbody th{font-weight:600}
td.n,th.n{text-align:right}td.long{white-space:normal;min-width:22rem}
tbody th{position:sticky;left:0;background:var(--bg)}
tr.control th,tr.control td{color:var(--muted);font-weight:400}
tbody tr:hover,tbody tr:hover th{background:var(--soft)}
.facts td,.facts th,.wins td{white-space:normal}.facts td{overflow-wrap:anywhere}
.facts th{white-space:nowrap;font-weight:500}
th button{all:unset;cursor:pointer;font-weight:600}
th[aria-sort=ascending] button::after{content:" \\2191"}
th[aria-sort=descending] button::after{content:" \\2193"}
.pairs td.text{white-space:normal;min-width:30rem;font-size:.9rem}.pairs .label{display:block;color:var(--muted);
white-space:normal;max-width:14rem;font-weight:400}.pairs td{border-bottom-color:var(--soft)}
:is(.a1,.a2,.a3,.a4,.a5){background:color-mix(in srgb,var(--accent) var(--part),transparent)}
.a1{--part:10%}.a2{--part:18%}.a3{--part:26%}.a4{--part:34%}.a5{--part:42%}
.u1,.u2,.u3,.u4,.u5{border-bottom:2px solid var(--warn)}.u1,.u2{border-bottom-width:1px}.u5{border-bottom-width:3px}
details{margin:1rem 0}summary{cursor:pointer;color:var(--accent)}
footer{margin-top:3rem;border-top:1px solid var(--line);color:var(--muted);font-size:.88rem}
@media print{nav,.skip{display:none}h2{break-after:avoid}figure,tr{break-inside:avoid}body{max-width:none}}
"""

SCRIPT = """
for (const table of document.querySelectorAll('table.sortable')) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector('button').addEventListener('click', () => {
    const up = head.getAttribute('aria-sort') !== 'ascending';
    const key = (row) => {
      const cell = row.cells[column], value = cell.dataset.sort;
      return value === undefined ? cell.textContent : value === '' ? Infinity : Number(value);
    };
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const x = key(a), y = key(b);
      const order = typeof x === 'number' ? (x === y ? 0 : x - y) : x.localeCompare(y, 'en', {numeric: true});
      return up ? order : -order;
    });
    heads.forEach((other) => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    table.tBodies[0].append(...rows);
  }));
}
"""
