"""`monosemy circuits`: a user's own task on a tiny real model, the page and the drawing, bad input."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import warnings

import pytest
import torch
from letter_task import task_shown_by, write_letter_task
from tiny_models import make_tiny_model

from monosemy import __version__
from monosemy.circuits.heads.agreement import labels_of, roc_auc
from monosemy.circuits.heads.attention_only import AttentionOnly, Shape
from monosemy.circuits.heads.circuit import find_circuit
from monosemy.circuits.heads.command import run_circuits
from monosemy.circuits.heads.contrast import read_contrast
from monosemy.circuits.heads.drawing import draw_circuit, edges_to_draw
from monosemy.circuits.heads.member_edges import patch_member_edges
from monosemy.circuits.heads.model_heads import as_heads, replace_edit
from monosemy.circuits.heads.page import (
    edge_rows,
    head_rows,
    method_heading,
    method_rows,
    rank_correlation,
    write_circuit,
)
from monosemy.circuits.heads.roles import about, example_rows, role_of
from monosemy.circuits.heads.task import INPUT, OUTPUT, Example, TaskData
from monosemy.circuits.heads.tasks import build_task
from monosemy.cli import main
from monosemy.errors import UserError
from research.heads.compiled import compile_circuit
from research.heads.symbolic import INDUCTION, induction_task


@pytest.fixture(scope="module")
def task_file(tmp_path_factory):
    return write_letter_task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def compiled():
    planted = compile_circuit("ioi", n_examples=16)
    circuit = find_circuit(planted.model, planted.data, n_prompts=8, compare=["eap", "codes", "mean-difference"])
    return planted, circuit


def test_the_known_circuit_comes_out_with_its_edges(compiled):
    planted, circuit = compiled
    assert {divmod(i, circuit.n_heads) for i in circuit.members} == planted.heads
    strong = {e for e, s in zip(circuit.edges.edges, circuit.edges.scores, strict=True) if abs(s) > 1e-3}
    assert strong == planted.edges
    assert len(circuit.code_edges.edges) > 0
    assert circuit.accuracy.share == 1
    assert head_rows(circuit)[0][4] == "yes"
    assert {row[0] for row in edge_rows(circuit)[: len(strong)]} == {str(edge) for edge in strong}
    rows = method_rows(circuit)
    assert rows[0][3] == "1.00"
    assert [row[0] for row in rows] == ["combined", "EAP", "codes, fast", "mean difference (control)"]
    assert rank_correlation(circuit.heads, circuit.compared[0]) > 0.8


def test_every_member_has_the_role_that_was_planted(compiled):
    planted, circuit = compiled
    for index in circuit.members:
        role, head = role_of(circuit, index), divmod(index, circuit.n_heads)
        to_output = any(edge.sender == head and edge.receiver == OUTPUT for edge in planted.edges)
        feeds = {edge.receiver for edge in planted.edges if edge.sender == head and edge.receiver != OUTPUT}
        fed = {edge.sender for edge in planted.edges if edge.receiver == head and edge.sender != INPUT}
        assert ("writes to the output" in role) == to_output
        assert ("feeds" in role) == bool(feeds)
        assert ("fed by" in role) == bool(fed)
        for other in re.findall(r"(?<=feeds )(\d+)\.(\d+)", role):
            assert (int(other[0]), int(other[1])) in feeds


def test_the_page_says_what_the_task_is_with_a_prompt(compiled, task_file, tiny_model, tmp_path):
    symbolic = compiled[1]
    first = symbolic.task.positives[0]
    assert [text for _, text in example_rows(symbolic)] == [
        first.text,
        first.corrupted_text,
    ]  # it has no answers in words
    circuit = dataclasses.replace(symbolic, task=dataclasses.replace(symbolic.task, name="ioi"))
    assert about(circuit).startswith("Two people are named")
    assert "Two people are named" in write_circuit(circuit, tmp_path / "out").read_text()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = find_circuit(tiny_model("llama"), str(task_file), method="eap", edges=False)
    assert about(own).startswith("Prompts of your own")
    rows = dict(example_rows(own))
    record = json.loads(task_file.read_text().splitlines()[0])
    assert rows["Prompt"] == record["prompt"]
    assert all(answer.strip() in rows["Right answers"] for answer in record["answers"])
    assert not any(role_of(own, index) for index in own.ranked())  # nothing was measured, and none is reported


def test_the_page_tells_the_task_and_the_heads_before_the_results(compiled, tmp_path):
    circuit = compiled[1]
    text = write_circuit(circuit, tmp_path).read_text()
    body = html.unescape(re.sub(r"<[^>]+>", " ", text[text.index("<h1") :]))
    in_order = [
        about(circuit),
        circuit.task.positives[0].text,
        "What each head does",
        role_of(circuit, circuit.members[0]),
        "The strongest edges among the circuit",
        "The metric, the mean logit of the right answers minus that of the wrong ones, is 5.51 on the prompts",
        f"{len(circuit.members)} heads in the circuit: of the behaviour",
        "Heads by combined",
        "Methods on the same heads",
    ]
    places = [body.index(words) for words in in_order]
    assert places == sorted(places)
    assert "(queries)" in body
    assert "(q)" not in body


def test_reported_circuits_are_scored_where_the_model_is_theirs(tmp_path):
    """A model of the shape and name that the list of the induction heads is for."""
    model = AttentionOnly(
        Shape(2, 8, 24, 8, vocab_size=INDUCTION.size, n_positions=INDUCTION.n_positions), "redwood_attn_2l"
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    data = dataclasses.replace(induction_task(24), name="induction", metric="probability_difference")
    data = task_shown_by(model, data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        circuit = find_circuit(model, data, method="patching", compare=["eap"], edges=False)
    (reference,) = circuit.published
    expected = roc_auc(circuit.heads.importance, labels_of(reference.heads, 2, 8))
    assert method_rows(circuit)[0][4] == f"{expected:.3f}"
    assert method_heading(circuit)[4] == "AUC, two layers"
    write_circuit(circuit, tmp_path)
    (saved,) = json.loads((tmp_path / "circuit.json").read_text())["published"]
    assert saved["heads"] == ["0.0", "1.5", "1.6"]
    assert saved["agreement"]["patching, resample"]["auc"] == expected
    assert set(saved["agreement"]) == {"patching, resample", "EAP"}
    renamed_task = dataclasses.replace(data, name="another")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert find_circuit(model, renamed_task, method="eap", edges=False).published == ()


def test_copies_are_left_out_and_said(tmp_path):
    planted = compile_circuit("ioi", n_examples=16)
    alone = find_circuit(planted.model, planted.data, n_prompts=8, method="patching", edges=False)
    several = dataclasses.replace(planted.data, positives=planted.data.positives[:1] * 9 + planted.data.positives[1:])
    with pytest.warns(UserWarning, match="8 of 24 positive prompts are copies of others and left out"):
        circuit = find_circuit(planted.model, several, n_prompts=8, method="patching", edges=False)
    assert circuit.n_prompts == 8
    assert torch.equal(circuit.heads.scores, alone.heads.scores)
    assert torch.equal(circuit.heads.intervals, alone.heads.intervals)
    write_circuit(circuit, tmp_path)
    provenance = json.loads((tmp_path / "circuit.json").read_text())["provenance"]
    assert provenance[-1] == "8 of 24 positive prompts are copies of others and left out"


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ((5,) * 65, "have 65 tokens, more than the 64 positions of tiny llama"),
        ((5, 300), "holds token 300, which lies"),
    ],
)
def test_prompts_that_the_model_cannot_take_are_refused_before_the_work(tokens, message, tiny_model):
    examples = tuple(Example((i, *tokens[1:]), (100 + i, *tokens[1:]), (1,), (2,)) for i in range(6))
    with pytest.raises(UserError, match=message):
        find_circuit(tiny_model("llama"), TaskData("mine", examples, examples, "logit_difference"))


def test_codes_alone_show_the_edges_that_they_give(tmp_path):
    planted = compile_circuit("ioi", n_examples=16)
    circuit = find_circuit(planted.model, planted.data, n_prompts=8, method="codes")
    assert (circuit.members, circuit.edges) == ([], None)
    first = {circuit.name_of(i) for i in circuit.ranked()[:12] if circuit.heads.importance[i] > 0}
    rows = edge_rows(circuit)
    assert len(rows) == len(circuit.code_edges.edges) > 0
    assert all(set(name.split(" → ")) <= first for name, _ in rows)
    counts = [int(count) for _, count in rows]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 0
    assert 0 < len(edges_to_draw(circuit)) <= 20
    assert {t.get_text() for t in draw_circuit(circuit).axes[0].texts} == first
    text = write_circuit(circuit, tmp_path).read_text()
    assert "Edges by codes, among the first heads" in text
    assert json.loads((tmp_path / "circuit.json").read_text())["edges_by_codes"]
    assert find_circuit(planted.model, planted.data, n_prompts=8, method="codes", edges=False).code_edges is None


def test_prompts_of_ones_own_are_all_read():
    planted = compile_circuit("induction", n_examples=16)
    with pytest.raises(UserError, match=r"n_examples \(12\) says how many prompts of a task of the library"):
        find_circuit(planted.model, planted.data, n_prompts=8, n_examples=12)


def test_an_interrupted_circuit_starts_over(capsys, monkeypatch):
    def stop(words):
        raise KeyboardInterrupt

    monkeypatch.setattr("monosemy.cli.dispatch", stop)
    for words, message in ((["circuits", "ioi"], "interrupted\n"), (["demo"], "interrupted; run the same command")):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 130
        assert capsys.readouterr().err.startswith(message)


def test_page_and_drawing(compiled, tmp_path):
    _, circuit = compiled
    page = write_circuit(circuit, tmp_path / "out")
    text = page.read_text()
    assert "Layers by heads" in text
    assert "http" not in text.replace("http-equiv", "")
    assert "<svg" in (tmp_path / "out/circuit.svg").read_text()
    assert (tmp_path / "out/circuit.png").read_bytes().startswith(b"\x89PNG")
    saved = json.loads((tmp_path / "out/circuit.json").read_text())
    assert saved["members"] == [circuit.name_of(i) for i in circuit.members]
    assert saved["methods"][0]["method"] == "combined"
    assert {circuit.name_of(i) for i in circuit.members} <= set(saved["methods"][0]["checked"])
    assert (saved["ablation"], saved["seed"], saved["n_edge_prompts"]) == ("resample", 0, 8)
    assert saved["fingerprint"] == as_heads(compiled[0].model).fingerprint
    assert saved["version"] == __version__
    assert "replaced by the counterpart's." in html.unescape(text)
    figure = draw_circuit(circuit)
    labels = {t.get_text() for t in figure.axes[0].texts}
    assert {circuit.name_of(i) for i in circuit.members} <= labels
    assert {"input", "output"} <= labels
    strongest = abs(edges_to_draw(circuit)[-1][1])
    assert all(abs(score) >= 0.1 * strongest for _, score in edges_to_draw(circuit))


def test_the_command_on_a_tiny_model(task_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MONOSEMY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("monosemy.models.sources.load_model", lambda *a, **k: make_tiny_model("llama"))
    words = ["circuits", str(task_file), "--out", str(tmp_path / "c"), "--compare", "codes", "eap-ig", "random"]
    main(words)
    output = capsys.readouterr().out
    assert "heads by combined" in output
    assert "codes, fast" in output
    assert "right on" in output
    first = json.loads((tmp_path / "c/circuit.json").read_text())
    main(words)
    again = json.loads((tmp_path / "c/circuit.json").read_text())
    assert [m["scores"] for m in again["methods"]] == [m["scores"] for m in first["methods"]]
    (cached,) = (tmp_path / "cache/circuits").glob("heads-*.safetensors")  # read once, kept
    content = cached.read_bytes()
    cached.write_bytes(content[:-3])
    capsys.readouterr()
    main(words)
    warning = capsys.readouterr().err
    assert f"monosemy: {cached} is not a readable file of pooled head outputs" in warning
    assert "it is computed anew" in warning
    third = json.loads((tmp_path / "c/circuit.json").read_text())
    assert [m["scores"] for m in third["methods"]] == [m["scores"] for m in first["methods"]]
    assert len(cached.read_bytes()) == len(content)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi"])
def test_direct_edges_into_the_output_of_the_last_layer_are_the_heads_effects(family, task_file):
    """Behind the last layer's attention only its MLP stands between a head and the logits."""
    model = make_tiny_model(family)
    heads = as_heads(model)
    data = build_task(str(task_file), model, 5)
    contrast = read_contrast(heads, data.positives, data.metric)
    early, late = 2, 3 * heads.n_heads + 1
    patched_edges = patch_member_edges(contrast, [early, late])
    assert [str(edge) for edge in patched_edges.edges] == ["0.2 → 3.1", "0.2 → output", "3.1 → output"]
    batch = contrast.batches[0]
    # by hand: the last residual stream with this head's part exchanged
    added = heads.outputs(batch.corrupted.values - batch.clean.values)[:, :, late]
    edited = model.logits(batch.clean.tokens, {"layers.3.resid_post": lambda x: x + added})[:, -1]
    expected = float((batch.m_clean - batch.measure(edited)).mean())
    assert float(patched_edges.scores[2]) == pytest.approx(expected, rel=1e-3, abs=1e-5)
    # by hand: what the receiver reads with the sender's part exchanged, the rest of the stream as it was
    added = heads.outputs(batch.corrupted.values - batch.clean.values)[:, :, early]
    site = "layers.3.attn_heads"
    captured = {}

    def keep(value):
        captured["values"] = value.unflatten(-1, (heads.n_heads, -1))
        return value

    model.logits(batch.clean.tokens, {"layers.3.resid_pre": lambda x: x + added, site: keep})
    values = batch.clean.values.clone()
    values[:, :, late] = captured["values"][:, :, late % heads.n_heads]
    patched = heads.logits(batch.clean.tokens, replace_edit(values, [late], heads.n_heads))
    expected = float((batch.m_clean - batch.measure(patched)).mean())
    assert float(patched_edges.scores[0]) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_families_with_post_norms_have_heads_but_no_edges(task_file):
    model = make_tiny_model("gemma3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        circuit = find_circuit(model, task_shown_by(model, build_task(str(task_file), model, 8)), n_prompts=8)
    assert len(circuit.heads.scores) == 16
    assert bool(torch.isfinite(circuit.heads.scores).all())
    assert circuit.edges is None
    assert "puts a norm behind its attention" in circuit.no_edges


def test_a_file_is_read_whole(task_file):
    with pytest.raises(UserError, match=r"^--examples \(100\) says how many .*mine.jsonl is read whole"):
        run_circuits([str(task_file), "--examples", "100"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["circuits"], "which task"),
        (["circuits", "io"], "unknown task 'io'"),
        (["circuits", "missing.jsonl"], "does not exist"),
        (["circuits", "ioi", "--method", "acdcc"], "unknown method 'acdcc'; did you mean 'acdc'"),
        (["circuits", "ioi", "--compare", "eap", "nothing"], "unknown method 'nothing'"),
        (["circuits", "ioi", "--seed", "-1"], "--seed -1 must be at least 0 and at most 9223372036854775807; e.g. 0"),
        (["circuits", "ioi", "--seed", "9" * 20], "--seed 99999999999999999999 must be"),
        (["circuits", "ioi", "--out", "/proc/none"], "no file or folder can be made there"),
        (["circuits", "ioi", "--out", __file__], "is a file; give the path of a folder"),
        (["circuits", "ioi", "--prompts", "3"], "--prompts 3 must be at least 5"),
        (["circuits", "ioi", "--examples", "20"], "--examples (20) must be at least --prompts (64)"),
    ],
)
def test_bad_words_end_in_one_line(words, message, capsys, monkeypatch):
    monkeypatch.setattr("monosemy.models.sources.load_model", lambda *a, **k: pytest.fail("the model was loaded"))
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
