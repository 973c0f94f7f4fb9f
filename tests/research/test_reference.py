"""The reference by exhaustive ablation: compiled circuits, heads that stand in for each other, what adds no member."""

from __future__ import annotations

import pytest
import torch
from known_circuits import circuit, contrast, indices, measured_circuit

from monosemy.circuits.heads.contrast import read_contrast
from monosemy.circuits.heads.model_heads import AttentionOnlyHeads
from monosemy.circuits.heads.patching import exhaustive_patching
from monosemy.circuits.heads.scores import from_examples
from monosemy.errors import UserError
from research.heads.reference import find_reference, pairwise_patching


def test_redundant_heads_show_when_replaced_together():
    inside = indices("or_pair", circuit("or_pair").heads)
    pair = [i for i in inside if i < circuit("or_pair").model.n_heads]
    single = exhaustive_patching(contrast("or_pair"))
    assert float(single.importance[pair].max()) < 0.05
    both = pairwise_patching(contrast("or_pair"), single, pair)
    assert float(both.mean(0)[pair[0], pair[1]]) > 4.0
    assert torch.equal(both[:, pair[0], pair[0]], single.per_example[:, pair[0]])


@pytest.mark.parametrize("name", ["induction", "ioi"])
def test_the_reference_by_ablation_is_the_compiled_circuit(name):
    circuit, contrast, *_ = measured_circuit(name)
    reference = find_reference(contrast, pairs=False)
    assert reference.heads == circuit.heads
    assert reference.synergy is None
    assert not reference.together.any()


def test_a_pair_adds_members_only_when_it_does_more_than_both_alone(monkeypatch):
    """Head 0 carries everything; 1 only adds noise to that path; 2 and 3 stand in for each other; 4 does nothing.
    Replacing 0 with 1 undoes 1's noise, a change that is no sign of 1 mattering."""
    _, contrast, *_ = measured_circuit("ioi")
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
    circuit, *_ = measured_circuit("ioi")
    reverse = read_contrast(AttentionOnlyHeads(circuit.model), circuit.data.negatives, circuit.data.metric)
    with pytest.raises(UserError, match="no larger on the prompts"):
        find_reference(reverse)
