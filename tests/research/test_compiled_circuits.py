"""Compiled circuits are what they claim: each head, edge and distractor by replacing it; small models train."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from functools import cache

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from monosemy.circuits.heads.attention_only import AttentionOnly
from monosemy.circuits.heads.contrast import read_contrast
from monosemy.circuits.heads.model_heads import AttentionOnlyHeads
from monosemy.circuits.heads.task import (
    INPUT,
    METRICS,
    OUTPUT,
    Edge,
    accuracy,
    clean_tokens,
    corrupted_tokens,
)
from monosemy.errors import UserError
from research.heads import trained
from research.heads.compiled import CHANNELS, CIRCUITS, CompiledCircuit, compile_circuit
from research.heads.reference import find_reference
from research.heads.symbolic import ALL_ORDERS, induction_task, ioi_task

NAMES = sorted(CIRCUITS)
SMALL = 0.005
"""Of m(clean) − m(corrupt): what softmax leaves of attention that should be nothing."""


@cache
def compiled(name: str, seed: int = 0) -> CompiledCircuit:
    return compile_circuit(name, seed, n_examples=16)


def metric(circuit, logits):
    return METRICS[circuit.data.metric](logits, circuit.data.positives)


@dataclass(frozen=True)
class Passes:
    clean: Tensor
    corrupted: Tensor
    m_clean: Tensor
    m_corrupt: Tensor
    _: KW_ONLY
    outputs: Tensor
    """Of all heads, on the counterparts."""
    difference: Tensor
    """The same, minus on the prompts; the last is the embeddings'."""

    @property
    def whole(self):
        return float((self.m_clean - self.m_corrupt).mean())


@cache
def passes(name, seed=0):
    circuit = compiled(name, seed)
    model = circuit.model
    clean, corrupted = clean_tokens(circuit.data.positives), corrupted_tokens(circuit.data.positives)
    m_clean, m_corrupt = (metric(circuit, model.logits(tokens)) for tokens in (clean, corrupted))
    outputs = [torch.cat([model.head_outputs(t), model.embed(t)[:, :, None]], 2) for t in (clean, corrupted)]
    return Passes(clean, corrupted, m_clean, m_corrupt, outputs=outputs[1], difference=outputs[1] - outputs[0])


def effect(circuit, heads):
    """m(clean) − m(these heads' outputs from the counterpart), for every prompt."""
    run = passes(circuit.name)

    def swap(layer, outputs):
        outputs = outputs.clone()
        for at, head in heads:
            if at == layer:
                outputs[:, :, head] = run.outputs[:, :, layer * circuit.model.n_heads + head]
        return outputs

    return run.m_clean - metric(circuit, circuit.model.logits(run.clean, swap))


def edge_effect(circuit, edge):
    """m(clean) − m(receiver reads the counterpart's sender, everything else as it runs)."""
    run, model = passes(circuit.name), circuit.model
    index = -1 if edge.sender == INPUT else edge.sender[0] * model.n_heads + edge.sender[1]
    layer, head = (model.n_layers, 0) if edge.receiver == OUTPUT else edge.receiver

    def reads(at, channel, read):
        if at != layer or channel != edge.channel:
            return read
        read = read.clone()
        read[:, :, head] += run.difference[:, :, index]
        return read

    return run.m_clean - metric(circuit, model.logits(run.clean, reads=reads))


def edges_into_the_circuit(circuit):
    """From every sender; what the other heads read cannot matter, since nothing reads them (the test below)."""
    senders = [INPUT, *circuit.all_heads]
    for sender in senders:
        for receiver in circuit.heads:
            if sender == INPUT or sender[0] < receiver[0]:
                yield from (Edge(sender, receiver, channel) for channel in CHANNELS)
        yield Edge(sender, OUTPUT)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_the_model_does_its_task_and_not_its_counterpart(name, seed):
    circuit = compiled(name, seed)
    run = passes(name, seed)
    logits = circuit.model.logits(run.clean)
    assert accuracy(logits, circuit.data.positives).mean() == 1.0
    assert logits.argmax(1).tolist() == [example.answers[0] for example in circuit.data.positives]
    assert run.m_clean.min() > 5
    assert run.m_corrupt.abs().max() < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_every_head_is_of_one_kind(name):
    circuit = compiled(name)
    groups = [circuit.heads, circuit.inert, circuit.dead]
    assert sorted(head for group in groups for head in group) == circuit.all_heads
    assert len(circuit.inert) >= 5
    places = {frozenset(compiled(name, seed).heads) for seed in range(3)}
    assert len(places) == 3  # a head's number tells nothing


@pytest.mark.parametrize("name", NAMES)
def test_inert_heads_tell_positives_from_negatives_and_dead_heads_do_not(name):
    circuit = compiled(name)
    model, data = circuit.model, circuit.data
    positive, negative = (model.head_outputs(clean_tokens(side)) for side in (data.positives, data.negatives))
    norms = (positive - negative).flatten(3).norm(dim=-1).amax(1)  # [E, n]
    for head in circuit.all_heads:
        moved = norms[:, head[0] * model.n_heads + head[1]]
        if head in circuit.dead:
            assert moved.max() == 0
        else:
            # a previous-token head sees nothing of a changed last symbol
            assert (moved.min() if head in circuit.inert else moved.mean()) > 0.01, head
    # how large the mean outputs are differs too, which is what the controls read
    inert = [layer * model.n_heads + head for layer, head in circuit.inert]
    means = [outputs[:, :, inert].mean(1).norm(dim=-1).mean(0) for outputs in (positive, negative)]
    assert bool((means[0] - means[1]).abs().max() > 0.01)


@pytest.mark.parametrize("name", NAMES)
def test_replacing_inert_and_dead_heads_changes_nothing_at_all(name):
    circuit = compiled(name)
    clean = passes(name).clean
    for head in circuit.inert | circuit.dead:
        assert effect(circuit, [head]).abs().max() == 0, head

    def silence(layer, outputs):
        outputs = outputs.clone()
        outputs[:, :, [h for at, h in circuit.inert | circuit.dead if at == layer]] = 0.0
        return outputs

    torch.testing.assert_close(circuit.model.logits(clean, silence), circuit.model.logits(clean), atol=0, rtol=0)


@pytest.mark.parametrize("name", ["induction", "ioi"])
def test_replacing_any_circuit_head_breaks_the_metric(name):
    circuit = compiled(name)
    whole = passes(circuit.name).whole
    effects = {head: float(effect(circuit, [head]).mean()) / whole for head in circuit.heads}
    assert min(abs(value) for value in effects.values()) > 0.2
    assert sum(value < 0 for value in effects.values()) == (name == "ioi")  # the negative mover
    assert float(effect(circuit, sorted(circuit.heads)).mean()) == pytest.approx(whole, rel=1e-3)


def test_single_ablation_misses_the_or_pair_and_pairs_find_it():
    circuit = compiled("or_pair")
    whole = passes(circuit.name).whole
    pair = sorted(head for head in circuit.heads if head[0] == 0)
    assert len(pair) == 2
    for head in pair:
        assert float(effect(circuit, [head]).abs().max()) < 1e-3 * whole
    assert float(effect(circuit, pair).mean()) > 0.45 * whole  # half the counterparts change the later A, not the key
    reference = find_reference(
        read_contrast(AttentionOnlyHeads(circuit.model), circuit.data.positives, "logit_difference")
    )
    assert reference.heads == circuit.heads
    assert {head for head in circuit.heads if reference.alone[head[0] * 6 + head[1]]} == circuit.heads - set(pair)


@pytest.mark.parametrize("name", NAMES)
def test_the_listed_edges_are_all_that_carry_a_difference(name):
    circuit = compiled(name)
    whole = passes(circuit.name).whole
    assert not circuit.edges & circuit.constant_edges
    effective = set()
    for edge in edges_into_the_circuit(circuit):
        size = float(edge_effect(circuit, edge).abs().mean()) / whole
        if edge in circuit.edges:
            effective |= {edge} if size > 0.02 else set()
        else:
            assert size < SMALL, (edge, size)
            if edge not in circuit.constant_edges:
                assert size < SMALL / 10, (edge, size)
    redundant = {
        edge for edge in circuit.edges if name == "or_pair" and edge.receiver != OUTPUT and edge.channel in "vk"
    }
    assert circuit.edges - effective == redundant


@pytest.mark.parametrize("name", NAMES)
def test_edges_that_are_absent_are_absent_exactly(name):
    """Weights from any head to a head of the circuit or to the output: zero unless the edge is listed."""
    circuit = compiled(name)
    model = circuit.model
    weights = {"q": model.W_Q, "k": model.W_K, "v": model.W_V}
    for sender in circuit.all_heads:
        written = model.W_V[sender] @ model.W_O[sender]
        for receiver in circuit.heads:
            for channel in CHANNELS:
                joined = bool((written @ weights[channel][receiver]).any()) and sender[0] < receiver[0]
                assert joined == (Edge(sender, receiver, channel) in circuit.edges)
        assert bool((written @ model.W_U).any()) == (Edge(sender, OUTPUT) in circuit.edges)


def test_the_output_of_the_model_is_the_sum_of_its_parts():
    circuit = compiled("ioi")
    clean, model = passes("ioi").clean, circuit.model
    parts = model.embed(clean) + model.head_outputs(clean).sum(2)
    torch.testing.assert_close(parts @ model.W_U, model(clean))
    torch.testing.assert_close(model(clean)[:, -1], model.logits(clean))
    torch.testing.assert_close(model.logits(clean, reads=lambda layer, channel, read: read), model.logits(clean))


def test_unknown_circuits_are_refused():
    with pytest.raises(UserError, match="did you mean 'induction'"):
        compile_circuit("inductions")


# --- symbolic prompts and small trained models ------------------------------------------------------------------------


def test_symbolic_prompts_have_one_answer():
    for example in induction_task(40).positives:
        *before, last = example.tokens
        assert before.count(last) == 1
        assert before[before.index(last) + 1] == example.answers[0]
        assert example.corrupted[:-1].count(example.corrupted[-1]) == 0
    orders = set()
    for example in ioi_task(60, orders=ALL_ORDERS).positives:
        repeated = example.wrong[0]
        assert (example.tokens.count(repeated), example.tokens.count(example.answers[0])) == (2, 1)
        assert len(set(example.corrupted)) == len(example.corrupted)
        orders.add((example.tokens.index(example.answers[0]) > example.tokens.index(repeated)) + 0)
    assert orders == {0, 1}


@pytest.mark.parametrize("task", sorted(trained.RECIPES))
def test_training_batches_ask_what_the_task_asks(task):
    recipe = replace(trained.RECIPES[task], batch_size=16)
    tokens, labels = trained.draw_batch(recipe, torch.Generator().manual_seed(0))
    assert tokens.shape == labels.shape == (16, recipe.symbols.n_positions)
    for row, label in zip(tokens.tolist(), labels.tolist()):
        if task == "ioi":
            assert label[:-1] == [trained.IGNORED] * (len(row) - 1)
            assert row.count(label[-1]) == 1
            continue
        for at in [i for i, target in enumerate(label) if target != trained.IGNORED]:
            assert row[row.index(row[at]) + 1] == label[at]


def test_training_is_deterministic_and_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEMY_CACHE", str(tmp_path))
    small = replace(trained.RECIPES["induction"], n_steps=20, batch_size=16, d_model=32, n_heads=2)
    monkeypatch.setitem(trained.RECIPES, "induction", small)
    first = trained.trained_model("induction", seed=3, n_examples=8)
    path = next((tmp_path / "circuits" / "trained").glob("*.safetensors"))
    again = trained.train(first.recipe).state_dict()
    assert all(torch.equal(stored, again[name]) for name, stored in load_file(path).items())
    monkeypatch.setattr(trained, "train", lambda recipe: pytest.fail("trained again"))
    from_cache = trained.trained_model("induction", seed=3, n_examples=8)
    assert from_cache.data == first.data
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), from_cache.model.parameters()))
    assert isinstance(from_cache.model, AttentionOnly)
    with pytest.raises(UserError, match="did you mean 'induction'"):
        trained.trained_model("inducton")
