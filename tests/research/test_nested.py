"""Absorption on planted hierarchies: a parent's latent that is silent where a child fires is counted as such."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from monosemy.latents import SparseLatents
from research.planted.nested import has_children, pooled, scores_by_direction

PARENTS = torch.tensor([-1, -1, 0, 0])


def data():
    """Four orthogonal directions; 2 and 3 are children of 0, and 1 has none. A row says itself what fires in it."""
    generator = torch.Generator().manual_seed(0)

    def rows(n):
        fires = torch.rand(n, 4, generator=generator) < 0.5
        fires[:, 2:] &= fires[:, :1]
        return fires.float(), fires

    return SimpleNamespace(directions=torch.eye(4), parents=PARENTS, rows=rows)


def dictionary(absorbs: bool):
    def encode(x):
        code = x.clone()
        if absorbs:
            code[:, 0] *= x[:, 2:].sum(1) == 0
        return SparseLatents.from_dense(code)

    return SimpleNamespace(W_dec=torch.eye(4), encode=encode)


def test_the_rows_in_which_a_child_took_over_are_counted():
    honest, absorbing = (scores_by_direction(dictionary(absorbs), data(), 8192) for absorbs in (False, True))
    assert has_children(data()).tolist() == [True, False, False, False]
    assert honest["f1"].tolist() == [1, 1, 1, 1]
    assert honest["absorption"][0] == 0
    assert absorbing["missed_alone"][0] == 0
    assert absorbing["missed_with_child"][0] == absorbing["absorption"][0] == 1
    assert absorbing["f1"][0] == pytest.approx(2 / 5, abs=0.05)  # it fires alone: a quarter of the parent's rows
    assert absorbing["absorption"][1:].isnan().all()  # without children there is nothing to absorb
    assert absorbing["recovered"].tolist() == [1, 1, 1, 1]


def test_pooled_scores_leave_out_what_is_not_defined():
    scores = pooled(torch.tensor([1.0, 0.0, torch.nan, 1.0, 0.0], dtype=torch.float64))
    assert scores["mean"] == 0.5
    assert 0 <= scores["interval"][0] < 0.5 < scores["interval"][1] <= 1
