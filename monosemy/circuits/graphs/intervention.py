"""The next token's probabilities of the real model while latents of a prompt are ablated or scaled.

Place on the path: transcoders, a prompt, edits → [the real model with them] → the page's table of probabilities.

    y_t ← y_t + Σ_i (factor_i − 1) a_i W_dec[i]      at the MLP output of each edited layer and position t

a_i is the activation on the prompt as it was, so that a factor of 0 takes out just what the latent wrote there, and
several edits add up; what edits of lower layers change in the activations of higher ones is left to the model.
Attention either answers or keeps the patterns that it has on the prompt. Before and after come from the same pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosemy.circuits.graphs.frozen_attention import observed
from monosemy.circuits.graphs.transcoders import Transcoder
from monosemy.errors import UserError
from monosemy.models.adapter import LanguageModel


@dataclass(frozen=True)
class LatentEdit:
    """A latent at a position, its activation on the prompt, and what that is multiplied by."""

    layer: int
    position: int
    latent: int
    activation: float
    factor: float


@dataclass(frozen=True)
class Intervention:
    """The next token's logits without and with the edits."""

    before: Float[Tensor, " vocab"]
    after: Float[Tensor, " vocab"]


@torch.no_grad()
def intervene(
    model: LanguageModel,
    transcoders: Mapping[int, Transcoder],
    tokens: Int[Tensor, " position"],
    edits: Sequence[LatentEdit],
    *,
    frozen: bool = False,
) -> Intervention:
    """Runs the model on the prompt with and without the edits; `frozen` holds the attention patterns.

    Raises UserError for an edit of a layer without a transcoder, a position outside the prompt, and an unknown latent.
    """
    rows = tokens.expand(2, -1).to(model.device)
    changes: dict[str, Tensor] = {}
    for edit in edits:
        transcoder = _checked(transcoders, edit, len(tokens))
        site = f"layers.{edit.layer}.{transcoder.gives}"
        if site not in changes:
            changes[site] = torch.zeros(*rows.shape, model.d_model, dtype=model.dtype, device=model.device)
        latent = torch.tensor([edit.latent], device=transcoder.weights.W_dec.device)
        write = transcoder.weights.decoders(latent)[0] * (edit.factor - 1) * edit.activation
        # Only the first row is edited; the second is the prompt itself.
        changes[site][0, edit.position] += write.to(changes[site])
    adders = {site: lambda y, change=change: y + change for site, change in changes.items()}
    if frozen:
        with observed(model) as observer:
            model.logits(rows[:1], last_only=True)
        with observed(model, [call.pattern for call in observer.calls]):
            logits = model.logits(rows, adders, last_only=True)
    else:
        logits = model.logits(rows, adders, last_only=True)
    after, before = logits[:, -1].float().cpu()
    return Intervention(before, after)


def _checked(transcoders: Mapping[int, Transcoder], edit: LatentEdit, n_tokens: int) -> Transcoder:
    transcoder = transcoders.get(edit.layer)
    if transcoder is None:
        raise UserError(
            f"layer {edit.layer} has no transcoder to edit; layers with one: {', '.join(map(str, transcoders))}"
        )
    if not 0 <= edit.position < n_tokens:
        raise UserError(f"position {edit.position} lies outside the prompt, which has positions 0 to {n_tokens - 1}")
    n_latents = len(transcoder.weights.W_dec)
    if not 0 <= edit.latent < n_latents:
        raise UserError(f"latent {edit.latent} is out of range: layer {edit.layer} has latents 0 to {n_latents - 1}")
    return transcoder
