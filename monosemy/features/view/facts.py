"""The facts about a latent as all views show them: numbers in words, scores with intervals, neighbours.

Place on the data's path: between the feature database and the terminal view, the HTML page and the exports. A number
that was not measured is None here (NaN in the database), never a substitute value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monosemy.features.store.database import FeatureDatabase
from monosemy.features.view.words import Words
from monosemy.support.numbers import DASH, activation_text, count_text, fixed_text, rate_text

SCORES = {
    "label": "the label’s tokens",
    "hidden": "the mean hidden state",
    "combined": "both together",
    "embedding": "a sentence embedding",
    "top_token": "its commonest token (baseline)",
}
"""Key → name of what each score classifies windows by; the key's AUROC column is `<key>_auroc`."""
ROW_SCORES = {"label": "the label’s words"}
"""The same where rows are classified."""


@dataclass(frozen=True)
class Score:
    """An AUROC on held-out windows, with its 95% interval if there is one."""

    way: str
    """What windows are classified by, a name from `SCORES`."""
    auroc: float
    low: float | None
    high: float | None
    n: int | None
    """Number of held-out windows in which the latent fires."""
    n_documents: int | None = None
    """Number of documents of these windows, on which the interval rests."""
    strong: float | None = None
    """AUROC when only the strongest quarter of the firing windows counts as firing."""


@dataclass(frozen=True)
class Neighbour:
    """A neighbour of a latent: its number, the cosine or correlation with it, and its label."""

    latent: int
    value: float
    label: str


def value_of(columns: Mapping[str, Any], name: str, latent: int) -> float | None:
    """A column's value for a latent; None when the column is missing or the value was not measured."""
    if name not in columns:
        return None
    value = float(columns[name][latent])
    return value if math.isfinite(value) else None


def stats(database: FeatureDatabase, latent: int) -> dict[str, float | None]:
    """The value of every column for the latent; None where it was not measured."""
    return {name: value_of(database.columns, name, latent) for name in database.columns}


def scores(database: FeatureDatabase, latent: int) -> list[Score]:
    """The scores that were measured, in the order of `SCORES`; an empty list if there are none."""
    n, n_documents = (_count(value_of(database.columns, name, latent)) for name in ("label_n", "label_n_documents"))
    measured = []
    for way, name in (ROW_SCORES if database.of_rows else SCORES).items():
        auroc = value_of(database.columns, f"{way}_auroc", latent)
        if auroc is not None:
            low, high, strong = (
                value_of(database.columns, f"{way}_auroc_{end}", latent) for end in ("low", "high", "strong")
            )
            measured.append(Score(name, auroc, low, high, n=n, n_documents=n_documents, strong=strong))
    return measured


def scored_on(measured: Sequence[Score], words: Words) -> str:
    """What the scores were measured on, ` (98 held-out firing windows of 41 documents)`; empty if not known."""
    if not measured or measured[0].n is None:
        return ""
    documents = ""
    # Rows that belong to nothing larger are their own groups, which need no second count.
    if measured[0].n_documents is not None and (words.unit == "tokens" or measured[0].n_documents != measured[0].n):
        documents = f" of {count_text(measured[0].n_documents)} {words.documents}"
    return f" ({count_text(measured[0].n)} held-out firing {words.windows}{documents})"


def _count(value: float | None) -> int | None:
    return None if value is None else int(value)


def neighbours(database: FeatureDatabase, latent: int) -> dict[str, list[Neighbour]]:
    """The neighbours by `decoder` (cosine of decoder directions) and by `coactivation` (correlation of firing), best
    first, with their labels."""
    pairs_of_kind = database.neighbours(latent)
    labels = {}
    latents = sorted({neighbour for pairs in pairs_of_kind.values() for neighbour, _ in pairs})
    if latents:
        labels = dict(zip(latents, database.labels(latents), strict=True))
    return {
        kind: [Neighbour(int(neighbour), float(value), labels[neighbour]) for neighbour, value in pairs]
        for kind, pairs in pairs_of_kind.items()
    }


def fired(database: FeatureDatabase, latent: int) -> bool:
    """Whether the latent fired at all on the text the database was built from."""
    return bool(value_of(database.columns, "n_fired", latent))


def title(database: FeatureDatabase, latent: int) -> str:
    """The label, or a remark in parentheses if there is none."""
    text = str(database.label(latent).get("text") or "")
    return text or (
        "(no label)"
        if fired(database, latent)
        else "(never fired on what it was measured on)"
        if database.of_rows
        else "(never fired on this text)"
    )


def explanation(label: Mapping[str, Any]) -> str:
    """The text of a chat model's explanation, stored with or without scores; empty if there is none."""
    text = label.get("explanation")
    if isinstance(text, Mapping):
        text = text.get("text")
    return str(text) if text else ""


def hints(database: FeatureDatabase, latent: int) -> list[str]:
    """The label's hints, without those that the label already contains."""
    label = database.label(latent)
    return [str(hint) for hint in label.get("hints") or () if str(hint) not in str(label.get("text"))]


def column_text(name: str, value: float | None, words: Words) -> str:
    """A column's value as it is shown, with its unit in words; a dash for None."""
    if value is None:
        return DASH
    if name in ("firing_rate", "first_share", "last_share"):
        text = rate_text(value)
    else:
        text = count_text(int(value)) if name == "n_fired" else activation_text(value)
    return f"{text} {words.columns[name][1]}".strip()


def score_text(score: Score) -> str:
    """A score with its interval, such as `0.93 (0.90–0.95)`."""
    auroc = fixed_text(score.auroc, 2)
    if score.low is None or score.high is None:
        return auroc
    return f"{auroc} ({fixed_text(score.low, 2)}–{fixed_text(score.high, 2)})"


def built_from(info: Mapping[str, Any]) -> str:
    """The model and text that the database was built from, in words: `SmolLM2-135M, 150,000 tokens of the run's
    training text`."""
    if "rows" in info:
        rows = info["rows"]
        return f"{rows['name']}, {count_text(info['n_tokens'])} of its {count_text(rows['n_rows'])} rows"
    text = info.get("text")
    name = text.get("what") if isinstance(text, Mapping) else text
    source = f" of {name}" if isinstance(name, str) else ""
    return f"{info['model']['name']}, {count_text(info['n_tokens'])} tokens{source}"
