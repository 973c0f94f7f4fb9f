"""Shares of work: equal by cost, in order, the same on every rank."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from monosemy.support.shares import share_out

COSTS = st.lists(st.floats(0.01, 100), min_size=1, max_size=30)


def loads(costs: list[float], owners: list[int], n_ranks: int) -> list[float]:
    return [sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == rank) for rank in range(n_ranks)]


def test_three_sites_of_four_equal_saes_are_halved_and_stay_together():
    assert share_out([1.0] * 12, 2) == [0] * 6 + [1] * 6
    assert share_out([1.0] * 12, 3) == [0] * 4 + [1] * 4 + [2] * 4
    assert share_out([1.0, 1.0], 3) != share_out([1.0, 1.0], 1)


def test_three_sites_of_four_unequal_saes_differ_by_less_than_a_tenth():
    for kinds in itertools.permutations([1.0, 1.2, 1.5, 2.0]):
        costs = list(kinds) * 3
        first, second = loads(costs, share_out(costs, 2), 2)
        assert abs(first - second) < 0.1 * max(first, second)


@given(COSTS, st.integers(1, 6))
def test_no_move_of_a_piece_from_the_fullest_rank_evens_it_out_further(costs, n_ranks):
    owners = share_out(costs, n_ranks)
    assert len(owners) == len(costs)
    shares = loads(costs, owners, n_ranks)
    gap = max(shares) - min(shares)
    most = shares.index(max(shares))
    assert all(cost >= gap * (1 - 1e-6) for cost, owner in zip(costs, owners, strict=True) if owner == most)
