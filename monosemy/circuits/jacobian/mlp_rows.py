"""The MLP's inputs and outputs at kept tokens, held in memory for measures and studies that pass over them repeatedly.

Place on the path: harvest or store → [rows] → measures, pairs, graph. Memory: 8·d bytes per token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """n kept tokens in the order of the text; activations in raw units."""

    x: Float[Tensor, "n d"]
    """Activations at layers.N.mlp_in."""
    y: Float[Tensor, "n d"]
    """Activations at layers.N.mlp_out."""
    documents: Int[Tensor, " n"]
    """The number of each token's document (int64)."""
    tokens: Int[Tensor, " n"]
    """Each token's place in the text: sequence · context_length + position (int64, ascending)."""

    def __len__(self) -> int:
        return len(self.x)

    def take(self, part: slice | Int[Tensor, " m"]) -> Rows:
        """The rows of a slice, or of a tensor of indices."""
        return Rows(self.x[part], self.y[part], self.documents[part], self.tokens[part])

    def chunks(self, n: int = 1024) -> Iterator[Rows]:
        """Parts of n rows in order; the last one may be shorter."""
        for start in range(0, len(self), n):
            yield self.take(slice(start, start + n))
