"""Building blocks and style of an exported page, which is one file without scripts that loads nothing else.

Place on the data's path: below `html.py`, on the frame of `support/html`. Shades are one hue in nine steps, in a light
and a dark version. In both, the text has a contrast of at least 4.5:1 with every shade (a test computes it).
"""

from __future__ import annotations

from collections.abc import Sequence

from monosemy.support.html import Html, document, join, read_part
from monosemy.support.numbers import fixed_text

GENERATOR = "monosemy export-html"

LIGHT_INK, DARK_INK = "#1b1f24", "#e8eaed"
LIGHT_SHADES = ("#e9f0fe", "#d8e5fd", "#c6d9fc", "#b4cdfb", "#a1c1f9", "#8eb4f7", "#7aa6f4", "#6a9af1", "#5b8eee")
DARK_SHADES = ("#1b2536", "#1e2c45", "#213454", "#243c63", "#274472", "#2a4c80", "#2d548e", "#305c9c", "#3364aa")
"""Background colours of levels 1 to 9."""


def table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: Sequence[int] = ()) -> Html:
    """A table of texts. The first cell of each row is its heading; the columns in `numeric` are aligned right."""

    def kind(i: int) -> Html:
        return Html(' class="n"' if i in numeric else "")

    head = join(Html('<th scope="col"{}>{}</th>').format(kind(i), heading) for i, heading in enumerate(headings))
    body = join(
        Html('<tr><th scope="row">{}</th>{}</tr>').format(
            row[0], join(Html("<td{}>{}</td>").format(kind(i), cell) for i, cell in enumerate(row) if i)
        )
        for row in rows
    )
    return Html("<table><caption>{}</caption><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(
        caption, head, body
    )


def histogram(edges: Sequence[float], counts: Sequence[int], describe: str, ends: tuple[str, str]) -> Html:
    """A histogram as inline SVG. `describe` is read out by screen readers; `ends` are the numbers under the axis."""
    width, height = 480, 96
    highest, step = max([1, *counts]), width / max(1, len(counts))
    bar = Html('<rect x="{}" y="{}" width="{}" height="{}"/>')
    # a bin that is not empty has at least 1.5 units of height, so that it can be seen beside a large one
    bars = join(
        bar.format(*(fixed_text(length, 1) for length in (i * step + 0.5, height - size, max(step - 1, 0.5), size)))
        for i, count in enumerate(counts)
        if (size := max(1.5, height * count / highest) if count else 0)
    )
    labels = Html('<text x="0" y="{y}">{}</text><text x="{width}" y="{y}" text-anchor="end">{}</text>').format(
        *ends, y=height + 16, width=width
    )
    return Html(
        '<svg class="hist" viewBox="0 0 {width} {below}" role="img" aria-label="{describe}">'
        '<line x1="0" y1="{height}" x2="{width}" y2="{height}"/>{bars}{labels}</svg>'
    ).format(width=width, height=height, below=height + 20, describe=describe, bars=bars, labels=labels)


def page(title: str, lede: Html, contents: Sequence[tuple[str, str, str]], body: Html, *, foot: Html) -> str:
    """The whole document. `contents` has (anchor, name, label) for each latent."""
    return document(
        "features/export/latents.html",
        title=title,
        style=style(),
        skip="Skip to the latents",
        generator=GENERATOR,
        lede=lede,
        contents=contents,
        body=body,
        foot=foot,
    )


def style() -> str:
    """The page's CSS with the inks and shades of both colour schemes."""

    def scheme(ink: str, shades: Sequence[str]) -> str:
        return f":root{{--ink:{ink}}}" + "".join(f".a{i}{{background:{shade}}}" for i, shade in enumerate(shades, 1))

    dark = f"@media (prefers-color-scheme:dark){{{scheme(DARK_INK, DARK_SHADES)}}}"
    return f"{read_part('features/export/latents.css')}{scheme(LIGHT_INK, LIGHT_SHADES)}{dark}"
