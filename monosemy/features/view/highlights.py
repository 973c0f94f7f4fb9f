"""What was found in an SAE, in a handful of latents: those whose label tells best where they fire, unlike each other.

Place on the path: feature database → [highlights] → overview, report. A latent is *clear* if its label was scored on
enough held-out windows and even the lower end of its AUROC's interval is high, and if it is neither so rare that the
score rests on a few windows nor so common that the label says little. Of the clear ones are taken, one after another,

    argmax  clarity(i) − max over the taken ones of likeness(i, j)

clarity is the lower end of the label's score, with a little for latents whose label says in words what they are about,
whose peaks are then on several tokens that are alike (column peak_likeness), that fire rarely, and whose strongest
contexts peak on what the label quotes; likeness is the share of words that two labels have in common, that they name
the same class of words, the correlation of the two activations, or a constant for two latents whose strongest contexts
are from the same part of the text. All numbers are the database's.

Limits: what each of these is worth was set by hand, on one run; only the `_POOL` clearest latents are compared with
each other. A latent whose peaks are one token, or that has its meaning from the context, gets nothing for likeness.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from monosemy.features.labels.vocabulary import FUNCTION_WORDS
from monosemy.features.store.database import FeatureDatabase

Array = np.ndarray[Any, np.dtype[Any]]

N_HIGHLIGHTS = 6
CLEAR_SCORE = 0.8
"""Lower end of the interval of the label's AUROC from which on a latent counts as clear."""
MAX_RATE, MAX_RATE_OF_ROWS = 0.02, 0.2
"""The largest share of the tokens, or of rows of one's own, on which a clear latent fires. A row is a whole text or
picture: a class of a tenth of them is a concept, where a tenth of all tokens is hardly one."""
MIN_FIRED = 20
"""Tokens on which a clear latent fires at least."""
MIN_WORD = 3
"""Letters of the shortest word that says what a latent is about."""
MIN_WINDOWS = 8
"""Held-out windows in which it fires, behind its score, at least."""
MAX_FIRST_SHARE = 0.5
"""The largest share of its firing that falls on the first token of a document."""
_PEAKS_ALIKE, _AS_ALIKE, _TENFOLD_RARER, _IN_WORDS = 0.2, 0.5, 0.04, 0.1
"""What peaks that are as alike as `_AS_ALIKE`, firing on a tenth of the tokens, and a label in words are worth, in
AUROC."""
_PEAKS_NAMED, _PEAKS_READ = 0.08, 4
"""What it is worth that the label quotes the peaks of the strongest contexts, which are shown; how many are read."""
_ALIKE, _SAME_SOURCE = 0.3, 0.03
_POOL = 200
_NO_CONCEPT = (
    "parts of words",
    "white space",
    "space",
    "tab",
    "line break",
    "2 line",
    "punctuation",
    "what follows",
    "text ",
)
"""Beginnings of labels that don't say in words what a latent is about."""
_WORD = re.compile(r"\w+|[^\w\s]")
_QUOTED = re.compile(r"“[^”]*”")
_BESIDE_PEAKS = re.compile(r"\b(?:after|raises|with|in) “[^”]*”(?:, “[^”]*”)*")
"""Parts of a label that name what is around the peaks, a source or outputs (features/labels/wording.py)."""


@dataclass(frozen=True)
class Highlights:
    """The chosen latents, best first, and the number of clear ones in the whole dictionary."""

    latents: list[int]
    n_clear: int


def clear_bounds(*, of_rows: bool) -> dict[str, tuple[float, float]]:
    """What makes a latent clear: the least and the largest value of columns, both inclusive."""
    return {
        "label_auroc_low": (CLEAR_SCORE, np.inf),
        "label_n": (MIN_WINDOWS, np.inf),
        "n_fired": (MIN_FIRED, np.inf),
        "firing_rate": (-np.inf, MAX_RATE_OF_ROWS if of_rows else MAX_RATE),
        "first_share": (-np.inf, MAX_FIRST_SHARE),
    }


def is_clear(database: FeatureDatabase) -> Array:
    """Which latents are clear, bool [d_sae]; none without scored labels. A column that is missing is no bound."""
    columns = database.columns
    clear = np.full(database.n_latents, "label_auroc_low" in columns)
    for name, (low, high) in clear_bounds(of_rows=database.of_rows).items():
        if name in columns:
            clear &= (np.asarray(columns[name]) >= low) & (np.asarray(columns[name]) <= high)
    return clear


def highlights(database: FeatureDatabase, n: int = N_HIGHLIGHTS) -> Highlights:
    """Chooses `n` latents, fewer where fewer fired. Where too few are clear, the rest have the best scores of all."""
    clear = is_clear(database)
    pool = clearest(database, _POOL)
    labels = database.labels(pool)
    words, sources = [_words(label) for label in labels], _sources(database, pool)
    sketches = np.asarray(database.sketches[pool], np.float32) / 127
    classes = [_class_of(label) for label in labels]
    in_words = np.array([bool(label_words(label) or _class_of(label)) for label in labels], bool)
    worth = _clarity(database)[pool] - ~clear[pool]
    # Signs that are alike, or parts of words, are no concept.
    worth = worth + np.where(in_words, _IN_WORDS, -_PEAKS_ALIKE * _alike(database)[pool])
    worth = worth + _PEAKS_NAMED * np.array([_named_peaks(database, *pair) for pair in zip(pool.tolist(), labels)])
    likeness = np.zeros(len(pool))
    chosen: list[int] = []
    for _ in range(min(n, len(pool))):
        k = int(np.argmax(worth - likeness))
        chosen.append(k)
        worth[k] = -np.inf
        alike = np.maximum(_overlap(words, k), np.clip(sketches @ sketches[k], 0, 1))
        alike = np.maximum(alike, [classes[k] is not None and other == classes[k] for other in classes])
        likeness = np.maximum(likeness, _ALIKE * alike)
        likeness = likeness + _SAME_SOURCE * np.array([source == sources[k] for source in sources])
    return Highlights([int(pool[k]) for k in chosen], int(clear.sum()))


def clearest(database: FeatureDatabase, n: int) -> Array:
    """The `n` clearest latents that fired, best first, however alike: clear ones before all others; int64."""
    value = _clarity(database) - ~is_clear(database)
    fired = np.flatnonzero(np.asarray(database.columns["firing_rate"]) > 0)
    return np.asarray(fired[np.argsort(-value[fired], kind="stable")][:n])


def _clarity(database: FeatureDatabase) -> Array:
    """Lower end of the label's score, 0 where there is none, with what else columns say; float64 [d_sae]."""
    low = np.nan_to_num(_column(database, "label_auroc_low", 0.0)).astype(np.float64)
    rate = np.maximum(np.asarray(database.columns["firing_rate"], np.float64), 1e-6)
    most = clear_bounds(of_rows=database.of_rows)["firing_rate"][1]
    rarer = np.clip(np.log10(most / rate), 0, 1.5)
    return np.asarray(low + _PEAKS_ALIKE * _alike(database) + _TENFOLD_RARER * rarer)


def _alike(database: FeatureDatabase) -> Array:
    """How alike each latent's peaks are, from 0 to 1 for `_AS_ALIKE`; 0 where they are one token. float32 [d_sae]."""
    return np.asarray(np.clip(np.nan_to_num(_column(database, "peak_likeness", 0.0)) / _AS_ALIKE, 0, 1))


def _column(database: FeatureDatabase, name: str, otherwise: float) -> Array:
    if name in database.columns:
        return np.asarray(database.columns[name])
    return np.full(database.n_latents, otherwise, np.float32)


def _words(label: str) -> set[str]:
    """What a label quotes, word by word; all its words where it quotes nothing."""
    quoted = " ".join(_QUOTED.findall(label)) or label
    return set(_WORD.findall(quoted.casefold())) - {"“", "”"}


def _named_peaks(database: FeatureDatabase, latent: int, label: str) -> float:
    """The share of the strongest contexts whose peak is what the label quotes; 1 for a label that quotes nothing."""
    quoted = [text.strip("“”… ").casefold() for text in _QUOTED.findall(label)]
    if not quoted:
        return 1.0
    groups, tokens, *_ = database.example_arrays(latent)
    peaks = tokens[groups == 0][:_PEAKS_READ].tolist()
    length = database.context_length
    texts = (database.tokens.text(int(database.context(peak // length)[peak % length])) for peak in peaks)
    named = [any(text.strip().casefold() in word for word in quoted) for text in texts]
    return sum(named) / max(1, len(named))


def _class_of(label: str) -> str | None:
    """The class of words or numbers that a label begins with (“pronouns”, “third digit of …”), None where it quotes."""
    beginning = re.split(r"[“:,;]| (?:after|in|at) ", label, maxsplit=1)[0].strip()
    return beginning if beginning and not beginning.startswith(_NO_CONCEPT) else None


def _says_something(words: set[str]) -> bool:
    return any(len(word) >= MIN_WORD and word.isalpha() and word not in FUNCTION_WORDS for word in words)


def _overlap(words: list[set[str]], k: int) -> Array:
    """|A ∩ B| / min(|A|, |B|) of every set of words with the one at `k`."""
    return np.array([len(here & words[k]) / max(1, min(len(here), len(words[k]))) for here in words])


def _sources(database: FeatureDatabase, latents: Array) -> list[str]:
    """The part of the text that each latent's strongest context is from."""
    tops = [database.example_arrays(int(latent))[1][:1] for latent in latents]
    named = database.documents_at(np.concatenate([np.zeros(0, np.int64), *tops]))
    sources = iter(named)
    return [next(sources)[0] if len(top) else "" for top in tops]


def label_words(label: str) -> list[str]:
    """The whole words at the peaks that a label quotes and that say what the latent is about, each once, lower case.

    Parts of words, which labels mark with “…”, function words, and what labels name beside the peaks are left out.
    """
    quoted = (text.strip("“” ").casefold() for text in _QUOTED.findall(_BESIDE_PEAKS.sub("", label)))
    return list(dict.fromkeys(word for word in quoted if word.isalpha() and _says_something({word})))
