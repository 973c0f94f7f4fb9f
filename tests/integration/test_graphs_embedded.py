"""Graphs of the embedded model: rows sum to what it computed, and ablations run from late starts."""

from __future__ import annotations

import pytest
from graph_cases import random_transcoder

from monosemy.circuits.graphs.ablation import ablate
from monosemy.circuits.graphs.attribution import attribute

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def graph(embedded_model):
    saes = [random_transcoder(layer, d=576, m=1024, k=16, skip=layer % 2 == 0).float() for layer in range(0, 30, 3)]
    return attribute(embedded_model, saes, "The capital of France is the city of", max_latents=150)


def test_rows_sum_to_a_thousandth_of_the_pre_activations(graph):
    assert graph.pieces[0] == "<|endoftext|>"
    assert graph.n_latents == 150
    assert len(graph.bare_layers) == 20
    assert float(graph.residuals.max()) < 1e-3


def test_latents_are_measured(graph):
    nodes = graph.kept_latents()[:3]
    measured = ablate(graph, nodes)
    assert measured.nodes.tolist() == nodes
    assert float(measured.free.min()) > 0
    assert float(measured.frozen.min()) > 0
