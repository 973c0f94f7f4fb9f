"""Handles padded batches, so that a model computes for each padded row the same as for the row alone.

Place on the path: tokens [B, T] and attention_mask [B, T] → [real tokens to the front] → the model → [back again].

Every model here is causal (`checks.py` verifies it on load), so tokens after a row's text cannot influence it, and text
that begins at column 0 has the same positions as on its own. Padding on either side is therefore moved behind the text
for the pass, and the results are moved back. This is exact up to rounding for absolute, rotary and ALiBi positions,
sliding windows and recurrent states alike, and needs no mask that a model would have to understand.

Limits: with gaps in the mask, the row's real tokens are read as one text without the gaps. Texts that grow need their
ends in the same column, and are padded on the left instead (generation.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from monosemy.errors import UserError
from monosemy.shapes import SiteActivations

Edit = Callable[[SiteActivations], SiteActivations]
"""A function from a site's activation [B, T, d] to its replacement of the same shape, which may have another dtype. An
edit that needs to know which positions are padding has a method `with_mask(mask) -> Edit`, with mask bool [B, T]."""


@dataclass(frozen=True)
class Padding:
    """Which columns of a batch are text, and the order in which the model reads them."""

    mask: Bool[Tensor, "batch position"]
    """True at text, in the caller's order."""
    order: Int[Tensor, "batch position"]
    """For each column in the model's order, where text comes first, the column in the caller's order."""

    @classmethod
    def of(cls, mask: Bool[Tensor, "batch position"]) -> Padding:
        """The padding that a mask describes, True at text."""
        # A stable sort keeps the order of the text's tokens.
        return cls(mask, (~mask).to(torch.int8).argsort(dim=1, stable=True))

    @property
    def is_text(self) -> Bool[Tensor, "batch position"]:
        """The mask in the model's order."""
        return self.mask.gather(1, self.order)

    @property
    def lengths(self) -> Int[Tensor, " batch"]:
        """The number of real tokens of each row."""
        return self.mask.sum(1)

    def text_first(self, values: Shaped[Tensor, "batch position *rest"]) -> Shaped[Tensor, "batch position *rest"]:
        """Reorders values from the caller's order into the model's."""
        return values.gather(1, _expanded(self.order, values))

    def as_given(self, values: Shaped[Tensor, "batch position *rest"]) -> Shaped[Tensor, "batch position *rest"]:
        """Reorders values from the model's order into the caller's, with zeros at padding."""
        # `scatter` by the same order undoes `gather`.
        returned = torch.zeros_like(values).scatter(1, _expanded(self.order, values), values)
        return torch.where(_expanded(self.mask, values), returned, 0)

    def last(self, values: Shaped[Tensor, "batch position *rest"]) -> Shaped[Tensor, "batch 1 *rest"]:
        """The values of each row's last token, from values in the model's order."""
        return values[torch.arange(len(values), device=values.device), self.lengths - 1].unsqueeze(1)

    def edit(self, edit: Edit) -> Edit:
        """Turns an edit for the caller's order into one for the model's.

        Activations at padding stay as they are: a NaN there would reach the text through attention (0 · NaN).
        """
        edit = edit.with_mask(self.mask) if hasattr(edit, "with_mask") else edit

        def replace(value: Tensor) -> Tensor:
            new = edit(self.as_given(value))
            if new.shape != value.shape:
                return new  # for the caller to refuse
            return torch.where(_expanded(self.is_text, value), self.text_first(new).to(value.dtype), value)

        return replace


def text_positions(mask: Bool[Tensor, "batch position"]) -> Int[Tensor, "batch position"]:
    """The number of each token in its own text, counted from 0; −1 at padding."""
    return torch.where(mask, mask.to(torch.int64).cumsum(1) - 1, -1)


def read_mask(attention_mask: Any, tokens: Int[Tensor, "batch position"]) -> Bool[Tensor, "batch position"]:
    """The mask as booleans on the device of the tokens.

    Raises UserError for a shape other than the tokens', values other than 0 and 1, and a row without text.
    """
    try:
        mask = torch.as_tensor(attention_mask)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"attention_mask must be [B, T] of 1 and 0, got {type(attention_mask).__name__}") from None
    if mask.shape != tokens.shape:
        raise UserError(f"attention_mask has shape {list(mask.shape)} and tokens {list(tokens.shape)}; they must match")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise UserError("attention_mask must hold 1 at text and 0 at padding, and nothing else")
    mask = mask.to(tokens.device, torch.bool)
    if not bool(mask.any(1).all()):
        row = int((~mask.any(1)).nonzero()[0])
        raise UserError(f"row {row} of attention_mask is all padding; leave that row out")
    return mask


def read_tokens(tokens: Any) -> Int[Tensor, "batch position"]:
    """The tokens as a tensor, from a tensor, an array or lists. Raises UserError for anything but integers [B, T]."""
    if isinstance(tokens, Mapping):
        raise UserError(
            "tokens must be integers of shape [B, T], got a mapping; give its input_ids (and attention_mask)"
        )
    try:
        tokens = torch.as_tensor(tokens)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(
            f"tokens must be integers of shape [B, T], got a {type(tokens).__name__} that is no such table; give "
            "rows of one length (pad them and pass attention_mask)"
        ) from None
    if tokens.ndim != 2 or tokens.is_floating_point() or tokens.dtype == torch.bool or tokens.numel() == 0:
        fix = "; give a single row as tokens[None]" if tokens.ndim == 1 and tokens.numel() else ""
        raise UserError(f"tokens must be integers of shape [B, T], got {tokens.dtype} {list(tokens.shape)}{fix}")
    return tokens


def check_unpadded(tokens: Int[Tensor, "batch position"], names: Any) -> None:
    """Raises UserError if tokens without a mask are padded nevertheless.

    `names` (a tokenizer or a model's configuration) names the padding token. If that token has no other use, it is
    padding at either end of a row. If texts contain it too, such as GPT-2's end of text, a single one may be meant, and
    several in a row give a warning.
    """
    pad = getattr(names, "pad_token_id", None)
    if not isinstance(pad, int):
        return
    # The padding token is ambiguous if it is also BOS, EOS or UNK, as in GPT-2.
    is_pad = tokens == pad
    text_tokens = [getattr(names, f"{kind}_token_id", None) for kind in ("bos", "eos", "unk")]
    if not any(pad in token if isinstance(token, list) else pad == token for token in text_tokens):
        n_padded = int((is_pad[:, 0] | is_pad[:, -1]).sum())
        if n_padded:
            raise UserError(
                f"{n_padded} of {len(tokens)} rows begin or end with the padding token {pad}, and no attention_mask "
                "says what is padding; pass attention_mask=… (tokenizers return it; all ones to have it read as text)"
            )
    elif len(tokens) > 1 and tokens.shape[1] > 2 and bool((is_pad[:, :2].all(1) | is_pad[:, -2:].all(1)).any()):
        warnings.warn(
            f"rows begin or end with several of token {pad}, which pads, and are read as text; if they are padded, "
            "pass attention_mask=… (tokenizers return it; all ones silence this)",
            stacklevel=4,
        )


def _expanded(columns: Tensor, values: Tensor) -> Tensor:
    """`columns` [B, T], expanded along the further dimensions of `values` [B, T, …]."""
    return columns.reshape(*columns.shape, *[1] * (values.ndim - 2)).expand(values.shape)
