"""Encodes the user's own text with an SAE, token by token. Imported only once a model is needed, since it needs torch.

Place on the path: text → tokens → activations at the site → sparse code → [top latents and traces] → page.

A text is read as documents are in training: after the text separator and without a chat template. Positions of the
kinds that training drops are shown without activations: the first one, special tokens, and outliers. An outlier has a
norm above the run's limit, as in steering (steering/edits.py). If no norm of the site is known, the limit is the run's
outlier multiple times the median norm of this text's other positions.
Limits: at most `MAX_TOKENS` tokens, or the model's positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from monosemy.config import RunConfig
from monosemy.errors import UserError
from monosemy.models.adapter import LanguageModel
from monosemy.saes.base import SparseAutoencoder

MAX_TOKENS = 1_024
"""The largest number of tokens that are read; those beyond are only counted."""
SUMMARY = 200
"""The largest number of latents listed for the whole text."""


def encode_text(
    model: LanguageModel,
    sae: SparseAutoencoder,
    text: str,
    config: RunConfig,
    *,
    provenance: Mapping[str, Any],
    top: int,
    latent: int | None,
    outlier_norm: float | None = None,
) -> dict[str, Any]:
    """The active latents of every token of a text (`schema.TextResult` without labels).

    `top` is the number of latents listed per token, `latent` the one whose activations make up the trace.
    Raises UserError for a text without tokens.
    """
    pieces, ids, n_dropped = split_text(model, text, provenance.get("text", {}))
    tokens = torch.tensor([ids])
    rows = model.activations(tokens, [sae.config.site])[model.resolve(sae.config.site)][0].float()
    keep = kept_rows(rows, ids, model, config, outlier_norm=outlier_norm)
    code = sae.encode(rows[keep].to(sae.W_dec.device))
    positions = keep.nonzero()[:, 0].tolist()
    tops: list[list[dict[str, Any]]] = [[] for _ in ids]
    trace = [0.0] * len(ids)
    best: dict[int, list[float]] = {}  # latent → its largest value, where that is, number of tokens it fires on
    l0 = [0] * len(ids)
    for row, position in enumerate(positions):
        indices, values = (part.tolist() for part in code.row(row))
        active = [(i, v) for i, v in zip(indices, values, strict=True) if v > 0]
        l0[position] = len(active)
        tops[position] = [{"latent": i, "value": v} for i, v in active[:top]]
        for i, v in active:
            summary = best.setdefault(i, [0.0, position, 0])
            summary[2] += 1
            if v > summary[0]:
                summary[0], summary[1] = v, position
            if i == latent:
                trace[position] = v
    # by largest value; of equal values the lower latent first
    ranked = sorted(best.items(), key=lambda item: (-item[1][0], item[0]))[:SUMMARY]
    return {
        "tokens": pieces,
        "special": [i for i, token in enumerate(ids) if token in model.special_token_ids],
        "top": tops,
        "summary": [{"latent": i, "value": v, "peak": p, "n_tokens": n} for i, (v, p, n) in ranked],
        "trace": trace if latent is not None else None,
        "l0": l0,
        "n_dropped": n_dropped,
    }


def split_text(model: LanguageModel, text: str, record: Mapping[str, Any]) -> tuple[list[str], list[int], int]:
    """(pieces, ids) of the tokens, the separator first, and the number of tokens left out at the end.

    A character split over several tokens is the piece of the first of them; the others have "".
    """
    # offsets of such tokens all span the whole character: only the first goes beyond the text shown so far
    tokenizer = model.tokenizer_for("a text of your own")
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, pieces, end = list(encoded["input_ids"]), [], 0
    for start, stop in encoded["offset_mapping"]:
        pieces.append(text[end:stop] if stop > end else "")
        end = max(end, stop, start)
    if not ids:
        raise UserError("this text has no tokens; write a few words")
    first = record.get("bos_token")
    first = record.get("separator_token") if first is None else first
    if first is not None:
        ids, pieces = [int(first), *ids], [tokenizer.decode([int(first)]), *pieces]
    most = min(MAX_TOKENS, model.max_positions)
    return pieces[:most], ids[:most], max(0, len(ids) - most)


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
