"""Encodes the user's own text with an SAE, token by token. Imported only once a model is needed, since it needs torch.

Place on the path: text → tokens, in windows → activations at the site → sparse code → `Reading` → page, files.

A text is read as documents are in training: after the text separator, without a chat template unless it is a chat
(`transcript`). Positions of the kinds that training drops are shown without activations: the first one, special tokens,
and outliers. An outlier has a norm above the run's limit, as in steering (steering/edits.py). If no norm of the site is
known, the limit is the run's outlier multiple times the median norm of this window's other positions.

A text longer than a window is read in windows of `WINDOW` tokens, or the model's positions, each after the separator.
A window begins `OVERLAP` tokens (at most a quarter of it) before the end of the one before, so that every token but the
text's first ones has at least so many before it; a token that stands in two windows counts in the earlier one.
Limits: those of the reader's scope (`text_scope`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosemy.app.rarity import one_in
from monosemy.app.text_scope import PAGES, TextScope
from monosemy.app.transcript import Transcript
from monosemy.config import RunConfig
from monosemy.errors import UserError
from monosemy.features.store.database import FeatureDatabase
from monosemy.models.adapter import LanguageModel
from monosemy.saes.base import SparseAutoencoder
from monosemy.support import progress

Array = np.ndarray[Any, np.dtype[Any]]

WINDOW = 1_024
"""Tokens that are read together."""
OVERLAP = 128
SUMMARY = 200
"""The largest number of latents listed for the whole text."""


@dataclass(frozen=True)
class Reading:
    """A text as an SAE reads it: T tokens, n firings in the order of tokens, the strongest of a token first."""

    pieces: list[str]
    """[T]: text of each token. A character split over several tokens is the piece of the first; the others have ""."""
    special: list[int]
    """Positions of special tokens."""
    roles: list[str]
    """[T]: whose message each token belongs to, "" for the template's; empty for a text that is no chat."""
    n_dropped: int
    """Tokens left out at the end."""
    n_windows: int
    is_read: Array
    """bool [T]: which tokens were read: neither the first one, nor special ones, nor outliers."""
    position: Array
    """int64 [n]: the token of each firing."""
    latent: Array
    """int64 [n]"""
    value: Array
    """float32 [n]: the activation, raw."""
    one_in: Array
    """float64 [n]: the latent is this strong on one in so many tokens (`rarity`); NaN where that is not known."""

    def summary(self) -> list[dict[str, Any]]:
        """Every latent that fires, once (`schema.FiringSummary` without labels), the most unusual one first.

        Where nothing is known of the latents' firing, the order is that of their largest values. Of equals the lower
        latent comes first. In a chat a latent's peak lies in a message, and those that fire on the template's words
        alone ("assistant", line ends) come last: every chat has them.
        """
        roles = np.array(self.roles or ["text"] * len(self.pieces))
        in_template = (roles == "")[self.position]
        order = np.lexsort((self.position, -self.value, in_template, self.latent))
        latents, first, counts = np.unique(self.latent[order], return_index=True, return_counts=True)
        peak = order[first]
        rarest = np.nan_to_num(self.one_in[peak])
        ranked = np.lexsort((latents, -self.value[peak], -rarest, in_template[peak]))
        rows = (latents, self.value[peak], self.position[peak], counts, rarest)
        return [
            {"latent": i, "value": v, "peak": p, "n_tokens": n, "one_in": rare or None}
            for i, v, p, n, rare in zip(*(row[ranked].tolist() for row in rows), strict=True)
        ]

    def tops(self, most: int) -> list[list[dict[str, Any]]]:
        """Per token its strongest latents, at most so many (`schema.FiringLatent` without labels)."""
        tops: list[list[dict[str, Any]]] = [[] for _ in self.pieces]
        for p, i, v, rare in zip(
            self.position.tolist(), self.latent.tolist(), self.value.tolist(), self.one_in.tolist(), strict=True
        ):
            if len(tops[p]) < most:
                tops[p].append({"latent": i, "value": v, "one_in": rare if rare == rare else None})
        return tops

    def trace(self, latent: int) -> list[float]:
        """The latent's activation at every token."""
        values, own = np.zeros(len(self.pieces)), self.latent == latent
        values[self.position[own]] = self.value[own]
        return list(values.tolist())

    def l0(self) -> list[int]:
        """The number of active latents of every token."""
        return list(np.bincount(self.position, minlength=len(self.pieces)).tolist())


@torch.no_grad()
def read_own_text(
    model: LanguageModel,
    sae: SparseAutoencoder,
    text: Transcript,
    config: RunConfig,
    *,
    provenance: Mapping[str, Any],
    outlier_norm: float | None = None,
    database: FeatureDatabase | None = None,
    scope: TextScope = PAGES,
) -> Reading:
    """Reads the text, window by window. Raises UserError for a text without tokens.

    Of a scope with latents, the reading has the firings of these alone.
    """
    record = provenance.get("text", {})
    pieces, ids, ends, first = split_text(model, text.text, record)
    n_dropped, lead = max(0, len(ids) - (scope.most_tokens or len(ids))), 0 if first is None else 1
    n_read = len(ids) - n_dropped
    pieces, ids, ends = pieces[:n_read], ids[:n_read], ends[:n_read]
    parts, is_read = [], np.zeros(len(ids) + lead, bool)
    with _progress(len(ids) if scope.shows_progress else 0) as bar:
        for window in read_windows(model, sae, ids, first, config=config, outlier_norm=outlier_norm):
            is_read[window.token] = True
            parts.append(_firings(sae, window, scope))
            if bar is not None:
                bar.advance(window.n_new)
    position, latent, value = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((latent, -value, position))
    latent, value = latent[order].astype(np.int64), value[order]
    if first is not None:
        pieces, ids = [model.tokenizer_for("a text").decode([first]), *pieces], [first, *ids]
    roles = text.roles_at(ends)
    return Reading(
        pieces,
        [i for i, token in enumerate(ids) if token in model.special_token_ids],
        [""] * lead + roles if roles else [],
        n_dropped,
        n_windows=len(parts),
        is_read=is_read,
        position=position[order],
        latent=latent,
        value=value,
        one_in=one_in(database, latent, value),
    )


def _progress(n_tokens: int) -> AbstractContextManager[progress.Bar | None]:
    """A display for a text that takes more than a moment."""
    if n_tokens <= WINDOW:
        return nullcontext()
    return progress.stage("read the text", total=n_tokens, unit="tokens")


def _firings(sae: SparseAutoencoder, window: WindowRows, scope: TextScope) -> tuple[Array, Array, Array]:
    """(token, latent, value) of a window's activations above zero."""
    code = sae.encode(window.rows.to(sae.W_dec.device)).positive()
    token, latent = window.token[code.rows().cpu()].numpy(), code.indices.cpu().numpy()
    value = code.values.float().cpu().numpy()
    if scope.latents is None:
        return token, latent, value
    is_kept = np.isin(latent, scope.latents)
    return token[is_kept], latent[is_kept], value[is_kept]


@dataclass(frozen=True)
class WindowRows:
    """The activations of a window's tokens that are read, n of them."""

    token: Tensor
    """int64 [n], on the CPU: the number of each, where the token that begins the window counts as the text's first."""
    rows: Tensor
    """float32 [n, d]: in the model's units, on its device."""
    n_new: int
    """Tokens of the text that no earlier window had, read or not."""


@torch.no_grad()
def read_windows(
    model: LanguageModel,
    sae: SparseAutoencoder,
    ids: list[int],
    first: int | None,
    *,
    config: RunConfig,
    outlier_norm: float | None,
) -> Iterator[WindowRows]:
    """Reads a text's tokens at the site that the SAE reads, window by window; each token stands in one of them.

    first: the token that begins every window, if there is one.
    """
    lead, site = 0 if first is None else 1, sae.config.site
    for start, fresh, stop in windows(len(ids), min(WINDOW, model.max_positions) - lead):
        window = ([] if first is None else [first]) + ids[start:stop]
        rows = model.activations(torch.tensor([window]), [site])[model.resolve(site)][0].float()
        keep = kept_rows(rows, window, model, config, outlier_norm=outlier_norm)
        keep[: fresh - start + lead] &= fresh == 0
        yield WindowRows(keep.nonzero()[:, 0].cpu() + start, rows[keep], n_new=stop - fresh)


def windows(n: int, longest: int) -> Iterator[tuple[int, int, int]]:
    """(start, first token that is new, stop) of the windows over n tokens."""
    overlap, start, fresh = min(OVERLAP, longest // 4), 0, 0
    while fresh < n:
        stop = min(n, start + longest)
        yield start, fresh, stop
        start, fresh = stop - overlap, stop


def split_text(
    model: LanguageModel, text: str, record: Mapping[str, Any]
) -> tuple[list[str], list[int], list[int], int | None]:
    """(pieces, ids, end of each token in the text, the token that begins a window) of a text's own tokens.

    A character split over several tokens is the piece of the first of them; the others have "". Raises UserError for a
    text without tokens.
    """
    # offsets of such tokens all span the whole character: only the first goes beyond the text shown so far
    tokenizer = model.tokenizer_for("a text of your own")
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, pieces, ends, end = list(encoded["input_ids"]), [], [], 0
    for start, stop in encoded["offset_mapping"]:
        pieces.append(text[end:stop] if stop > end else "")
        end = max(end, stop, start)
        ends.append(end)
    if not ids:
        raise UserError("this text has no tokens; write a few words")
    first = record.get("bos_token")
    first = record.get("separator_token") if first is None else first
    return pieces, ids, ends, None if first is None else int(first)


def kept_rows(
    rows: Tensor, ids: list[int], model: LanguageModel, config: RunConfig, *, outlier_norm: float | None
) -> Tensor:
    """Which positions of the text training would have kept, bool [T]. rows [T, d]: activations in the model's units."""
    settings = config.activations
    keep = torch.ones(len(ids), dtype=torch.bool, device=rows.device)
    keep[: settings.drop_first_positions] = False
    if settings.drop_special_tokens:
        keep &= torch.tensor([token not in model.special_token_ids for token in ids], device=rows.device)
    # the median of the positions kept so far: the massive norms of first and special tokens must not raise the limit
    norms = rows.norm(dim=1)
    if settings.outlier_multiple and bool(keep.any()):
        keep &= norms <= (outlier_norm or settings.outlier_multiple * float(norms[keep].median()))
    return keep
