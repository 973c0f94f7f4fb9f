"""The frame of every HTML file that is written: escaping, the head of the page, and its security policy.

Place on the data's path: its end; reports, circuits and exported latents are laid out with it. Pages are
self-contained: style and script are inside, and pictures are data. A content security policy forbids every load, and
every script except the page's own, which it names by its hash. Text of a corpus, a model or a file name can therefore
do nothing; it is escaped as well.

`Html` is text that is HTML already. Anything else that is put into it, or into a template, is escaped:

    Html("<p>{}</p>").format("a < b")  →  <p>a &lt; b</p>
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from monosemy.support.visible import visible_lines

PACKAGE = Path(__file__).parents[2]
"""The folder of the package; templates are named by their path in it, e.g. `report/report.html`."""


class Html(Markup):
    """HTML text. `format`, `join` and `+` escape everything that is not `Html`.

    Characters that are invisible, or that would reverse the direction of the page's text, become visible signs.
    """

    @classmethod
    def escape(cls, text: object) -> Html:
        return text if isinstance(text, Html) else super().escape(_seen(text))


def escape(text: object) -> Html:
    """The text as HTML, escaped unless it is HTML already."""
    return Html.escape(text)


def join(parts: Iterable[object], separator: str = "") -> Html:
    """Joins the parts; those that are not HTML are escaped."""
    return Html(separator).join(parts)  # type: ignore[arg-type]


def details(summary: str, content: Html) -> Html:
    """Content that is folded away behind a summary line."""
    return Html("<details><summary>{}</summary>{}</details>").format(summary, content)


def read_part(name: str) -> Html:
    """A style sheet or a script of the package, for use inside a page."""
    return Html((PACKAGE / name).read_text(encoding="utf-8"))


def document(template: str, *, title: str, style: str, script: str = "", **values: Any) -> str:
    """Renders a page. `template` extends support/html/frame.html; `values` are its variables.

    `style` and `script` are not escaped, so they must come from the package, never from data.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
    page = _environment().get_template(template)
    return page.render(title=title, style=Html(style), script=Html(script), policy=Html(policy), **values)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_seen,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _seen(value: object) -> object:
    """The value, if it is HTML already; otherwise its text with every character visible."""
    return value if hasattr(value, "__html__") else visible_lines(str(value))
