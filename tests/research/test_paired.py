"""Paired comparisons over documents: by closed forms, and by how often their intervals cover a known truth."""

import numpy as np
import pytest
from document_sums import measured

from monosemy.errors import UserError
from monosemy.evals.documents import DocumentSums
from research.frontier.paired import joined, paired_differences, paired_ratios


def test_a_constant_ratio_has_an_interval_without_width():
    document_sums, _, _ = measured(a=0.5, b=0.4)
    (ratio,) = paired_ratios(document_sums, {"a": ["a"], "b": ["b"]})
    assert ratio.estimate == pytest.approx(0.25 / 0.36 - 1, rel=1e-5)
    assert ratio.high - ratio.low < 1e-4


def test_differences_are_per_token_and_of_the_groups_means():
    n = np.array([10.0, 30.0, 20.0])
    sums = {"a0": np.array([1.0, 2.0, 3.0]), "a1": np.array([3.0, 4.0, 5.0]), "b": np.array([0.0, 0.0, 6.0])}
    document_sums = DocumentSums(np.array([7, 3, 5]), n, sums)
    (difference,) = paired_differences(document_sums, {"a": ["a0", "a1"], "b": ["b"]})
    assert difference.estimate == pytest.approx((9 - 6) / 60)
    assert difference.low < difference.estimate < difference.high


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    random, hits = np.random.default_rng(0), 0
    for trial in range(200):
        n = random.integers(20, 60, 60).astype(float)
        hardness = random.gamma(2.0, 1.0, 60)
        sums = {"a": n * hardness * 1.10, "b": n * hardness * (1 + 0.05 * random.standard_normal(60))}
        (difference,) = paired_ratios(DocumentSums(np.arange(60), n, sums), {"a": ["a"], "b": ["b"]}, seed=trial)
        hits += difference.low <= 0.10 <= difference.high
        assert difference.apart
    assert hits >= 180


def test_evaluations_are_joined_into_one():
    sums = [measured(a=0.5, b=0.4)[0], measured(c=0.3)[0]]
    whole = joined(sums)
    assert list(whole.sums) == ["a", "b", "c"]
    np.testing.assert_array_equal(whole.sums["c"], sums[1].sums["c"])


def test_what_cannot_be_paired_is_refused():
    sums = measured(a=0.5)[0]
    with pytest.raises(UserError, match="cannot pair evaluations over other tokens"):
        joined([sums, measured(n_documents=29, b=0.5)[0]])
    with pytest.raises(UserError, match="no dictionary 'z'"):
        paired_ratios(sums, {"a": ["a"], "z": ["z"]})
    with pytest.raises(UserError, match="two documents"):
        paired_ratios(measured(n_documents=1, a=0.5, b=0.5)[0], {"a": ["a"], "b": ["b"]})
    with pytest.raises(UserError, match="no evaluation to compare"):
        joined([])
