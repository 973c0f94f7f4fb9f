"""Sparse probing: a planted latent is found and read, nothing is read where nothing is, documents stay whole."""

import numpy as np
import pytest
import torch

from monosemy.evals.intervals import bootstrap_weights, percentiles
from monosemy.latents import SparseLatents
from research.probing.probes import (
    answers_by_document,
    best_features,
    class_difference,
    fit_probe,
    full_probe,
    pool_codes,
    pool_rows,
    split_documents,
)

N, M, PLANTED = 400, 50, 17


@pytest.fixture
def planted():
    """(features [400, 50], labels, documents): latent 17 fires on 90% of the positives and 5% of the negatives."""
    random = np.random.default_rng(0)
    labels = random.random(N) < 0.5
    features = random.exponential(size=(N, M)) * (random.random((N, M)) < 0.2)
    fires = np.where(labels, random.random(N) < 0.9, random.random(N) < 0.05)
    features[:, PLANTED] = fires * random.uniform(1, 2, N)
    return features.astype(np.float32), labels, np.arange(N) // 4


def accuracy(features, labels, documents, k, **options):
    train = split_documents(documents)
    indices = best_features(features[train], labels[train], k, **options)
    predictions = fit_probe(features[train][:, indices], labels[train], features[~train][:, indices])
    return indices, answers_by_document(predictions, labels[~train], documents[~train], N // 4)


def test_the_planted_latent_is_chosen_and_read(planted):
    indices, answers = accuracy(*planted, k=1)
    assert indices.tolist() == [PLANTED]
    assert answers.balanced_accuracy == pytest.approx(0.925, abs=0.06)
    low, high = percentiles(answers.resampled(bootstrap_weights(N // 4, 1000)))
    assert low < 0.925 < high
    assert 0.01 < high - low < 0.2


def test_more_latents_hold_the_planted_one(planted):
    for standardise in (False, True):
        indices, answers = accuracy(*planted, k=5, standardise=standardise)
        assert indices[0] == PLANTED
        assert answers.balanced_accuracy > 0.85


def test_shuffled_labels_are_read_at_chance(planted):
    features, labels, documents = planted
    shuffled = np.random.default_rng(1).permutation(labels)
    _, answers = accuracy(features, shuffled, documents, k=5)
    assert answers.balanced_accuracy == pytest.approx(0.5, abs=0.12)


def test_a_small_latent_is_chosen_only_by_standard_deviations(planted):
    features, labels, documents = planted
    features = features.copy()
    features[:, PLANTED] *= 1e-3
    assert accuracy(features, labels, documents, k=1)[0].tolist() != [PLANTED]
    assert accuracy(features, labels, documents, k=1, standardise=True)[0].tolist() == [PLANTED]


def test_a_full_probe_reads_what_is_spread_over_many_features():
    random = np.random.default_rng(2)
    labels = random.random(600) < 0.3
    features = random.normal(size=(600, 40)) + 0.35 * labels[:, None]
    documents = np.arange(600) // 3
    train = split_documents(documents)
    predictions, strength = full_probe(features[train], labels[train], documents[train], features[~train])
    one_document = np.zeros(int((~train).sum()), np.int64)
    full = answers_by_document(predictions, labels[~train], one_document, 1).balanced_accuracy
    single = accuracy(features[:400], labels[:400], np.arange(400) // 4, k=1)[1].balanced_accuracy
    assert strength in (1e-3, 1e-2, 1e-1, 1.0)
    assert full > 0.8
    assert full > single + 0.1


def test_differences_by_hand():
    features = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 5.0]])
    labels = np.array([True, True, False, False])
    assert class_difference(features, labels).tolist() == [2.0, 5.0]
    assert class_difference(features, labels, standardise=True) == pytest.approx([2 / features[:, 0].std(), 2.0])
    assert class_difference(np.ones((4, 1)), labels, standardise=True).tolist() == [0.0]
    with pytest.raises(ValueError, match="both classes"):
        class_difference(features, np.ones(4, bool))


def test_documents_are_on_one_side_only():
    documents = np.repeat(np.arange(50), 3)
    train = split_documents(documents, 0.6, seed=1)
    assert set(documents[train]).isdisjoint(documents[~train])
    assert len(set(documents[train])) == 30


def test_pooling_is_the_mean_over_an_examples_rows():
    dense = torch.tensor([[1.0, 0.0], [3.0, 2.0], [0.0, 4.0], [0.0, 0.0]])
    example = np.array([0, 0, 2, 2])
    expected = [[2.0, 1.0], [0.0, 0.0], [0.0, 2.0]]
    assert pool_rows(dense.numpy(), example, 3).tolist() == expected
    assert pool_codes(SparseLatents.from_dense(dense), example, 3).tolist() == expected


def test_balanced_accuracy_counts_both_classes_alike():
    predictions = np.array([True, True, False, False, True])
    labels = np.array([True, False, False, False, True])
    answers = answers_by_document(predictions, labels, np.array([0, 0, 1, 1, 1]), 2)
    assert answers.balanced_accuracy == pytest.approx((2 / 2 + 2 / 3) / 2)
    assert answers.resampled(np.array([[0.0, 2.0]]))[0] == pytest.approx((1 + 1) / 2)
    assert np.isnan(answers_by_document(predictions[:1], labels[:1], np.zeros(1, int), 1).balanced_accuracy)
