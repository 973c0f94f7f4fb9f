"""Searches over edges: masks on them are the exact effects, and known edges remain."""

from __future__ import annotations

import pytest
import torch
from known_circuits import circuit
from letter_task import task_shown_by, write_letter_task
from tiny_models import make_tiny_model

from monosemy.circuits.heads.contrast import read_contrast
from monosemy.circuits.heads.masks import ProbeConfig
from monosemy.circuits.heads.member_edges import patch_member_edges
from monosemy.circuits.heads.model_heads import AttentionOnlyHeads, as_heads
from monosemy.circuits.heads.tasks import build_task
from monosemy.errors import UserError
from research.heads.compiled import compile_circuit
from research.heads.edge_attribution import attribute_member_edges
from research.heads.edge_search import acdc_edges, acdc_member_edges, probe_edges, probe_member_edges
from research.heads.member_graph import MemberGraph


def test_edges_of_a_tiny_graph_by_search():
    planted = circuit("induction")
    few = read_contrast(AttentionOnlyHeads(planted.model), planted.data.positives[:5], planted.data.metric)
    pruned = acdc_edges(few, [0.01])
    remaining = {edge for edge, score in zip(pruned.edges, pruned.scores, strict=True) if score > 0}
    assert remaining
    assert remaining <= planted.edges  # greedy: of edges that stand in for each other some go
    probed = probe_edges(few, ProbeConfig(n_steps=3))
    assert len(probed.scores) == len(pruned.edges)
    assert bool(((probed.scores > 0) & (probed.scores < 1)).all())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_masks_on_the_edges_among_members(family, tmp_path):
    model = make_tiny_model(family)
    heads = as_heads(model)
    data = task_shown_by(model, build_task(str(write_letter_task(tmp_path)), model, 5))
    contrast = read_contrast(heads, data.positives, data.metric)
    members = [1, heads.n_heads + 2, 2 * heads.n_heads, 2 * heads.n_heads + 3, 3 * heads.n_heads + 1]
    graph, batch = MemberGraph(contrast, members), contrast.batches[0]
    n = len(graph.edges)
    torch.testing.assert_close(graph.metric(0, torch.ones(n)), batch.m_clean, rtol=1e-4, atol=1e-5)
    exact = patch_member_edges(contrast, members)
    assert graph.edges == exact.edges
    for number in range(n):  # a single 0 is the exact effect
        mask = torch.ones(n)
        mask[number] = 0
        effect = float((batch.m_clean - graph.metric(0, mask)).double().mean())
        assert effect == pytest.approx(float(exact.scores[number]), rel=1e-3, abs=2e-5), str(graph.edges[number])
    # the slope at 1 is EAP, for all edges at once, two receivers of one layer among them
    gates = torch.ones(n, requires_grad=True)
    (slope,) = torch.autograd.grad(graph.metric(0, gates).mean(), gates)
    torch.testing.assert_close(slope.double(), attribute_member_edges(contrast, members).scores, rtol=1e-3, atol=1e-5)
    pruned = acdc_member_edges(contrast, members, [1e-9, 10.0])
    assert float(pruned.scores.max()) <= 1e-9  # nothing is worth ten nats
    probed = probe_member_edges(contrast, members, ProbeConfig(n_steps=3))
    assert bool(((probed.scores > 0) & (probed.scores < 1)).all())
    small = compile_circuit("induction", n_examples=5)
    other = read_contrast(as_heads(small.model), small.data.positives, small.data.metric)
    with pytest.raises(UserError, match="has edges of its own"):
        MemberGraph(other, [0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_searches_run_on_a_gpu():
    planted = compile_circuit("induction", n_examples=8)
    heads = as_heads(planted.model.to("cuda"))
    few = read_contrast(heads, planted.data.positives[:5], planted.data.metric)
    for scores in (acdc_edges(few, [0.01]), probe_edges(few, ProbeConfig(n_steps=2))):
        assert bool(torch.isfinite(scores.scores).all())
