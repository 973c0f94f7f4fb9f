"""Dimension legend and array-type aliases.

Suffix letters inside bodies, one per dimension:
  N token rows   T positions of a sequence   B sequences   D d_in   F latents (d_sae)
  K active latents of a row   Z non-zeros of a sparse code   H heads   V vocabulary
"""

from __future__ import annotations

from typing import TypeAlias

from jaxtyping import Float, Int
from torch import Tensor

Activations: TypeAlias = Float[Tensor, "n d_in"]
PreActs: TypeAlias = Float[Tensor, "n d_sae"]
EncoderMatrix: TypeAlias = Float[Tensor, "d_in d_sae"]
DecoderMatrix: TypeAlias = Float[Tensor, "d_sae d_in"]
PerLatent: TypeAlias = Float[Tensor, " d_sae"]
PerInput: TypeAlias = Float[Tensor, " d_in"]
PerToken: TypeAlias = Float[Tensor, " n"]
TokenIds: TypeAlias = Int[Tensor, "batch position"]
