"""Nothing that acts on a terminal or can't be seen leaves as it is; ordinary text of any language does."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from monosemy.support.visible import storable, visible, visible_lines

HOSTILE = "a\x00\x01\x1b[31m\x07\x9b2J\u202e\u2066\u2028\ufeff\u200b\ud83d\udce9\x7f\r\nb\tc\rd"
BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def test_every_sign_of_a_hostile_text():
    signs = "a␀␁␛[31m␇⟨U+9B⟩2J⟨U+202E⟩⟨U+2066⟩↵∅∅⟨U+D83D⟩⟨E9⟩␡"
    assert visible(HOSTILE) == f"{signs}↵b→c↵d"
    assert visible_lines(HOSTILE) == f"{signs}\nb\tc\nd"


def test_no_character_of_unicode_acts_or_hides():
    for code in range(sys.maxunicode + 1):
        sign, kind = visible(chr(code)), unicodedata.category(chr(code))
        numeric = kind == "Cf" and unicodedata.bidirectional(sign[0]) in ("AN", "AL", "L")  # Arabic number signs
        assert sign.isprintable() or kind in ("Cn", "Co", "Zs") or numeric, hex(code)
        assert not {unicodedata.bidirectional(c) for c in sign} & BIDI, hex(code)
        sign.encode()


@pytest.mark.parametrize(
    "text",
    [
        "plain, “quoted” – naïve",
        "العربية עברית",
        "👨\u200d👩\u200d👧 👍🏽 ❤\ufe0f",  # a family, a skin tone, a variation selector
        "می\u200cخواهم",  # Persian is misspelt without its zero-width non-joiner
        "日本語 हिन्दी क्\u200dष",
    ],
)
def test_ordinary_text_stays(text):
    assert visible(text) == visible_lines(text) == storable(text) == text


def test_a_joiner_that_joins_nothing_is_seen():
    assert visible("pass\u200dword") == "pass∅word"
    assert visible("\u200d") == "∅"
    assert visible("👨\u200d") == "👨∅"


def test_showing_twice_changes_nothing():
    assert visible(visible(HOSTILE)) == visible(HOSTILE)
    assert visible_lines(visible_lines(HOSTILE)) == visible_lines(HOSTILE)


def test_data_keep_what_utf8_and_databases_can_hold():
    assert storable("a\0b\x1b\u202e\ud83d\r\n") == "a␀b\x1b\u202e⟨U+D83D⟩\r\n"
    storable(HOSTILE).encode()
