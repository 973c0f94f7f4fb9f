"""The lists of the browser: sorting, filtering and searching latents over whole columns.

Place on the path: feature database → [lists] → server. A filter is a mask over float32 columns [d_sae]. Each column is
sorted once and its order kept, so any page of a list costs a single pass over the dictionary. Missing values (NaN) come
last in either order and pass no bound. Equal values are in order of latent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from monosemy.app.catalogue import Array, Dictionary
from monosemy.errors import UserError, unknown
from monosemy.features.store.label_match import matching
from monosemy.features.view.highlights import clearest

PAGE_ROWS = 500
"""The largest number of rows in one answer."""
MAX_QUERY = 200
"""Length of the longest search text, in characters."""
BROAD = 20_000
"""Number of matches above which relevance is not computed."""
CLEAR_FIRST = "clear"
"""The sort by how well a latent's label holds (features/view/highlights.py), clearest first in order desc."""
_OPTIONS = ("sort", "order", "q", "offset", "limit")


def latent_list(sae: Dictionary, query: Mapping[str, str]) -> dict[str, Any]:
    """A page of latents (`schema.LatentList`).

    `query` may hold sort (a column, "latent", or "clear" for those whose label holds best), order (asc, desc),
    min_COLUMN and max_COLUMN (inclusive), q (words of the label), offset and limit. Raises UserError for an unknown
    name or a value that is not a number.
    """
    columns = sae.columns
    mask = _mask(sae, query)
    order = _order(sae, query.get("sort") or "latent", query.get("order") or "asc")
    # the filter applied to the whole sorted order, without sorting again
    latents = order if mask is None else order[mask[order]]
    offset, limit = whole_number(query, "offset", 0), whole_number(query, "limit", 50, PAGE_ROWS)
    page = latents[offset : offset + limit]
    values = np.stack([np.asarray(column)[page] for column in columns.values()], axis=1) if columns else None
    labels = sae.labels(page)
    rows = [
        {"latent": int(latent), "label": label, "values": values[row] if values is not None else []}
        for row, (latent, label) in enumerate(zip(page, labels, strict=True))
    ]
    return {"total": len(latents), "offset": offset, "columns": list(columns), "rows": rows}


def column_bytes(sae: Dictionary, names: str) -> bytes:
    """Whole columns one after another, each float32 little-endian [d_sae].

    `names` are separated by commas. Raises UserError for an unknown name, or none.
    """
    columns = [name for name in names.split(",") if name]
    if not columns or len(columns) > len(sae.columns):
        raise UserError(f"name the columns once each, of: {', '.join(sae.columns) or 'none, nothing was measured yet'}")
    return b"".join(np.ascontiguousarray(_column(sae, name), dtype="<f4").tobytes() for name in columns)


def search_labels(sae: Dictionary, text: str, limit: int) -> dict[str, Any]:
    """The latents whose label or explanation contains the words, by relevance (`schema.LabelSearch`).

    If more than `BROAD` latents match, relevance says nothing; those with the highest label AUROC then come first, all
    with score 0.
    """
    assert sae.database is not None
    latents = matching(sae.database, checked_query(text))
    if len(latents) <= BROAD:
        records = sae.database.search_labels(text, limit)
        texts = sae.labels([latent for latent, _, _ in records])  # what every list shows, whichever text was matched
        return {
            "hits": [hit(sae, record[0], text, -float(record[2])) for record, text in zip(records, texts, strict=True)]
        }
    trusted = sae.columns.get("label_auroc", np.full(sae.d_sae, np.nan))[latents]
    best = latents[np.argsort(-trusted, kind="stable")][:limit]
    return {"hits": [hit(sae, latent, label, 0.0) for latent, label in zip(best, sae.labels(best), strict=True)]}


def search_token(sae: Dictionary, text: str, limit: int) -> dict[str, Any]:
    """The vocabulary tokens that match the text, and the latents that go with them best (`schema.TokenSearch`).

    Raises UserError for an empty text or one longer than `MAX_QUERY`.
    """
    database = sae.database
    assert database is not None
    tokens = [int(token) for token in database.tokens_matching(_token_query(text))][:20]
    # a latent listed under several of the tokens keeps the one with its best score
    best: dict[int, tuple[float, int]] = {}
    for token in tokens:
        for latent, score in database.latents_of_token(token, limit):
            if latent not in best or score > best[latent][0]:
                best[latent] = float(score), token
    ranked = sorted(best.items(), key=lambda item: (-item[1][0], item[0]))[:limit]
    labels = sae.labels([latent for latent, _ in ranked])
    return {
        "tokens": [{"id": token, "text": database.tokens.text(token)} for token in tokens],
        "hits": [
            hit(sae, latent, label, score) | {"token": token}
            for (latent, (score, token)), label in zip(ranked, labels, strict=True)
        ],
    }


MOST_ROWS = 200
"""Matching rows that a search by row text counts; more cost time and change the order little."""


def search_rows(sae: Dictionary, text: str, limit: int) -> dict[str, Any]:
    """The rows whose text matches, and the latents that are strongest on them (`schema.TokenSearch`).

    A latent's score is its mean strength over the matching rows, each as a share of the latent's largest activation and
    0 where the latent is not among the row's strongest; its `token` is the matching row on which it is strongest.
    Raises UserError for an empty text or one longer than `MAX_QUERY`.
    """
    database = sae.database
    assert database is not None
    rows = database.tokens.matching(_token_query(text), MOST_ROWS)
    totals: dict[int, float] = {}
    best: dict[int, tuple[float, int]] = {}
    for row in rows:
        for latent, strength in database.latents_of_token(row, limit):
            totals[latent] = totals.get(latent, 0.0) + float(strength)
            if latent not in best or strength > best[latent][0]:
                best[latent] = float(strength), row
    ranked = sorted(totals, key=lambda latent: (-totals[latent], latent))[:limit]
    named = dict.fromkeys([*rows[:20], *(best[latent][1] for latent in ranked)])
    return {
        "tokens": [{"id": row, "text": database.tokens.text(row)} for row in named],
        "hits": [
            hit(sae, latent, label, totals[latent] / len(rows)) | {"token": best[latent][1]}
            for latent, label in zip(ranked, sae.labels(ranked), strict=True)
        ],
    }


def _token_query(text: str) -> str:
    """The text itself. Raises UserError if it is empty or longer than `MAX_QUERY`."""
    if not text or len(text) > MAX_QUERY:
        raise UserError(f"a token search takes 1 to {MAX_QUERY} characters, got {len(text)}")
    return text


def hit(sae: Dictionary, latent: int, label: str, score: float) -> dict[str, Any]:
    """One row of a search's answer (`schema.SearchHit`)."""
    return {
        "latent": int(latent),
        "label": label,
        "score": score,
        "firing_rate": at(sae.columns, "firing_rate", latent),
        "label_auroc": at(sae.columns, "label_auroc", latent),
    }


def at(columns: Mapping[str, Array], name: str, latent: int) -> float | None:
    """One value of a column; None if the column or the value is missing."""
    if name not in columns:
        return None
    value = float(columns[name][latent])
    return value if math.isfinite(value) else None


def checked_query(text: str) -> str:
    """The text itself. Raises UserError if it is blank or longer than `MAX_QUERY`."""
    if not text.strip() or len(text) > MAX_QUERY:
        raise UserError(f"a search takes 1 to {MAX_QUERY} characters, got {len(text)}")
    return text


def whole_number(query: Mapping[str, str], name: str, default: int, most: int = 2**31 - 1) -> int:
    """The option `name` as an integer from 0 to `most`; `default` if it is not given. Raises UserError otherwise."""
    word = query.get(name)
    if word is None or word == "":
        return default
    if not (word.isascii() and word.isdigit() and len(word) <= 10 and int(word) <= most):
        raise UserError(f"{name} must be a whole number from 0 to {most}, got {word[:40]!r}")
    return int(word)


def number(name: str, word: str) -> float:
    """The option `name` as a finite number. Raises UserError for anything else."""
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{name} must be a number, got {word[:40]!r}")
    return value


def _mask(sae: Dictionary, query: Mapping[str, str]) -> Array | None:
    """Which latents pass every filter, bool [d_sae]; None if there is no filter."""
    passed: Array | None = None
    for key, word in query.items():
        bound, _, name = key.partition("_")
        if key in _OPTIONS:
            continue
        # min_firing_rate → ("min", "firing_rate"): a column's name may contain underscores
        if bound not in ("min", "max") or not name:
            raise unknown("option", key[:40], [*_OPTIONS, "min_COLUMN", "max_COLUMN"])
        column, limit = _column(sae, name), number(key, word)
        here = column >= np.float32(limit) if bound == "min" else column <= np.float32(limit)
        passed = here if passed is None else passed & here
    if words := query.get("q", "").strip():
        matched = np.zeros(sae.d_sae, dtype=bool)
        if sae.database is not None:
            matched[matching(sae.database, checked_query(words))] = True
        passed = matched if passed is None else passed & matched
    return passed


def _order(sae: Dictionary, sort: str, order: str) -> Array:
    """All latents in the requested order, int64 [d_sae]; kept in `sae.orders`."""
    if order not in ("asc", "desc"):
        raise unknown("order", order[:40], ("asc", "desc"))
    key = f"{sort} {order}"
    if key not in sae.orders and sort == CLEAR_FIRST:
        if sae.database is None:
            raise UserError(
                f"sort {sort} needs labels, and {sae.name} has no features; build them: {sae.build_command}"
            )
        first = clearest(sae.database, sae.d_sae)
        silent = np.setdiff1d(np.arange(sae.d_sae), first)
        sae.orders[key] = np.concatenate([first, silent] if order == "desc" else [first[::-1], silent])
    if key not in sae.orders:
        column = np.arange(sae.d_sae) if sort == "latent" else _column(sae, sort)
        # NumPy sorts NaN last, negated or not, and a stable sort keeps equal values in order of latent
        sae.orders[key] = np.argsort(-column if order == "desc" else column, kind="stable")
    return sae.orders[key]


def _column(sae: Dictionary, name: str) -> Array:
    if name not in sae.columns:
        raise unknown("column", name[:40], ["latent", CLEAR_FIRST, *sae.columns])
    return np.asarray(sae.columns[name])
