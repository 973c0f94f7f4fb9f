"""Helpers of the adapter's hooks for the values that pass through a layer: skip the layer, undo a scale, reshape.

Place on the path: inside `adapter.LanguageModel`, between a module of the model and an edit of its site.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.shapes import SiteActivations, TokenIds


def pass_through(resid: Float[Tensor, "batch position d_model"] | None, n_extras: int | None) -> Callable[..., Any]:
    """A forward method for a skipped layer: it returns its input, or `resid` if given.

    `n_extras` is how many None values follow in a tuple; None returns the tensor alone.
    """

    def forward(*args: Any, **kwargs: Any) -> Any:
        value = resid if resid is not None else kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        return value if n_extras is None else (value, *[None] * n_extras)

    return forward


def unscaled(new: Float[Tensor, "*shape"], value: Float[Tensor, "*shape"], scale: float) -> Float[Tensor, "*shape"]:
    """The output that a module must give so that its contribution, scaled by `scale`, is `new`.

    It is new / scale, and bit for bit the module's own `value` where the edit left the contribution unchanged.
    Gradient: that of new / scale.
    """
    # Dividing by the scale does not undo multiplying by it to the last bit. The correction is a constant for autograd.
    divided = new / scale
    with torch.no_grad():
        correction = torch.where(new == value * scale, value, divided) - divided
    return divided + correction


def as_sequences(value: Float[Tensor, " ..."], tokens: TokenIds) -> SiteActivations:
    """Reshapes to [B, T, d]: some modules flatten sequences to [B · T, d] (OPT's MLP) or split [B, T, H, d_head]."""
    n_sequences, n_positions = tokens.shape
    return value.reshape(n_sequences, n_positions, -1)
