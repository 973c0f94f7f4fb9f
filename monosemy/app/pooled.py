"""Labelled texts as probes take them: every text's latents and raw activations, pooled over its tokens.

Place on the path: texts → tokens, in windows → activations, codes → [pooled] → monitors.fitting. Read as one's own text
is (`own_text`); the raw activations are those of the site that the SAE reads, in the model's units. Pooling is that of
`monitors.firings`; a text none of whose tokens is read counts as zeros. Imported only once a model is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from monosemy.app.live import LiveModel, steering_scales
from monosemy.app.own_text import read_windows, split_text
from monosemy.app.text_scope import MAX_TOKENS
from monosemy.app.transcript import Transcript, parse_chat, written_chat
from monosemy.errors import UserError
from monosemy.monitors.firings import Firings
from monosemy.saes.base import SparseAutoencoder

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class PooledTexts:
    """n texts, pooled."""

    latents: scipy.sparse.csr_matrix
    """float64 [n, d_sae]"""
    raw_mean: Array
    """float32 [n, d_in]"""
    raw_max: Array
    """float32 [n, d_in]"""


def pool_texts(
    live: LiveModel,
    key: tuple[str, str],
    texts: Sequence[str],
    *,
    pooling: str,
    chat: bool = False,
    advance: Callable[[], object] = lambda: None,
) -> PooledTexts:
    """Reads all texts with the SAE of a site and name. Raises UserError, naming the row, for one that is too long."""
    entry = live.catalogue.sae(*key)
    model, sae = live.model(), live.sae(entry)
    limit, config = steering_scales(entry, sae).outlier_norm, live.catalogue.config
    record = live.catalogue.provenance.get("text", {})
    codes: list[tuple[Array, Array]] = []
    means, peaks = [], []
    for number, text in enumerate(texts, start=1):
        with live.passes():
            transcript = written_chat(model, parse_chat(text)) if chat else Transcript(text)
            _, ids, _, first = split_text(model, transcript.text, record)
            if len(ids) > MAX_TOKENS:
                raise UserError(f"text {number} has {len(ids)} tokens, a probe takes {MAX_TOKENS} of each; cut it")
            firings, mean, peak = _read(model, sae, ids, first, config=config, outlier_norm=limit)
        codes.append(firings.pooled(pooling))
        means.append(mean)
        peaks.append(peak)
        advance()
    offsets = np.cumsum([0, *(len(latents) for latents, _ in codes)])
    columns, values = (np.concatenate(part) for part in zip(*codes, strict=True))
    matrix = scipy.sparse.csr_matrix((values, columns, offsets), shape=(len(texts), entry.d_sae))
    return PooledTexts(matrix, np.stack(means), np.stack(peaks))


def _read(
    model: Any, sae: SparseAutoencoder, ids: list[int], first: int | None, *, config: Any, outlier_norm: float | None
) -> tuple[Firings, Array, Array]:
    """(what fires in a text, mean and maximum of its activations [d_in])."""
    parts, n_read = [], 0
    total, peak = np.zeros(sae.d_in, np.float64), np.full(sae.d_in, -np.inf, np.float32)
    for window in read_windows(model, sae, ids, first, config=config, outlier_norm=outlier_norm):
        if not len(window.token):
            continue
        code = sae.encode(window.rows.to(sae.W_dec.device)).positive()
        token, rows = window.token[code.rows().cpu()], window.rows.cpu().numpy()
        parts.append((token.numpy(), code.indices.cpu().numpy().astype(np.int64), code.values.float().cpu().numpy()))
        n_read += len(rows)
        total += rows.sum(0, dtype=np.float64)
        peak = np.maximum(peak, rows.max(0))
    if not parts:
        nothing = np.zeros(0, np.int64)
        return (
            Firings(nothing, nothing, np.zeros(0, np.float32), 0),
            np.zeros(sae.d_in, np.float32),
            np.zeros(sae.d_in, np.float32),
        )
    position, latent, value = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Firings(position, latent, value, n_read), (total / n_read).astype(np.float32), peak
