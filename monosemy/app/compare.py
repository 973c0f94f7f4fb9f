"""Compares two SAEs: each latent of one beside its best match in the other, and the latents without a match.

Place on the path: two dictionaries of a run → [matches] → server. Pairs are matched by one of two measures:

    cosine        W_dec_a[i] · W_dec_b[j] / (‖·‖ ‖·‖)       both SAEs must read activations of the same width
    correlation   of the activations over one text, estimated from the sketches that a feature build keeps for each
                  latent (features/building/coactivation.py); both must be built on the same tokens. Error about 1/√k

The best j of every i and the best i of every j are found over the whole dictionaries, in blocks and once per pair of
SAEs. Pages and thresholds are then cut from the result. Only the matches are kept (24 bytes per latent); the vectors
of the pairs on a page are read again from the SAEs' files.
Limits: d_sae_a × d_sae_b up to `MAX_PAIRS`. Cosines near 0.3 are common by chance at small widths, so a match above
the threshold is not by itself evidence that the two latents mean the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from monosemy.app.catalogue import Array, Dictionary
from monosemy.app.lists import at
from monosemy.errors import UserError, unknown
from monosemy.features.store.database import FeatureDatabase
from monosemy.saes.decoder_rows import read_decoder_rows
from monosemy.support.numbers import count_text

MAX_PAIRS = 2**31
"""The largest number of pairs of latents that are compared, about 46,000 by 46,000."""
THRESHOLDS = {"cosine": 0.7, "correlation": 0.5}
VIEWS = ("matched", "only_a", "only_b")
KEPT_COMPARISONS = 4
_BLOCK = 1024
_BINS = 40


Reader = Callable[[slice | Array], Array]
"""Reads the vectors of n latents, float32 [n, d], with rows of length 1."""


@dataclass(frozen=True)
class Matches:
    """The best match of every latent, in both directions."""

    partner_a: Array
    """int64 [d_sae of a]: the latent of b that matches each latent of a best."""
    value_a: Array
    """float32 [d_sae of a]: the measure of that pair."""
    partner_b: Array
    """int64 [d_sae of b]: the latent of a that matches each latent of b best."""
    value_b: Array
    """float32 [d_sae of b]: the measure of that pair."""


class Comparison:
    """One pair of SAEs with the measures that are available, and their matches, which are found at first use.

    Raises UserError for the same SAE on both sides or more than `MAX_PAIRS` pairs.
    """

    def __init__(self, a: Dictionary, b: Dictionary) -> None:
        if a is b:
            raise UserError(f"{a.site}/{a.name} is on both sides; choose another SAE for one of them")
        if a.d_sae * b.d_sae > MAX_PAIRS:
            raise UserError(
                f"{count_text(a.d_sae)} by {count_text(b.d_sae)} latents are more than are compared here (at most "
                f"{count_text(MAX_PAIRS)} pairs)"
            )
        self.a, self.b = a, b
        self.notes: dict[str, str] = {}
        self._readers: dict[str, tuple[Reader, Reader]] = {}
        self._matches: dict[str, Matches] = {}
        self._find_cosine()
        self._find_correlation()

    @property
    def measures(self) -> list[str]:
        return list(self._readers)

    def matches(self, by: str) -> Matches:
        """The matches by one measure; the first call computes them, which takes seconds for large dictionaries.

        Raises UserError for a damaged SAE file.
        """
        if by not in self._matches:
            left, right = self._readers[by]
            self._matches[by] = best_matches(left(slice(None)), right(slice(None)))
        return self._matches[by]

    def value(self, by: str, rows: Array, partners: Array) -> Array | None:
        """The measure of n given pairs, [n]; None if it is not available."""
        if by not in self._readers:
            return None
        left, right = self._readers[by]
        return np.einsum("nd,nd->n", left(rows), right(partners))

    def _find_cosine(self) -> None:
        """Makes the cosine available if both SAEs read vectors of the same width; else notes why not."""
        if self.a.config["d_in"] != self.b.config["d_in"]:
            self.notes["cosine"] = "decoder directions cannot be compared: the two SAEs read vectors of different width"
            return
        self._readers["cosine"] = _decoder_reader(self.a), _decoder_reader(self.b)

    def _find_correlation(self) -> None:
        """Makes correlation available if both SAEs have features built on the same tokens; else notes why not."""
        first, second = self.a.database, self.b.database
        without = [sae for sae in (self.a, self.b) if sae.database is None]
        if first is None or second is None:
            self.notes["correlation"] = (
                f"activations cannot be correlated: no features were built for "
                f"{' and '.join(sae.name for sae in without)}; "
                f"build them: {' and '.join(sae.build_command for sae in without)}"
            )
        elif first.info.get("text_sha256") != second.info.get("text_sha256"):
            self.notes["correlation"] = "activations cannot be correlated: the features were built on different tokens"
        else:
            self._readers["correlation"] = _sketch_reader(first), _sketch_reader(second)

    def page(self, by: str, view: str, *, threshold: float | None, offset: int, limit: int) -> dict[str, Any]:
        """One page of a view (`schema.Comparison`).

        `threshold` None takes the measure's own in `THRESHOLDS`. Raises UserError for an unknown or unavailable measure
        or an unknown view.
        """
        if not self.measures:
            raise UserError("; ".join(self.notes.values()))
        by = by or self.measures[0]
        if by not in THRESHOLDS:
            raise unknown("measure", by[:40], THRESHOLDS)
        if by not in self.measures:
            raise UserError(self.notes[by])
        if view not in VIEWS:
            raise unknown("view", view[:40], VIEWS)
        pairing, cut = self.matches(by), THRESHOLDS[by] if threshold is None else threshold
        # correlations may be strongly negative, best cosines hardly are
        edges = np.linspace(-1.0 if by == "correlation" else 0.0, 1.0, _BINS + 1)
        # all rows of the view in order; values and labels only for those on the page
        rows, partners = _rows(pairing, view, cut)
        page = slice(offset, offset + limit)
        return {
            "a": self.a.entry(),
            "b": self.b.entry(),
            "by": by,
            "available": {name: name in self.measures for name in THRESHOLDS},
            "notes": list(self.notes.values()),
            "threshold": cut,
            "n_matched_a": int((pairing.value_a >= cut).sum()),
            "n_matched_b": int((pairing.value_b >= cut).sum()),
            "n_mutual": int((_mutual(pairing) & (pairing.value_a >= cut)).sum()),
            "distribution": {
                "edges": edges,
                # values below the first edge count in the first bin
                "a": np.histogram(pairing.value_a.clip(edges[0], 1), edges)[0],
                "b": np.histogram(pairing.value_b.clip(edges[0], 1), edges)[0],
            },
            "view": view,
            "total": len(rows),
            "offset": offset,
            "rows": self._pairs(pairing, rows[page], partners[page]),
        }

    def _pairs(self, pairing: Matches, rows: Array, partners: Array) -> list[dict[str, Any]]:
        """The rows of a page (`schema.ComparedPair`): each pair with both measures, labels and firing rates."""
        values = {by: self.value(by, rows, partners) for by in THRESHOLDS}
        labels = self.a.labels(rows), self.b.labels(partners)
        # in the view of b's unmatched latents, `partners` are not partner_a of `rows`: both directions are checked
        mutual = (pairing.partner_a[rows] == partners) & (pairing.partner_b[partners] == rows)
        return [
            {
                "a": int(a),
                "b": int(b),
                "label_a": labels[0][n],
                "label_b": labels[1][n],
                **{by: None if value is None else float(value[n]) for by, value in values.items()},
                "firing_rate_a": at(self.a.columns, "firing_rate", int(a)),
                "firing_rate_b": at(self.b.columns, "firing_rate", int(b)),
                "mutual": bool(mutual[n]),
            }
            for n, (a, b) in enumerate(zip(rows, partners, strict=True))
        ]


def best_matches(left: Array, right: Array) -> Matches:
    """The largest inner product of every row of `left` [m, d] with a row of `right` [n, d], and vice versa.

    Of equal products, the lower number wins. Memory: one block of rows times n.
    """
    partner_a, value_a = np.zeros(len(left), np.int64), np.zeros(len(left), np.float32)
    partner_b, value_b = np.zeros(len(right), np.int64), np.full(len(right), -np.inf, np.float32)
    for start in range(0, len(left), _BLOCK):
        products = left[start : start + _BLOCK] @ right.T
        rows = slice(start, start + len(products))
        partner_a[rows] = products.argmax(axis=1)
        value_a[rows] = products.max(axis=1)
        # the best of each column over the blocks so far; a tie keeps the earlier block, which has lower numbers
        better = products.max(axis=0) > value_b
        partner_b[better] = products.argmax(axis=0)[better] + start
        value_b[better] = products.max(axis=0)[better]
    return Matches(partner_a, value_a, partner_b, value_b)


def unit_rows(vectors: Array) -> Array:
    """The rows as float32 with length 1; zero rows stay zero."""
    rows = np.asarray(vectors, dtype=np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))


def _decoder_reader(sae: Dictionary) -> Reader:
    """A reader of the saved rows of W_dec [d_sae, d_in], normalised."""
    return lambda rows: unit_rows(read_decoder_rows(sae.folder, rows))


def _sketch_reader(database: FeatureDatabase) -> Reader:
    """A reader of a database's sketches, normalised, whose inner products estimate correlations."""
    return lambda rows: unit_rows(np.asarray(database.sketches[rows]))


class Comparisons:
    """The comparisons of a server, computed in threads one at a time; the last `KEPT_COMPARISONS` are kept."""

    def __init__(self) -> None:
        self._kept: dict[Any, Comparison] = {}
        self._turn = asyncio.Lock()

    async def page(
        self, a: Dictionary, b: Dictionary, by: str, view: str, *, threshold: float | None, offset: int, limit: int
    ) -> dict[str, Any]:
        """`Comparison.page` for a pair of SAEs. Raises UserError as `Comparison` and its page do."""
        # one at a time: memory holds the vectors of a single pair, and a second request for it finds the result
        async with self._turn:
            pair = self._pair(a, b)
            return await asyncio.to_thread(pair.page, by, view, threshold=threshold, offset=offset, limit=limit)

    def _pair(self, a: Dictionary, b: Dictionary) -> Comparison:
        key = (a.site, a.name, a.stamp, b.site, b.name, b.stamp)
        # a dict keeps the order of insertion: popped and put back, a comparison becomes the most recently used one
        pair = self._kept.pop(key, None) or Comparison(a, b)
        self._kept[key] = pair
        while len(self._kept) > KEPT_COMPARISONS:
            self._kept.pop(next(iter(self._kept)))
        return pair


def _rows(pairing: Matches, view: str, cut: float) -> tuple[Array, Array]:
    """(latents of a, latents of b) of a view: the best matches first, or the worst ones first among the unmatched."""
    if view == "only_b":
        latents = np.flatnonzero(pairing.value_b < cut)
        latents = latents[np.argsort(pairing.value_b[latents], kind="stable")]
        return pairing.partner_b[latents], latents
    passing = pairing.value_a >= cut if view == "matched" else pairing.value_a < cut
    latents = np.flatnonzero(passing)
    sign = -1 if view == "matched" else 1
    latents = latents[np.argsort(sign * pairing.value_a[latents], kind="stable")]
    return latents, pairing.partner_a[latents]


def _mutual(pairing: Matches) -> Array:
    """bool [d_sae of a]: whether a latent is also the best match of its own best match."""
    return pairing.partner_b[pairing.partner_a] == np.arange(len(pairing.partner_a))
