"""Answers a search by meaning: the model's embedding and tokenizer, and one index per feature database.

Place on the path: live model, feature database → features/view/meaning.py → [hits] → search page.
Limits: the whole model is loaded, though only its embedding is needed; indexes of the last `MOST_INDEXES` SAEs stay.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from monosemy.app.catalogue import Dictionary
from monosemy.app.lists import checked_query, hit
from monosemy.app.live import LiveModel
from monosemy.features.labels.token_embedding import TokenEmbedding
from monosemy.features.store.database import FeatureDatabase
from monosemy.features.view.meaning import MeaningIndex, query_words

NEAR = 0.3
"""Score from which on a latent is taken to be about the query rather than merely the nearest to it."""
MOST_INDEXES = 4


class Meanings:
    """The indexes of a server."""

    def __init__(self, live: LiveModel) -> None:
        self._live = live
        self._embedding: TokenEmbedding | None = None
        self._indexes: dict[Any, MeaningIndex] = {}
        self._turn = threading.Lock()

    def search(self, sae: Dictionary, database: FeatureDatabase, text: str, limit: int) -> dict[str, Any]:
        """The latents nearest to the text (`schema.MeaningSearch`). Blocks, so run it in a thread.

        Raises UserError for a blank or too long text, and ModelError.
        """
        words = query_words(checked_query(text))
        if not words:
            return {"near": NEAR, "hits": []}
        with self._turn:
            index = self._index(sae, database)
        tokens = [token for piece in self._token_ids([f" {word}" for word in words]) for token in piece]
        scores, nearest = index.scores(np.array(tokens, np.int64), words)
        best = np.argsort(-scores, kind="stable")[:limit]
        best = best[scores[best] > 0]
        return {
            "near": NEAR,
            "hits": [
                hit(sae, latent, label, float(scores[latent]))
                | {"by": [database.tokens.text(token) for token in nearest[latent].tolist() if token >= 0]}
                for latent, label in zip(best.tolist(), sae.labels(best), strict=True)
            ],
        }

    def _index(self, sae: Dictionary, database: FeatureDatabase) -> MeaningIndex:
        key = (sae.site, sae.name, sae.stamp)
        if key not in self._indexes:
            if self._embedding is None:
                weights = self._live.model().module.get_input_embeddings().weight  # type: ignore[operator]
                self._embedding = TokenEmbedding.of(weights)
            index = MeaningIndex.build(database, self._embedding, self._token_ids)
            while len(self._indexes) >= MOST_INDEXES:
                self._indexes.pop(next(iter(self._indexes)))
            self._indexes[key] = index
        return self._indexes[key]

    def _token_ids(self, words: Sequence[str]) -> list[list[int]]:
        tokenizer = self._live.model().tokenizer_for("a search by meaning")
        return list(tokenizer(list(words), add_special_tokens=False)["input_ids"]) if words else []
