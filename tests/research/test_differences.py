"""Simultaneous intervals and blocked permutations: against closed forms and by their error rates on known truths."""

from itertools import product

import numpy as np
import pytest

from research.differences import blocked_permutation, group_means, resampled_means, simultaneous_differences


def test_the_mean_counts_every_cluster_alike():
    groups = {"a": [np.array([0.0]), np.array([1.0, 1.0, 4.0])], "b": [np.array([3.0])]}
    assert group_means(groups) == {"a": pytest.approx(1.0), "b": pytest.approx(3.0)}


def test_resampled_means_spread_as_the_standard_error_says():
    values = np.random.default_rng(0).normal(size=400)
    spread = resampled_means({"a": [values, values + 1]}, 4000)["a"].std()
    assert spread == pytest.approx(values.std() / np.sqrt(800), rel=0.06)


def test_intervals_hold_together_at_their_confidence():
    """Five equal groups: any of ten intervals misses zero in about 5% of the draws; one-at-a-time ones in some 29%."""
    random = np.random.default_rng(1)
    missed = sum(
        any(
            difference.apart
            for difference in simultaneous_differences(
                {name: [random.exponential(size=60)] for name in "abcde"}, n_resamples=400, seed=trial
            )
        )
        for trial in range(200)
    )
    assert 2 <= missed <= 24


def test_a_difference_is_found_and_named():
    random = np.random.default_rng(2)
    groups = {"a": [random.normal(size=300)], "b": [random.normal(size=300)], "c": [random.normal(1, 1, 300)]}
    apart = {(d.first, d.second): d for d in simultaneous_differences(groups) if d.apart}
    assert set(apart) == {("a", "c"), ("b", "c")}
    assert apart["a", "c"].low < -1 < apart["a", "c"].high


def test_only_the_asked_pairs():
    groups = {name: [np.arange(10.0)] for name in "abc"}
    differences = simultaneous_differences(groups, [("a", "c")])
    assert [(d.first, d.second) for d in differences] == [("a", "c")]
    assert differences[0].estimate == 0


def test_permutations_against_all_of_them():
    """Two blocks of three: the first row fixed, the second in all six orders, counted by hand."""
    table = np.array([[0.0, 1.0, 2.0], [0.5, 1.0, 2.5]])
    spreads = []
    for order in product(range(3), repeat=3):
        if len(set(order)) == 3:
            means = (table[0] + table[1][list(order)]) / 2
            spreads.append(((means - means.mean()) ** 2).sum())
    exact = np.mean(np.array(spreads) >= spreads[0] - 1e-12)
    statistic, p = blocked_permutation(table, n_permutations=20_000)
    assert statistic == pytest.approx(spreads[0])
    assert p == pytest.approx(exact, abs=0.01)


def test_permutations_ignore_what_all_groups_of_a_block_share():
    random = np.random.default_rng(3)
    groups, blocks = np.array([0.0, 0.1, 0.2, 0.3, 0.4]), np.array([[-5.0], [0.0], [5.0]])
    table = groups + blocks + random.normal(0, 0.01, (3, 5))
    assert blocked_permutation(table)[1] < 0.001
    no_groups = blocks + random.normal(0, 0.1, (3, 5))
    assert blocked_permutation(no_groups)[1] > 0.01


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="'b' has a cluster without values"):
        simultaneous_differences({"a": [np.ones(3)], "b": [np.empty(0)]})
    with pytest.raises(ValueError, match="two blocks"):
        blocked_permutation(np.ones((1, 5)))
