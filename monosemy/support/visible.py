"""Shows characters that are invisible, or that would act on a terminal, as visible signs.

Place on the data's path: its very end, where text of a corpus, a model or a file name reaches a reader: terminal, HTML
pages, exported files. `monosemy browse` draws the same signs (app/web/src/parts/tokens.ts).

    line break ↵   tab →   other control characters ␀ … ␟ ␡, C1 as ⟨U+9B⟩   zero width ∅
    bidirectional controls ⟨U+202E⟩   lone surrogates ⟨U+D83D⟩, or the byte that one stands for, as ⟨E9⟩

Characters that only shape their neighbours stay: a zero-width joiner inside an emoji or between letters beyond ASCII.
The signs are ordinary characters, so converting a text twice changes nothing.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

JOINERS = "\u200c\u200d"
_BLANK = frozenset("\u115f\u1160\u3164\uffa0\u034f\u17b4\u17b5")
"""Letters and marks that are drawn as nothing."""
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_PLAIN = re.compile(r"[\x20-\x7e\xa0-\xac\xae-\u02ff]*")
"""Texts without hidden characters, which is most of them."""


def visible(text: str) -> str:
    """The text on one line with every character visible: `a\\x1b[31m\\nb` → `a␛[31m↵b`."""
    # A short cut for the usual case: looking at every character takes much longer.
    if _PLAIN.fullmatch(text):
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(_sign(text, i) for i in range(len(text)))


def visible_lines(text: str) -> str:
    """As `visible`, for text of several lines: line breaks (as `\\n`) and tabs are kept."""
    return "\n".join("\t".join(map(visible, line.split("\t"))) for line in re.split("\r\n|\r|\n", text))


def storable(text: str) -> str:
    """The text for a data file: valid UTF-8 without NUL, which databases refuse; everything else is unchanged."""
    return re.sub("[\0\ud800-\udfff]", lambda match: _sign(match[0], 0), text)


def json_line(document: Any) -> str:
    """A JSON document on one line of valid UTF-8 without NUL, for readers of any kind.

    Characters that some readers take for line ends (U+0085, U+2028, U+2029) are escaped. Raises ValueError for a number
    that JSON does not have.
    """
    text = json.dumps(document, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return re.sub("[\x7f-\x9f\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", storable(text))


def _sign(text: str, i: int) -> str:
    """The sign for character i, or the character itself."""
    character = text[i]
    code, kind = ord(character), unicodedata.category(character)
    if character in "\n\u2028\u2029":
        return "↵"
    if character == "\t":
        return "→"
    if kind == "Cc":
        return "␡" if code == 0x7F else chr(0x2400 + code) if code < 0x20 else f"⟨U+{code:02X}⟩"
    # Lone surrogates. U+DC80 … U+DCFF are how Python keeps the bytes of a file name that are not UTF-8.
    if kind == "Cs":
        return f"⟨{code - 0xDC00:02X}⟩" if 0xDC80 <= code <= 0xDCFF else f"⟨U+{code:04X}⟩"
    if character in _BIDI:
        return f"⟨U+{code:04X}⟩"
    if character in JOINERS and _shapes(text, i):
        return character
    if character in _BLANK or (kind == "Cf" and unicodedata.bidirectional(character) in ("BN", "ON")):
        return "∅"  # other format characters, such as Arabic number signs, are visible
    return character


def _shapes(text: str, i: int) -> bool:
    """Whether the joiner at i has a letter or sign beyond ASCII on both sides."""
    before, after = text[i - 1 : i], text[i + 1 : i + 2]
    return bool(before and after) and not any(c.isascii() or c.isspace() or c in JOINERS for c in (before, after))
