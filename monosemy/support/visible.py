"""Characters that nobody would see, or that would act on a terminal, shown as signs.

Place on the data's path: its very end, between texts of a corpus, a model or a file's name and whoever reads them:
terminal, HTML pages, exported files. `monosemy browse` draws the same signs (app/web/src/parts/tokens.ts).

    line break ↵   tab →   other control characters ␀ … ␟ ␡, C1 as ⟨U+9B⟩   zero width ∅
    bidirectional controls ⟨U+202E⟩   lone surrogates ⟨U+D83D⟩, or the byte that one stands for, as ⟨E9⟩

What only shapes its neighbours stays: a zero-width joiner inside an emoji or between letters that are not ASCII. The
signs are ordinary characters, so showing a text twice changes nothing.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

JOINERS = "\u200c\u200d"
_BLANK = frozenset("\u115f\u1160\u3164\uffa0\u034f\u17b4\u17b5")
"""Letters and marks without a shape."""
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_PLAIN = re.compile(r"[\x20-\x7e\xa0-\xac\xae-\u02ff]*")
"""Texts in which nothing can be hidden: most."""


def visible(text: str) -> str:
    """`text` on one line, every character seen: `a\\x1b[31m\\nb` → `a␛[31m↵b`."""
    if _PLAIN.fullmatch(text):
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(_sign(text, i) for i in range(len(text)))


def visible_lines(text: str) -> str:
    """As `visible`, but line breaks (as `\\n`) and tabs stay what they are: for text of several lines."""
    return "\n".join("\t".join(map(visible, line.split("\t"))) for line in re.split("\r\n|\r|\n", text))


def storable(text: str) -> str:
    """`text` as a file of data holds it: valid UTF-8 without NUL, which databases refuse; all else as it is."""
    return re.sub("[\0\ud800-\udfff]", lambda match: _sign(match[0], 0), text)


def json_line(document: Any) -> str:
    """A JSON document on one line of valid UTF-8 without NUL, for readers of any kind: characters at which some end a
    line (U+0085, U+2028, U+2029) are escaped. Raises ValueError for a number that JSON doesn't have."""
    text = json.dumps(document, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return re.sub("[\x7f-\x9f\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", storable(text))


def _sign(text: str, i: int) -> str:
    """What stands for character i."""
    character = text[i]
    code, kind = ord(character), unicodedata.category(character)
    if character in "\n\u2028\u2029":
        return "↵"
    if character == "\t":
        return "→"
    if kind == "Cc":
        return "␡" if code == 0x7F else chr(0x2400 + code) if code < 0x20 else f"⟨U+{code:02X}⟩"
    if kind == "Cs":  # Python keeps bytes of a file's name that are no text as U+DC80 … U+DCFF
        return f"⟨{code - 0xDC00:02X}⟩" if 0xDC80 <= code <= 0xDCFF else f"⟨U+{code:04X}⟩"
    if character in _BIDI:
        return f"⟨U+{code:04X}⟩"
    if character in JOINERS and _shapes(text, i):
        return character
    if character in _BLANK or (kind == "Cf" and unicodedata.bidirectional(character) in ("BN", "ON")):
        return "∅"  # other format characters are seen: Arabic number signs and the like
    return character


def _shapes(text: str, i: int) -> bool:
    """Whether the joiner at i has a letter or sign beyond ASCII on both sides."""
    before, after = text[i - 1 : i], text[i + 1 : i + 2]
    return bool(before and after) and not any(c.isascii() or c.isspace() or c in JOINERS for c in (before, after))
