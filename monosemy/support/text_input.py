"""Text that enters from outside, where it may hold what is no character: half a surrogate pair.

Such halves come from JSON (`"\\ud83d"`) and from words of a command line that are not UTF-8 (Python reads the byte E9
as `\\udce9`); tokenizers and UTF-8 files refuse them with a traceback. The rule: what a person types is refused in one
line (`require_characters`), since they can mend it and an answer to something else would mislead; a document among
thousands has them replaced by U+FFFD (`replace_halves`), as readers of UTF-8 do. Names of files are left as they are:
the bytes behind them are the file's name.
"""

from __future__ import annotations

import re

from monosemy.errors import UserError

_HALVES = re.compile("[\ud800-\udfff]")


def require_characters(label: str, text: str) -> str:
    """The text itself. Raises UserError, naming it by its `label` ("the prompt"), when a part of it is no character."""
    half = _HALVES.search(text)
    if half is None:
        return text
    code, place = ord(half[0]), half.start() + 1
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
    """The text with U+FFFD for every half of a surrogate pair."""
    return _HALVES.sub("\ufffd", text)
