"""Which labels have a reader's words, all of them: for filters, and for words so common that relevance says nothing.

Place on the path: full-text index of a feature database → [latents] → lists. `FeatureDatabase.search_labels` ranks by
relevance, which costs about a microsecond and a half a match; the numbers of all matches alone cost a tenth of that.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing

import numpy as np

from monosemy.app.catalogue import Array
from monosemy.features.store.database import FeatureDatabase
from monosemy.features.store.search import match_expression


def matching(database: FeatureDatabase, text: str) -> Array:
    """int64 [n]: the latents whose label or explanation has the words, in order of latent."""
    expression = match_expression(text)
    if not expression:
        return np.sort([latent for latent, _, _ in database.search_labels(text, database.n_latents)]).astype(np.int64)
    address = f"{database.files.sqlite.resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, uri=True, timeout=30)) as connection:
        # one long text is read much faster than as many rows
        query = "SELECT group_concat(rowid) FROM search WHERE search MATCH ?"
        (listed,) = connection.execute(query, (expression,)).fetchone()
    return np.sort(np.array(listed.split(","), dtype=np.int64)) if listed else np.empty(0, np.int64)
