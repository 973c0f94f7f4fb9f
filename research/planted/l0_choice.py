"""Which L0 is right for this text and site? A number that is lowest where the dictionary mixes its features least.

Place on the data's path: evaluation; beside a frontier, for SAEs of one width that differ in L0.

  z = (x − b_dec) W_decᵀ  for N rows, d_sae latents;   s_n = the (n·N)-th largest of all N·d_sae entries of z

A latent that stands for one feature projects near zero on tokens without it. Where the L0 is too low, latents absorb
parts of features that fire together with their own; where it is too high, they split and mix; both push up the
projections of latents that ought to be silent, which are those beyond rank n·N once n is well above the number that
fire. Among SAEs of one width on the same rows the L0 with the lowest s_n is the estimate.

Source: the n-th decoder projection of Chanin and Garriga-Alonso 2025 (arXiv 2508.16560). Deviations: decoder rows are
taken at unit length, so that libraries with free norms compare; an interval over blocks of rows.

Limits: a comparison, not a measure: s_n depends on the rows, the width and n, and n must be the same for all SAEs and
above every L0 compared. It sees decoders alone. A minimum at the end of the range says only which way to go on.
Memory: N·d_sae values at once; rows beyond `MAX_ENTRIES` are left out, evenly. On planted dictionaries with hierarchy
(README.md) its minimum lay at the end of the range, twice the right L0: for three architectures F1 was highest
there too, for two it was not. Not shown to work on such data: no evidence by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.errors import UserError
from monosemy.evals.intervals import Interval, bootstrap_weights, percentiles

MAX_ENTRIES = 2**26
N_BLOCKS = 16


class Decoder(Protocol):
    """W_dec [d_sae, d_in] and b_dec [d_in]."""

    W_dec: Tensor
    b_dec: Tensor


@dataclass(frozen=True)
class TailProjection:
    """s_n of one SAE, in the units of its input."""

    l0: float
    """Active latents per token of the SAE, as the caller gave it."""
    n: int
    value: float
    interval: Interval
    """95%, over blocks of rows."""
    _: KW_ONLY
    n_rows: int


@dataclass(frozen=True)
class L0Choice:
    """The L0 with the lowest s_n."""

    l0: float
    at_edge: bool
    """It is the smallest or the largest L0 compared: go on in that direction before believing it."""
    not_told_apart: tuple[float, ...]
    """Other L0s whose interval reaches down to the lowest value's."""


@torch.no_grad()
def tail_projection(sae: Decoder, x: Float[Tensor, "n d"], n: int, *, l0: float) -> TailProjection:
    """s_n of `sae` over rows x [N, d_in] in its input's units (raw activations for a saved SAE).

    Raises UserError when x has another width, when there are fewer than two rows, or unless l0 < n < d_sae.
    """
    d_sae, d_in = sae.W_dec.shape
    if x.ndim != 2 or x.shape[1] != d_in or len(x) < 2:
        raise UserError(f"x must be at least two rows {d_in} wide, got shape {tuple(x.shape)}")
    if not l0 < n < d_sae:
        raise UserError(
            f"rank n = {n} must be above the L0 {l0:g} (latents that fire) and below d_sae {d_sae}; "
            f"take n several times the L0"
        )
    n_rows = min(len(x), max(2, MAX_ENTRIES // d_sae))
    if n_rows < len(x):
        x = x[torch.linspace(0, len(x) - 1, n_rows, device=x.device).round().long()]
    rows = torch.nn.functional.normalize(sae.W_dec.detach().to(x.dtype), dim=1)
    z = (x - sae.b_dec.detach().to(x.dtype)) @ rows.T
    n_blocks = min(N_BLOCKS, n_rows // 2)
    blocks = [_largest(part, n) for part in z.tensor_split(n_blocks)] if n_blocks > 1 else []
    value, interval = _largest(z, n), None
    if blocks:
        # A block's value differs from that of all rows by little; its spread gives the width, all rows the centre.
        offsets = np.array(blocks) - np.mean(blocks)
        interval = percentiles(value + bootstrap_weights(n_blocks, 1000) @ offsets / n_blocks)
    return TailProjection(l0, n, value, interval, n_rows=n_rows)


def _largest(z: Tensor, n: int) -> float:
    """The first entry of z [N, F] after its n·N largest."""
    flat = z.flatten()
    return float(flat.kthvalue(flat.numel() - n * len(z)).values)


def choose_l0(tails: Sequence[TailProjection]) -> L0Choice:
    """The L0 that the lowest s_n points at.

    Raises UserError for fewer than three SAEs, or when they were measured at different n or on different row counts.
    """
    if len(tails) < 3:
        raise UserError(f"choosing an L0 needs at least 3 SAEs of different L0, got {len(tails)}")
    if len({(tail.n, tail.n_rows) for tail in tails}) > 1:
        ranks = ", ".join(f"n {tail.n} on {tail.n_rows} rows" for tail in tails)
        raise UserError(f"these are not comparable ({ranks}); take the same n and the same rows for all")
    lowest = min(tails, key=lambda tail: tail.value)
    upper = lowest.interval[1] if lowest.interval else lowest.value
    others = [
        tail.l0
        for tail in tails
        if tail is not lowest
        and (tail.interval[0] if tail.interval else tail.value) <= upper
        and math.isfinite(tail.value)
    ]
    ends = min(tail.l0 for tail in tails), max(tail.l0 for tail in tails)
    return L0Choice(lowest.l0, lowest.l0 in ends, tuple(sorted(others)))
