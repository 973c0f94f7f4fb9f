"""Classifies the tokens of a vocabulary for labels: which are the same word, which join to words, what kind each is.

Place on the data's path: token texts → groups, kinds and words, for `labels`. Two tokens share a group when their
texts differ only in case and in leading or trailing spaces (`July`, ` july`). A token of white space or of incomplete
bytes is a group by itself. A word is a run of tokens without a space in it whose texts are letters and digits.

Limits: in scripts written without spaces (Chinese, Japanese, Thai), each token counts as a word. Word lists (months,
pronouns, …) exist for English, French, Spanish and German.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

KINDS = (
    "lower-case words",
    "capitalised words",
    "words in capitals",
    "parts of words",
    "numbers",
    "punctuation",
    "opening brackets",
    "quotation marks",
    "line breaks",
    "white space",
    "other scripts",
    "other symbols",
)
"""Plain names of the kinds of token; every token has exactly one."""
_LOWER, _CAPITAL, _CAPITALS, _ENDING, _NUMBER, _PUNCTUATION, _OPENING, _QUOTE, _BREAK, _SPACE, _SCRIPT, _SYMBOL = range(
    12
)


@dataclass(frozen=True)
class Vocabulary:
    """Facts about the text of every token id. V tokens, G groups."""

    texts: Sequence[str]
    """[V]: text of each token decoded by itself."""
    pieces: Sequence[bytes] | None
    """[V]: exact bytes of each token; None if unknown."""
    groups: Array
    """int32 [V]: group of each token, 0 … G − 1."""
    n_groups: int
    kinds: Array
    """int8 [V]: index into `KINDS`."""
    special: Array
    """bool [V]: tokens that are not text."""
    joins_left: Array
    """bool [V]: begins with a letter or digit, so it continues a word that reaches up to it."""
    joins_right: Array
    """bool [V]: ends with a letter or digit."""
    ends_line: Array
    """bool [V]: contains a line break."""
    ends_sentence: Array
    """bool [V]: is a full stop, question or exclamation mark."""

    def join(self, tokens: Array) -> str:
        """The text of several tokens, with characters that are split over tokens put together where bytes are known."""
        if self.pieces is None:
            return "".join(self.texts[t] for t in tokens)
        return b"".join(self.pieces[t] for t in tokens).decode("utf-8", errors="replace")


def read_vocabulary(texts: Sequence[str], special: Array, pieces: Sequence[bytes] | None = None) -> Vocabulary:
    """Finds the group, kind and flags of every token.

    texts [V]; special bool [V]; pieces [V] are the exact bytes of each token, None if unknown.
    """
    numbers: dict[str, int] = {}
    n = len(texts)
    groups, kinds = np.empty(n, np.int32), np.empty(n, np.int8)
    # joins left, joins right, ends a line, ends a sentence
    flags = np.zeros((4, n), bool)
    for token, text in enumerate(texts):
        bare = text.strip(" ")
        broken = "�" in text or special[token] or not bare.strip()
        # "=" keeps a text apart from the token numbers that name broken tokens
        key = f"{token}" if broken else f"={bare.casefold()}"
        groups[token] = numbers.setdefault(key, len(numbers))
        kinds[token] = _kind(text)
        flags[:, token] = (
            _in_word(text[:1]),
            _in_word(text[-1:]),
            "\n" in text,
            bare in (".", "!", "?", ".”", '."', "?”", "!”"),
        )
    flags[:, np.asarray(special, bool)] = False  # the text of special tokens, such as <|end|>, means nothing here
    joins_left, joins_right, ends_line, ends_sentence = flags
    return Vocabulary(
        texts,
        pieces,
        groups,
        len(numbers),
        kinds=kinds,
        special=np.asarray(special, bool),
        joins_left=joins_left,
        joins_right=joins_right,
        ends_line=ends_line,
        ends_sentence=ends_sentence,
    )


def _in_word(character: str) -> bool:
    """Whether a character can be part of a word of several tokens."""
    if not character:
        return False
    # part of a split character: taken for a letter, so that its word stays in one piece
    if character == "�":
        return True
    return character.isalnum() and not _unspaced(character)


def _unspaced(character: str) -> bool:
    """Whether the character's script is written without spaces between words (Thai, Lao, kana, Chinese characters)."""
    code = ord(character)
    return 0x0E00 <= code <= 0x0EFF or 0x3040 <= code <= 0x30FF or 0x3400 <= code <= 0x9FFF or code >= 0x20000


def _kind(text: str) -> int:
    """The kind of a token, an index into `KINDS`, decided by its first character that is not white space."""
    if "\n" in text and not text.strip():
        return _BREAK
    bare = text.strip()
    if not bare:
        return _SPACE
    first = bare[0]
    if all(c.isdigit() for c in bare):
        return _NUMBER
    if first.isalpha():
        if ord(first) > 0x24F:  # behind the last block of Latin letters
            return _SCRIPT
        if first.isupper():
            return _CAPITALS if len(bare) > 1 and bare.isupper() else _CAPITAL
        # a lower-case token without a space before it continues a word
        return _LOWER if text[0] == " " else _ENDING
    if first in "([{<":
        return _OPENING
    if first in "\"'“”‘’«»`":
        return _QUOTE
    if unicodedata.category(first)[0] == "P":
        return _PUNCTUATION
    return _SYMBOL


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CATEGORIES: dict[str, frozenset[str]] = {
    "months": _words(
        "january february march april may june july august september october november december jan feb mar "
        "apr jun jul aug sep sept oct nov dec janvier février mars avril mai juin juillet août septembre "
        "octobre novembre décembre enero febrero marzo abril mayo junio julio agosto septiembre octubre "
        "noviembre diciembre januar februar märz juni juli oktober dezember"
    ),
    "days of the week": _words(
        "monday tuesday wednesday thursday friday saturday sunday lundi mardi mercredi jeudi vendredi samedi "
        "dimanche lunes martes miércoles jueves viernes sábado domingo montag dienstag mittwoch donnerstag "
        "freitag samstag sonntag"
    ),
    "pronouns": _words(
        "i you he she it we they me him her us them my your his its our their myself himself herself itself "
        "themselves who whom whose il elle ils elles nous vous je tu él ella ellos ellas yo nosotros su sus "
        "se ich er sie wir ihr"
    ),
    "articles": _words("the a an le la les un une des el los las una unos unas der die das den dem ein eine einen l"),
    "prepositions": _words(
        "of in on at by for with from to into about over under between through during against among within "
        "without upon toward towards across behind beyond near since until après avant avec dans de du des "
        "par pour sur sous sans chez en con por para sin sobre entre desde hasta del al von mit auf für aus "
        "bei nach zu"
    ),
    "conjunctions": _words(
        "and or but nor so yet because although though while whereas if unless et ou mais y o pero und oder aber"
    ),
    "forms of “be”": _words(
        "is are was were be been being am est sont était étaient été es son era eran fue fueron ist sind war waren"
    ),
    "forms of “have”": _words("has have had having ai avait ont avoir ha han había haber hat haben hatte"),
    "modal verbs": _words("can could will would shall should may might must"),
    "number words": _words(
        "one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred "
        "thousand million billion first second third deux trois quatre cinq dos tres cuatro cinco"
    ),
    "compass points": _words(
        "north south east west northern southern eastern western northeast northwest southeast southwest nord "
        "sud est ouest norte sur este oeste"
    ),
    "colours": _words(
        "red blue green yellow black white brown orange purple pink grey gray gold silver rouge bleu vert "
        "noir blanc rojo azul verde negro blanco"
    ),
    "question words": _words("what when where why how which who"),
    "Python keywords": _words(
        "def class return import from if elif else for while in not and or is none true false self try except "
        "raise with as lambda yield pass break continue assert async await global del finally"
    ),
}
"""Plain name → words (case-folded); a label whose words all belong to one category names the category."""

FUNCTION_WORDS = frozenset().union(
    *(
        CATEGORIES[name]
        for name in ("articles", "prepositions", "conjunctions", "pronouns", "modal verbs", "question words")
    ),
    CATEGORIES["forms of “be”"],
    CATEGORIES["forms of “have”"],
    _words(
        "that this these those not no than then there here also such other others more most one all any some each both "
        "very just only even still many much well so like do does did que qui est pas plus très aussi comme ce cette "
        "ces sont como más también este esta estos lo si son dont où mais fait être deux cuyo donde nicht auch als wie"
    ),
) - {"war"}
"""Words that say nothing about the topic of a text; “war”, a form of “to be” in German, is a topic in English."""


def category_of(words: Sequence[str], *, code: bool) -> str | None:
    """The first category that contains all the words; None without one, or for fewer than two different words.

    Python keywords are a category only when `code` is true, since most of them are English words.
    """
    folded = {word.strip().casefold() for word in words}
    if len(folded) < 2:
        return None
    for name, members in CATEGORIES.items():
        if folded <= members and (name != "Python keywords" or code):
            return name
    return None
