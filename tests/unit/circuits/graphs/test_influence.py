"""Influence, scores and pruning against (I − A)⁻¹ over the whole square of nodes."""

from __future__ import annotations

import pytest
import torch

from monosemy.circuits.graphs.influence import edge_influence, influence, partial_influence, prune, scores, shares

N, N_ERRORS, N_TOKENS, N_LOGITS = 7, 4, 3, 2
WEIGHTS = torch.tensor([0.6, 0.3], dtype=torch.float64)


@pytest.fixture
def effects():
    """Rows of a graph without circles: latent i has inputs from latents before it, errors and tokens."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(N + N_LOGITS, N + N_ERRORS + N_TOKENS, generator=generator, dtype=torch.float64)
    rows[:N, :N] = rows[:N, :N].tril(-1)
    rows[0] = 0  # a latent without inputs
    return rows


def whole_square(effects):
    """(Ã over all nodes, weights over all nodes); nodes are latents, errors, tokens, logits."""
    n_all = N + N_ERRORS + N_TOKENS + N_LOGITS
    square = torch.zeros(n_all, n_all, dtype=torch.float64)
    square[:N, : n_all - N_LOGITS] = effects[:N]
    square[-N_LOGITS:, : n_all - N_LOGITS] = effects[N:]
    weights = torch.zeros(n_all, dtype=torch.float64)
    weights[-N_LOGITS:] = WEIGHTS
    return square.abs() / square.abs().sum(1, keepdim=True).clamp_min(1e-10), weights


def test_influence_is_the_inverse(effects):
    square, weights = whole_square(effects)
    expected = weights @ (torch.linalg.inv(torch.eye(len(square)) - square) - torch.eye(len(square)))
    torch.testing.assert_close(influence(shares(effects), WEIGHTS), expected[:-N_LOGITS])


def test_scores_are_those_of_the_inverse(effects):
    square, weights = whole_square(effects)
    whole = weights @ torch.linalg.inv(torch.eye(len(square)) - square)  # the nodes' own weights included
    errors, tokens = slice(N, N + N_ERRORS), slice(N + N_ERRORS, N + N_ERRORS + N_TOKENS)
    replacement = whole[tokens].sum() / (whole[tokens].sum() + whole[errors].sum())
    completeness = ((1 - square[:, errors].sum(1)) * whole).sum() / whole.sum()
    assert scores(effects, WEIGHTS, n_tokens=N_TOKENS) == pytest.approx((float(replacement), float(completeness)))


def test_partial_influence_is_influence_once_all_rows_are_there(effects):
    columns = torch.tensor([4, 0, 6, 1, 5, 2, 3])
    ordered = torch.cat([effects[N:], effects[columns]])
    torch.testing.assert_close(
        partial_influence(ordered, WEIGHTS, columns), influence(shares(effects), WEIGHTS), atol=1e-12, rtol=1e-12
    )


def test_partial_influence_of_the_logits_alone_is_their_weighted_inputs(effects):
    expected = WEIGHTS @ shares(effects[N:])
    torch.testing.assert_close(partial_influence(effects[N:], WEIGHTS, torch.zeros(0, dtype=torch.long)), expected)


def test_edges_into_a_target_share_its_influence(effects):
    edges = edge_influence(effects, WEIGHTS)
    of_targets = torch.cat([influence(shares(effects), WEIGHTS)[:N], WEIGHTS])
    torch.testing.assert_close(edges.sum(1)[1:], of_targets[1:])
    assert float(edges[0].sum()) == 0


def test_pruning_keeps_the_asked_share_and_nothing_that_leads_nowhere(effects):
    by_node = influence(shares(effects), WEIGHTS)
    pruned = prune(effects, WEIGHTS, n_tokens=N_TOKENS, node_share=0.8, edge_share=0.9)
    assert bool(pruned.sources[-N_TOKENS:].all()), "tokens stay"
    dropped = ~pruned.sources
    assert bool(dropped.any())
    assert not bool(pruned.edges[:, dropped].any())
    assert not bool(pruned.edges[:N][dropped[:N]].any())
    members = pruned.sources[:N]
    assert bool(pruned.edges[:, :N][:, members].any(0).all()), "every kept latent leads somewhere"
    assert bool(pruned.edges[:N][members].any(1).all()), "every kept latent comes from somewhere"
    unpruned = prune(effects, WEIGHTS, n_tokens=N_TOKENS, node_share=1.0, edge_share=1.0)
    assert unpruned.sources.tolist() == [False, *[True] * (len(by_node) - 1)], "only the one without inputs goes"
