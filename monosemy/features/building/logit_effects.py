"""The output tokens that a latent raises and lowers most, read off its decoder direction.

Place on the path: SAE, model → [logit effects] → database.

    effect of latent f on token v = (d_f ⊙ γ) · U_v / σ, minus its mean over the vocabulary

d_f is the decoder row, γ the gain of the final norm, U the unembedding, and σ the median size by which the final norm
divides, measured on a few sequences of the text (the root mean square; for a LayerNorm the standard deviation, with d_f
centred). Unit: logits per unit of activation. Subtracting the mean changes no probability.

This is the direct path alone ("logit lens"). What later layers make of the direction is left out, σ is treated as
constant, and a model family's own scaling or capping of logits is ignored. Sites that are not written into the residual
stream (inputs of the MLP, attention heads before their projection) have no direct path (`no_direct_path`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from monosemy.models.adapter import LanguageModel
from monosemy.models.sites import parse_site
from monosemy.shapes import TokenIds

TokenEffects: TypeAlias = tuple[Int64[Tensor, "m n"], Float[Tensor, "m n"]]
"""Tokens of the vocabulary, and what a direction does to their logits."""

_BLOCK = 256
_DIRECT = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


@dataclass(frozen=True)
class OutputMap:
    """The map from the residual stream to the logits: the final norm with a constant σ, then the unembedding."""

    gain: Float[Tensor, " d_model"]
    """γ / σ, float32."""
    centred: bool
    """Whether the norm first subtracts the mean (LayerNorm)."""
    unembedding: Float[Tensor, "vocab d_model"]

    def effects(self, directions: Float[Tensor, "m d_model"]) -> Float[Tensor, "m vocab"]:
        """Effects of directions in the residual stream, minus their mean over the vocabulary; float32."""
        d = directions.float()
        if self.centred:
            d = d - d.mean(dim=1, keepdim=True)
        effects = (d * self.gain) @ self.unembedding.float().T
        return effects - effects.mean(dim=1, keepdim=True)


def no_direct_path(model: LanguageModel, site: str) -> str | None:
    """Why latents at a site have no direct path to the logits; None when they have one."""
    kind = parse_site(model.resolve(site), model.n_layers, post_norms=model.post_norms).kind
    if kind in _DIRECT:
        return None
    return f"{kind} is not written into the residual stream, so its directions have no direct path to the output"


@torch.no_grad()
def output_map(model: LanguageModel, tokens: TokenIds) -> OutputMap | str:
    """The model's final norm with σ measured on the tokens, and its unembedding; or the reason why there is none.

    The final norm is found without knowing the model family: it is the module whose output is the unembedding's input.
    """
    head = model.module.get_output_embeddings()  # type: ignore[operator]
    weight = getattr(head, "weight", None)
    if not isinstance(weight, Tensor) or weight.shape[1] != model.d_model:
        return f"{model.name} has no unembedding of the residual stream's width"
    # address of an output → (the leaf module that made it, its input); the head's input is looked up by its address
    made_by: dict[int, tuple[nn.Module, Tensor]] = {}
    final_norms: list[tuple[nn.Module, Tensor]] = []

    def after(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if inputs and isinstance(output, Tensor) and isinstance(inputs[0], Tensor):
            made_by[output.data_ptr()] = (module, inputs[0])

    def before_head(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        final_norms.extend([made_by[inputs[0].data_ptr()]] if inputs[0].data_ptr() in made_by else [])

    # one pass with hooks on all leaf modules: whichever made the head's input is the final norm
    leaves = [module for module in model.module.modules() if not any(module.children()) and module is not head]
    handles = [leaf.register_forward_hook(after) for leaf in leaves] + [head.register_forward_pre_hook(before_head)]
    try:
        model.logits(tokens, attention_mask=torch.ones_like(tokens))
    finally:
        for handle in handles:
            handle.remove()
    if not final_norms or isinstance(final_norms[0][0], nn.Linear) or final_norms[0][1].shape[-1] != model.d_model:
        return f"{model.name} has no final norm right before its unembedding"
    norm, stream = final_norms[0]
    gain, centred = _gain(norm, model.d_model, stream)
    sizes = _deviation(stream.float(), centred)
    return OutputMap(gain / sizes.median(), centred, weight)


def _deviation(x: Float[Tensor, "*rows d_model"], centred: bool) -> Float[Tensor, "*rows"]:
    """The size σ by which the norm divides each row: root mean square, or standard deviation if it centres."""
    if centred:
        x = x - x.mean(dim=-1, keepdim=True)
    return x.square().mean(dim=-1).sqrt()


def _gain(norm: Callable[[Tensor], Tensor], width: int, like: Tensor) -> tuple[Float[Tensor, " d_model"], bool]:
    """γ and whether the norm centres, found by calling the norm, since families keep γ as w, as 1 + w, or nowhere.

    `like` gives the device and dtype.
    """
    # A probe of alternating signs has mean 0 for even widths. A norm that centres ignores an offset of 50, others
    # don't. Half the difference of norm(x) and norm(−x) cancels the bias.
    signs = torch.where(torch.arange(width, device=like.device) % 2 == 0, 1.0, -1.0).to(like.dtype)
    large = 100 * signs  # far above any epsilon
    centred = bool(torch.allclose(norm(large + 50).float(), norm(large).float(), rtol=1e-2, atol=1e-2))
    unit = large.float() - (large.float().mean() if centred else 0)
    unit = unit / unit.square().mean().sqrt()
    gain = (norm(large) - norm(-large)).float() / 2 / unit
    return gain, centred


@torch.no_grad()
def top_effects(
    outputs: OutputMap, directions: Float[Tensor, "m d_model"], n: int
) -> tuple[TokenEffects, TokenEffects]:
    """(ids, effects) of the n tokens most raised and of those most lowered, strongest first.

    directions are in the residual stream. Blocks of rows bound the memory to `_BLOCK` · V effects.
    """
    n = min(n, len(outputs.unembedding))
    raised, lowered = [], []
    for block in directions.to(outputs.gain.device).split(_BLOCK):
        effects = outputs.effects(block)
        raised.append(effects.topk(n, dim=1))
        lowered.append(effects.topk(n, dim=1, largest=False))

    def joined(parts: list[Any]) -> TokenEffects:
        return torch.cat([p.indices for p in parts]).cpu(), torch.cat([p.values for p in parts]).cpu()

    return joined(raised), joined(lowered)
