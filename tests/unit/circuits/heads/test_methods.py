"""Methods against circuits that are known exactly: truth, signs, linear paths, cuts, inert heads, determinism."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from known_circuits import bench, circuit, contrast, indices
from tiny_models import make_tiny_model

from monosemy.circuits.heads.attention_only import AttentionOnly, Shape
from monosemy.circuits.heads.attribution import (
    STEP,
    attribution_patching,
    head_importance,
    integrated_attribution,
    step_attribution,
)
from monosemy.circuits.heads.circuit import find_circuit, members_of
from monosemy.circuits.heads.combined import CombinedConfig, combined_circuit, propose
from monosemy.circuits.heads.contrast import read_contrast
from monosemy.circuits.heads.edges import (
    EdgeGraph,
    all_edges,
    patch_edges,
)
from monosemy.circuits.heads.faithfulness import carried
from monosemy.circuits.heads.masks import acdc, opening, prune
from monosemy.circuits.heads.member_edges import patch_member_edges
from monosemy.circuits.heads.methods import METHODS, Bench, check_methods
from monosemy.circuits.heads.model_heads import AttentionOnlyHeads
from monosemy.circuits.heads.page import head_rows
from monosemy.circuits.heads.patching import exhaustive_patching
from monosemy.circuits.heads.task import OUTPUT, Example, TaskData
from monosemy.errors import UserError
from research.heads.compiled import CIRCUITS, compile_circuit

NOTHING = 1e-4
"""Effects below this are rounding: attention of finite sharpness leaves e^-10 of weight elsewhere."""
CAUSAL = (
    "patching-resample",
    "patching-mean",
    "patching-zero",
    "restoring",
    "eap",
    "eap-ig",
    "eap-step",
    "hisp",
    "combined",
    "combined-no-codes",
    "combined-step",
    "acdc",
)


@pytest.mark.parametrize("ablation", ["resample", "mean", "zero"])
@pytest.mark.parametrize("name", ["induction", "ioi"])
def test_exhaustive_patching_is_the_truth(name, ablation):
    scores = exhaustive_patching(contrast(name), ablation).importance
    inside = indices(name, circuit(name).heads)
    outside = sorted(set(range(len(scores))) - set(inside))
    assert float(scores[inside].min()) > 1.0
    assert float(scores[outside].max()) < NOTHING


def test_redundant_heads_show_when_restored():
    inside = indices("or_pair", circuit("or_pair").heads)
    pair = [i for i in inside if i < circuit("or_pair").model.n_heads]
    single = exhaustive_patching(contrast("or_pair"))
    assert float(single.importance[pair].max()) < 0.05
    restored = exhaustive_patching(contrast("or_pair"), direction="denoise").scores
    assert float(restored[pair].min()) > 4.0
    outside = sorted(set(range(len(restored))) - set(inside))
    assert float(restored[outside].abs().max()) < NOTHING


@pytest.mark.parametrize("name", ["induction", "ioi"])
def test_exact_edges_are_the_truth(name):
    planted = circuit(name)
    edges = all_edges(planted.model.n_layers, planted.model.n_heads)
    truth = [i for i, edge in enumerate(edges) if edge in planted.edges]
    others = [i for i, edge in enumerate(edges) if edge not in planted.edges]
    probed = others[:: max(1, len(others) // 60)]
    scores = patch_edges(contrast(name), [*truth, *probed]).importance
    assert len(truth) == len(planted.edges)
    assert float(scores[truth].min()) > 0.02
    assert float(scores[probed].max()) < NOTHING


@pytest.mark.parametrize("name", list(CIRCUITS))
def test_the_mask_of_ones_is_the_model_and_that_of_zeros_the_counterpart(name):
    graph = EdgeGraph(contrast(name))
    batch = contrast(name).batches[0]
    n = len(graph.edges)
    torch.testing.assert_close(graph.metric(batch, torch.ones(n)), batch.m_clean)
    torch.testing.assert_close(graph.metric(batch, torch.zeros(n)), batch.m_corrupt, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(graph.metric(batch, torch.ones(len(batch.examples), n)), batch.m_clean)


@pytest.mark.parametrize("name", list(CIRCUITS))
def test_eap_is_exact_on_linear_paths(name):
    """From the last heads to the logits everything is linear: gradients are differences."""
    planted = circuit(name)
    exact, estimate = exhaustive_patching(contrast(name)), attribution_patching(contrast(name))
    readers = indices(name, {edge.sender for edge in planted.edges if edge.receiver == OUTPUT})
    torch.testing.assert_close(estimate.per_example[:, readers], exact.per_example[:, readers], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("step", [0.0, STEP, 1.0])
def test_the_gradient_after_a_step_is_the_softmax_derivative_there(step):
    """In a model of one layer the logits are linear in the heads' values, so that the metric's gradient after any step
    can be written down: ∂(p_a − p_w)/∂ℓ = p_a (e_a − p) − p_w (e_w − p)."""
    model = AttentionOnly(Shape(n_layers=1, n_heads=2, d_model=6, d_head=3, vocab_size=5, n_positions=4)).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    prompts = ([(0, 1, 2, 3), (4, 2, 2, 0), (3, 3, 1, 4)], [(0, 4, 2, 1), (1, 2, 0, 0), (2, 3, 4, 4)])
    examples = [Example(clean, corrupted, (1,), (3,)) for clean, corrupted in zip(*prompts, strict=True)]
    some = read_contrast(AttentionOnlyHeads(model), examples, "probability_difference")
    written, written_corrupted = (
        torch.stack([model.head_outputs(torch.tensor([tokens]))[0, -1] for tokens in side]) for side in prompts
    )
    moved = (written - written_corrupted) @ model.W_U  # [prompt, head, logit]
    p = (model(torch.tensor(prompts[0]))[:, -1] - step * moved.sum(1)).softmax(1)
    answer, wrong = torch.eye(5, dtype=torch.float64)[[1, 3]]
    gradient = p[:, 1:2] * (answer - p) - p[:, 3:4] * (wrong - p)
    estimate = step_attribution(some, step=step)
    torch.testing.assert_close(estimate.per_example, torch.einsum("bk,bhk->bh", gradient, moved).detach())
    assert (estimate.checked, estimate.n_passes) == (frozenset(), 3)
    if step == 0:
        torch.testing.assert_close(estimate.per_example, attribution_patching(some).per_example)


def test_one_sign_for_all_methods():
    """The negative mover works against the behaviour: negative wherever there is a sign; the movers are positive."""
    planted = circuit("ioi")
    last = planted.model.n_layers - 1
    (negative,) = indices("ioi", {head for head in planted.heads if head[0] == last})
    movers = indices("ioi", {head for head in planted.heads if head[0] == last - 1})
    signed = [
        *(exhaustive_patching(contrast("ioi"), ablation) for ablation in ("resample", "mean", "zero")),
        exhaustive_patching(contrast("ioi"), direction="denoise"),
        attribution_patching(contrast("ioi")),
        integrated_attribution(contrast("ioi")),
        step_attribution(contrast("ioi")),
        combined_circuit(contrast("ioi")).heads,
    ]
    for scores in signed:
        assert scores.signed
        assert float(scores.scores[negative]) < -1, scores.method
        assert float(scores.scores[movers].min()) > 1, scores.method
    for scores in (head_importance(contrast("ioi")), acdc(contrast("ioi"), [0.1])):
        assert not scores.signed
        assert float(scores.scores.min()) >= 0


@pytest.mark.parametrize("name", list(CIRCUITS))
def test_causal_methods_give_inert_heads_no_place(name):
    inert = indices(name, circuit(name).inert)
    for method in CAUSAL:
        scores = METHODS[method](bench(name))
        assert float(scores.importance[inert].max()) < NOTHING, method
    members = find_circuit(circuit(name).model, circuit(name).data, n_prompts=8, edges=False).members
    assert set(members) == set(indices(name, circuit(name).heads))


def test_searches_over_sets_drop_inert_heads():
    planted = circuit("induction")
    inside, inert = indices("induction", planted.heads), indices("induction", planted.inert)
    pruned = acdc(contrast("induction"), [0.01])
    assert float(pruned.scores[inert].max()) == 0
    assert float(pruned.scores[inside].min()) == 0.01


@pytest.mark.parametrize("name", list(CIRCUITS))
def test_subnetwork_probing_closes_inert_heads_and_keeps_the_others(name):
    inside, inert = indices(name, circuit(name).heads), indices(name, circuit(name).inert)
    probed = METHODS["sp"](bench(name)).scores  # as by default
    assert float(probed[inert].max()) < 0.05
    assert float(probed[inside].min()) > 0.5


@pytest.mark.parametrize("method", ["codes-paper", "kmeans-paper"])
@pytest.mark.parametrize("name", list(CIRCUITS))
def test_codes_with_the_papers_settings_flag_inert_heads(name, method):
    """The method is correlational: what differs between positives and negatives scores, whether anything reads it or
    not. At six seeds and three circuits every inert head had at least two codes of its own, and the strongest inert
    head stood at least three codes above the weakest member."""
    scores = METHODS[method](bench(name)).scores
    members, inert = (scores[indices(name, heads)] for heads in (circuit(name).heads, circuit(name).inert))
    assert float(inert.min()) >= 1
    assert float(inert.max()) > float(members.min())


@pytest.mark.parametrize("method", ["codes", "codes-paper", "kmeans-paper"])
@pytest.mark.parametrize("name", list(CIRCUITS))
def test_heads_that_write_the_same_everywhere_have_no_codes_of_their_own(name, method):
    """By construction. That the preset `fast` flags inert heads is no such fact: it did at four to six of six seeds."""
    assert float(METHODS[method](bench(name)).scores[indices(name, circuit(name).dead)].max()) == 0


def test_reversed_tasks_are_refused_and_poor_accuracy_is_told_before_any_method_runs(monkeypatch):
    planted = circuit("ioi")
    data = dataclasses.replace(planted.data, positives=planted.data.negatives, negatives=planted.data.positives)
    with pytest.raises(UserError, match="positives and negatives are the wrong way round"):
        find_circuit(planted.model, data, n_prompts=8)
    turned = [dataclasses.replace(e, answers=e.wrong, wrong=e.answers) for e in planted.data.positives[:3]]
    data = dataclasses.replace(planted.data, positives=(*turned, *planted.data.positives[3:10]))
    monkeypatch.setitem(METHODS, "eap", lambda bench: pytest.fail("ran before the warning"))
    with pytest.warns(UserWarning, match="right on 70%"), pytest.raises(pytest.fail.Exception):
        find_circuit(planted.model, data, method="eap")


@pytest.mark.parametrize("seed", [0, 1])
def test_members_are_heads_whose_effect_was_measured(seed):
    planted = compile_circuit("ioi", seed, 16)
    result = find_circuit(planted.model, planted.data, n_prompts=8, edges=False)
    assert set(result.members) <= result.heads.checked
    assert {divmod(i, result.n_heads) for i in result.members} == planted.heads
    by_gradient = find_circuit(planted.model, planted.data, n_prompts=8, method="eap", edges=False)
    assert by_gradient.heads.checked == frozenset()


def test_a_large_estimate_is_patched_before_it_counts(monkeypatch):
    """Two heads are proposed; all others that the gradient calls large are checked too, the inert one as well."""
    inside, (inert, *_) = (indices("ioi", heads) for heads in (circuit("ioi").heads, circuit("ioi").inert))
    exact = exhaustive_patching(contrast("ioi"))
    difference = float((contrast("ioi").m_clean - contrast("ioi").m_corrupt).mean())
    wrong = exact.per_example.clone()
    wrong[:, inert] = 0.06 * difference
    estimate = dataclasses.replace(exact, scores=wrong.mean(0), per_example=wrong, checked=frozenset())
    monkeypatch.setattr("monosemy.circuits.heads.combined.integrated_attribution", lambda *_: estimate)
    combined = combined_circuit(contrast("ioi"), CombinedConfig(share=0.01, min_checks=2, code_share=0))
    assert (len(combined.by_attribution), combined.by_codes) == (2, [])
    torch.testing.assert_close(combined.heads.scores, exact.scores)
    assert set(members_of(combined.heads, difference)) == set(inside)
    assert combined.heads.checked == {*inside, inert}
    assert combined.heads.n_passes == 3 + len(inside) + 1


def test_a_head_that_only_the_second_look_sees_is_patched(monkeypatch):
    """EAP sees nothing of a member here; after the step, on half of the prompts, it is the largest."""
    hidden, *_ = indices("ioi", circuit("ioi").heads)
    exact = exhaustive_patching(contrast("ioi"))
    blind = exact.per_example.clone()
    blind[:, hidden] = 0
    estimate = dataclasses.replace(exact, scores=blind.mean(0), per_example=blind, checked=frozenset())
    n_read = []

    def after_step(some, ablation, step):
        n_read.append((some.n_examples, ablation, step))
        sizes = torch.zeros(len(exact.scores), dtype=torch.float64)
        sizes[hidden] = 1000
        return dataclasses.replace(exact, scores=sizes, n_passes=3)

    monkeypatch.setattr("monosemy.circuits.heads.combined.integrated_attribution", lambda *_: estimate)
    monkeypatch.setattr("monosemy.circuits.heads.combined.step_attribution", after_step)
    config = CombinedConfig(share=0.01, min_checks=1, code_share=0)
    without = combined_circuit(contrast("ioi"), config)
    assert hidden not in without.heads.checked
    assert float(without.heads.scores[hidden]) == 0
    assert n_read == []
    combined = combined_circuit(contrast("ioi"), dataclasses.replace(config, step=0.25))
    assert n_read == [(4, "resample", 0.25)]
    assert combined.by_attribution == [hidden]
    assert float(combined.heads.scores[hidden]) == pytest.approx(float(exact.scores[hidden]))
    assert combined.heads.n_passes == 3 + 3 * 4 / 8 + len(combined.heads.checked)


def test_a_restored_head_says_what_replacing_it_does():
    inside = indices("or_pair", circuit("or_pair").heads)
    pair = [i for i in inside if i < circuit("or_pair").model.n_heads]
    result = find_circuit(circuit("or_pair").model, circuit("or_pair").data, n_prompts=8, edges=False)
    assert set(result.heads.replaced) == set(pair)
    exact = exhaustive_patching(contrast("or_pair")).scores
    for i in pair:
        assert result.heads.replaced[i] == pytest.approx(float(exact[i]), abs=1e-6)
        assert float(result.heads.scores[i]) > 4
        row = next(row for row in head_rows(result) if row[0] == result.name_of(i))
        assert row[-1].startswith("yes, restored (replaced: ")
        effects = result.to_json()["methods"][0]["restored_and_replaced"][result.name_of(i)]
        assert effects == {"restored": float(result.heads.scores[i]), "replaced": result.heads.replaced[i]}
    other = next(row for row in head_rows(result) if row[0] not in {result.name_of(i) for i in pair})
    assert other[-1] == "yes"


@pytest.mark.parametrize("name", ["induction", "ioi"])
def test_the_circuit_carries_the_behaviour_and_nothing_is_left_without_it(name):
    result = find_circuit(circuit(name).model, circuit(name).data, n_prompts=8, edges=False)
    assert result.carried.alone == pytest.approx(1, abs=1e-3)
    assert result.carried.without == pytest.approx(0, abs=1e-3)
    assert result.carried.alone_interval[0] <= result.carried.alone <= result.carried.alone_interval[1]
    half = carried(bench(name).contrast, result.members[:1])
    assert half.alone < 0.5
    ranking = find_circuit(circuit(name).model, circuit(name).data, n_prompts=8, method="codes", edges=False)
    assert ranking.carried is None


@pytest.mark.parametrize("ablation", ["mean", "zero"])
def test_edges_follow_the_ablation(ablation):
    """Into the output of one layer's heads everything is linear, so that edges can be computed by hand."""
    planted, some = circuit("ioi"), contrast("ioi")
    graph, batch = EdgeGraph(some, ablation), some.batches[0]
    n = len(graph.edges)
    torch.testing.assert_close(graph.metric(batch, torch.ones(n)), batch.m_clean)
    last = [i for i, edge in enumerate(graph.edges) if edge.receiver == OUTPUT and edge.sender in planted.heads]
    exact = patch_edges(some, last, ablation)
    for number in last:
        layer, head = graph.edges[number].sender
        index = layer * planted.model.n_heads + head
        gone = some.replacements(ablation)[0][:, -1, index] - batch.clean.values[:, -1, index]
        moved = batch.measure(batch.clean.logits + gone @ planted.model.W_U)
        assert float(exact.scores[number]) == pytest.approx(float((batch.m_clean - moved).mean()), rel=1e-4, abs=1e-4)
    inside = indices("ioi", planted.heads)
    member_edges = patch_member_edges(some, inside, ablation)
    assert {str(e): s for e, s in zip(member_edges.edges, member_edges.scores.tolist(), strict=True)} == pytest.approx(
        {
            str(graph.edges[i]): s
            for i, s in enumerate(patch_edges(some, None, ablation).scores.tolist())
            if graph.edges[i] in set(member_edges.edges)
        }
    )
    with pytest.raises(UserError, match="unknown ablation 'noise'"):
        EdgeGraph(some, "noise")


def test_proposals_leave_out_what_shows_nothing():
    attribution = torch.tensor([0.0, 5, 1, 0, 3, 0, 0, 0])
    codes = torch.tensor([7.0, 9, 0, 8, 0, 0, 0, 0])
    assert propose(attribution, codes, 5, 3) == ([1, 4], [3, 0])
    assert propose(attribution, codes, 3, 0) == ([1, 4, 2], [])
    twins = torch.tensor([2.0, 5, 2, 1])
    assert propose(twins, torch.zeros(4), 2, 0) == ([1, 0, 2], [])  # equal heads come together
    assert propose(twins, torch.tensor([3.0, 0, 3, 3]), 2, 1) == ([1], [0, 2])  # equal codes by attribution


def test_without_codes_only_gradients_propose():
    combined = combined_circuit(contrast("induction"), CombinedConfig(code_share=0.0))
    assert combined.by_codes == []
    assert set(indices("induction", circuit("induction").heads)) <= set(combined.by_attribution)
    assert len(combined.by_attribution) <= 8


def test_edges_among_kept_heads_are_the_graphs_own():
    planted = circuit("induction")
    inside = indices("induction", planted.heads)
    edges = patch_member_edges(contrast("induction"), inside)
    assert planted.edges <= set(edges.edges)
    strong = {edge for edge, score in zip(edges.edges, edges.scores, strict=True) if abs(score) > NOTHING}
    assert strong == planted.edges


def test_same_seed_same_result():
    planted = circuit("induction")
    data = dataclasses.replace(
        planted.data, positives=planted.data.positives[:16], negatives=planted.data.negatives[:16]
    )
    fresh = [Bench(AttentionOnlyHeads(planted.model), data, 6) for _ in range(2)]
    for method in METHODS:
        if method in ("sp", "patching-zero", "patching-mean"):  # of SP with fewer steps above
            continue
        first, second = (METHODS[method](repeat).scores for repeat in fresh)
        assert torch.equal(first, second), method


def test_the_first_prompts_are_those_read_alone():
    some, alone = contrast("ioi").first(3), contrast("ioi", 3)
    assert some.n_examples == 3
    torch.testing.assert_close(some.m_clean, alone.m_clean)
    torch.testing.assert_close(attribution_patching(some).scores, attribution_patching(alone).scores)


def test_gates_and_greedy_pruning():
    assert float(opening(torch.tensor(0.0))) == pytest.approx(0.8318, abs=1e-4)
    weights = {0: 1.0, 1: 0.05, 2: 0.5}

    def divergence(dropped):
        return sum(weights[i] for i in dropped)

    assert prune([2, 1, 0], divergence, 0.1, lambda: None) == [2, 0]
    assert prune([2, 1, 0], divergence, 0.01, lambda: None) == [2, 1, 0]


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="unknown method 'eap_ig'; did you mean 'eap-ig'"):
        check_methods(["eap_ig"])
    with pytest.raises(UserError, match="unknown ablation 'noise'"):
        Bench(AttentionOnlyHeads(circuit("ioi").model), circuit("ioi").data, 8, "noise")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="unknown direction 'forward'"):
        exhaustive_patching(contrast("ioi"), direction="forward")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="share must be above 0"):
        CombinedConfig(share=0)
    with pytest.raises(UserError, match="step must be from 0 to 1, step_share above 0 and at most 1; got 2 and"):
        CombinedConfig(step=2)
    with pytest.raises(UserError, match="has no tokenizer"):
        find_circuit(circuit("ioi").model, "ioi")
    tokens = [[97, 98, 99], [98, 99, 97]]
    example = Example(tuple(tokens[0]), tuple(tokens[1]), (100,), (101,))
    foreign = TaskData(
        "mine", (example,) * 5, (example.reversed(),) * 5, "logit_difference", tokenizer="another tokenizer"
    )
    with pytest.raises(UserError, match="was made with another tokenizer than that of tiny llama"):
        find_circuit(make_tiny_model("llama"), foreign, n_prompts=5)
    silent = AttentionOnly(circuit("ioi").model.shape, "silent").requires_grad_(False)
    with pytest.raises(UserError, match="is no larger on the prompts"):
        find_circuit(silent, circuit("ioi").data)
