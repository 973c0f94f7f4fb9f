"""Evaluates one SAE on given tokens in one call; the result is a record like those of evaluation.json.

Place on the path: beside the pipeline's evaluation stage, which streams validation text instead. Both use the same
measurements of reconstruction and model loss. By default positions are dropped as in training: the first of each
sequence, special tokens, and norms beyond six medians; in spliced passes they keep their true activations. Padding does
not count as positions at all: it is not encoded, not predicted and not attended to.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monosemy.activations.harvest import DropRules, keep_mask, norms, read_packed
from monosemy.config import ActivationsConfig
from monosemy.errors import UserError
from monosemy.evals.frontier import Candidate, build_record
from monosemy.evals.model_loss import evaluate_model_loss
from monosemy.evals.reconstruction import ReconstructionMeter, check_width
from monosemy.models.padding import Padding, check_unpadded, read_mask, read_tokens
from monosemy.shapes import TextMask, TokenIds

if TYPE_CHECKING:
    from monosemy.models.adapter import LanguageModel
    from monosemy.saes.base import SparseAutoencoder


def evaluate(
    model: LanguageModel,
    sae: SparseAutoencoder,
    tokens: TokenIds,
    *,
    attention_mask: TextMask | None = None,
    site: str | None = None,
    rules: ActivationsConfig | None = None,
    n_bootstrap: int = 1000,
) -> dict[str, Any]:
    """Measures FVU, L0, dead share, Δ loss, loss recovered, KL and more for `sae` over `tokens` [sequences, positions].

    `attention_mask` marks text (1) and padding (0) in padded sequences, on either side; the results are those of the
    sequences without padding. `site` defaults to the one the SAE was trained at. A transcoder is measured by what it
    gives for the site of its output. `rules` says which positions are dropped. Losses are in nats per token. The
    bootstrap resamples sequences; identical sequences count as one, so `n_documents` of the `n_sequences` are distinct.
    Intervals are None if there is only one.
    Raises UserError for a transcoder that does not say the site of its output, tokens of another shape, padding without
    a mask, an SAE whose width is not the site's, and when no position is left.
    """
    tokens = read_tokens(tokens).cpu().long()
    if tokens.shape[1] < 2:
        raise UserError(f"tokens must be [sequences, positions ≥ 2], got shape {tuple(tokens.shape)}")
    rules = rules or ActivationsConfig()
    name, source = sae.config.architecture, sae.source_site
    if sae.config.transforms.transcoder and source is None:
        raise UserError(
            "this transcoder does not say which site its output stands for; set config.site and config.site_out"
        )
    where = model.resolve(site or (sae.config.site if source is None else sae.config.site_out))
    sites = [where] if source is None else [where, model.resolve(source)]
    check_width(name, sae, sites[-1], model.site_width(sites[-1]))
    _warn_of_another_model(sae, model)
    if attention_mask is None:
        check_unpadded(tokens, model.padding_names)
        text = torch.ones_like(tokens, dtype=torch.bool)
    else:
        padding = Padding.of(read_mask(attention_mask, tokens))
        text = padding.is_text
        tokens = padding.text_first(tokens).masked_fill(~text, 0)
    with torch.no_grad():
        # Text was moved to the front, and a causal model never attends to what follows: padding needs no mask here.
        parts = tokens.split(rules.batch_sequences)
        read = [read_packed(model, part, sites) for part in parts]
        rows = {site: torch.cat([part[site] for part in read]) for site in sites}
    x = rows[where]
    keep = _kept(model, where, x, tokens, text=text, rules=rules)
    sequences = _distinct(tokens.masked_fill(~text, -1))[:, None].expand_as(tokens)
    saes: Mapping[str, Any] = {name: sae}
    meter = ReconstructionMeter(saes, where)
    for i in range(len(tokens)):
        sources = {} if source is None else {source: rows[sites[-1]][i][keep[i]]}
        meter.add(x[i][keep[i]], sequences[i][keep[i]], sources)
    reconstruction = meter.finish(n_bootstrap)[name].record
    losses = evaluate_model_loss(
        model, where, saes, tokens, keep=keep, attention_mask=text, documents=sequences, n_bootstrap=n_bootstrap
    )
    candidate = Candidate(
        name, name, where, sae.config.l0 or None, seed=sae.config.seed, control=sae.config.frozen_decoder
    )
    return {**build_record(candidate, reconstruction, losses.records[name]), "n_sequences": len(tokens)}


def _kept(
    model: LanguageModel,
    site: str,
    x: Float[Tensor, "batch position d_in"],
    tokens: Int[Tensor, "batch position"],
    *,
    text: Bool[Tensor, "batch position"],
    rules: ActivationsConfig,
) -> Bool[Tensor, "batch position"]:
    """The positions that are evaluated, bool [B, T] on the CPU. Raises UserError when none is left."""
    # As in training, the limit is a multiple of the median norm, but that of these tokens. Unlike in training, special
    # tokens count towards the median.
    multiple = rules.outlier_multiple
    limit = float("inf")
    if multiple and bool(text[:, rules.drop_first_positions :].any()):
        ordinary = text.to(x.device)[:, rules.drop_first_positions :]
        limit = multiple * float(norms(x[:, rules.drop_first_positions :])[ordinary].median())
    special = frozenset(model.special_token_ids) if rules.drop_special_tokens else frozenset()
    drop = DropRules(rules.drop_first_positions, special, {site: limit})
    keep = keep_mask(tokens.to(x.device), {site: x}, drop).cpu() & text
    if not bool(keep.any()):
        raise UserError(f"all {int(text.sum())} positions are left out (first, special, outliers); give more text")
    return keep


def _distinct(sequences: Int[Tensor, "batch position"]) -> Int[Tensor, " batch"]:
    """A number for every sequence, equal for identical ones; warns once if there are any."""
    numbers = torch.unique(sequences, dim=0, return_inverse=True)[1]
    n_distinct = int(numbers.max()) + 1
    if n_distinct < len(sequences):
        warnings.warn(
            f"{len(sequences) - n_distinct} of {len(sequences)} sequences are copies of others; intervals count each "
            f"text once ({n_distinct} differ)",
            stacklevel=3,
        )
    return numbers


def _warn_of_another_model(sae: SparseAutoencoder, model: LanguageModel) -> None:
    """Warns if the SAE was trained on a model of another name; only the last part of a path counts."""
    trained_on = sae.config.model
    if trained_on and PurePath(trained_on).name != PurePath(model.name).name:
        warnings.warn(
            f"this SAE was trained on {trained_on} and is evaluated on {model.name}; its numbers there say little",
            stacklevel=3,
        )
