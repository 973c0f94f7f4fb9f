"""Finds the attention heads of a layer: the output projection, its matrix, and the number of heads.

Place on the path: transformers' modules → [heads] → the `attn_heads` site and W_O by head (`adapter.py`).

The number of heads is read off each layer's attention module. The configuration may describe another stack (the
encoder's, in BART's family), or give one number where layers differ (linear beside full attention, heads of two
widths).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from interp_engine import EagerModel

PROJECTIONS = ("o_proj", "out_proj", "c_proj", "dense", "wo")
COUNTS = ("num_heads", "n_heads", "num_attention_heads", "n_head", "num_v_heads")
WIDTHS = ("v_head_dim", "head_dim")


def find_projection(attention: nn.Module) -> nn.Module | None:
    """The output projection of an attention module that has it one module deeper (GPT-Neo); None if ambiguous."""
    named = [
        projection
        for inner in attention.children()
        for name in PROJECTIONS
        if isinstance(projection := getattr(inner, name, None), nn.Module)
    ]
    return named[0] if len(named) == 1 else None


def projection_width(projection: nn.Module) -> int | None:
    """The width of the vectors that a projection takes; None where it does not say."""
    if isinstance(width := getattr(projection, "in_features", None), int):
        return width
    if isinstance(weight := getattr(projection, "weight", None), Tensor):
        return weight.shape[0] if weight.ndim == 2 else None
    inner = list(projection.children())
    return projection_width(inner[0]) if len(inner) == 1 else None


def projection_matrix(projection: nn.Module) -> Float[Tensor, "d_in d_out"] | None:
    """The weights of a projection as a view [d_in, d_out]; None where it has no such matrix.

    GPT-2's Conv1D has weights [d_in, d_out], all others [d_out, d_in]; some wrap the linear map in another module.
    """
    weight = getattr(projection, "weight", None)
    if weight is None and len(inner := list(projection.children())) == 1:
        return projection_matrix(inner[0])
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        return None
    if (n_in := getattr(projection, "in_features", None)) is None:
        return weight
    return weight.T if weight.shape[1] == n_in else None


def layer_heads(engine: EagerModel, layer: int, width: int) -> int:
    """The number of heads of a layer, whose concatenated outputs have `width` values."""
    # In order of preference: a count on the attention module, a width of a head there, the configured count. Each must
    # divide `width`.
    attention = engine.arch.attn_module(layer)
    places = [attention, *attention.children()]
    for place in places:
        counts = [count for name in COUNTS if isinstance(count := getattr(place, name, None), int) and count > 0]
        if counts and width % counts[0] == 0:
            return counts[0]
    for place in places:
        widths = [size for name in WIDTHS if isinstance(size := getattr(place, name, None), int) and size > 0]
        if widths and width % widths[0] == 0:
            return width // widths[0]
    return int(engine.n_heads)
