"""One frame for every HTML file that is written: escaping, the page's head, and what the page may do.

Place on the data's path: its end; reports, circuits and exported latents are laid out in it. Pages are self-contained:
style and script stand inside, pictures are data, and a content security policy forbids every load and every script but
the page's own, named by its hash. So no text of a corpus, a model or a file's name can do anything; it is escaped too.

`Html` is text that is HTML already. Whatever else is put into it, or into a template, is escaped:

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
"""Templates are named by their place in the package, e.g. `report/report.html`."""


class Html(Markup):
    """HTML; `format`, `join` and `+` escape what is not. Characters that nobody would see, or that would turn the
    page's text round, become signs."""

    @classmethod
    def escape(cls, text: object) -> Html:
        return text if isinstance(text, Html) else super().escape(_seen(text))


def escape(text: object) -> Html:
    """Text as HTML."""
    return Html.escape(text)


def join(parts: Iterable[object], separator: str = "") -> Html:
    """The parts one after another; what is no HTML is escaped."""
    return Html(separator).join(parts)  # type: ignore[arg-type]


def details(summary: str, content: Html) -> Html:
    """Content that is folded away behind a line of text."""
    return Html("<details><summary>{}</summary>{}</details>").format(summary, content)


def read_part(name: str) -> Html:
    """A style sheet or a script of the package, to stand inside a page."""
    return Html((PACKAGE / name).read_text(encoding="utf-8"))


def document(template: str, *, title: str, style: str, script: str = "", **values: Any) -> str:
    """A whole page. `template` extends support/html/frame.html; `values` are what it names.

    `style` and `script` are of the package, never of data: they are not escaped.
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
    return value if hasattr(value, "__html__") else visible_lines(str(value))
