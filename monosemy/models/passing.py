"""What the adapter's hooks do to the values that pass through a layer: hand on, scale back, bring into shape.

Place on the path: inside `adapter.LanguageModel`, between a module of the model and an edit of its site.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def pass_through(resid: Tensor | None, n_extras: int | None) -> Callable[..., Any]:
    """A layer's forward that hands on its input, or `resid` where there is one, before `n_extras` empty values."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        value = resid if resid is not None else kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        return value if n_extras is None else (value, *[None] * n_extras)

    return forward


def unscaled(new: Tensor, value: Tensor, scale: float) -> Tensor:
    """What a module must put out for its contribution to be `new`: new / scale, and to the bit its own `value` where
    the contribution is left as it was. Gradients are those of new / scale."""
    divided = new / scale
    with torch.no_grad():
        correction = torch.where(new == value * scale, value, divided) - divided
    return divided + correction


def as_sequences(value: Tensor, tokens: Tensor) -> Tensor:
    """[B, T, d] from a module that flattens sequences to [B · T, d] (OPT's MLP) or splits heads [B, T, H, d_head]."""
    n_sequences, n_positions = tokens.shape
    return value.reshape(n_sequences, n_positions, -1)
