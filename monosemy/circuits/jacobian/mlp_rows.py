"""The MLP's inputs and outputs at kept tokens, in memory, for measures and studies that go over them more than once.

Place on the path: harvest or store → [rows] → measures, pairs, graph. 8·d bytes a token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """n kept tokens, in the order of the text; raw units."""

    x: Float[Tensor, "n d"]
    """At layers.N.mlp_in."""
    y: Float[Tensor, "n d"]
    """At layers.N.mlp_out."""
    documents: Int[Tensor, " n"]
    """Number of each token's document (int64)."""
    tokens: Int[Tensor, " n"]
    """Place in the text: sequence · context_length + position (int64, ascending)."""

    def __len__(self) -> int:
        return len(self.x)

    def take(self, part: slice | Int[Tensor, " m"]) -> Rows:
        return Rows(self.x[part], self.y[part], self.documents[part], self.tokens[part])

    def chunks(self, n: int = 1024) -> Iterator[Rows]:
        """Parts of n rows, in order."""
        for start in range(0, len(self), n):
            yield self.take(slice(start, start + n))
