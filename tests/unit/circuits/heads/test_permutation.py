"""Permuting the heads of a model permutes what methods say of them."""

from __future__ import annotations

import pytest
import torch
from known_circuits import bench, circuit, contrast

from monosemy.circuits.heads.attention_only import AttentionOnly
from monosemy.circuits.heads.circuit import members_of
from monosemy.circuits.heads.methods import METHODS, Bench
from monosemy.circuits.heads.model_heads import AttentionOnlyHeads


def _permuted(model: AttentionOnly, order: list[int]) -> AttentionOnly:
    """The same model with the heads of every layer in another order."""
    other = AttentionOnly(model.shape, model.name)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            per_head = name in ("W_Q", "W_K", "W_V", "W_O")
            getattr(other, name).copy_(parameter[:, order] if per_head else parameter)
    return other.requires_grad_(False)


def test_permuting_heads_permutes_scores():
    planted = circuit("ioi")
    order = torch.randperm(planted.model.n_heads, generator=torch.Generator().manual_seed(5)).tolist()
    moved = Bench(AttentionOnlyHeads(_permuted(planted.model, order)), planted.data, 8)
    where = [layer * len(order) + head for layer in range(planted.model.n_layers) for head in order]
    # not ACDC and SP, which take heads in order or at random; nor k-means and preset `fast`, whose first centres and
    # axes depend on the order of samples
    names = "patching restoring eap eap-ig hisp combined-no-codes mean-difference probe codes-paper pairs-paper"
    for method in names.split():
        ours, theirs = METHODS[method](bench("ioi")).scores[where], METHODS[method](moved).scores
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-3, msg=method)


@pytest.mark.parametrize("name", ["induction", "ioi", "or_pair"])
def test_permuting_heads_permutes_what_combined_measures(name):
    """Codes may propose other heads then: members are the same, and so is the score of what both sides check."""
    planted = circuit(name)
    order = torch.randperm(planted.model.n_heads, generator=torch.Generator().manual_seed(5)).tolist()
    moved = Bench(AttentionOnlyHeads(_permuted(planted.model, order)), planted.data, 8)
    where = [layer * len(order) + head for layer in range(planted.model.n_layers) for head in order]  # theirs → ours
    ours, theirs = METHODS["combined"](bench(name)), METHODS["combined"](moved)
    difference = float((contrast(name).m_clean - contrast(name).m_corrupt).mean())
    assert {where[i] for i in members_of(theirs, difference)} == set(members_of(ours, difference)) != set()
    both = [i for i in theirs.checked if where[i] in ours.checked]
    assert len(both) >= len(members_of(ours, difference))
    torch.testing.assert_close(theirs.scores[both], ours.scores[[where[i] for i in both]], rtol=1e-3, atol=1e-3)
