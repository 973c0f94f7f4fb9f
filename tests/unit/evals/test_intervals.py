"""Bootstrap over documents: against explicit resampling, and by its coverage of a known truth."""

import numpy as np
import pytest
import torch

from monosemy.evals.intervals import (
    Blocks,
    bootstrap_weights,
    jackknife_interval,
    percentiles,
    ratio_interval,
    resampled_ratio,
)


def test_blocks_number_documents_in_order_of_appearance_over_batches():
    blocks = Blocks(limit=3)
    assert blocks.rows(torch.tensor([7, 7, 9])).tolist() == [0, 0, 1]
    assert blocks.rows(torch.tensor([9, 2, 100, 7])).tolist() == [1, 2, 0, 0]  # the fourth document wraps around
    assert (blocks.n, blocks.n_documents) == (3, 4)


def test_weights_are_draws_with_replacement_and_repeatable():
    weights = bootstrap_weights(10, 500, seed=3)
    assert weights.shape == (500, 10)
    assert (weights.sum(1) == 10).all()
    assert (weights == weights.round()).all()
    assert np.array_equal(weights, bootstrap_weights(10, 500, seed=3))
    assert not np.array_equal(weights, bootstrap_weights(10, 500, seed=4))
    assert abs((weights == 0).mean() - 0.9**10) < 0.02


def test_resampled_ratio_is_the_ratio_of_the_resampled_documents():
    random = np.random.default_rng(0)
    sizes = random.integers(1, 30, 12)
    documents = [random.normal(size=size) for size in sizes]
    sums = np.array([d.sum() for d in documents])
    weights = bootstrap_weights(12, 20)
    explicit = []
    for row in weights.astype(int):
        drawn = [documents[b] for b in range(12) for _ in range(row[b])]
        explicit.append(np.concatenate(drawn).mean())
    np.testing.assert_allclose(resampled_ratio(sums, sizes.astype(float), weights), explicit, rtol=1e-12)


def test_interval_of_a_ratio_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(1)
    hits, n_trials, n_documents = 0, 400, 60
    for trial in range(n_trials):
        sizes = random.integers(5, 50, n_documents).astype(float)
        means = 2.0 + random.normal(size=n_documents)  # tokens of a document share its mean
        sums = sizes * means + random.normal(size=n_documents) * np.sqrt(sizes)
        low, high = ratio_interval(sums, sizes, bootstrap_weights(n_documents, 400, seed=trial))
        hits += low <= 2.0 <= high
    assert 0.90 <= hits / n_trials <= 0.98


def test_documents_not_tokens_carry_the_uncertainty():
    """200 equal tokens in each of 20 documents: a bootstrap over tokens would be about √200 times too narrow."""
    random = np.random.default_rng(2)
    means = random.normal(size=20)
    by_document = ratio_interval(means * 200, np.full(20, 200.0), bootstrap_weights(20, 2000))
    by_token = ratio_interval(np.repeat(means, 200), np.ones(4000), bootstrap_weights(4000, 2000))
    ratio = (by_document[1] - by_document[0]) / (by_token[1] - by_token[0])
    assert ratio == pytest.approx(np.sqrt(200), rel=0.1)


def test_no_interval_without_two_blocks_or_two_finite_resamples():
    assert ratio_interval(np.ones(1), np.ones(1), bootstrap_weights(1, 10)) is None
    assert percentiles(np.array([np.nan, np.inf, 1.0])) is None
    assert percentiles(np.array([np.nan, 1.0, 3.0]), confidence=1.0) == (1.0, 3.0)
    assert jackknife_interval(0.5, np.array([0.5]), low=0.0, high=1.0) is None


def test_jackknife_of_a_mean_is_the_textbook_standard_error():
    values = np.random.default_rng(3).normal(size=40)
    leave_one_out = (values.sum() - values) / 39
    low, high = jackknife_interval(values.mean(), leave_one_out, low=-9.0, high=9.0)
    assert (high - low) / 2 == pytest.approx(1.959964 * values.std(ddof=1) / np.sqrt(40), rel=1e-6)
    assert jackknife_interval(0.01, np.array([0.0, 0.02, 0.5]), low=0.0, high=1.0)[0] == 0.0


def test_two_blocks_have_a_jackknife_interval():
    """e_b = 0.4 and 0.6, so SE² = ½ (0.01 + 0.01)."""
    low, high = jackknife_interval(0.5, np.array([0.4, 0.6]), low=0.0, high=1.0)
    assert (low, high) == pytest.approx((0.5 - 0.1 * 1.959964, 0.5 + 0.1 * 1.959964), rel=1e-6)
