"""Words that name a set of tokens rather than mean something like them: “bracket” names “(”, “month” names “July”.

Place on the path: words of a search → [which tokens they name] → search by meaning (`meaning.py`), where an embedding
alone fails: a sign is not used as its name is, nor is a member of a list as the list's name.

A sign's token has one of the name's signs and no letter or digit. Members of lists are those by which labels name
latents (`labels.vocabulary`), without those that are also function words (“may” and “est” are no months or compass
points by themselves), unless the list is one of function words. Limits: names in English.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from monosemy.features.labels.vocabulary import CATEGORIES, FUNCTION_WORDS

SIGNS = {
    "apostrophe": "'’",
    "asterisk": "*",
    "brace": "{}",
    "bracket": "()[]{}",
    "colon": ":",
    "comma": ",",
    "currency": "$€£¥",
    "dash": "-–—",
    "dollar": "$",
    "equals": "=",
    "exclamation": "!",
    "hyphen": "-",
    "parenthesis": "()",
    "percent": "%",
    "punctuation": ".,;:!?",
    "quotation": "\"'“”‘’«»`",
    "quote": "\"'“”‘’«»`",
    "semicolon": ";",
    "slash": "/\\",
    "underscore": "_",
}
"""Name → its signs."""
LISTS = {
    "article": "articles",
    "color": "colours",
    "colour": "colours",
    "compass": "compass points",
    "conjunction": "conjunctions",
    "direction": "compass points",
    "keyword": "Python keywords",
    "modal": "modal verbs",
    "month": "months",
    "number": "number words",
    "numeral": "number words",
    "preposition": "prepositions",
    "pronoun": "pronouns",
    "weekday": "days of the week",
}
"""Name → the category of `labels.vocabulary` whose words it names."""
NEGATIONS = frozenset(["not", "no", "never", "nothing", "none", "neither", "nor", "without", "cannot", "n't"])
_PLURALS = {"parentheses": "parenthesis", "currencies": "currency"}


def named_places(words: Collection[str], texts: Sequence[str]) -> list[int]:
    """The places of the tokens, given by their texts, that one of the words names; none for most words."""
    names = {_singular(word.casefold()) for word in words}
    signs = frozenset("".join(SIGNS[name] for name in names if name in SIGNS))
    members = frozenset().union(*(_members(LISTS[name]) for name in names if name in LISTS))
    if "negation" in names:
        members |= NEGATIONS
    if not signs and not members:
        return []
    return [place for place, text in enumerate(texts) if _is_named(text.strip().casefold(), signs, members)]


def _is_named(text: str, signs: frozenset[str], members: frozenset[str]) -> bool:
    return text in members or (not signs.isdisjoint(text) and not any(letter.isalnum() for letter in text))


def _members(category: str) -> frozenset[str]:
    words = CATEGORIES[category]
    return words if words <= FUNCTION_WORDS else words - FUNCTION_WORDS


def _singular(word: str) -> str:
    if word in SIGNS or word in LISTS:
        return word
    return _PLURALS.get(word, word.removesuffix("s"))
