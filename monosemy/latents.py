"""SparseLatents: the code of a batch, kept sparse from the encoder to the feature database.

It is stored as compressed rows: the active latents of row n are `indices[offsets[n]:offsets[n+1]]`, with the
activations `values[offsets[n]:offsets[n+1]]`. `values` may carry a gradient; the pattern never does. Entries may have
the value zero, for example a latent inside JumpReLU's kernel window; statistics count positive values only.

Limits: rows are not guaranteed to be sorted by latent index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosemy.shapes import EntryNumbers, LatentCounts, PerEntry, PreActs, TokenCounts
from monosemy.support.notebook import facts_html, facts_line
from monosemy.support.numbers import count_text, rounded_text


@dataclass(frozen=True)
class Frame:
    """What an SAE took from each input row before it encoded it, and puts back after decoding: scale · x̂ + offset.

    scale: [N, 1]. offset: [N, 1], the same for all components, or [N, d_out].
    """

    scale: Float[Tensor, "n 1"]
    offset: Float[Tensor, "n _"]


@dataclass(frozen=True)
class SparseLatents:
    """The code of N token rows over d_sae latents, as compressed rows.

    Fields: offsets int64 [N+1], indices int32 [Z], values float [Z] (which carry the gradient), d_sae; frame, only for
    an SAE that treats every row in its own way (saes/transformed.py).
    """

    offsets: Int[Tensor, " n_plus_one"]
    indices: EntryNumbers
    values: PerEntry
    d_sae: int
    frame: Frame | None = None

    def _facts(self) -> dict[str, str]:
        shape = {"rows": count_text(self.n_tokens), "d_sae": count_text(self.d_sae)}
        return {**shape, "L0": rounded_text(self.l0), "entries": count_text(self.n_entries)}

    def __repr__(self) -> str:
        return facts_line("SparseLatents", self._facts())

    def _repr_html_(self) -> str:
        return facts_html("SparseLatents", self._facts())

    @classmethod
    def from_dense(cls, dense: PreActs) -> SparseLatents:
        """The code with the non-zero entries of a dense code [N, F]. Gradient: flows through the values."""
        rows, columns = dense.detach().nonzero(as_tuple=True)
        counts = torch.bincount(rows, minlength=dense.shape[0])
        offsets = torch.zeros(dense.shape[0] + 1, dtype=torch.int64, device=dense.device)
        torch.cumsum(counts, 0, out=offsets[1:])
        return cls(offsets, columns.to(torch.int32), dense[rows, columns], dense.shape[1])

    @classmethod
    def concatenate(cls, parts: Sequence[SparseLatents]) -> SparseLatents:
        """Joins the codes of consecutive parts of a batch: at least one part, all with the same d_sae."""
        # Each part's offsets are shifted by the number of entries before it. `shifts` has one more than needed, the
        # total, hence no strict zip.
        ends = [part.offsets[1:] for part in parts]
        shifts = accumulate((part.n_entries for part in parts), initial=0)
        offsets = torch.cat([parts[0].offsets[:1], *(end + shift for end, shift in zip(ends, shifts, strict=False))])
        indices, values = (torch.cat([getattr(part, name) for part in parts]) for name in ("indices", "values"))
        frames = [part.frame for part in parts if part.frame is not None]
        frame = (
            Frame(*(torch.cat([getattr(f, name) for f in frames]) for name in ("scale", "offset"))) if frames else None
        )
        return cls(offsets, indices, values, parts[0].d_sae, frame=frame)

    @property
    def n_tokens(self) -> int:
        return self.offsets.shape[0] - 1

    @property
    def n_entries(self) -> int:
        return self.indices.shape[0]

    def rows(self) -> EntryNumbers:
        """The row number of every stored entry, int64 [Z]."""
        return torch.repeat_interleave(
            torch.arange(self.n_tokens, device=self.offsets.device),
            self.offsets.diff(),
            output_size=self.n_entries,
        )

    def with_values(self, values: PerEntry) -> SparseLatents:
        """The same pattern with other values [Z]."""
        return replace(self, values=values)

    def positive(self) -> SparseLatents:
        """The code without its entries whose value is zero."""
        keep = self.values.detach() > 0
        if bool(keep.all()):
            return self
        # A running count of the kept entries, read at the old offsets, gives the new offsets.
        positive_before = torch.zeros(self.n_entries + 1, dtype=torch.int64, device=keep.device)
        torch.cumsum(keep, 0, out=positive_before[1:])
        offsets = positive_before[self.offsets]
        return SparseLatents(offsets, self.indices[keep], self.values[keep], self.d_sae, frame=self.frame)

    def to_dense(self) -> PreActs:
        """The dense code [N, F]. Gradient: flows to `values`."""
        flat = self.rows() * self.d_sae + self.indices.long()
        dense = self.values.new_zeros(self.n_tokens * self.d_sae)
        return dense.index_add(0, flat, self.values).view(self.n_tokens, self.d_sae)

    @property
    def n_active(self) -> TokenCounts:
        """The number of latents with a positive value in each token row, int64 [N]."""
        positive = torch.zeros(self.n_entries + 1, dtype=torch.int64, device=self.offsets.device)
        torch.cumsum(self.values.detach() > 0, 0, out=positive[1:])
        return positive[self.offsets].diff()

    @property
    def l0(self) -> float:
        """The mean number of latents with a positive value per token row."""
        return float((self.values.detach() > 0).sum()) / max(1, self.n_tokens)

    def firing_counts(self) -> LatentCounts:
        """The number of token rows in which each latent has a positive value, int64 [F]."""
        active = self.indices[self.values.detach() > 0].long()
        return torch.bincount(active, minlength=self.d_sae)

    def sums(self) -> Float[Tensor, " d_sae"]:
        """The sum of each latent's values over all rows, float64 [F]."""
        return torch.bincount(self.indices.long(), self.values.detach().double(), minlength=self.d_sae)

    def row(self, n: int) -> tuple[Int[Tensor, " k"], Float[Tensor, " k"]]:
        """The (indices, values) of token row n, with the largest value first."""
        span = slice(int(self.offsets[n]), int(self.offsets[n + 1]))
        order = self.values[span].argsort(descending=True)
        return self.indices[span][order], self.values[span][order]

    def scaled(self, factor: float) -> SparseLatents:
        return self.with_values(self.values * factor)
