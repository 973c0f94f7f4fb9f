"""Strongest pairs, their contexts and the latent graph, on a planted one-to-one map."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from jacobian_slices import Linear, autograd_slices, one_hot_map

from monosemy.circuits.jacobian.averages import AveragesMeter
from monosemy.circuits.jacobian.graph import average_graph, error_effects, squares, token_graph
from monosemy.circuits.jacobian.mlp_rows import Rows
from monosemy.circuits.jacobian.slices import JacobianSlices
from monosemy.circuits.jacobian.strongest_pairs import LatentSelection, Text, choose_outputs, pair_study, strongest_hits
from monosemy.errors import UserError

D, K, LENGTH, N_SEQUENCES = 8, 4, 10, 12
ORDER = [3, 0, 7, 5, 1, 2, 6, 4]
"""Output latent i reads input latent ORDER[i]."""


@pytest.fixture(scope="module")
def planted():
    """Twelve sequences of ten tokens (the first dropped), a document every twelve tokens."""
    W = torch.full((D, D), 0.01)
    for i, j in enumerate(ORDER):
        W[j, i] = 1.0 + i / 10
    latent_map = one_hot_map(Linear(W), D, K, scale_in=2.0, scale_out=4.0)
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.rand(N_SEQUENCES * LENGTH, D, generator=generator)
    ids = np.arange(N_SEQUENCES * LENGTH).reshape(N_SEQUENCES, LENGTH)
    documents = ids // 12
    kept_rows = torch.from_numpy(np.flatnonzero(ids.ravel() % LENGTH != 0))
    rows = Rows(x, latent_map.mlp(x), torch.from_numpy(documents.ravel()), torch.arange(len(x))).take(kept_rows)
    text = Text(ids, documents, lambda part: [f"t{token}" for token in part])
    meter = AveragesMeter(D, D)
    for chunk in rows.chunks(17):
        meter.add(autograd_slices(latent_map, chunk.x), chunk.documents)
    return latent_map, rows, text, meter.finish()


def slices_of(latent_map):
    return lambda chunk: autograd_slices(latent_map, chunk.x)


def test_the_planted_pairs_are_found_with_their_strongest_tokens(planted):
    latent_map, rows, text, averages = planted
    outputs = pair_study(
        rows, slices_of(latent_map), latent_map, averages, text=text, selection=LatentSelection(n_outputs=D, n_inputs=2)
    )
    rare = {i for i in range(D) if averages.n_active[averages.inputs_of(i, 1)[0]] < 10}
    assert {output["latent"] for output in outputs} == set(range(D)) - rare
    assert len(rare) <= 1
    json.dumps(outputs)
    dense_in, dense_out = latent_map.inputs(rows.x).to_dense(), latent_map.outputs(rows.x)
    for output in outputs:
        first, second = output["inputs"]
        i, j = output["latent"], first["latent"]
        assert j == ORDER[i]
        assert first["share"] > 0.8 > 0.2 > second["share"] > 0
        both = (dense_in[:, j] > 0) & (dense_out[:, i] > 0)
        assert first["n_tokens"] == int(both.sum())
        weight = (1 + i / 10) * 2 / 4  # J in units of latents at unit scale
        strongest = float((dense_in[:, j] * both).max())
        examples = first["examples"]
        assert len(examples) == 4
        assert examples[0]["effect"] == pytest.approx(weight * strongest, rel=1e-5)
        assert [e["effect"] for e in examples] == sorted((e["effect"] for e in examples), reverse=True)
        assert len({e["sequence"] for e in examples}) == 4


def test_pairs_are_confirmed_by_ablation(planted):
    """The planted map is linear, so s_i loses J_ij s_j, or all of itself where it then falls out of the top k."""
    latent_map, rows, text, averages = planted
    outputs = pair_study(
        rows, slices_of(latent_map), latent_map, averages, text=text, selection=LatentSelection(n_outputs=D, n_inputs=1)
    )
    for output in outputs:
        for example in output["inputs"][0]["examples"]:
            expected = example["effect"] if example["drop"] < 0.999 * example["out_value"] else example["out_value"]
            assert example["drop"] == pytest.approx(expected, rel=1e-4)
            assert example["drop"] > 0.9 * example["effect"]
            place = {int(n): r for r, n in enumerate(rows.tokens)}[example["sequence"] * LENGTH + example["position"]]
            inputs = latent_map.inputs(rows.x[place : place + 1]).to_dense()[0]
            others = [float(inputs[z]) * 0.01 * 2 / 4 for z in range(D) if z != output["inputs"][0]["latent"]]
            mean = sum(others) / max(1, sum(value > 0 for value in others))
            assert example["other_drop"] == pytest.approx(mean, rel=1e-3)


def test_contexts_stay_in_their_sequence_and_document_and_show_both_latents(planted):
    latent_map, rows, text, averages = planted
    outputs = pair_study(
        rows, slices_of(latent_map), latent_map, averages, text=text, selection=LatentSelection(n_outputs=D, n_inputs=1)
    )
    dense_in, dense_out = latent_map.inputs(rows.x).to_dense(), latent_map.outputs(rows.x)
    for output in outputs:
        i, j = output["latent"], output["inputs"][0]["latent"]
        for example in output["inputs"][0]["examples"]:
            ids = [int(token[1:]) for token in example["tokens"]]
            here = example["sequence"] * LENGTH + example["position"]
            assert ids[example["at"]] == here
            assert ids == list(range(ids[0], ids[-1] + 1))
            assert {n // LENGTH for n in ids} == {example["sequence"]}
            assert {n // 12 for n in ids} == {example["document"]}
            assert example["in_values"][example["at"]] == pytest.approx(example["in_value"], abs=1e-5)
            for n, s_in, s_out in zip(ids, example["in_values"], example["out_values"]):
                row = (rows.tokens == n).nonzero()
                assert s_in == pytest.approx(float(dense_in[row[0, 0], j]) if len(row) else 0.0, abs=1e-5)
                assert s_out == pytest.approx(float(dense_out[row[0, 0], i]) if len(row) else 0.0, abs=1e-5)


def test_rows_are_read_in_the_format_of_the_saes(planted):
    """As on another device: rows stay where they are read, and what an SAE reads is moved to it."""
    latent_map, rows, text, averages = planted
    wide = Rows(rows.x.double(), rows.y.double(), rows.documents, rows.tokens)
    studies = [
        pair_study(source, lambda chunk: autograd_slices(latent_map, chunk.x.float()), latent_map, averages, text=text)
        for source in (rows, wide)
    ]
    assert studies[0] == studies[1]


def test_named_latents_and_pairs(planted):
    latent_map, rows, text, averages = planted
    outputs = pair_study(
        rows,
        slices_of(latent_map),
        latent_map,
        averages,
        text=text,
        selection=LatentSelection(outputs=[2], pairs=[(0, 5)], n_inputs=3, n_examples=2),
    )
    assert [(output["latent"], len(output["inputs"])) for output in outputs] == [(2, 3), (5, 1)]
    assert outputs[1]["inputs"][0]["latent"] == 0
    assert outputs[1]["inputs"][0]["examples"][0]["jacobian"] == pytest.approx(0.01 * 2 / 4)
    with pytest.raises(UserError, match="output latent 8 is out of range"):
        pair_study(rows, slices_of(latent_map), latent_map, averages, text=text, selection=LatentSelection(outputs=[8]))
    with pytest.raises(UserError, match="input latent -1 is out of range"):
        pair_study(
            rows, slices_of(latent_map), latent_map, averages, text=text, selection=LatentSelection(pairs=[(-1, 0)])
        )
    silent = rows.take(torch.arange(1))
    off = int((latent_map.outputs(silent.x)[0] == 0).nonzero()[0])
    with pytest.raises(UserError, match="read more tokens"):
        pair_study(
            silent, slices_of(latent_map), latent_map, averages, text=text, selection=LatentSelection(outputs=[off])
        )


def test_rare_outputs_are_not_chosen(planted):
    averages = planted[3]
    assert len(choose_outputs(averages, 3)) == 3
    share = [
        averages.mean_effect[averages.place(i, ORDER[i])] / averages.mean_effect[averages.out == i].sum()
        for i in choose_outputs(averages, D)
    ]
    assert share == sorted(share, reverse=True)


def test_hits_of_a_pair_that_never_meets(planted):
    latent_map, rows, _, _ = planted
    few = rows.take(torch.arange(2))
    hits = strongest_hits(
        few, slices_of(latent_map), [(i, j) for i in range(D) for j in range(D)], 3, context_length=LENGTH
    )
    assert len(hits) == D * D
    dense = autograd_slices(latent_map, few.x)
    for (i, j), hits_of_pair in hits.items():
        together = dense.active[:, i, j]
        assert len(hits_of_pair) == min(int(together.any()), 1), "both rows are of one sequence"


@pytest.mark.parametrize("at", ["input", "reconstruction"])
def test_edges_into_a_latent_sum_to_its_activation(at, planted):
    generator = torch.Generator().manual_seed(1)
    A, B = torch.randn(D, 16, generator=generator), torch.randn(16, D, generator=generator)
    latent_map = one_hot_map(lambda r: torch.nn.functional.silu(r @ A) @ B, D, K, scale_in=2.0, scale_out=0.5)
    object.__setattr__(latent_map, "at", at)
    x = torch.rand(1, D, generator=generator)
    y = latent_map.mlp(x)
    base = latent_map.base(x)
    J = torch.autograd.functional.jacobian(lambda r: latent_map.mlp(r[None])[0], base[0]) * 2.0 / 0.5
    s, f = latent_map.inputs(x).to_dense(), latent_map.outputs(base)
    order = torch.arange(D)[None]
    slices = JacobianSlices(
        J[None] * (f > 0)[:, :, None] * (s > 0)[:, None, :],
        order.masked_fill(f <= 0, -1),
        order.masked_fill(s <= 0, -1),
        f,
        in_values=s,
    )
    graph = token_graph(latent_map, x, y, slices)
    outputs = {node["id"]: node["value"] for node in graph["nodes"] if node["kind"] == "output"}
    for node, value in outputs.items():
        into = sum(edge["weight"] for edge in graph["edges"] if edge["target"] == node)
        assert into == pytest.approx(value, abs=1e-5)
        true = latent_map.codes_of(y).to_dense()[0, int(node.split(":")[1])]
        assert value == pytest.approx(float(true), abs=1e-5), "the latent's true activation"
    errors = {edge["target"]: edge["weight"] for edge in graph["edges"] if edge["source"] == "error:in"}
    if at == "input":  # the same slopes, times what the input SAE leaves out
        error = (x - latent_map.sae_in.decode(latent_map.sae_in.encode(x)))[0] / 2.0
        for node, weight in errors.items():
            assert weight == pytest.approx(float((J[int(node.split(":")[1])] @ error).detach()), abs=1e-5)
    assert 0 < next(node["share"] for node in graph["nodes"] if node["id"] == "error:in") < 1
    json.dumps(graph)


def test_the_average_graph_has_the_planted_edges(planted):
    latent_map, rows, _, averages = planted
    errors = np.zeros(D)
    for chunk in rows.chunks(30):
        slices = autograd_slices(latent_map, chunk.x)
        effects = error_effects(latent_map, chunk.x, chunk.y, slices).abs() / len(rows)
        np.add.at(errors, slices.out_indices[slices.out_active].numpy(), effects[slices.out_active].numpy())
    assert (errors > 0).all(), "four of eight coordinates are left out of every token"
    left_out = np.array([squares(latent_map.sae_in, rows.x), squares(latent_map.sae_out, rows.y)])
    graph = average_graph(averages, errors, (left_out[:, 0] / left_out[:, 1]).tolist(), n_edges=D)
    nodes = {node["id"]: node for node in graph["nodes"]}
    remaining = latent_map.outputs(rows.x) * latent_map.sae_out.config.scale  # y's coordinates that stay
    share = 1 - float(remaining.square().sum() / rows.y.square().sum())
    assert 0 < nodes["error:out"]["share"] == pytest.approx(share, rel=1e-4)
    assert not [edge for edge in graph["edges"] if "error:out" in (edge["source"], edge["target"])]
    pairs = {(e["source"], e["target"]) for e in graph["edges"] if e["source"] != "error:in"}
    assert pairs == {(f"in:{j}", f"out:{i}") for i, j in enumerate(ORDER)}
    ids = {node["id"] for node in graph["nodes"]}
    assert all(edge["source"] in ids and edge["target"] in ids for edge in graph["edges"])
    json.dumps(graph)
