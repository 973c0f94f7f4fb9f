"""EAP of edges: exact on linear paths, sums, derivatives of the mask, signs, and slopes on real models."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from known_circuits import circuit, contrast, indices
from letter_task import write_letter_task
from tiny_models import make_tiny_model

from monosemy.circuits.heads.attribution import N_STEPS
from monosemy.circuits.heads.contrast import read_contrast
from monosemy.circuits.heads.edges import EdgeGraph, all_edges, patch_edges
from monosemy.circuits.heads.member_edges import patch_member_edges
from monosemy.circuits.heads.model_heads import AttentionOnlyHeads, as_heads
from monosemy.circuits.heads.task import OUTPUT
from monosemy.circuits.heads.tasks import build_task
from research.heads.compiled import CIRCUITS, compile_circuit
from research.heads.edge_attribution import attribute_edges, attribute_member_edges


@pytest.mark.parametrize("name", list(CIRCUITS))
def test_eap_of_edges_is_exact_on_linear_paths(name):
    """From the last heads to the logits everything is linear: gradients are differences."""
    planted = circuit(name)
    edges = all_edges(planted.model.n_layers, planted.model.n_heads)
    last = [i for i, edge in enumerate(edges) if edge.receiver == OUTPUT]
    by_patching, by_gradient = patch_edges(contrast(name), last), attribute_edges(contrast(name))
    torch.testing.assert_close(by_gradient.scores[last], by_patching.scores[last], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ablation", ["mean", "zero"])
def test_eap_of_edges_follows_the_ablation(ablation):
    planted, ioi_contrast = circuit("ioi"), contrast("ioi")
    edges = all_edges(planted.model.n_layers, planted.model.n_heads)
    last = [i for i, edge in enumerate(edges) if edge.receiver == OUTPUT and edge.sender in planted.heads]
    exact, estimate = patch_edges(ioi_contrast, last, ablation), attribute_edges(ioi_contrast, 1, ablation)
    torch.testing.assert_close(estimate.scores[last], exact.scores[last], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", list(CIRCUITS))
@pytest.mark.parametrize("n_steps", [1, 4])
def test_edges_into_the_output_sum_to_the_whole_difference(name, n_steps):
    assert circuit(name).data.metric == "logit_difference"  # linear in the logits
    edge_scores = attribute_edges(contrast(name), n_steps)
    total = sum(
        float(s) for edge, s in zip(edge_scores.edges, edge_scores.scores, strict=True) if edge.receiver == OUTPUT
    )
    difference = float((contrast(name).m_clean - contrast(name).m_corrupt).double().mean())
    assert total == pytest.approx(difference, rel=1e-4)


def test_gradients_of_edges_are_derivatives_of_the_mask():
    graph, batch = EdgeGraph(contrast("ioi")), contrast("ioi").batches[0]
    mask = torch.ones(len(graph.edges), requires_grad=True)
    (expected,) = torch.autograd.grad(graph.metric(batch, mask).mean(), mask)
    torch.testing.assert_close(attribute_edges(contrast("ioi")).scores.float(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("n_steps", [1, N_STEPS])
def test_only_the_negative_mover_has_a_negative_edge_into_the_output(n_steps):
    planted = circuit("ioi")
    last = planted.model.n_layers - 1
    (negative,) = indices("ioi", {head for head in planted.heads if head[0] == last})
    edges = attribute_edges(contrast("ioi"), n_steps)
    by_edge = dict(zip(edges.edges, edges.scores.tolist(), strict=True))
    into = {edge.sender: by_edge[edge] for edge in planted.edges if edge.receiver == OUTPUT}
    assert {head for head, score in into.items() if score < 0} == {divmod(negative, planted.model.n_heads)}


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi"])
def test_eap_of_member_edges_is_the_slope_of_patching(family, tmp_path):
    model = make_tiny_model(family)
    heads = as_heads(model)
    data = build_task(str(write_letter_task(tmp_path)), model, 5)
    contrast = read_contrast(heads, data.positives, data.metric)
    early, late = 2, 3 * heads.n_heads + 1
    patched_edges = patch_member_edges(contrast, [early, late])
    batch = contrast.batches[0]
    # EAP is the slope of the same: a thousandth of the sender's difference
    by_gradient = attribute_member_edges(contrast, [early, late])
    assert by_gradient.edges == patched_edges.edges
    nearly = batch.clean.values + 1e-3 * (batch.corrupted.values - batch.clean.values)
    corrupted = dataclasses.replace(batch.corrupted, values=nearly)
    slope = patch_member_edges(
        dataclasses.replace(contrast, batches=[dataclasses.replace(batch, corrupted=corrupted)]), [early, late]
    )
    torch.testing.assert_close(by_gradient.scores, 1e3 * slope.scores, rtol=0.05, atol=5e-3)
    assert float(by_gradient.scores.abs().max()) > 0.02


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_eap_of_edges_runs_on_a_gpu():
    planted = compile_circuit("induction", n_examples=8)
    heads = AttentionOnlyHeads(planted.model.to("cuda"))
    few = read_contrast(heads, planted.data.positives[:5], planted.data.metric)
    assert bool(torch.isfinite(attribute_edges(few).scores).all())
