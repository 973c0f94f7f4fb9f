"""One call for one's own SAE on one's own tokens: the record that evaluation.json has for it.

Place on the path: beside the pipeline's evaluation stage, which streams validation text instead; both call
`evaluate_reconstruction` and `evaluate_model_loss`. Positions are left out as in training by default: the first of each
sequence, special tokens, and norms beyond six medians; spliced passes keep their true activations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from monosemy.activations.harvest import DropRules, keep_mask, norms
from monosemy.config import ActivationsConfig
from monosemy.errors import UserError
from monosemy.evals.frontier import Candidate, build_record
from monosemy.evals.model_loss import evaluate_model_loss
from monosemy.evals.reconstruction import evaluate_reconstruction

if TYPE_CHECKING:
    from monosemy.models.adapter import LanguageModel
    from monosemy.saes.base import SparseAutoencoder


def evaluate(
    model: LanguageModel,
    sae: SparseAutoencoder,
    tokens: Tensor,
    *,
    site: str | None = None,
    rules: ActivationsConfig | None = None,
    n_bootstrap: int = 1000,
) -> dict[str, Any]:
    """FVU, L0, dead share, Δ loss, loss recovered, KL … of `sae` over `tokens` [sequences, positions].

    `site` defaults to the one the SAE was trained at. Sequences are the blocks of the bootstrap, so intervals need at
    least two. `rules` says which positions are left out. Losses in nats per token. Raises UserError for tokens of
    another shape, a SAE of another width, or when no position is left.
    """
    if tokens.ndim != 2 or tokens.shape[1] < 2:
        raise UserError(f"tokens must be [sequences, positions ≥ 2], got shape {tuple(tokens.shape)}")
    rules = rules or ActivationsConfig()
    where = model.resolve(site or sae.config.site)
    with torch.no_grad():
        x = torch.cat([model.activations(part, [where])[where] for part in tokens.split(rules.batch_sequences)])
    multiple = rules.outlier_multiple
    limit = multiple * float(norms(x[:, rules.drop_first_positions :]).median()) if multiple else float("inf")
    special = frozenset(model.special_token_ids) if rules.drop_special_tokens else frozenset()
    drop = DropRules(rules.drop_first_positions, special, {where: limit})
    keep = keep_mask(tokens.to(x.device), {where: x}, drop).cpu()
    if not bool(keep.any()):
        raise UserError(f"all {tokens.numel()} positions are left out (first, special, outliers); give more text")
    rows = torch.arange(len(tokens))[:, None].expand_as(tokens)
    name = sae.config.architecture
    saes: Mapping[str, Any] = {name: sae}
    batches = ((x[i][keep[i]], rows[i][keep[i]]) for i in range(len(tokens)))
    found = evaluate_reconstruction(saes, batches, site=where, n_bootstrap=n_bootstrap)[name].record
    losses = evaluate_model_loss(model, where, saes, tokens, keep, documents=rows, n_bootstrap=n_bootstrap)
    candidate = Candidate(name, name, where, sae.config.l0, sae.config.seed, control=sae.config.frozen_decoder)
    return build_record(candidate, found, losses.records[name])
