"""The discrete method: gradients, codes, counting by hand, fixes, determinism."""

from __future__ import annotations

import dataclasses
from itertools import product

import numpy as np
import pytest
import torch

from monosemy.circuits.heads.attention_only import AttentionOnly, Shape
from monosemy.circuits.heads.code_scores import (
    distinct_codes,
    edge_scores,
    head_scores_by_pairs,
    node_intervals,
    node_scores,
    pair_counts,
)
from monosemy.circuits.heads.controls import probe_accuracy
from monosemy.circuits.heads.discrete import Codes, CodeSae, DiscreteConfig, discrete_codes, preset, train
from monosemy.circuits.heads.model_heads import AttentionOnlyHeads
from monosemy.circuits.heads.pooled import PooledHeads
from monosemy.errors import UserError

SMALL = DiscreteConfig(d_sae=12, n_epochs=20, n_training=6)


def _pooled(n: int = 20, n_heads: int = 6, d: int = 8, seed: int = 0) -> PooledHeads:
    """Each head has a direction, head 1 three others on positives; head 4 writes nothing."""
    generator = torch.Generator().manual_seed(seed)
    values = 3 * torch.randn(n_heads, d, generator=generator) + torch.zeros(2 * n, 1, 1)
    values[:n, 1] = 3 * torch.randn(3, d, generator=generator)[torch.arange(n) % 3]
    values += 0.01 * torch.randn(2 * n, n_heads, d, generator=generator)
    values[:, 4] = 0.0
    heads = AttentionOnlyHeads(AttentionOnly(Shape(2, n_heads // 2, d, 4, vocab_size=5, n_positions=5)))
    return PooledHeads(
        heads,
        {"mean": values, "last": values.flip(2)},
        torch.ones(2 * n),
        torch.ones(2 * n),
        n_positives=n,
        seconds=0.0,
    )


@pytest.mark.parametrize("n_dimensions", [None, 20])
def test_gradients_are_those_of_the_loss(n_dimensions):
    """Of samples projected from 20 dimensions the error is still divided by 20."""
    generator = torch.Generator().manual_seed(1)
    sae = CodeSae(7, DiscreteConfig(d_sae=9))
    for name in ("W_e", "W_d", "b_e", "b"):
        parameter = getattr(sae, name).double() + 0.1 * torch.randn(
            getattr(sae, name).shape, generator=generator, dtype=torch.float64
        )
        setattr(sae, name, parameter.requires_grad_())
    x = torch.randn(11, 7, generator=generator, dtype=torch.float64)
    f = torch.relu((x - sae.b) @ sae.W_e.T + sae.b_e)
    share = 7 / n_dimensions if n_dimensions else 1
    expected_loss = share * (f @ sae.W_d + sae.b - x).square().mean() + 0.3 * f.abs().sum(1).mean()
    expected = torch.autograd.grad(expected_loss, [sae.W_e, sae.W_d, sae.b_e, sae.b])
    with torch.no_grad():
        loss, gradients = sae.loss_and_gradients(x, 0.3, n_dimensions)
    torch.testing.assert_close(loss, expected_loss.detach())
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_training_is_adam_with_unit_rows():
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(2))
    config = DiscreteConfig(d_sae=5, n_epochs=3, l1_coef=0.01)
    ours = train(x, config)
    start = CodeSae(6, config)
    parameters = [torch.nn.Parameter(p.clone()) for p in (start.W_e, start.W_d, start.b_e, start.b)]
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate)
    for _ in range(config.n_epochs):
        W_e, W_d, b_e, b = parameters
        f = torch.relu((x - b) @ W_e.T + b_e)
        loss = (f @ W_d + b - x).square().mean() + config.l1_coef * f.sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for rows in parameters[:2]:
                rows /= rows.norm(dim=1, keepdim=True)
    for name, expected in zip(("W_e", "W_d", "b_e", "b"), parameters, strict=True):
        torch.testing.assert_close(getattr(ours, name), expected.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.W_e.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(ours.W_d.norm(dim=1), torch.ones(5))


def test_silent_samples_get_code_zero_or_their_own():
    sae = CodeSae(4, DiscreteConfig(d_sae=3))
    sae.b_e -= 100.0
    x = torch.randn(5, 4)
    assert sae.encode(x, dead_code=False).tolist() == [0] * 5
    assert sae.encode(x, dead_code=True).tolist() == [3] * 5


def _random_codes(n_examples: int = 15, n: int = 5, n_codes: int = 4) -> Codes:
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(n_codes, (n_examples, n), generator=generator)
    return Codes(codes, torch.arange(n_examples) < 7, n_codes)


def test_counts_are_set_differences():
    codes = _random_codes()
    rows, positive = codes.codes.tolist(), codes.positive.tolist()
    code_sets = {
        sign: [{row[h] for row, p in zip(rows, positive, strict=True) if p is sign} for h in range(5)]
        for sign in (True, False)
    }
    assert node_scores(codes).tolist() == [len(code_sets[True][h] - code_sets[False][h]) for h in range(5)]
    assert distinct_codes(codes).tolist() == [len(code_sets[True][h] | code_sets[False][h]) for h in range(5)]
    counts = pair_counts(codes)
    for g, h in product(range(5), range(5)):
        pairs = {s: {(r[g], r[h]) for r, p in zip(rows, positive, strict=True) if p is s} for s in (True, False)}
        assert counts[g, h] == (len(pairs[True] - pairs[False]) if g != h else 0)
    ties = pair_counts(codes, break_ties=True)
    assert torch.equal(ties.floor(), counts)
    assert torch.equal(node_scores(codes, break_ties=True).floor(), node_scores(codes))


def test_pairs_name_heads_and_edges_point_forward():
    counts = torch.zeros(4, 4, dtype=torch.float64)
    for a, b, value in ((0, 3, 5), (1, 2, 5), (0, 1, 4), (2, 3, 1)):
        counts[a, b] = counts[b, a] = value
    assert head_scores_by_pairs(counts, 2, n_pairs=2).tolist() == [1, 1, 1, 1]
    assert head_scores_by_pairs(counts, 2, n_pairs=3).tolist() == [2, 2, 1, 1]
    assert head_scores_by_pairs(counts, 2, n_pairs=6).sum() == 8  # pairs never seen are not named
    ties = head_scores_by_pairs(counts, 2, n_pairs=2, break_ties=True)
    assert torch.equal(ties.floor(), head_scores_by_pairs(counts, 2, n_pairs=2))
    assert ties[0] == ties[1] > ties[2] == ties[3]  # Σ_g U_gh is 9, 9, 6, 6
    edges = edge_scores(counts, 2)
    assert edges[0, 3] == 5
    assert edges[3, 0] == 0
    assert edges[0, 1] == 0  # the same layer


def test_the_head_that_differs_is_found_and_the_silent_one_is_not():
    for name in ("paper", "fast"):
        config = preset(name, n_training=6, d_sae=40, n_epochs=60)
        codes = discrete_codes(_pooled(), config)
        scores = node_scores(codes, break_ties=config.break_ties)
        assert scores[4] == 0
        assert scores.argmax() == 1
        assert scores[1] >= 2
        low, high = node_intervals(codes, 20, break_ties=config.break_ties).T
        assert bool((low <= high).all())


def test_fixes_change_what_is_counted():
    pooled = _pooled()
    paper = discrete_codes(pooled, SMALL)
    assert len(paper.codes) == 40
    held_out = discrete_codes(pooled, dataclasses.replace(SMALL, held_out=True))
    assert len(held_out.codes) == 34
    equal = discrete_codes(pooled, dataclasses.replace(SMALL, held_out=True, equal_sizes=True))
    assert int(equal.positive.sum()) == int((~equal.positive).sum())
    last = discrete_codes(pooled, dataclasses.replace(SMALL, pooling="last"))
    assert not torch.equal(last.codes, paper.codes)


def test_same_seed_same_codes_and_permuted_heads_permuted_scores():
    pooled = _pooled()
    first, again = (discrete_codes(pooled, SMALL) for _ in range(2))
    assert torch.equal(first.codes, again.codes)
    assert not torch.equal(first.codes, discrete_codes(pooled, dataclasses.replace(SMALL, seed=1)).codes)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = PooledHeads(
        pooled.heads,
        {k: v[:, order] for k, v in pooled.values.items()},
        pooled.metric,
        pooled.correct,
        n_positives=20,
        seconds=0.0,
    )
    # samples come in another order, so sums round otherwise; scores are the same
    assert torch.equal(node_scores(discrete_codes(moved, SMALL)), node_scores(first)[order])
    counts = pair_counts(first)
    assert torch.equal(
        pair_counts(Codes(first.codes[:, order], first.positive, first.n_codes)), counts[order][:, order]
    )


def test_bad_settings_are_refused():
    with pytest.raises(UserError, match="unknown preset of the discrete method 'papre'; did you mean 'paper'"):
        preset("papre")
    with pytest.raises(UserError, match="n_epochs must be above 0"):
        DiscreteConfig(n_epochs=0)
    with pytest.raises(UserError, match="unknown pooling 'first'"):
        DiscreteConfig(pooling="first")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="training examples leave"):
        discrete_codes(_pooled(5), DiscreteConfig(d_sae=4, n_epochs=1, n_training=10, held_out=True))
    assert preset("paper", "docstring").l1_coef == 0.05


def test_a_probe_is_ridge_regression_on_halves_whatever_a_heads_scale():
    """Against the same regression in the space of features; a head at 1e-16 counts as one at 1, a silent one
    is even, and so is one whose outputs differ by rounding alone."""
    generator = torch.Generator().manual_seed(0)
    n, d = 41, 6
    x = torch.randn(n, 1, d, generator=generator)
    x[:20, 0, 0] += 1.0
    rounded = 0.3 * (1 + 1e-7 * torch.randn(n, 1, d, generator=generator))
    rounded[:20] *= 1 + 2e-7  # the processor's doing, however well it tells positives from negatives
    values = torch.cat([x, x * 2.0**-53, torch.zeros_like(x), rounded], 1)
    heads = AttentionOnlyHeads(AttentionOnly(Shape(2, 2, d, 4, vocab_size=5, n_positions=5)))
    pooled = PooledHeads(heads, {"mean": values}, torch.ones(n), torch.ones(n), n_positives=20, seconds=0.0)
    accuracy = probe_accuracy(pooled, preset("paper"), seed=3)
    y = np.where(np.arange(n) < 20, 1.0, -1.0)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(3)).numpy()
    right, nearest = 0, np.inf
    for fitted, tested in ((order[: n // 2], order[n // 2 :]), (order[n // 2 :], order[: n // 2])):
        a, b = (x[torch.from_numpy(half), 0].double().numpy() for half in (fitted, tested))
        mean, offset = a.mean(0), y[fitted].mean()
        ridge = 0.1 * ((a - mean) ** 2).sum() / len(a)
        w = np.linalg.solve((a - mean).T @ (a - mean) + ridge * np.eye(d), (a - mean).T @ (y[fitted] - offset))
        predicted = (b - mean) @ w + offset
        right += int((np.sign(predicted) == y[tested]).sum())
        nearest = min(nearest, np.abs(predicted).min())
    assert nearest > 1e-4  # no prediction that rounding could turn
    assert accuracy[0] == accuracy[1] == pytest.approx(right / n)
    assert accuracy[0] > 0.6
    assert 0.3 < float(accuracy[2]) < 0.6
    assert accuracy[3] == accuracy[2]
