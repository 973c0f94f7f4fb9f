"""The parts of two comparisons that decide: which try counts and at which L0, planted features and their scores."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from research.peers import run as quality
from research.planted import scale as planted


def tried(l0: float, fvu: float, rate: float = 1e-3, coef: float = 1.0) -> dict[str, Any]:
    side = {"l0": l0, "fvu": fvu}
    return {"settings": {"learning_rate": rate, "coef": coef}, "tuning": side, "reported": side}


def test_the_next_coefficient_follows_the_slope_of_the_nearest_tries() -> None:
    assert quality.next_coef([tried(64, 0.2, coef=2.0)]) == pytest.approx(4.0)  # L0 ∝ 1/coef until two are known
    tries = [tried(128, 0.1, coef=1.0), tried(64, 0.2, coef=4.0)]  # L0 ∝ coef^−½
    assert quality.next_coef(tries) == pytest.approx(16.0, rel=1e-3)
    assert quality.next_coef([tried(2000, 0.1, coef=1.0)]) == pytest.approx(8.0)  # never further than that
    backwards = [tried(64, 0.2, coef=2.0), tried(70, 0.2, coef=2.2)]  # noise must not turn the search round
    assert quality.next_coef(backwards) > 2.0


def test_a_try_near_the_asked_l0_beats_a_better_one_far_away() -> None:
    near, better, far = tried(33, 0.25), tried(36, 0.22), tried(100, 0.05)
    assert quality.best_of([near, better, far]) is better
    assert quality.best_of([tried(100, 0.05), tried(60, 0.3)])["tuning"]["l0"] == 60


def test_planted_rows_have_the_rates_the_hierarchy_and_the_scale_they_claim() -> None:
    size = planted.Size(64, 32, 64, 0.4, n_steps=1, n_seeds=1, learning_rate=1e-3)
    data = planted.Planted(size, 0)
    pattern, amplitudes = data.codes(20_000)
    counts = torch.bincount(pattern.indices.long(), minlength=64).double() / 20_000
    assert torch.allclose(counts, data.rates.double(), atol=0.015)
    assert len(amplitudes) / 20_000 == pytest.approx(data.l0, rel=0.03)
    fires = torch.zeros(20_000, 64, dtype=torch.bool)
    fires[torch.repeat_interleave(torch.arange(20_000), pattern.offsets.diff()), pattern.indices.long()] = True
    tree = fires.view(-1, 2, planted.PARENTS, 1 + planted.CHILDREN)
    assert not (tree[..., 1:] & ~tree[..., :1]).any()  # no child without its parent
    assert (tree[..., 1:].any(-1) & tree[..., 0]).any()
    first, second = (tree[:, 0, i, 0].double() for i in (0, 1))
    assert torch.corrcoef(torch.stack([first, second]))[0, 1] > 0.2  # parents of a group fire together
    assert float(data.batch(20_000).square().sum(1).mean()) == pytest.approx(1.0, rel=0.05)


def test_scores_of_known_dictionaries() -> None:
    truth = torch.eye(8)
    perfect = planted.scores([planted.best_matches(truth, 3 * truth.flip(0), 8)], 50)
    for name in ("mean_max_cosine", "recall", "precision", "f1", "uniqueness"):
        assert perfect[name] == pytest.approx(1.0)
        assert perfect[f"{name}_interval"] == pytest.approx((1.0, 1.0))
    doubled = torch.cat([truth[:4], truth[:4]])  # half the truth, every latent twice
    twice = planted.scores([planted.best_matches(truth, doubled, 8)], 50)
    assert (twice["precision"], twice["recall"]) == (1.0, 0.5)
    assert twice["f1"] == pytest.approx(2 / 3)
    assert twice["uniqueness"] < 0.5  # a twin is the best match of nothing
    mixed = planted.scores([planted.best_matches(truth, truth + truth.roll(1, 0), 8)], 50)
    assert mixed["f1"] == 0
    assert mixed["mean_max_cosine"] == pytest.approx(math.sqrt(0.5))
    wide = planted.best_matches(truth, truth[[6, 7]], 2)  # only the two most frequent are targets
    assert wide["target"].tolist() == [0.0, 0.0]
    assert wide["latent"].tolist() == [1.0, 1.0]
