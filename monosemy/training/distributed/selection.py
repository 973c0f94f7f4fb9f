"""The exact k-th largest of numbers that are spread over ranks, and the selections that follow from it.

Place on the path: within the sharded step, between each rank's own selection and the code. One search serves every
architecture: TopK's k-th largest of each row, BatchTopK's (L0·N)-th of the batch, the factor on JumpReLU's thresholds,
medians and the last calibration.

Numbers become whole-number keys in the same order, and the k-th largest key is read digit by digit from the top: every
rank counts its own keys by their next digit, the counts are summed over ranks, and the digit at which k is reached is
the key's. Messages are counts alone: 3 rounds of 2,048 for one group of float32, 8 rounds of 16 for each of N rows,
whatever k and the number of ranks are. Gathering the candidates instead would take k values of every row from every
rank (Gao et al. 2024, arXiv 2406.04093, section on sharding, does so).

Ties are decided as in the kernels' definitions: the lower index first, for a batch the earlier entry row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosemy.kernels.reference import Pattern, rows_of
from monosemy.shapes import PerEntry
from monosemy.training.distributed.ranks import LATENTS, TOKENS, Ranks

FEW_GROUPS = 64
"""Up to so many groups, digits have 11 bits; above, 4, so that the counts of a group stay small."""

Merged: TypeAlias = Float[Tensor, " z_merged"]
"""Values on a pattern after ranks have merged their selections."""
Sum = Callable[[Tensor], Tensor]


class Rank(NamedTuple):
    """Where the k-th largest of each of G groups lies."""

    key: Int64[Tensor, " g"]
    n_above: Int64[Tensor, " g"]
    """How many are larger."""
    n_equal: Int64[Tensor, " g"]
    """How many are equal to it, itself included."""


def keys_of(values: Tensor) -> Int64[Tensor, " z"]:
    """Whole numbers in the same order as floating-point values; for all but float64 they fit into 32 bits."""
    if values.dtype == torch.float64:
        bits = values.contiguous().view(torch.int64)
        return bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)
    bits = values.float().contiguous().view(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()


def values_of(keys: Int64[Tensor, " g"], dtype: torch.dtype) -> Tensor:
    """The inverse of `keys_of`."""
    if dtype == torch.float64:
        return (keys ^ ((keys >> 63) & 0x7FFFFFFFFFFFFFFF)).view(torch.float64)
    bits = keys.to(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32).to(dtype)


def kth_largest(
    keys: Int64[Tensor, " z"],
    groups: Int64[Tensor, " z"],
    k: Int64[Tensor, " g"],
    *,
    n_bits: int,
    total: Sum,
) -> Rank:
    """The k-th largest key of each group, counted from 1, among all ranks whose counts `total` sums.

    keys: signed numbers of `n_bits` bits. Where a group has fewer than k keys, it is the smallest; where it has none,
    nothing is above or equal.
    """
    n_groups = len(k)
    width = 11 if n_groups <= FEW_GROUPS else 4
    remaining, cut, n_above = k.clone(), torch.zeros_like(k), torch.zeros_like(k)
    n_equal = torch.zeros_like(k)
    shift = n_bits
    while shift > 0:
        n_digit_bits = min(width, shift)
        n_digits, first_round = 1 << n_digit_bits, shift == n_bits
        shift -= n_digit_bits
        # Keys are signed: the top digit alone may be negative.
        digits = (keys >> shift) + n_digits // 2 if first_round else (keys >> shift) & (n_digits - 1)
        counts = torch.bincount(groups * n_digits + digits, minlength=n_groups * n_digits)
        from_top = total(counts).view(n_groups, n_digits).flip(1).cumsum(1)
        if first_round:
            remaining = torch.minimum(remaining, from_top[:, -1])
        n_higher = (from_top < remaining[:, None]).sum(1)
        before = torch.where(n_higher > 0, from_top.gather(1, (n_higher - 1).clamp_min(0)[:, None])[:, 0], 0)
        n_equal = from_top.gather(1, n_higher[:, None])[:, 0] - before
        digit = n_digits - 1 - n_higher
        remaining, n_above = remaining - before, n_above + before
        cut = (cut << n_digit_bits) + (digit - n_digits // 2 if first_round else digit)
        alive = digits == digit[groups]
        keys, groups = keys[alive], groups[alive]
    return Rank(cut, n_above, torch.where(remaining > 0, n_equal, 0))


def kth_values(values: PerEntry, k: list[int], total: Sum) -> list[float]:
    """The k-th largest of one set of numbers over ranks, for each k."""
    keys, n = keys_of(values), len(k)
    groups = torch.arange(n, device=values.device).repeat_interleave(len(keys))
    ranks = torch.tensor(k, device=values.device)
    key = kth_largest(keys.repeat(n), groups, ranks, n_bits=_n_bits(values), total=total).key
    return [float(value) for value in values_of(key, values.dtype)]


def halfway_below(scores: Tensor, n_above: int, ranks: Ranks) -> Tensor:
    """`starts.halfway_below` of scores [n, r] whose rows are spread over the tokens' axis, [r]."""
    n, r = scores.shape
    # Two searches in one: every column is two groups, one for either neighbour.
    columns = torch.arange(r, device=scores.device).repeat(n)
    keys = keys_of(scores.flatten())
    k = torch.tensor([n_above, n_above + 1], device=scores.device).repeat_interleave(r)
    neighbours = kth_largest(
        keys.repeat(2),
        torch.cat([columns, columns + r]),
        k,
        n_bits=_n_bits(scores),
        total=lambda counts: ranks.sum(counts, TOKENS),
    )
    upper, lower = values_of(neighbours.key, scores.dtype).view(2, r)
    return (upper + lower) / 2


def merged_topk(pattern: Pattern, values: PerEntry, k: int, ranks: Ranks) -> tuple[Pattern, Merged]:
    """Of each row's candidates on all ranks of the latents' axis, those of this rank among the k largest.

    Every rank's candidates are its own k largest, with indices ascending within a row.
    """
    if ranks.n_latent_shards == 1:
        return pattern, values
    n_rows = len(pattern.offsets) - 1
    rows, keys = rows_of(pattern), keys_of(values)
    k_of_rows = torch.full((n_rows,), k, device=values.device)
    cut = kth_largest(keys, rows, k_of_rows, n_bits=_n_bits(values), total=lambda c: ranks.sum(c, LATENTS))
    keep = keys >= cut.key[rows]
    n_ties = k - cut.n_above
    if bool((cut.n_equal > n_ties).any()):
        tie = keys == cut.key[rows]
        own = torch.bincount(rows[tie], minlength=n_rows)
        # Lower indices are on earlier ranks.
        earlier = torch.stack(ranks.gather(own, LATENTS))[: ranks.latent_shard].sum(0)
        counted = tie.cumsum(0)
        before_row = torch.cat([counted.new_zeros(1), counted])[pattern.offsets[:-1]]
        place = counted - before_row[rows] + earlier[rows]
        keep = torch.where(tie, place <= n_ties[rows], keep)
    return _restricted(pattern, keep), values[keep]


def merged_batch_topk(
    pattern: Pattern, values: PerEntry, n_keep: int, *, ranks: Ranks, first_row: int, first_latent: int, d_sae: int
) -> tuple[Pattern, Merged, float]:
    """This rank's entries among the `n_keep` largest of all ranks, and the smallest kept (0 where fewer are positive).

    Every rank's candidates are its own n_keep largest. first_row and first_latent say where its slice starts.
    """
    keys, one_group = keys_of(values), torch.zeros(len(values), dtype=torch.int64, device=values.device)
    k = torch.tensor([n_keep], device=values.device)
    cut = kth_largest(keys, one_group, k, n_bits=_n_bits(values), total=ranks.sum_all)
    n_above, n_equal = int(cut.n_above), int(cut.n_equal)
    keep = keys >= cut.key
    if n_above + n_equal > n_keep:
        tie = keys == cut.key
        # The earliest places are the largest negated ones.
        place = -((rows_of(pattern)[tie] + first_row) * d_sae + pattern.indices[tie].long() + first_latent)
        last = kth_largest(place, one_group[: len(place)], k - n_above, n_bits=64, total=ranks.sum_all)
        keep[tie.nonzero()[:, 0][place < last.key]] = False
    smallest = float(values_of(cut.key, values.dtype)) if n_above + n_equal >= n_keep > 0 else 0.0
    return _restricted(pattern, keep), values[keep], smallest


def _restricted(pattern: Pattern, keep: Tensor) -> Pattern:
    kept_before = torch.zeros(len(keep) + 1, dtype=torch.int64, device=keep.device)
    torch.cumsum(keep, 0, out=kept_before[1:])
    return Pattern(kept_before[pattern.offsets], pattern.indices[keep])


def _n_bits(values: Tensor) -> int:
    return 64 if values.dtype == torch.float64 else 32
