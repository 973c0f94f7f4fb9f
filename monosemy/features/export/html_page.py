"""The frame and the look of an exported page: one file, no script, nothing loaded from elsewhere.

Place on the data's path: below `export_html.py`. A content security policy forbids scripts and every load, so that no
token's text can ever do anything; texts are escaped as well. Shades are one hue in nine steps, in a light and a dark
version; in both the text stands out from every shade by at least 4.5:1 (a test computes it).
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from monosemy.support.visible import visible_lines

GENERATOR = "monosemy export-html"
POLICY = "default-src 'none'; style-src 'unsafe-inline'"

LIGHT_INK, DARK_INK = "#1b1f24", "#e8eaed"
LIGHT_SHADES = ("#e9f0fe", "#d8e5fd", "#c6d9fc", "#b4cdfb", "#a1c1f9", "#8eb4f7", "#7aa6f4", "#6a9af1", "#5b8eee")
DARK_SHADES = ("#1b2536", "#1e2c45", "#213454", "#243c63", "#274472", "#2a4c80", "#2d548e", "#305c9c", "#3364aa")
"""Backgrounds of levels 1 to 9."""


def escape(text: object) -> str:
    """Text as HTML; what would not be seen, or would turn the page's text round, as signs."""
    return html.escape(visible_lines(str(text)))


def table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: Sequence[int] = ()) -> str:
    """A table of escaped texts; the first cell of a row is its heading; `numeric` columns are aligned right."""

    def kind(i: int) -> str:
        return ' class="n"' if i in numeric else ""

    head = "".join(f'<th scope="col"{kind(i)}>{escape(heading)}</th>' for i, heading in enumerate(headings))
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td{kind(i)}>{escape(cell)}</td>" for i, cell in enumerate(row) if i)
        + "</tr>"
        for row in rows
    )
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def histogram(edges: Sequence[float], counts: Sequence[int], describe: str, ends: tuple[str, str]) -> str:
    """Bars as inline SVG, `describe` for those who cannot see them, `ends` the two numbers under the axis."""
    width, height = 480, 96
    highest, step = max([1, *counts]), width / max(1, len(counts))
    bars = "".join(
        f'<rect x="{i * step + 0.5:.1f}" y="{height - size:.1f}" width="{max(step - 1, 0.5):.1f}" height="{size:.1f}"/>'
        for i, count in enumerate(counts)
        if (size := max(1.5, height * count / highest) if count else 0)
    )
    labels = (
        f'<text x="0" y="{height + 16}">{escape(ends[0])}</text>'
        f'<text x="{width}" y="{height + 16}" text-anchor="end">{escape(ends[1])}</text>'
    )
    return (
        f'<svg class="hist" viewBox="0 0 {width} {height + 20}" role="img" aria-label="{escape(describe)}">'
        f'<line x1="0" y1="{height}" x2="{width}" y2="{height}"/>{bars}{labels}</svg>'
    )


def details(summary: str, content: str) -> str:
    """`summary` is text, `content` HTML."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def page(title: str, lede: str, contents: Sequence[tuple[str, str, str]], body: str, foot: str) -> str:
    """The document. `contents`: (anchor, name, label) per latent; `lede`, `body` and `foot` are HTML already."""
    links = "".join(
        f'<li><a href="#{escape(anchor)}">{escape(name)}</a> <span>{escape(label)}</span></li>'
        for anchor, name, label in contents
    )
    nav = f'<nav aria-label="Latents"><ol>{links}</ol></nav>' if len(contents) > 1 else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="{GENERATOR}">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<style>{style()}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the latents</a>
<header><h1>{escape(title)}</h1>{lede}{nav}
<p class="tools"><label><input type="checkbox" id="whole"> whole contexts</label></p></header>
<main id="main">
{body}
</main>
<footer>{foot}</footer>
</body>
</html>
"""


def style() -> str:
    light = "".join(f".a{i}{{background:{shade}}}" for i, shade in enumerate(LIGHT_SHADES, 1))
    dark = "".join(f".a{i}{{background:{shade}}}" for i, shade in enumerate(DARK_SHADES, 1))
    return f"{STYLE}{light}@media (prefers-color-scheme:dark){{{dark}}}"


STYLE = f"""
:root{{--bg:#fff;--ink:{LIGHT_INK};--muted:#59616a;--line:#d9dde2;--soft:#f5f7f9;--accent:#1c4ed8;--bar:#5b8eee}}
@media (prefers-color-scheme:dark){{:root{{--bg:#15181d;--ink:{DARK_INK};--muted:#a3abb5;--line:#343b44;--soft:#1b1f25;
--accent:#8fb0ff;--bar:#5b8eee}}}}
*{{box-sizing:border-box}}
body{{margin:0 auto;padding:1.75rem 1.25rem 4rem;max-width:1240px;background:var(--bg);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif}}
h1{{overflow-wrap:anywhere;font-size:1.6rem;line-height:1.25;margin:.3rem 0 .5rem;letter-spacing:-.01em}}
h2{{font-size:1.35rem;line-height:1.3;margin:0 0 .3rem;overflow-wrap:anywhere}}
h3{{font-size:1rem;margin:1.6rem 0 .5rem}}
p{{margin:.35rem 0}}a{{color:var(--accent)}}
.skip{{position:absolute;left:-999px}}.skip:focus{{left:1rem;top:1rem;background:var(--bg);padding:.4rem .7rem}}
:focus-visible{{outline:2px solid var(--accent);outline-offset:2px;border-radius:3px}}
header p,.where,.sum,footer,figcaption{{color:var(--muted)}}header p{{max-width:48rem}}
nav ol{{list-style:none;margin:.9rem 0;padding:0;columns:2 min(22rem,100%);column-gap:2rem}}
nav li{{white-space:nowrap;overflow:hidden;text-overflow:ellipsis;padding:.05rem 0}}nav span{{color:var(--muted)}}
.tools{{display:flex;gap:1.5rem;flex-wrap:wrap;font-size:.92rem}}.tools label{{cursor:pointer}}
input{{accent-color:var(--accent)}}
article{{border-top:2px solid var(--line);margin-top:2.2rem;padding-top:1.4rem;scroll-margin-top:1rem}}
.where,.hints,.told,.note,.src{{overflow-wrap:anywhere}}
.where{{font-size:.9rem;margin:0}}.hints{{margin:.1rem 0 .6rem}}.told{{margin:.4rem 0;max-width:48rem}}
.sides{{display:grid;grid-template-columns:minmax(0,1.75fr) minmax(0,1fr);gap:0 2.8rem;align-items:start}}
@media (max-width:56rem){{.sides{{display:block}}}}
.note{{color:var(--muted);font-size:.84rem}}
table{{border-collapse:collapse;width:100%;font-size:.875rem;font-variant-numeric:tabular-nums}}
caption{{text-align:left;font-weight:600;padding:1.1rem 0 .3rem}}
th,td{{text-align:left;padding:.2rem .6rem .2rem 0;border-bottom:1px solid var(--line);vertical-align:top;
overflow-wrap:anywhere}}
thead th{{color:var(--muted);font-weight:500;font-size:.82rem;overflow-wrap:normal}}tbody th{{font-weight:400}}
td.n,th.n{{text-align:right;padding-right:.2rem}}td.n{{white-space:nowrap}}.n+td,.n+th{{padding-left:.9rem}}
figure{{margin:1.1rem 0 0}}figcaption{{font-size:.85rem}}figcaption b{{color:var(--ink)}}
.hist{{width:100%;height:auto;max-width:34rem;margin-top:.5rem}}.hist rect{{fill:var(--bar)}}
.hist line{{stroke:var(--line)}}.hist text{{font-size:12px;fill:var(--muted)}}
.ex{{list-style:none;margin:0;padding:0}}
.ex>li{{display:grid;grid-template-columns:4.2rem minmax(0,1fr);gap:.9rem;padding:.42rem 0;
border-bottom:1px solid var(--line)}}
.ex summary{{cursor:pointer;text-align:right;font-variant-numeric:tabular-nums;font-size:.9rem;list-style:none}}
.ex summary::-webkit-details-marker{{display:none}}.ex summary::after{{content:" ▾";color:var(--muted);font-size:.75em}}
.ex details:not([open]){{overflow:hidden}}.ex summary:focus-visible{{outline-offset:-2px}}
.ex details[open]+div{{grid-column:1/-1}}
.ex details[open]{{grid-column:1/-1}}.ex details[open] summary{{text-align:left}}
.ex details[open] table{{width:auto;min-width:16rem}}details{{margin:.3rem 0}}.ex details{{margin:0}}
summary{{color:var(--accent)}}
.ctx{{white-space:break-spaces;overflow-wrap:anywhere;margin:0;
font:.9rem/1.75 ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}}
.ctx b{{font-weight:700;box-shadow:inset 0 -2px 0 var(--ink);border-radius:3px 3px 0 0}}
.ctx [class^=a]{{border-radius:3px;padding:.08em 0}}
.sp{{color:var(--muted);font-style:italic}}
.far{{display:none}}.cut{{color:var(--muted)}}
:root:has(#whole:checked) .far{{display:inline}}:root:has(#whole:checked) .cut{{display:none}}
.br{{color:var(--muted)}}
.src{{color:var(--muted);font-size:.8rem;display:block}}
footer{{margin-top:3rem;border-top:1px solid var(--line);padding-top:.8rem;font-size:.86rem}}
footer dl{{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.1rem 1rem;margin:.6rem 0}}
footer dd{{margin:0;overflow-wrap:anywhere}}
@media (max-width:34rem){{.ex>li{{grid-template-columns:3.4rem minmax(0,1fr);gap:.5rem}}}}
@media print{{.tools,.skip,nav{{display:none}}article{{break-before:page}}.ex>li,tr{{break-inside:avoid}}
body{{max-width:none}}}}
"""
