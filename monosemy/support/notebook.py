"""What an object shows of itself in a terminal (one line) and in a notebook (a small table)."""

from __future__ import annotations

from collections.abc import Mapping


def facts_line(title: str, facts: Mapping[str, str]) -> str:
    """`<Title: name value, name value>`, the form of every short repr."""
    return f"<{title}: {', '.join(f'{name} {value}' for name, value in facts.items())}>"


def facts_html(title: str, facts: Mapping[str, str]) -> str:
    """The same facts as a table for a notebook; everything in it is escaped."""
    from monosemy.support.html import Html  # late: templates and their library are for those who draw pages

    rows = Html("").join(Html("<tr><th>{}</th><td>{}</td></tr>").format(*fact) for fact in facts.items())
    return str(Html("<table><caption>{}</caption>{}</table>").format(title, rows))
