"""Twins of decoder rows: planted copies are found, and chance is what random directions of the same spread give."""

import itertools

import numpy as np
import pytest
import torch

from research.stability import twins as stability
from research.stability.twins import chance_rows, find_twins, one_to_one


@pytest.fixture
def planted():
    """(a [40, 32], b [50, 32], permutation): rows 0–19 of a lie in b, turned by noise, in another order."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(40, 32, generator=generator)
    b = torch.randn(50, 32, generator=generator)
    order = torch.randperm(50, generator=generator)[:20]
    b[order] = 3 * (a[:20] + 0.1 * torch.randn(20, 32, generator=generator))  # another length: only directions count
    return a, b, order.numpy()


def test_copies_are_each_others_twins(planted, monkeypatch):
    a, b, order = planted
    monkeypatch.setattr(stability, "_BLOCK", 7)
    twins = find_twins(a, b)
    assert (twins.nearest_a[:20] == order).all()
    assert (twins.cosine_a[:20] > 0.98).all()
    assert twins.mutual_a[:20].all()
    assert twins.mutual_b[order].all()
    assert (twins.cosine_a[20:] < 0.9).all()


def test_against_all_cosines(planted):
    a, b, _ = planted
    twins = find_twins(a, b)
    cosine = torch.nn.functional.cosine_similarity(a[:, None].double(), b[None].double(), dim=-1).numpy()
    assert np.allclose(twins.cosine_a, cosine.max(1), atol=1e-6)
    assert np.allclose(twins.cosine_b, cosine.max(0), atol=1e-6)
    assert (twins.nearest_b == cosine.argmax(0)).all()
    assert twins.mutual_a.sum() == twins.mutual_b.sum()


def test_the_matching_is_the_best_of_all():
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(5, 4, generator=generator), torch.randn(5, 4, generator=generator)
    cosine = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1)
    best = max(float(cosine[range(5), list(order)].sum()) for order in itertools.permutations(range(5)))
    ours, theirs = one_to_one(a, b)
    assert ours.sum() == pytest.approx(best, abs=1e-5)
    assert sorted(ours) == sorted(theirs)


def test_two_rows_cannot_share_a_match():
    row, other = torch.eye(3)[:1], torch.eye(3)[1:2]
    a = torch.cat([row, row])
    b = torch.cat([row, other])
    assert (find_twins(a, b).cosine_a == 1).all()
    assert sorted(one_to_one(a, b)[0].tolist()) == pytest.approx([0.0, 1.0])


def test_a_row_left_over_has_no_match():
    ours, theirs = one_to_one(torch.eye(3)[[1, 0, 2]], 2 * torch.eye(3)[[0, 1]])
    assert ours.tolist() == [1.0, 1.0, 0.0]
    assert theirs.tolist() == [1.0, 1.0]


def test_chance_rows_follow_the_spread_of_the_decoders():
    """Rows mostly along one axis: random ones too, so their cosines are far above those of uniform directions."""
    generator = torch.Generator().manual_seed(2)
    spread = torch.ones(64)
    spread[0] = 20.0
    a, b = torch.randn(500, 64, generator=generator) * spread, torch.randn(500, 64, generator=generator) * spread
    first, second = chance_rows(a, b, 500, seed=0), chance_rows(a, b, 500, seed=1)
    assert torch.allclose(first.norm(dim=1), torch.ones(500))
    assert not torch.equal(first, second)
    share = float(torch.nn.functional.normalize(a, dim=1)[:, 0].square().mean())
    assert float(first[:, 0].square().mean()) == pytest.approx(share, rel=0.1)
    uniform = find_twins(torch.randn(500, 64, generator=generator), torch.randn(500, 64, generator=generator))
    assert find_twins(first, second).cosine_a.mean() > uniform.cosine_a.mean() + 0.3


def test_decoders_of_other_widths_are_refused():
    with pytest.raises(ValueError, match="cannot be compared"):
        find_twins(torch.ones(3, 4), torch.ones(3, 5))
