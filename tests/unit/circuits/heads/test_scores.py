"""Scores of rankings against sklearn and by hand; faithfulness and completeness on circuits known exactly."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from monosemy.circuits.heads.agreement import (
    agreement,
    auc_difference,
    average_precision,
    labels_of,
    precision_recall_at,
    roc_auc,
)
from monosemy.circuits.heads.contrast import read_contrast
from monosemy.circuits.heads.faithfulness import completeness, curve, faithfulness
from monosemy.circuits.heads.ground_truth import PUBLISHED, published
from monosemy.circuits.heads.model_heads import AttentionOnlyHeads
from monosemy.circuits.heads.patching import exhaustive_patching
from monosemy.circuits.heads.scores import from_examples
from monosemy.circuits.heads.task import Edge
from monosemy.errors import UserError
from research.heads.compiled import compile_circuit
from research.heads.reference import find_reference


@cache
def measured(name="ioi"):
    """(circuit, contrast, exhaustive patching, labels of the true heads)."""
    circuit = compile_circuit(name, 0, 16)
    contrast = read_contrast(AttentionOnlyHeads(circuit.model), circuit.data.positives, circuit.data.metric)
    labels = labels_of(circuit.heads, circuit.model.n_layers, circuit.model.n_heads)
    return circuit, contrast, exhaustive_patching(contrast), labels


def numbers(heads, n_heads):
    return sorted(layer * n_heads + head for layer, head in heads)


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


def test_paired_differences_are_tighter_than_the_intervals_apart():
    random = np.random.default_rng(0)
    labels = np.arange(100) < 30
    first = random.normal(size=100) + labels
    second = first + 0.1 * random.normal(size=100)
    difference, (low, high) = auc_difference(first, second, labels)
    assert difference == pytest.approx(roc_auc(first, labels) - roc_auc(second, labels))
    assert low <= difference <= high
    apart = agreement(first, labels).auc_interval
    assert high - low < 0.5 * (apart[1] - apart[0])
    assert auc_difference(first, first, labels) == (0.0, (0.0, 0.0))


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


# --- faithfulness -----------------------------------------------------------------------------------------------------


def test_faithfulness_by_hand():
    """m = 1, 3, 5 of 5 with 0, 1, 2 parts kept: f = 0, ½, 1; areas under straight lines."""
    linear = curve([torch.full((4,), value) for value in (1.0, 3.0, 5.0)], [0, 1, 2])
    assert linear.values == (0.0, 0.5, 1.0)
    assert (linear.cpr, linear.cmd) == (0.5, 0.5)
    assert linear.intervals[1] == (0.5, 0.5)
    over = curve([torch.full((4,), value) for value in (1.0, 9.0, 5.0)], [0, 1, 4])
    assert over.values == (0.0, 2.0, 1.0)
    assert over.cpr == pytest.approx(0.25 * 1.0 + 0.75 * 1.5)
    assert over.cmd == pytest.approx(0.25 * 1.0 + 0.75 * 0.5)
    with pytest.raises(UserError, match="the metric is the same with all heads replaced"):
        curve([torch.ones(4), torch.ones(4)], [0, 1])


def test_the_true_circuit_is_faithful_and_complete():
    circuit, contrast, _, labels = measured("ioi")
    n, size = len(labels), len(circuit.heads)
    perfect = faithfulness(contrast, torch.tensor(labels).double(), fractions=(size / n, 0.5))
    assert perfect.sizes == (0, size, n // 2, n)
    assert perfect.values == pytest.approx((0.0, 1.0, 1.0, 1.0), abs=1e-4)
    whole = completeness(contrast, numbers(circuit.heads, circuit.model.n_heads))
    assert whole.without == pytest.approx(0.0, abs=1e-4)
    assert whole.incompleteness == pytest.approx(0.0, abs=1e-4)


def test_a_circuit_without_one_of_an_or_pair_is_faithful_but_not_complete():
    circuit, contrast, _, _ = measured("or_pair")
    n_heads = circuit.model.n_heads
    members = numbers(circuit.heads, n_heads)
    lacking = members[1:]  # one of the two previous-token heads left out
    assert lacking[0] < n_heads
    alone = faithfulness(contrast, torch.isin(torch.arange(18), torch.tensor(lacking)).double(), fractions=(2 / 18,))
    assert alone.values[1] == pytest.approx(1.0, abs=1e-3)
    gaps = [completeness(contrast, subset).incompleteness for subset in (members, lacking)]
    assert gaps[0] < 0.01 < 0.2 < gaps[1]


def test_a_better_ranking_has_the_better_curve():
    _, contrast, patching, _ = measured("ioi")
    fractions = tuple(i / 10 for i in range(11))
    exact = faithfulness(contrast, patching.importance, fractions=fractions)
    reverse = faithfulness(contrast, -patching.importance, fractions=fractions)
    assert exact.cpr > reverse.cpr + 0.3
    assert exact.cmd < reverse.cmd - 0.3


# --- sign, reference, published lists ---------------------------------------------------------------------------------


def test_heads_that_help_have_positive_effects_and_the_negative_mover_a_negative_one():
    circuit, _, patching, labels = measured("ioi")
    assert roc_auc(patching.importance, labels) == 1.0
    by_head = {head: float(patching.scores[number]) for number, head in enumerate(circuit.all_heads)}
    layers = {head[0] for head in circuit.heads if by_head[head] < 0}
    assert layers == {3}
    assert sum(by_head[head] < 0 for head in circuit.heads) == 1


@pytest.mark.parametrize("name", ["induction", "ioi"])
def test_the_reference_by_ablation_is_the_compiled_circuit(name):
    circuit, contrast, *_ = measured(name)
    reference = find_reference(contrast, pairs=False)
    assert reference.heads == circuit.heads
    assert reference.synergy is None
    assert not reference.together.any()


def test_a_pair_adds_members_only_when_it_does_more_than_both_alone(monkeypatch):
    """Head 0 carries everything; 1 only adds noise to that path; 2 and 3 stand in for each other; 4 does nothing.
    Replacing 0 with 1 undoes 1's noise, a change that is no sign of 1 mattering."""
    _, contrast, *_ = measured("ioi")
    n, d = contrast.n_examples, float((contrast.m_clean - contrast.m_corrupt).double().mean())
    noise = torch.linspace(-1.0, 1.2, n, dtype=torch.float64) * d
    alone = torch.zeros(n, 5, dtype=torch.float64)
    alone[:, 0], alone[:, 1] = d, noise
    both = alone[:, :, None] + alone[:, None, :]
    both[:, 0, 1] = both[:, 1, 0] = d
    both[:, 2, 3] = both[:, 3, 2] = 0.5 * d
    single = from_examples("by hand", contrast, alone, 0.0, n_passes=0)
    monkeypatch.setattr("research.heads.reference.exhaustive_patching", lambda *_: single)
    monkeypatch.setattr("research.heads.reference.pairwise_patching", lambda *_, **__: both)
    reference = find_reference(contrast)
    assert float(single.scores[1]) > 0.05 * d
    assert float(reference.synergy[0, 1]) < -0.05 * d
    assert reference.alone.tolist() == [True, False, False, False, False]
    assert reference.together.tolist() == [False, False, True, True, False]


def test_a_reference_needs_a_difference():
    circuit, *_ = measured("ioi")
    reverse = read_contrast(AttentionOnlyHeads(circuit.model), circuit.data.negatives, circuit.data.metric)
    with pytest.raises(UserError, match="no larger on the prompts"):
        find_reference(reverse)


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
