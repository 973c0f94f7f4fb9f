"""Shares pieces of work out over the ranks of a run, by estimated cost.

Place on the path: prepared activations → [who trains and measures what] → training, evaluation and feature stages.
Pieces keep their order, so that those of one site mostly stay together and a rank reads few sites: a piece first goes
to the rank in whose stretch of the total cost its middle lies. Pieces then move, or change places, from the rank with
most to the rank with least while that evens the two out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


def share_out(costs: Sequence[float], n_ranks: int) -> list[int]:
    """The rank of every piece of work. All ranks compute the same from the same costs, which must be above 0."""
    total = sum(costs)
    middles = (end - cost / 2 for end, cost in zip(accumulate(costs), costs))
    owners = [min(int(middle / total * n_ranks), n_ranks - 1) for middle in middles]
    while (change := _evening(costs, owners, n_ranks)) is not None:
        owners = change
    return owners


def _evening(costs: Sequence[float], owners: Sequence[int], n_ranks: int) -> list[int] | None:
    """The owners after the move or exchange that evens most and least loaded rank out best; None if none does."""
    loads = [sum(cost for cost, owner in zip(costs, owners) if owner == rank) for rank in range(n_ranks)]
    most, least = max(range(n_ranks), key=loads.__getitem__), min(range(n_ranks), key=loads.__getitem__)
    gap = loads[most] - loads[least]
    own = {rank: [i for i, owner in enumerate(owners) if owner == rank] for rank in (most, least)}
    # The cost that changes sides, and the pieces that carry it.
    changes: list[tuple[float, tuple[int, ...]]] = [(costs[i], (i,)) for i in own[most]]
    changes += [(costs[i] - costs[j], (i, j)) for i in own[most] for j in own[least]]
    moved, pieces = min(changes, key=lambda change: abs(gap - 2 * change[0]), default=(0.0, ()))
    # A relative reserve, so that rounding can never move pieces back and forth.
    if abs(gap - 2 * moved) >= gap * (1 - 1e-9):
        return None
    return [(least if owner == most else most) if i in pieces else owner for i, owner in enumerate(owners)]
