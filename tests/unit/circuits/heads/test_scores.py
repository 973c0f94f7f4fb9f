"""Scores of rankings against sklearn and by hand, shares of a behaviour by hand, published circuits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from known_circuits import measured_circuit

from monosemy.circuits.heads.agreement import (
    agreement,
    average_precision,
    labels_of,
    precision_recall_at,
    roc_auc,
)
from monosemy.circuits.heads.faithfulness import behaviour_shares
from monosemy.circuits.heads.ground_truth import PUBLISHED, published
from monosemy.circuits.heads.task import Edge
from monosemy.errors import UserError

# --- agreement --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_auc_and_average_precision_are_sklearns(seed, ties):
    from sklearn.metrics import average_precision_score, roc_auc_score

    random = np.random.default_rng(seed)
    labels = random.random(60) < 0.3
    scores = random.normal(size=60) + labels
    scores = np.round(scores) if ties else scores
    assert roc_auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
    assert average_precision(torch.tensor(scores), labels) == pytest.approx(average_precision_score(labels, scores))


def test_precision_and_recall_by_hand():
    labels = np.array([True, False, True, False, False])
    scores = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    assert precision_recall_at(scores, labels, 1) == (1.0, 0.5)
    assert precision_recall_at(scores, labels, 2) == (0.5, 0.5)
    assert precision_recall_at(scores, labels, 3) == (pytest.approx(2 / 3), 1.0)
    tied = np.array([5.0, 1.0, 1.0, 1.0, 0.0])  # one more of three tied, one of them a member: a third of it
    assert precision_recall_at(tied, labels, 2)[0] == pytest.approx((1 + 1 / 3) / 2)
    with pytest.raises(UserError, match="first 6 of 5"):
        precision_recall_at(scores, labels, 6)


def test_perfect_reversed_and_constant_rankings():
    labels = np.arange(20) < 6
    perfect = agreement(np.where(labels, 1.0, 0.0), labels)
    assert (perfect.auc, perfect.auc_interval, perfect.average_precision, perfect.precision) == (1, (1, 1), 1, 1)
    assert roc_auc(np.where(labels, 0.0, 1.0), labels) == 0
    constant = agreement(np.zeros(20), labels)
    assert constant.auc == 0.5
    assert constant.average_precision == constant.precision == pytest.approx(0.3)


def test_the_interval_of_the_auc_holds_the_truth_as_often_as_it_says():
    random = np.random.default_rng(0)
    truth = 0.7602  # P(N(1, 1) > N(0, 1)) = Φ(1/√2)
    labels = np.arange(120) < 40
    held = 0
    for trial in range(200):
        estimate = agreement(random.normal(size=120) + labels, labels, n_resamples=300, seed=trial)
        low, high = estimate.auc_interval
        held += low <= truth <= high
    assert 0.90 <= held / 200 <= 0.99


@pytest.mark.parametrize("labels", [np.ones(5, dtype=bool), np.zeros(5, dtype=bool)])
def test_labels_of_one_kind_are_refused(labels):
    with pytest.raises(UserError, match="all 5 labels are of one kind"):
        agreement(np.arange(5.0), labels)


def test_scores_that_cannot_be_ranked_are_refused():
    labels = np.arange(5) < 2
    with pytest.raises(UserError, match="1 of 5 scores are not finite"):
        roc_auc(np.array([1.0, np.nan, 0, 0, 0]), labels)
    with pytest.raises(UserError, match=r"head 3\.0, but the model has 3 layers of 2 heads"):
        labels_of([(3, 0)], 3, 2)
    assert agreement(np.arange(5.0), np.arange(5) < 1).auc_interval is None


# --- shares of a behaviour --------------------------------------------------------------------------------------------


def test_shares_by_hand():
    """m = 1, 3, 5 with no, half and all heads: f = 0, ½, 1; a ratio of means over prompts, not a mean of ratios."""
    shares = behaviour_shares([torch.full((4,), value) for value in (1.0, 3.0, 5.0)])
    assert shares.values.tolist() == [0.0, 0.5, 1.0]
    assert shares.intervals[1] == (0.5, 0.5)
    uneven = behaviour_shares([torch.zeros(2), torch.tensor([1.0, 1.0]), torch.tensor([1.0, 3.0])])
    assert uneven.values[1] == pytest.approx(2 / 4)
    assert uneven.intervals[1] == pytest.approx((1 / 3, 1.0))  # only the second prompt drawn, or only the first
    alone = behaviour_shares([torch.zeros(1), torch.ones(1), torch.full((1,), 2.0)])
    assert (alone.values[1], alone.intervals) == (0.5, (None, None, None))
    with pytest.raises(UserError, match="the metric is the same with all heads replaced"):
        behaviour_shares([torch.ones(4), torch.ones(4)])


# --- signs, published lists -------------------------------------------------------------------------------------------


def test_heads_that_help_have_positive_effects_and_the_negative_mover_a_negative_one():
    circuit, _, patching, labels = measured_circuit("ioi")
    assert roc_auc(patching.importance, labels) == 1.0
    by_head = {head: float(patching.scores[number]) for number, head in enumerate(circuit.all_heads)}
    layers = {head[0] for head in circuit.heads if by_head[head] < 0}
    assert layers == {3}
    assert sum(by_head[head] < 0 for head in circuit.heads) == 1


def test_published_lists_are_versioned_and_their_edges_run_forward():
    assert [len(circuit.heads) for circuit in published("ioi", "gpt2")] == [26]
    first, other = published("greater-than", "gpt2")
    assert (len(first.heads), len(other.heads)) == (9, 10)
    assert first.heads - other.heads == {(6, 1)}
    assert published("ioi", "/somewhere/gpt2") == published("ioi", "openai-community/gpt2") == published("ioi", "gpt2")
    assert published("ioi", "embedded") == published("ioi", "somebody/my-gpt2") == ()
    for circuit in PUBLISHED:
        ends = {end for edge in circuit.edges for end in edge.ends if isinstance(end, tuple)}
        assert ends <= circuit.heads
        assert all(e.sender[0] < e.receiver[0] for e in circuit.edges if not isinstance(e.sender, str) and e.channel)
    edges = published("ioi", "gpt2")[0].edges
    assert {Edge((8, 6), (9, 9), "q"), Edge("input", (8, 6), "q"), Edge((9, 9), "output")} <= edges
    assert Edge((8, 6), (9, 9), "k") not in edges
