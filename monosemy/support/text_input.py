"""Handles text from outside that contains half a surrogate pair, which is not a character.

Such halves come from JSON (`"\\ud83d"`) and from words on a command line that are not UTF-8 (Python reads the byte E9
as `\\udce9`). Tokenizers and UTF-8 files refuse them with a traceback. The rule here: text that a person typed is
refused in one line (`require_characters`), since they can correct it, and an answer to a different text would mislead.
In a document among thousands, halves are replaced by U+FFFD (`replace_halves`), as readers of UTF-8 do. File names are
left unchanged, because the bytes behind such halves are part of the name.
"""

from __future__ import annotations

import re

from monosemy.errors import UserError

_HALVES = re.compile("[\ud800-\udfff]")


def require_characters(label: str, text: str) -> str:
    """Returns the text. Raises UserError, naming it by its `label` ("the prompt"), if it has half a surrogate pair."""
    half = _HALVES.search(text)
    if half is None:
        return text
    code, place = ord(half[0]), half.start() + 1
    # Python stands for a byte that is not UTF-8 by U+DC00 plus the byte.
    if 0xDC80 <= code <= 0xDCFF:
        raise UserError(
            f"{label} holds the byte {code - 0xDC00:02X} (place {place}), which is not UTF-8; type it in a terminal "
            "set to UTF-8, or leave it out"
        )
    raise UserError(
        f"{label} holds half a surrogate pair, \\u{code:04x} (place {place}), which is no character; leave it out or "
        "write the whole pair"
    )


def replace_halves(text: str) -> str:
    """The text, with every half of a surrogate pair replaced by U+FFFD."""
    return _HALVES.sub("\ufffd", text)
