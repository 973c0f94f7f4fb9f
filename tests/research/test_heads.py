"""The circuits benchmark: a tiny compiled piece, its summary over seeds, pieces that are kept, skipped or told."""

from __future__ import annotations

import dataclasses
import json
import statistics

import numpy as np
import pytest
import torch
from known_circuits import bench
from tiny_models import make_tiny_model

from monosemy.circuits.heads.agreement import agreement, roc_auc
from monosemy.circuits.heads.tasks.prompts import Prompts
from research.heads import cost, pieces, rows, tables
from research.heads import run as circuits
from research.heads.trained import RECIPES

METHODS = ("combined", "combined-no-codes", "eap", "codes", "kmeans", "mean-difference", "patching")


@pytest.fixture(scope="module")
def parts():
    sizes = circuits.Sizes(n_examples=24, n_prompts=6, n_edge_prompts=4, edge_thresholds=(0.1,), n_gate_steps=3)
    return {f"compiled-induction-{seed}": circuits.compiled_part("induction", seed, sizes, METHODS) for seed in (0, 1)}


def test_every_row_says_what_it_used_and_constant_edges_are_not_counted(parts):
    part = parts["compiled-induction-0"]
    methods = part["methods"]
    assert set(methods) == set(METHODS)
    assert (methods["eap"]["n_prompts"], methods["codes"]["n_prompts"]) == (6, 48)
    assert methods["combined"]["n_checked"] < methods["combined"]["n_heads"] == 18
    assert methods["patching"]["n_checked"] is None
    assert methods["patching"]["auc"] == 1
    assert part["n_faithful"] == 6
    assert methods["patching"]["cpr"] > methods["mean-difference"]["cpr"]  # every method has a curve
    edges = part["edges"]
    assert edges["n_neither"] == 8  # input → previous (q, k), input → induction (k, v): two heads each
    assert edges["n_edges"] + edges["n_neither"] == 3 * 6 * (1 + 7 + 13) + 19
    assert edges["methods"]["patching"]["auc"] == 1
    assert {row["n_prompts"] for row in edges["methods"].values()} == {4}
    assert set(part["head_pairs"]["methods"]) == {"patching", "EAP", "codes", "codes-paper", "random"}
    assert part["head_pairs"]["n_true"] == 4  # two previous-token heads, two induction heads
    assert part["head_pairs"]["methods"]["patching"]["auc"] == 1
    assert set(part["combined_seconds_of_patching"]) == {"combined"}


def test_summary_is_over_seeds_with_paired_differences(parts, capsys):
    summary = rows.summary(parts)["compiled-induction"]
    for method in METHODS:
        each = [part["methods"][method]["auc"] for part in parts.values()]
        row = summary["methods"][method]
        assert (row["auc"], row["least"], row["largest"], row["n"]) == (
            pytest.approx(np.mean(each)),
            min(each),
            max(each),
            2,
        )
        low, high = row["interval"]
        assert low <= row["auc"] <= high
    gap = summary["differences"]["codes − kmeans"]
    aucs = [summary["methods"][method]["auc"] for method in ("codes", "kmeans")]
    assert gap["difference"] == pytest.approx(aucs[0] - aucs[1])
    assert gap["interval"][0] <= gap["difference"] <= gap["interval"][1]
    assert {"combined − eap", "combined − combined-no-codes", "codes − mean-difference"} <= set(summary["differences"])
    assert summary["best_baselines"] == {"": "eap"}  # first of those at 1
    assert summary["edges"]["EAP"]["n"] == 2
    rows.print_table({"compiled-induction": summary})
    assert "codes − kmeans" in capsys.readouterr().out
    assert (
        rows.pairs_of(["combined", "combined-8", "eap", "eap-8"])
        == [("combined-8", "eap-8"), ("combined", "eap")][::-1]
    )


def test_seeds_of_one_model_do_not_narrow_its_interval(parts):
    """Compiled models differ only in the places of heads; five copies of a model are no more heads than one."""
    part = parts["compiled-induction-0"]
    copies = {f"{kind}-induction-{seed}": part for kind in ("compiled", "trained") for seed in range(5)}
    table = rows.summary(copies)
    method = next(name for name in METHODS if 0.5 < part["methods"][name]["auc"] < 0.95)

    def width(group):
        low, high = group["methods"][method]["interval"]
        return high - low

    alone = rows.summary({"compiled-induction-0": part})["compiled-induction"]
    assert width(table["compiled-induction"]) == pytest.approx(width(alone), rel=0.15)
    assert width(table["trained-induction"]) < 0.7 * width(alone)  # as of five different models


def test_tables_show_what_rounds_to_one_as_one(parts):
    assert [tables.auc(value) for value in (1.0, 0.9996, 0.9994, 0.5)] == ["1.00", "1.00", ".999", ".500"]
    document = {"summary": rows.summary(parts), "parts": {}}
    named_tables = tables.tables({"heads": document})
    assert set(named_tables) == {
        "compiled-heads",
        "compiled-edges",
        "compiled-head-pairs",
        "compiled-more",
        "compiled-differences",
    }
    row = document["summary"]["compiled-induction"]["methods"]["patching"]
    assert f"| `patching` | 1.00 [1.00, 1.00] {tables.seconds(row['seconds'])} |" in named_tables["compiled-heads"]
    assert f"| `patching` | 1.00 1.00 {row['cpr']:.2f} {row['cmd']:.2f} (6) |" in named_tables["compiled-more"]


def test_pieces_are_named_after_code_not_after_words():
    code_of = pieces.code_of
    plain = 'def f(x):\n    """Doc."""\n    return x + 1  # why\n'
    assert code_of(plain) == code_of("def f(x):\n    return x + 1\n")
    assert code_of(plain) != code_of(plain.replace("+ 1", "+ 2"))
    assert code_of("class A:\n    'Only words.'\n") == code_of("class A:\n    'Others.'\n")


def test_pieces_are_kept_unless_skipped(tmp_path, capsys):
    path = tmp_path / "piece.json"

    def skipped():
        raise circuits.SkippedError("right on 50% of 64 prompts")

    assert circuits.load_or_make(path, skipped) == {"skipped": "right on 50% of 64 prompts"}
    assert not path.exists()
    first_piece = circuits.load_or_make(path, lambda: {"n": 1})
    assert first_piece["n"] == 1
    assert first_piece["made_on"]["threads"] == torch.get_num_threads()
    assert circuits.load_or_make(path, lambda: pytest.fail("made again")) == first_piece
    assert "skipped, right on 50%" in capsys.readouterr().out
    rows = {"combined": {"auc": 1.0, "n_checked": 3, "importance": [1]}, "eap": {"auc": 0.5, "labels": [0]}}
    piece = {"n_heads": 4, "methods": rows, "differences": {"codes − probe": 1}, "edges": {"labels": [0]}}
    assert pieces.brief({"trained-ioi-0": piece, "speed": {"fast": 1}}) == {
        "trained-ioi-0": {
            "n_heads": 4,
            "methods": {"combined": {"auc": 1.0, "n_checked": 3}, "eap": {"auc": 0.5}},
            "differences": {},
        },
        "speed": {"fast": 1},
    }


def test_trained_models_that_do_not_do_their_task_are_skipped(tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEMY_CACHE", str(tmp_path))
    small = dataclasses.replace(RECIPES["induction"], n_steps=2, batch_size=4, d_model=16, n_heads=2)
    monkeypatch.setitem(RECIPES, "induction", small)
    with pytest.raises(circuits.SkippedError, match="less than 75%"):
        circuits.trained_part("induction", 0, circuits.Sizes(10, 10))


def test_references_that_cannot_be_scored_are_skipped():
    from monosemy.circuits.heads.contrast import read_contrast
    from monosemy.circuits.heads.model_heads import as_heads
    from research.heads.compiled import compile_circuit

    assert not rows.enough(np.array([True, False, False, False]))
    assert rows.enough(np.array([True, True, False, False]))
    assert "no ranking" in rows.edge_rows({}, np.array([True, False, False]))["skipped"]
    circuit = compile_circuit("ioi", 0, 8)
    turned = tuple(e.reversed() for e in circuit.data.positives)
    contrast = read_contrast(as_heads(circuit.model), turned, circuit.data.metric)
    with pytest.raises(circuits.SkippedError, match="less than 75%"):
        circuits.accuracy_of(contrast)


def test_a_piece_of_a_real_model(tmp_path, monkeypatch):
    """The whole piece on a tiny model, asked for what it prefers anyway, so that it does its task."""
    monkeypatch.setenv("MONOSEMY_CACHE", str(tmp_path / "cache"))
    model = make_tiny_model("llama")
    prompts = Prompts(model.tokenizer)
    random = np.random.default_rng(0)
    texts = ["".join(random.choice(list("abcdefgh"), 6)) for _ in range(60)]
    logits = model.logits(torch.tensor([prompts.encode(text) for text in texts]), last_only=True)[:, -1]
    ids = [prompts.next_tokens(texts[0], [letter])[0] for letter in "xy"]
    lines = []
    for text, other, prefers in zip(texts[:30], texts[30:], (logits[:, ids[0]] > logits[:, ids[1]]).tolist()):
        answer, wrong = "xy" if prefers else "yx"
        lines += [{"kind": "positive", "prompt": text, "answers": [answer], "wrong": [wrong], "corrupted": other}]
        lines += [{"kind": "negative", "prompt": other}]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    sizes = circuits.Sizes(20, 10, 6, 8, n_few=4, n_edge_prompts=4)
    monkeypatch.setattr(circuits, "real_model", lambda: model)
    monkeypatch.setitem(circuits.SIZES, str(path), sizes)
    try:
        record = circuits.real_part(str(path))
    finally:
        circuits.real_bench.cache_clear()
    methods = record["methods"]
    assert {"combined-4", "eap-ig-4", "patching-4", "acdc-4", "patching-zero-4"} <= set(methods)
    assert (methods["combined"]["n_prompts"], methods["acdc-4"]["n_prompts"]) == (8, 4)
    assert "auc_mean_reference" in methods["combined"]
    assert set(record["combined_seconds_of_patching"]) == {"combined", "combined-4"}
    assert record["n_members"] == len(record["members"])
    assert record["edges"]["n_edges"] >= record["head_pairs"]["n_edges"]
    if "methods" in record["edges"]:
        assert {name: row["n_prompts"] for name, row in record["edges"]["methods"].items()} == {
            "patching": 4,
            "EAP": 4,
            "patching-2": 2,
            "EAP-2": 2,
            "ACDC-2": 2,
            "SP-2": 2,
        }
    assert "real-mine" in rows.summary({"real-mine": record})


def test_the_cost_counts_every_head_once_and_reading_on_both_sides():
    costs = cost.cost_part(bench("ioi"), n_rounds=3)
    rounds, reading = costs["seconds_of_rounds"], statistics.median(costs["seconds_of_rounds"]["reading"])
    assert costs["n_passes"]["patching"] == 32.0  # heads, each a whole pass here
    assert costs["patching_seconds"] == pytest.approx(reading + sum(rounds["patching"]))
    seconds = reading + statistics.median(rounds["combined"])
    assert costs["combined"]["seconds"] == pytest.approx(seconds)
    assert costs["combined"]["share"] == pytest.approx(seconds / costs["patching_seconds"])
    assert costs["combined"]["range"][0] <= costs["combined"]["share"] <= costs["combined"]["range"][1]


def test_what_methods_see_the_reference_does_not():
    from research.heads.symbolic import induction_task

    sizes = circuits.Sizes(n_examples=10, n_reference=6)
    data, others = circuits.split(induction_task(sizes.n_made), sizes)
    assert (len(data.positives), len(data.negatives), len(others)) == (10, 10, 6)
    assert not {e.tokens for e in others} & {e.tokens for e in data.positives}
    assert json.loads(json.dumps(circuits.settings())) == circuits.settings()


def test_paired_differences_are_tighter_than_the_intervals_apart():
    random = np.random.default_rng(0)
    labels = np.arange(100) < 30
    first = random.normal(size=100) + labels
    second = first + 0.1 * random.normal(size=100)
    difference, (low, high) = rows.auc_difference(first, second, labels)
    assert difference == pytest.approx(roc_auc(first, labels) - roc_auc(second, labels))
    assert low <= difference <= high
    apart = agreement(first, labels).auc_interval
    assert high - low < 0.5 * (apart[1] - apart[0])
    assert rows.auc_difference(first, first, labels) == (0.0, (0.0, 0.0))
