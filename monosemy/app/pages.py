"""Gathers everything that the page of one latent shows from the feature database, in about a millisecond.

Place on the path: feature database → [latent page] → server. A page has some 2,000 tokens. Their texts come from a
table made once per database (`Vocabulary`), since looking up token by token would take longer than all the rest.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from monosemy.app.catalogue import Dictionary, stamp_of
from monosemy.app.lists import at
from monosemy.features.store.database import Example, FeatureDatabase
from monosemy.features.store.token_texts import TokenTexts
from monosemy.features.view.highlights import CLEAR_SCORE, clear_bounds, highlights

WINDOW = 24
"""Default number of tokens shown on each side of a peak."""


class Vocabulary:
    """A table of the texts of all token ids, for fast lookup of thousands at once."""

    def __init__(self, tokens: TokenTexts) -> None:
        self._tokens = tokens
        self._special = frozenset(token for token in range(len(tokens)) if tokens.is_special(token))
        self._whole: list[str | None] = [_whole(tokens.bytes(token)) for token in range(len(tokens))]

    def text(self, token: int) -> str:
        """The text of one token by itself."""
        return self._whole[token] or self._tokens.text(token)

    def texts(self, token_ids: list[int]) -> list[str]:
        """One text per token; a character split over several tokens is the text of the first, the others have ""."""
        # the table answers all tokens that are text by themselves; only runs of the others need to be decoded together
        texts = [*map(self._whole.__getitem__, token_ids)]
        stop = 0
        while None in texts:
            start = texts.index(None, stop)
            stop = next((i for i in range(start, len(texts)) if texts[i] is not None), len(texts))
            texts[start:stop] = [""] * (stop - start)
            for piece in self._tokens.pieces(token_ids[start:stop]):
                texts[start + piece.start] = piece.text
        return texts  # type: ignore[return-value]

    def special(self, token_ids: list[int]) -> list[int]:
        """Positions of the special tokens."""
        if self._special.isdisjoint(token_ids):
            return []
        return [i for i, token in enumerate(token_ids) if token in self._special]


def _whole(data: bytes) -> str | None:
    """The token's text; None if its bytes are not whole characters."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


# weak keys: a table must not keep the memory-mapped files of a replaced database open
_vocabularies: weakref.WeakKeyDictionary[TokenTexts, Vocabulary] = weakref.WeakKeyDictionary()


def vocabulary(database: FeatureDatabase) -> Vocabulary:
    """The database's table of texts, made at first use and freed together with the database."""
    tokens = database.tokens
    table = _vocabularies.get(tokens)
    if table is None:
        table = _vocabularies[tokens] = Vocabulary(tokens)
    return table


def latent_page(sae: Dictionary, latent: int, window: int = WINDOW) -> dict[str, Any]:
    """The page of one latent (`schema.LatentPage`), with `window` tokens on each side of a peak; 0 shows all.

    Raises NotFoundError for a latent out of range.
    """
    sae.check_latent(latent)
    database = sae.database
    assert database is not None
    words = vocabulary(database)
    edges, counts = database.histogram(latent)
    levels, values = database.quantiles(latent)
    raised, lowered = database.output_tokens(latent)
    examples = [_example(words, example, window) for example in database.examples(latent)]
    if database.of_rows:
        _add_rows(database, examples)
    return {
        "latent": latent,
        "d_sae": sae.d_sae,
        "label": _label(words, database.label(latent)),
        "stats": {name: at(sae.columns, name, latent) for name in sae.columns},
        "steering_max": _steering_max(sae, latent),
        "histogram": {"edges": edges, "counts": counts},
        "quantiles": {"levels": levels, "values": values},
        "positions": [] if database.of_rows else database.positions(latent),
        "raised": _output(words, raised),
        "lowered": _output(words, lowered),
        "no_output_tokens": database.info.get("no_output_tokens") or None,
        "neighbours": _neighbours(sae, database, latent),
        "examples": examples,
    }


def clear_filter(*, of_rows: bool) -> list[dict[str, Any]]:
    """What makes a latent clear, column by column (`schema.ClearBound`)."""
    return [
        {"column": name, "min": low if np.isfinite(low) else None, "max": high if np.isfinite(high) else None}
        for name, (low, high) in clear_bounds(of_rows=of_rows).items()
    ]


CARD_EXAMPLES, CARD_WINDOW = 2, 14
_CARD_STATS = ("firing_rate", "label_auroc", "label_auroc_low", "label_auroc_high", "label_n_documents")


def highlight_cards(sae: Dictionary) -> dict[str, Any]:
    """What was found in the SAE, as cards (`schema.Highlights`); kept until features or labels change."""
    database = sae.database
    assert database is not None
    version = (sae.stamp, stamp_of(database.files.sqlite))
    if sae.cards is None or sae.cards[0] != version:
        sae.cards = (version, _highlight_cards(sae, database))
    return sae.cards[1]


def _highlight_cards(sae: Dictionary, database: FeatureDatabase) -> dict[str, Any]:
    chosen, words = highlights(database), vocabulary(database)
    return {
        "latents": [
            {
                "latent": latent,
                "label": label,
                "stats": {name: at(sae.columns, name, latent) for name in _CARD_STATS},
                "examples": _card_examples(words, database, latent),
            }
            for latent, label in zip(chosen.latents, sae.labels(chosen.latents), strict=True)
        ],
        "n_clear": chosen.n_clear,
        "clear_score": CLEAR_SCORE,
    }


def _card_examples(words: Vocabulary, database: FeatureDatabase, latent: int) -> list[dict[str, Any]]:
    """The strongest contexts of a latent, from different documents where there are any."""
    strongest = database.examples(latent, ["top"])
    first_of_document = {example.origin or str(example.context): example for example in reversed(strongest)}
    chosen = sorted(first_of_document.values(), key=lambda example: -example.value)[:CARD_EXAMPLES]
    examples = [_example(words, example, CARD_WINDOW) for example in chosen]
    if database.of_rows:
        _add_rows(database, examples)
    return examples


def _output(words: Vocabulary, tokens: list[tuple[int, float]]) -> list[dict[str, Any]]:
    return [{"id": token, "text": words.text(token), "value": value} for token, value in tokens]


def _label(words: Vocabulary, label: dict[str, Any]) -> dict[str, Any]:
    """The label with its tokens as texts; keys that an explanation lacks are filled in, whatever version wrote it."""
    if label["explanation"] is not None:
        label["explanation"] = {"model": "", "n_passages": None, "scores": {}, "skipped": {}} | label["explanation"]
    for key in ("peak_tokens", "before_tokens"):
        if key in label:
            label[key] = _output(words, label[key])
    return label


def _steering_max(sae: Dictionary, latent: int) -> dict[str, Any] | None:
    maximum = sae.steering_max(latent)
    return None if maximum is None else {"value": maximum[0], "text": maximum[1]}


def _neighbours(sae: Dictionary, database: FeatureDatabase, latent: int) -> dict[str, Any]:
    neighbours = database.neighbours(latent)
    labels = iter(sae.labels([other for others in neighbours.values() for other, _ in others]))
    return {
        kind: [{"latent": other, "label": next(labels), "value": value} for other, value in others]
        for kind, others in neighbours.items()
    }


def _add_rows(database: FeatureDatabase, examples: list[dict[str, Any]]) -> None:
    """Adds to each example the number of its row in the user's table, and whether it has a picture."""
    contexts = [example["context"] for example in examples]
    pictured = database.with_picture(contexts)
    for example, number in zip(examples, database.row_numbers(np.array(contexts, np.int64)), strict=True):
        example["row"], example["picture"] = number, example["context"] in pictured


def _example(words: Vocabulary, example: Example, window: int) -> dict[str, Any]:
    """One context of the page (`schema.Example`); `window` tokens on each side of the peak, 0: all."""
    length = len(example.token_ids)
    start = max(0, example.peak - window) if window else 0
    stop = min(length, example.peak + window + 1) if window else length
    ids = example.token_ids[start:stop].tolist()
    activations = example.activations[start:stop]
    fired = activations.nonzero()[0]  # activations are never negative
    return {
        "group": example.group,
        "context": example.context,
        "start": start,
        "length": length,
        "peak": example.peak - start,
        "value": example.value,
        "tokens": words.texts(ids),
        "special": words.special(ids),
        "activations": list(zip(fired.tolist(), activations[fired].tolist(), strict=True)),
        "source": example.source,
        "origin": example.origin,
        "row": None,
        "picture": False,
    }
