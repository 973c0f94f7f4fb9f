"""Circuits on the real embedded model: induction heads that patching confirms, at a fraction of its cost."""

from __future__ import annotations

import pytest
import torch

from monosemy.circuits.heads.circuit import find_circuit
from monosemy.circuits.heads.contrast import read_contrast
from monosemy.circuits.heads.member_edges import patch_member_edges
from monosemy.circuits.heads.model_heads import as_heads, replace_edit
from monosemy.circuits.heads.patching import exhaustive_patching
from monosemy.circuits.heads.tasks import build_task

pytestmark = pytest.mark.integration
N_PROMPTS = 4


@pytest.fixture(scope="module")
def circuit(embedded_model):
    data = build_task("induction", embedded_model, 8)
    return find_circuit(embedded_model, data, n_prompts=N_PROMPTS, edges=False)


def test_the_model_does_the_task_and_heads_are_found(circuit):
    assert circuit.accuracy.enough
    assert circuit.m_clean > circuit.m_corrupt + 1
    assert len(circuit.heads.scores) == 270
    assert circuit.members


def test_confirmed_effects_are_those_of_patching_and_hold_on_other_prompts(circuit, embedded_model):
    heads = as_heads(embedded_model)
    first = circuit.members[:2]
    same = read_contrast(heads, circuit.task.positives[:N_PROMPTS], circuit.task.metric)
    effects = exhaustive_patching(same, indices=first).scores
    torch.testing.assert_close(effects[first], circuit.heads.scores[first], rtol=1e-3, atol=1e-3)
    other = read_contrast(heads, circuit.task.positives[N_PROMPTS:], circuit.task.metric)
    again = exhaustive_patching(other, indices=first).scores
    assert bool((again[first].sign() == circuit.heads.scores[first].sign()).all())
    strongest = circuit.heads.importance.max()
    assert float(again.abs().max()) > 0.3 * float(strongest)


def test_the_strongest_head_writes_to_the_output_or_to_another(circuit, embedded_model):
    heads = as_heads(embedded_model)
    contrast = read_contrast(heads, circuit.task.positives[:N_PROMPTS], circuit.task.metric)
    edges = patch_member_edges(contrast, circuit.members[:2])
    assert len(edges.edges) in (2, 3)
    assert float(edges.importance.max()) > 0.05


def test_replacing_everything_gives_the_counterpart(circuit, embedded_model):
    """Heads are all that moves information between positions: with all of them, and the last token, replaced the
    prompt is its counterpart wherever the last tokens agree."""
    heads = as_heads(embedded_model)
    contrast = read_contrast(heads, circuit.task.positives[:N_PROMPTS], circuit.task.metric)
    batch = contrast.batches[0]
    alike = batch.clean.tokens[:, -1] == batch.corrupted.tokens[:, -1]
    replace_all = replace_edit(batch.corrupted.values, range(270), heads.n_heads)
    patched = batch.measure(heads.logits(batch.clean.tokens, replace_all))
    assert bool(alike.any())
    torch.testing.assert_close(patched[alike], batch.m_corrupt[alike], rtol=1e-3, atol=1e-3)
