"""A reader's words as a full-text query that cannot be malformed.

Place on the path: search box → [FTS5 expression] → `database`. Every word must appear, as a prefix; operators and
quotation marks of the query language are taken as text.
"""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+")
_MOST_WORDS = 16


def match_expression(text: str) -> str:
    """`golden gate` → `"golden"* "gate"*`; empty when the text has no word."""
    return " ".join(f'"{word}"*' for word in _WORD.findall(text)[:_MOST_WORDS])
