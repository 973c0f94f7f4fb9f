"""Replaces activations by their reconstruction, or by zeros, within a pass of the model; and checks that it does.

Place on the data's path: dictionary → [an edit of a site] → the model's pass, whose loss `model_loss.py` measures.

Positions dropped from training (first position, special tokens, norm outliers) keep their true activation in *every*
splice, the one with zeros included: SAEs are not trained on them, and damage there would drown everything else.

`check_splice`: an identity dictionary must leave every logit bit-identical (Δloss exactly 0), and zeros must change at
least one; otherwise the model is not edited where it should be.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.errors import UserError
from monosemy.evals.reconstruction import Dictionary, require_finite
from monosemy.models.padding import text_positions
from monosemy.shapes import PositionMask, SiteActivations, TextMask, TokenIds
from monosemy.support.numbers import rounded_text

Edit = Callable[[Tensor], Tensor]
_CHECKED_TOKENS = 64  # how much of a sequence `check_splice` reads, unless nothing there is kept


@runtime_checkable
class Model(Protocol):
    """A language model, as far as it is needed here (implemented by `models.adapter.LanguageModel`)."""

    def site_width(self, site: str, /) -> int: ...

    def prefix(
        self, tokens: TokenIds, site: str, /, *, attention_mask: TextMask | None = None, start: Any = None
    ) -> Any: ...

    def logits(
        self, tokens: TokenIds, edits: Mapping[str, Edit] | None = None, start: Any = None
    ) -> Float[Tensor, "batch position vocab"]: ...


def splice(
    dictionary: Dictionary | None,
    keep: PositionMask | None = None,
    *,
    name: str = "",
    site: str = "",
) -> Splice:
    """Makes the edit that replaces activations at kept positions by their reconstruction, or by zeros (None).

    Without `keep`, all positions are kept except the first token of each sequence, whose massive activation no SAE is
    trained on. In padded sequences the model's `attention_mask` says which token is the first; padding is not edited.

    Rows are read in float32 and written back in the model's own dtype. The edit raises UserError, naming the SAE, when
    a reconstruction is not finite, and when the shape of `keep` is not that of the tokens.
    """
    return Splice(dictionary, keep, name, site)


@dataclass(frozen=True)
class Splice:
    """The edit that `splice` makes: a function from the activations of a site [B, T, d] to those that replace them."""

    dictionary: Dictionary | None
    keep: PositionMask | None
    name: str
    site: str
    source: SiteActivations | None = None
    """A transcoder's input, at all positions; None for a dictionary that reads the site itself."""

    def with_mask(self, mask: PositionMask) -> Splice:
        """The same edit for padded sequences, given where their text is (True)."""
        keep = text_positions(mask) > 0 if self.keep is None else self.keep.to(mask.device) & mask
        return replace(self, keep=keep)

    def __call__(self, x_BTD: Float[Tensor, "batch position d"]) -> Float[Tensor, "batch position d"]:
        if self.keep is None:
            at = torch.ones(x_BTD.shape[:2], dtype=torch.bool, device=x_BTD.device)
            at[:, 0] = False
        else:
            at = self.keep.to(x_BTD.device)
        if at.shape != x_BTD.shape[:2]:
            raise UserError(f"keep has shape {list(at.shape)}, but the tokens {list(x_BTD.shape[:2])}; they must match")
        spliced = x_BTD.clone()
        rows = x_BTD[at]
        # Without rows there is nothing to encode, and writing zeros to no place changes nothing.
        if self.dictionary is None or not len(rows):
            spliced[at] = 0
        else:
            read = rows if self.source is None else self.source.to(at.device)[at]
            home = _device_of(self.dictionary, rows)
            x_hat = self.dictionary.decode(self.dictionary.encode(read.to(home, torch.float32)))
            spliced[at] = require_finite(self.name, x_hat, self.site).to(x_BTD.device, x_BTD.dtype)
        return spliced


def _device_of(dictionary: Dictionary, rows: Tensor) -> torch.device:
    """Where a dictionary computes: on the device of its tensors, or on that of the rows if it has none."""
    if not isinstance(dictionary, torch.nn.Module):
        return rows.device
    tensors = itertools.chain(dictionary.parameters(), dictionary.buffers())
    return next((tensor.device for tensor in tensors), rows.device)


class IdentityDictionary:
    """A dictionary that loses nothing: `encode` and `decode` return their argument (its code is the activation)."""

    def __init__(self, d_in: int):
        self.d_in = self.d_sae = d_in

    def encode(self, x: Float[Tensor, "n d"]) -> Any:
        return x

    def decode(self, latents: Any) -> Float[Tensor, "n d"]:
        return latents


def check_splice(
    model: Model,
    site: str,
    tokens: TokenIds,
    keep: PositionMask,
    *,
    attention_mask: TextMask | None = None,
) -> float:
    """Checks on the start of the first sequence with a kept position that splicing reaches the model and changes
    nothing else.

    Returns the largest change of a logit by an identity dictionary, which is always exactly 0.0. Raises RuntimeError
    when splicing the activation itself changes a logit, or when splicing zeros changes none. Either is a fault of the
    adapter, not of the user.
    """
    # argmax gives the first of several maxima.
    row = int(keep.any(dim=1).to(torch.int64).argmax())
    length = max(_CHECKED_TOKENS, int(keep[row].to(torch.int64).argmax()) + 1)
    checked = slice(row, row + 1), slice(length)
    tokens, keep = tokens[checked], keep[checked]
    start = model.prefix(tokens, site, attention_mask=None if attention_mask is None else attention_mask[checked])
    clean = model.logits(tokens, start=start)
    identity = splice(IdentityDictionary(model.site_width(site)), keep, name="identity", site=site)
    spliced = model.logits(tokens, edits={site: identity}, start=start)
    if not torch.equal(clean, spliced):
        difference = float((clean - spliced).abs().max())
        raise RuntimeError(
            f"splice check at {site}: an identity dictionary changed the logits by up to {rounded_text(difference)}"
        )
    if bool(keep.any()) and torch.equal(clean, model.logits(tokens, edits={site: splice(None, keep)}, start=start)):
        raise RuntimeError(
            f"splice check at {site}: zeros at the site changed no logit, so edits do not reach the model"
        )
    return float((spliced - clean).abs().max())
