"""Turns a reader's words into a full-text query that is always well-formed.

Place on the path: search box → [FTS5 expression] → `database`. Every word must appear as the beginning of a word. The
operators of the query language are treated as ordinary words, and its punctuation is dropped.
"""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+")
_MOST_WORDS = 16


def match_expression(text: str) -> str:
    """The FTS5 expression for a text: `golden gate` → `"golden"* "gate"*`; empty if the text has no word."""
    return " ".join(f'"{word}"*' for word in _WORD.findall(text)[:_MOST_WORDS])
