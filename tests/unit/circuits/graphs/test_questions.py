"""What is asked of a graph afterwards: ablations, heads of an edge, attention scores, controls, several prompts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from graph_cases import TEXT, exact_model, frozen_attention, random_transcoder, random_transcoders

from monosemy.circuits.graphs.ablation import ablate, rank_agreement
from monosemy.circuits.graphs.attention_scores import score_parts
from monosemy.circuits.graphs.attribution import attribute
from monosemy.circuits.graphs.carriers import edge_carriers
from monosemy.circuits.graphs.controls import CONTROLS, control_graph
from monosemy.circuits.graphs.several import put_together
from monosemy.errors import UserError


@pytest.fixture(scope="module")
def saes():
    return random_transcoders(skip=False)


@pytest.fixture(scope="module")
def graph(saes):
    return attribute(exact_model("llama"), saes, TEXT, max_latents=60)


def changes_by_hand(graph, saes, node, *, frozen):
    """Σ_k p_k |Δ(z_k − mean z)| from two passes of the model, one with the latent's output taken away."""
    model = exact_model("llama")
    layer, position, latent = graph.latents[node].tolist()
    removed = torch.zeros(graph.n_tokens, 32, dtype=torch.float64)
    removed[position] = graph.activations[node] * saes[layer].W_dec[latent]

    def centred(edits):
        logits = model.logits(graph.tokens[None], edits)[0, -1]
        return (logits - logits.mean())[graph.logit_ids]

    edits = {f"layers.{layer}.mlp_out": lambda y: y - removed}
    if frozen:
        with frozen_attention(model.module):  # the first pass keeps its patterns for the second
            before, after = centred({}), centred(edits)
    else:
        before, after = centred({}), centred(edits)
    return float((graph.probabilities * (after - before).abs()).sum())


def test_ablations_are_two_passes_of_the_model(graph, saes):
    nodes = [0, 7, 31, 59]
    measured = ablate(graph, nodes)
    assert measured.nodes.tolist() == nodes
    for place, node in enumerate(nodes):
        free, frozen = (changes_by_hand(graph, saes, node, frozen=kind) for kind in (False, True))
        assert float(measured.free[place]) == pytest.approx(free, rel=1e-5)
        assert float(measured.frozen[place]) == pytest.approx(frozen, rel=1e-5)
    assert not torch.allclose(measured.free, measured.frozen)
    with pytest.raises(UserError, match="node 60 is no latent"):
        ablate(graph, [60])


def test_all_kept_latents_are_measured(graph):
    measured = ablate(graph)
    assert measured.nodes.tolist() == graph.kept_latents()
    low, high = measured.free_agreement.interval
    assert low <= measured.free_agreement.rho <= high


def test_rank_agreement_is_spearmans():
    from scipy.stats import spearmanr

    draws = np.random.default_rng(0)
    a = draws.normal(size=40)
    b = a + draws.normal(size=40)
    agreement = rank_agreement(a, np.exp(b))
    assert agreement.rho == pytest.approx(spearmanr(a, b).statistic)
    assert agreement.interval[0] < agreement.rho < agreement.interval[1]
    assert np.isnan(rank_agreement(a[:2], b[:2]).rho)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gpt_neox"])
def test_heads_add_up_to_the_edge(family):
    graph = attribute(exact_model(family), random_transcoders((0, 1, 3), skip=False), TEXT, max_latents=40)
    shift = graph.n_sources - graph.n_latents
    rows, columns = graph.effects.nonzero(as_tuple=True)
    for place in range(0, len(rows), len(rows) // 12):
        row, source = int(rows[place]), int(columns[place])
        carriers = edge_carriers(graph, source, row if row < graph.n_latents else row + shift)
        whole = carriers.residual + sum(effect for _, _, effect in carriers.heads)
        assert whole == pytest.approx(float(graph.effects[row, source]), rel=1e-9, abs=1e-9)
        assert abs(carriers.linear) < 1e-9 * max(1.0, abs(carriers.effect))


def test_an_edge_through_one_head_is_that_heads(monkeypatch):
    """Only one head of layer 1 may write: all that leaves a position does so through it."""
    model = exact_model("gpt2")
    with torch.no_grad():
        matrices = [block.attn.c_proj.weight for block in model.module.transformer.h]
        originals = [matrix.clone() for matrix in matrices]
        for layer, matrix in enumerate(matrices):
            matrix.mul_(0.0)
            if layer == 1:
                matrix[8:16] = originals[layer][8:16]  # head 1 of width 8
    try:
        from monosemy.circuits.graphs import attribution

        monkeypatch.setattr(attribution, "_VALUE_MAPS", {})
        graph = attribute(model, random_transcoders((0, 2), skip=False), TEXT, max_latents=30)
        target = graph.n_sources
        source = next(
            number
            for number, node in enumerate(graph.nodes)
            if node.kind == "token" and node.position == 3 and float(graph.effects[graph.n_latents, number])
        )
        carriers = edge_carriers(graph, source, target)
        layer, head, effect = carriers.heads[0]
        assert (layer, head) == (1, 1)
        assert effect == pytest.approx(carriers.effect)
        assert all(part == 0 for _, _, part in carriers.heads[1:])
    finally:
        with torch.no_grad():
            for matrix, original in zip(matrices, originals):
                matrix.copy_(original)


def test_numbers_that_are_no_edge_are_refused(graph):
    with pytest.raises(UserError, match="is no source"):
        edge_carriers(graph, graph.n_sources, 0)
    with pytest.raises(UserError, match="is no target"):
        edge_carriers(graph, 0, graph.n_latents)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "phi"])
def test_parts_of_a_score_add_up_to_the_models_own(family):
    """Rotary positions, grouped queries, norms of queries and keys, biases."""
    graph = attribute(exact_model(family), random_transcoders((0, 1)), TEXT, max_latents=20)
    query = 9
    parts = [score_parts(graph, 2, 1, query=query, key=key, n_parts=10**6) for key in range(query + 1)]
    for part in parts:
        scale = max(abs(value) for _, value in part.by_query)
        assert sum(value for _, value in part.by_query) + part.query_bias == pytest.approx(part.score, abs=1e-7 * scale)
        assert sum(value for _, value in part.by_key) + part.key_bias == pytest.approx(part.score, abs=1e-7 * scale)
    weights = torch.tensor([part.score for part in parts], dtype=torch.float64).softmax(0)
    torch.testing.assert_close(
        weights, torch.tensor([part.weight for part in parts], dtype=torch.float64), atol=1e-5, rtol=1e-4
    )
    by_query, by_key = dict(parts[0].by_query), dict(parts[0].by_key)
    assert set(by_query) >= {left for left, _, _ in parts[0].pairs}
    assert set(by_key) >= {right for _, right, _ in parts[0].pairs}


def test_scores_outside_the_model_are_refused(graph):
    for place, message in (((9, 0, 3, 1), "layer 9"), ((1, 4, 3, 1), "head 4"), ((1, 0, 1, 3), "positions 1")):
        with pytest.raises(UserError, match=message):
            score_parts(graph, *place[:2], query=place[2], key=place[3])


@pytest.mark.parametrize("control", CONTROLS)
def test_controls_have_equal_l0_and_exact_rows(graph, control):
    other = control_graph(graph, control)
    assert float(other.residuals.max()) < 1e-9
    ours, theirs = graph.context.effects, other.context.effects
    for layer in range(graph.n_layers):
        counts = [torch.bincount(e.parts[layer].positions, minlength=graph.n_tokens) for e in (ours, theirs)]
        assert counts[0].tolist() == counts[1].tolist()
        powers = [
            torch.zeros_like(e.parts[layer].error)
            .index_add_(0, e.parts[layer].positions, e.parts[layer].writes())
            .norm()
            for e in (ours, theirs)
        ]
        torch.testing.assert_close(powers[0], powers[1])
    if control == "shuffled":
        torch.testing.assert_close(ours.entries, theirs.entries)
    assert not torch.equal(graph.effects, other.effects)
    assert torch.equal(control_graph(graph, control).effects, other.effects), "a seed gives one control"


def test_prompts_are_summed_by_latent(graph, saes):
    other = attribute(exact_model("llama"), saes, "another text!", max_latents=60)
    together = put_together([graph, other])
    kind, layer, number, position = together.nodes[0]
    assert (kind, position) == ("latent", -1) or kind in ("error", "token")
    for row, single in enumerate((graph, other)):
        mask = [node.kind == kind and node.layer == layer and node.number == number for node in single.nodes]
        expected = float(single.influence[torch.tensor(mask[: single.n_sources])].sum())
        assert together.influence[row, 0] == pytest.approx(expected)
    source, target = together.edges[0]
    names = [node[:3] for node in together.nodes]
    by_hand = [
        sum(
            float(single.effects[t, s])
            for t in range(len(single.effects))
            for s in range(single.n_sources)
            if single.nodes[s].kind == names[source][0]
            and (single.nodes[s].layer, single.nodes[s].number) == names[source][1:]
            and single.nodes[single.target_node(t)].kind == names[target][0]
            and single.nodes[single.target_node(t)].number == names[target][2]
            and single.nodes[single.target_node(t)].layer == names[target][1]
        )
        for single in (graph, other)
    ]
    assert together.effects[:, 0].tolist() == pytest.approx(by_hand)
    table = together.node_table().to_pylist()
    assert table[0]["low"] <= table[0]["influence"] <= table[0]["high"]
    assert len(together.edge_table()) == len(together.edges)
    assert put_together([graph]).node_table().num_rows > 0


def test_positions_are_kept_apart_only_where_they_match(graph, saes):
    other = attribute(exact_model("llama"), saes, "b little text", max_latents=60)
    together = put_together([graph, other], by_position=True)
    assert {node[3] for node in together.nodes} > {3}
    shorter = attribute(exact_model("llama"), saes, "text", max_latents=60)
    with pytest.raises(UserError, match="cannot be compared position by position"):
        put_together([graph, shorter], by_position=True)
    with pytest.raises(UserError, match="no graphs"):
        put_together([])


def test_gated_transcoders_have_controls_too():
    graph = attribute(exact_model("gemma2"), [random_transcoder(1, architecture="gated")], TEXT, max_latents=20)
    assert float(control_graph(graph, "random").residuals.max()) < 1e-9
