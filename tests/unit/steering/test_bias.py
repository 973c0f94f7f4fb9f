"""A bias on one's own texts: its files, its measure against whole passes, search, judgement, and the command."""

from __future__ import annotations

import math

import orjson
import pytest
import torch
from steering_cases import SITE, scales_of, tiny_sae

from monosemy.errors import UserError
from monosemy.models.generation import whole_text
from monosemy.saes.storage import save_sae
from monosemy.steering import bias_command
from monosemy.steering.bias import BiasBench, BiasSettings, Leans, LossBench, candidates, cover_up, measure_bias
from monosemy.steering.bias_texts import BiasText, BiasTexts, of_templates, read_bias_texts
from monosemy.steering.edits import Steering
from monosemy.steering.recipe import find_recipe
from monosemy.steering.request import Edit
from monosemy.steering.saes import SteeringSaes, TextEdits

WORDS = {"a": ["mill", "river", "stone", "bridge"], "b": ["ox", "hen", "goat", "lamb", "cat"]}
TEMPLATES = ("The {} is", "A {} was")


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("llama")


@pytest.fixture(scope="module")
def saes(model) -> SteeringSaes:
    tokens = torch.randint(256, (4, 20), generator=torch.Generator().manual_seed(6))
    sae = tiny_sae(model)
    return SteeringSaes(sae, scales_of(sae, model.activations(tokens, [SITE])[SITE].flatten(0, 1)))


@pytest.fixture(scope="module")
def texts() -> BiasTexts:
    return of_templates(WORDS, TEMPLATES, "x", "yes")


def log_p(model, saes, text: str, continuation: str, changes) -> float:
    """log P(continuation | text) from one pass over both, with the changes at every position."""
    ids, n = model.tokenizer(text + continuation)["input_ids"], len(text)  # a token for every byte
    tokens = torch.tensor([ids])
    edits = TextEdits(model, saes, [Steering(tuple(Edit(latent, "scale", factor) for latent, factor in changes))])
    log_q = model.logits(tokens, edits.at(whole_text(tokens, n)))[0].log_softmax(-1)
    return sum(float(log_q[t - 1, ids[t]]) for t in range(n, len(ids)))


def test_leans_are_those_of_whole_passes(model, saes, texts):
    bench = BiasBench(model, saes, texts)
    latents = candidates(bench, 6)
    for changes in ([], [(latents[0], 3.0)], [(latents[1], 0.0), (latents[2], 3.0), (latents[3], 0.0)]):
        leans = bench.leans(changes)
        for group, values in zip(leans.groups, leans.leans, strict=True):
            for word, value in zip(WORDS[group], values, strict=True):
                expected = [
                    log_p(model, saes, template.format(word), " x", changes)
                    - log_p(model, saes, template.format(word), " yes", changes)
                    for template in TEMPLATES
                ]
                assert value == pytest.approx(sum(expected) / 2, abs=1e-3)
    either = [
        math.exp(log_p(model, saes, text.text, f" {word}", ()))
        for text in texts.texts
        for word in (text.first, text.second)
    ]
    assert bench.leans([]).either == pytest.approx(sum(either) / len(texts.texts), rel=1e-3)


def test_a_change_of_nothing_changes_no_bit(model, saes, texts):
    bench = BiasBench(model, saes, texts)
    fires = torch.cat([batch.fires for batch in bench._batches]).any(0)
    silent = int((~fires).nonzero()[0])
    for changes in ([(candidates(bench, 1)[0], 1.0)], [(silent, 3.0)]):
        for plain, changed in zip(bench.leans([]).leans, bench.leans(changes).leans, strict=True):
            assert (plain == changed).all()


def test_mean_activations_choose_the_candidates(model, saes, texts):
    bench = BiasBench(model, saes, texts)
    means = []
    for group, words in WORDS.items():
        total = torch.zeros(saes.own.sae.d_sae, dtype=torch.float64)
        for text in (text for text in texts.texts if text.group == group):
            # a continuation of several tokens is read together with its text: "yes" here, "x" too
            for continuation in (" x", " yes"):
                tokens = torch.tensor([model.tokenizer(text.text + continuation[:-1])["input_ids"]])
                total += saes.own.sae.encode(model.activations(tokens, [SITE])[SITE][0, 1:].float()).sums()
        means.append(total / len(words))
    for mean, expected in zip(bench.mean_activations(), means, strict=True):
        torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-4)
    largest = (means[0] - means[1]).abs().topk(3).indices.tolist()
    assert candidates(bench, 3) == largest


def test_search_is_on_one_half_and_judgement_on_the_other(model, saes, texts):
    validation = torch.randint(256, (3, 16), generator=torch.Generator().manual_seed(1))
    settings = BiasSettings(n_candidates=4, counts=(1, 2), n_controls=2)
    measured = measure_bias(model, saes, texts, validation=validation, settings=settings)
    assert measured["search"] == {"a": ["mill", "stone"], "b": ["ox", "goat", "cat"]}
    assert measured["judge"] == {"a": ["river", "bridge"], "b": ["hen", "lamb"]}
    search, judge = (BiasBench(model, saes, half) for half in texts.halves())
    singles = [abs(row["search_gap"]) for row in measured["single"]]
    assert singles == sorted(singles)
    for count, case in measured["changed"].items():
        changes = [(row["latent"], row["factor"]) for row in measured["single"][: int(count)]]
        assert [tuple(change) for change in case["changes"]] == changes
        assert case["judged"]["gap"]["mean"] == pytest.approx(judge.leans(changes).gap)
        assert case["search_gap"]["mean"] == pytest.approx(search.leans(changes).gap)
        assert case["cost"]["n_sequences"] == 3
        for control in case["random"]:
            assert [factor for _, factor in control["changes"]] == [factor for _, factor in changes]
            assert not {latent for latent, _ in control["changes"]} & {latent for latent, _ in changes}


def test_the_loss_is_that_of_whole_passes(model, saes, texts):
    validation = torch.randint(256, (2, 16), generator=torch.Generator().manual_seed(1))
    changes = [(candidates(BiasBench(model, saes, texts), 1)[0], 3.0)]
    edits = TextEdits(model, saes, [Steering((Edit(changes[0][0], "scale", 3.0),))])
    differences = []
    for row in validation:
        losses = [
            float(torch.nn.functional.cross_entropy(model.logits(row[None], hooks)[0, :-1], row[1:]))
            for hooks in (None, edits.at(whole_text(row[None], 16)))
        ]
        differences.append(losses[1] - losses[0])
    losses = LossBench(model, saes, validation)
    assert losses.cost(changes).loss_change == pytest.approx(sum(differences) / 2, abs=1e-5)
    assert losses.cost([]).loss_change == 0


def test_whole_sentences_and_a_single_group(model, saes):
    rows = [BiasText("", "", f"{name} is late", f"{name} is early", str(k)) for k, name in enumerate("ABCD")]
    bench = BiasBench(model, saes, BiasTexts(tuple(rows)))
    start = [token for token in [model.tokenizer.eos_token_id] if token is not None]
    sums = []
    for row in rows:
        sides = []
        for text in (row.first, row.second):
            ids = [*start, *model.tokenizer(text)["input_ids"]]
            log_q = model.logits(torch.tensor([ids]))[0].log_softmax(-1)
            sides.append(sum(float(log_q[t - 1, ids[t]]) for t in range(1, len(ids))))
        sums.append(sides[0] - sides[1])
    leans = bench.leans([])
    assert leans.gap == pytest.approx(sum(sums) / 4, abs=1e-3)
    assert leans.interval()[0] < leans.gap < leans.interval()[1]


def test_files_of_every_form(tmp_path):
    rows = [BiasText("a", "He said, “no”:", "x", "y", "one"), BiasText("b", "It was", "p", "q", "row 2")]
    (tmp_path / "t.csv").write_text('group,text,first,second,item\na,"He said, “no”:",,,one\nb,It was,p,q,\n')
    (tmp_path / "t.jsonl").write_bytes(
        b"\n".join(
            orjson.dumps(row)
            for row in (
                {"group": "a", "text": "He said, “no”:", "item": "one"},
                {"group": "b", "text": "It was", "first": "p", "second": "q"},
            )
        )
    )
    for name in ("t.csv", "t.jsonl"):
        assert read_bias_texts(tmp_path / name, ("x", "y")).texts == tuple(rows)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", "group,text\n", r"ends in '.txt'; give a .csv, .tsv or .jsonl file"),
        ("t.csv", "group,text\n", "has no rows"),
        ("t.csv", "group,texts\na,b\n", "unknown column 'texts'; did you mean 'text'"),
        ("t.csv", "group,text\na,b,c\n", "line 2: more cells than columns"),
        ("t.csv", "group,text\na,b\n", "the row 'b' has no pair of continuations: .* --words A B"),
        ("t.csv", "text,first,second\nb,c,c\n", "has the same continuation twice, 'c'"),
        (
            "t.csv",
            "group,text,first,second\n" + "".join(f"{g},b,c,d\n" for g in "xyz"),
            "two groups .*, got 3: x, y, z",
        ),
        ("t.jsonl", '{"text": 3}\n', "line 1: give an object of texts"),
        ("t.jsonl", "{\n", "line 1: not JSON"),
    ],
)
def test_bad_files_are_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_bias_texts(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_too_few_items_are_refused():
    with pytest.raises(UserError, match="group 'a' has 3 items, and at least 4 are needed"):
        of_templates({"a": ["x", "y", "z"], "b": ["u", "v", "w", "t"]}, ("{}",), "p", "q").halves()


def test_a_new_lean_of_everybody_is_told_from_a_smaller_gap():
    before = {"gap": {"mean": 0.8}, "lean": [0.4, -0.4]}
    assert cover_up(before, {"gap": {"mean": 0.3}, "lean": [1.0, 0.7]})
    assert not cover_up(before, {"gap": {"mean": 0.1}, "lean": [0.05, -0.05]})
    assert not cover_up({"gap": {"mean": 0.8}, "lean": [0.8]}, {"gap": {"mean": 0.1}, "lean": [0.1]})


def test_the_interval_resamples_items_within_each_group():
    import numpy as np

    leans = Leans(("a", "b"), (np.array([1.0, 3.0]), np.array([0.0, 0.0])), 0.5)
    assert leans.gap == 2.0
    assert leans.interval() == (1.0, 3.0)  # the only means of two draws of 1 and 3 are 1, 2 and 3


def test_the_command_prints_writes_and_keeps_a_recipe_that_steers(run, model, saes, tmp_path, monkeypatch, capsys):
    from monosemy.steering import command

    monkeypatch.setattr(command, "load_run", lambda *_: (model, saes.own.sae, saes.own.scales))
    file = tmp_path / "words.csv"
    file.write_text("group,text\n" + "".join(f"{g},The {w} is\n" for g, words in WORDS.items() for w in words))
    save_sae(saes.own.sae, run / "saes" / SITE / "own")
    words = [
        str(run),
        str(file),
        "--sae",
        "own",
        "--words",
        "x",
        "y",
        "--candidates",
        "3",
        "--counts",
        "1",
        "2",
        "--validation",
        "0",
    ]
    out = tmp_path / "bias.json"
    bias_command.run_bias([*words, "--out", str(out), "--save-recipe", "less", "--save-count", "2"])
    printed = capsys.readouterr().out
    for part in ("gap between a and b", "2 latents", "lean of b", "either's probability", "with random latents"):
        assert part in printed
    measured = orjson.loads(out.read_bytes())
    recipe = find_recipe(run, "less")
    assert [(edit.latent, edit.value) for edit in recipe.edits] == [
        tuple(change) for change in measured["changed"]["2"]["changes"]
    ]
    command.run_steer([str(run), "--recipe", "less", "--prompt", "The mill", "--tokens", "3", "--json"])
    start = orjson.loads(capsys.readouterr().out.splitlines()[0])
    steered = next(column for column in start["columns"] if column["column"] == "steered")
    assert [edit["latent"] for edit in steered["edits"]] == [edit.latent for edit in recipe.edits]
    bias_command.run_bias(words)
    assert "--edit" in capsys.readouterr().out
    for changed, message in (
        ([*words, "--save-count", "3"], "--save-count 3 is none of --counts 1 2"),
        ([*words, "--save-recipe", "less"], "has a recipe 'less' already"),
    ):
        with pytest.raises(UserError, match=message):
            bias_command.run_bias(changed)
