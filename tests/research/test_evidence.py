"""The parts of the comparisons' scripts that decide what is compared: units as latents, drawn latents, word classes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import make_tiny_model

from monosemy.config import RunConfig, TextConfig
from monosemy.errors import UserError
from monosemy.features.building.encode_pass import Codes
from monosemy.run import open_run
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
from monosemy.saes.storage import save_sae
from research import dictionaries, run_folders
from research.interpretability import run as module
from research.probing import probes, table, tasks
from research.stability import run as stability


def test_sides_are_the_strongest_entries_with_their_signs():
    values = torch.tensor([[1.0, -3.0, 2.0], [-0.5, 0.1, 0.2]])
    code = dictionaries.sides(values, 2)
    assert code.to_dense().tolist() == [[0, 0, 0, 3, 2, 0], [0, 0.5, 0, 0, pytest.approx(0.2), 0]]


def test_neurons_add_up_to_the_mlps_output():
    model = make_tiny_model("llama")
    tokens = torch.randint(0, 200, (2, 8), generator=torch.Generator().manual_seed(0))
    activations = model.activations(tokens, ["layers.1.mlp_in", "layers.1.mlp_out"])
    x, y = (activations[site].reshape(16, -1) for site in ("layers.1.mlp_in", "layers.1.mlp_out"))
    neurons = dictionaries.Neurons(model, 1, 48)  # all of its hidden units
    code = neurons.encode(x)
    assert torch.allclose(code.to_dense() @ neurons.W_dec, y, atol=1e-5)
    assert neurons.d_sae == 96
    assert code.l0 == 48


def test_restricted_codes_are_the_columns_of_the_drawn_latents():
    random = np.random.default_rng(0)
    dense = random.random((6, 10)) * (random.random((6, 10)) < 0.4)
    rows, latents = np.nonzero(dense)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=6))])
    codes = Codes(offsets, latents.astype(np.int32), dense[rows, latents].astype(np.float32), 10)
    drawn, n_dead = module.drawn_latents(codes, 4, seed=0)
    assert n_dead == int((dense == 0).all(0).sum())
    assert (dense[:, drawn] > 0).any(0).all()
    few = module.restricted(codes, drawn)
    back = np.zeros((6, 4), np.float32)
    back[np.repeat(np.arange(6), np.diff(few.offsets)), few.indices] = few.values
    assert np.array_equal(back, dense[:, drawn].astype(np.float32))


def test_kinds_of_tokens():
    """A cut word is no word, a cut character no punctuation; what begins a sentence is no capital inside one."""
    text = "The| dog| quickly| ran| to| Paris|.| It| un|seen| 1|9| Bob|'| caf|�|�| end"
    kinds = "|lower|lower|lower|lower|capital|punctuation||||number|number|capital|punctuation||||"
    assert [kind for kind, _ in tasks.token_kinds(text.split("|"))] == kinds.split("|")


def test_words_of_the_test_half_are_never_learned():
    words = [f" {stem}{end}" for stem in ("quick", "slow", "glad", "warm", "cold") for end in ("ly", "er", "est")]
    words += [f" {a}{b}{end}" for a in "bdfglmnprst" for b in ("and", "old", "ust", "ink") for end in ("ly", "")]
    pieces = [word if len(word) > 5 else word + "ish" for word in words]
    random = np.random.default_rng(0)
    snippets = [
        tasks.Snippet("english", f"article {i}", tuple(random.integers(0, len(pieces), tasks.LENGTH).tolist()))
        for i in range(200)
    ]
    tasks_by_name = {task.name: task for task in tasks.make_tasks(snippets, pieces)}
    task = tasks_by_name["-ly"]
    word = np.array([pieces[snippets[e // tasks.LENGTH].ids[e % tasks.LENGTH]] for e in task.examples])
    assert set(word[task.train]).isdisjoint(word[~task.train])
    assert all(w.endswith("ly") == label for w, label in zip(word, task.labels))
    texts = task.examples // tasks.LENGTH
    assert set(texts[task.train]).isdisjoint(texts[~task.train])


def test_runs_on_other_terms_are_not_compared(tmp_path):
    for name, n_tokens in (("a", 1000), ("b", 1000), ("c", 2000)):
        with open_run(tmp_path / name, RunConfig(text=TextConfig(n_tokens=n_tokens))) as run:
            for seed in (0, 1):
                sae = build_sae(SaeConfig("topk", 4, 8, 2, site="layers.1.resid_post", seed=seed))
                save_sae(sae, run.files.sae("layers.1.resid_post", f"topk-l0_2-s{seed}").folder)
    entries = run_folders.gather([tmp_path / "a", tmp_path / "b"], None, 2)
    assert [(entry.kind, entry.seed) for entry in entries] == [("topk", 0), ("topk", 1)]
    with pytest.raises(UserError, match="another text than"):
        run_folders.gather([tmp_path / "a", tmp_path / "c"], None, 2)
    with pytest.raises(UserError, match="no SAE of L0 3"):
        run_folders.gather([tmp_path / "a"], None, 3)


def decoders(stability, *rows_of_seeds):
    """Seed → decoder of such rows, the first latent firing least."""
    return {
        seed: stability.Decoder(torch.tensor(rows, dtype=torch.float32), (1 + np.arange(len(rows))) / 100, 0)
        for seed, rows in enumerate(rows_of_seeds)
    }


def test_a_latent_counts_once_however_many_seeds_it_is_held_against():
    e = torch.eye(4).tolist()
    pairs = stability.pairs_of(decoders(stability, [e[0], e[1]], [e[0], e[2]], [e[0], e[1], e[3]]))
    values = [stability.measures(pair)["share_0.7"] for pair in pairs]
    shares = stability.per_latent(pairs, values)
    assert {seed: v.tolist() for seed, v in shares.items()} == {0: [1, 0.5], 1: [1, 0], 2: [1, 0.5, 0]}
    share = stability.summary(pairs)["share_0.7"]
    assert share["mean"] == pytest.approx((0.75 + 0.5 + 0.5) / 3)
    assert share["by_pair"] == pytest.approx([2 / 4, 4 / 5, 2 / 5])
    assert share["interval_latents"] == stability.wilson(share["mean"], 7)


def test_measures_of_a_pair_by_hand():
    """Two rows of one SAE have the same nearest row: both are twins, one is mutual, one is left over."""
    (pair,) = stability.pairs_of(decoders(stability, [[1, 0.0], [1, 0.1]], [[2.0, 0]]))
    measures = {name: [side.tolist() for side in sides] for name, sides in stability.measures(pair).items()}
    assert measures["share_0.9"] == [[1, 1], [1]]
    assert measures["mutual_0.7"] == [[1, 0], [1]]
    assert measures["one_to_one_0.7"] == [[1, 0], [1]]
    assert measures["cosine"][0] == pytest.approx([1, 1 / 1.01**0.5])


def test_shares_by_rate_follow_the_latents():
    e = torch.eye(10).tolist()
    pairs = stability.pairs_of(decoders(stability, e[:5] + e[5:10], e[:5] + [e[0]] * 5))
    shares = [row["share_0.7"] for row in stability.summary(pairs)["by_rate"]]
    assert shares == pytest.approx([1, 1, 0.75, 0.5, 0.5])
    medians = [row["median_rate"] for row in stability.summary(pairs)["by_rate"]]
    assert medians == sorted(medians)


def test_differences_of_stability_are_no_narrower_for_counting_pairs():
    """Three copies of one SAE: every pair tells the same, so an interval must be that of the latents themselves."""
    random = np.random.default_rng(0)
    cosines = random.random(400).astype(np.float32)
    nothing = np.zeros(400, bool)

    class Same:
        cosine_a = cosine_b = cosines
        mutual_a = mutual_b = nothing

    seeds = [(0, 1), (0, 2), (1, 2)]
    pairs = [stability.Pair(s, Same(), (cosines, cosines), (cosines, cosines)) for s in seeds]
    others = [stability.Pair(s, Same(), (cosines, cosines), (cosines, cosines)) for s in seeds]
    (difference,) = stability.compare({"topk": pairs, "gated": others}, "cosine")["differences"]
    half = (difference["high"] - difference["low"]) / 2
    alone = 1.96 * cosines.std() * np.sqrt(2 / 1200)  # 1,200 latents a side, each once
    assert difference["estimate"] == 0
    assert half == pytest.approx(alone, rel=0.1)
    assert difference["by_pair"] == [0, 0, 0]


def latents(label, rate):
    return {"label": np.array(label, float), "firing_rate": np.array(rate, float)}


@pytest.fixture
def confounded():
    """Scores that follow the firing rate alone, rates of other spread in each kind; the rarest latents are unscored."""
    random = np.random.default_rng(0)

    def drawn(*shape):
        rate = 0.1 * random.beta(*shape, 2000)
        label = 0.5 + 5 * rate + random.normal(0, 0.01, 2000)
        return latents(np.where(rate < 0.002, np.nan, label), rate)

    trained = {"topk": {0: drawn(2, 4), 1: drawn(2, 4)}, "relu": {0: drawn(3, 3)}}
    return trained | {"frozen_random": {0: drawn(1, 1), 1: drawn(1, 1)}}


def test_equal_rates_take_away_what_the_rates_alone_make(confounded):
    results = module.compare(confounded, "label")
    plain = {(d["first"], d["second"]): d["estimate"] for d in results["differences"] + results["against_controls"]}
    assert plain["topk", "relu"] < -0.05
    assert plain["topk", "frozen_random"] < -0.05
    (matched,) = results["matched"]
    assert abs(matched["estimate"]) < 0.2 * abs(plain["topk", "relu"])
    for name, left in (("matched_control", 0.3), ("matched_control_tenths", 0.15)):
        of = {(d["first"], d["second"]): d["estimate"] for d in results[name]}
        assert set(of) == {("topk", "frozen_random"), ("relu", "frozen_random")}
        assert abs(of["topk", "frozen_random"]) < left * abs(plain["topk", "frozen_random"])


def test_cells_of_equal_rates_hold_every_scored_latent_once(confounded):
    apart = {"topk": {0: latents([0.5, 0.6], [1, 2])}, "gated": {0: latents([0.5, 0.6], [8, 9])}}
    assert module.matched_groups(apart, list(apart), "label") is None, "no rate is in both"
    alike = {"topk": confounded["frozen_random"], "gated": confounded["frozen_random"]}
    groups = module.matched_groups(alike, list(alike), "label", 4)
    scored = [np.isfinite(v["label"]).sum() for v in alike["topk"].values()]
    assert [len(cells) for cells in groups.values()] == [8, 8]
    assert [sum(map(len, groups["topk"][:4])), sum(map(len, groups["topk"][4:]))] == scored
    assert max(groups["topk"][0]) < min(groups["topk"][3])


def test_unscored_latents_count_as_chance_by_measure():
    scored = {
        "topk": {0: latents([0.9, np.nan], [1, 2]), 1: latents([0.7, 0.7], [1, 2])},
        "frozen_random": {0: latents([0.8, np.nan, np.nan, np.nan], [1, 2, 3, 4])},
    }
    results = module.compare(scored, "label")
    assert results["n_scored"] == {"topk": 3, "frozen_random": 1}
    assert results["means"]["topk"]["mean"] == pytest.approx(0.8)
    filled = results["with_unscored_at_chance"]
    assert filled["means"]["topk"]["mean"] == pytest.approx(0.7)
    assert filled["means"]["frozen_random"]["mean"] == pytest.approx((0.8 + 3 * 0.5) / 4)
    assert filled["against_controls"][0]["estimate"] == pytest.approx(0.7 - 0.575)
    assert np.isnan(scored["topk"][0]["label"][1]), "the scores themselves stay"


@pytest.fixture
def probed():
    """(material of two tasks of one family and one of another, says(n): answers right on n of each class's 20)."""
    labels, rows, nowhere = np.repeat([True, False], 20), np.arange(40), np.zeros(40, bool)
    first, second = tasks.FAMILIES[:2]
    material = SimpleNamespace(
        n_documents=40,
        tasks=[
            tasks.Task(f, name, False, rows, labels=labels, train=nowhere)
            for f, name in ((first, "a"), (first, "b"), (second, "c"))
        ],
        answers=lambda predictions, task: probes.answers_by_document(predictions, labels, rows, 40),
    )
    return material, lambda right: (rows % 20 < right) == labels


def predictions_of(table, says, **right):
    """The answers of one SAE: task → how many are right, whatever k and rule."""
    return {f"{task}/{k}/{rule}": says(n)[None] for task, n in right.items() for k in table.KS for rule in table.RULES}


def test_seeds_are_averaged_and_listed(probed):
    material, says = probed
    topk = {
        "s0": predictions_of(table, says, a=20, b=10, c=20),
        "s1": predictions_of(table, says, a=10, b=10, c=10),
    }
    gated = {
        "s0": predictions_of(table, says, a=15, b=15, c=15),
        "s1": predictions_of(table, says, a=15, b=15, c=15),
    }
    residual = {"residual": predictions_of(table, says, a=10, b=10, c=10)}
    random = {"s0": {f"{task}/{k}": says(10)[None] for task in "abc" for k in table.KS}}
    full = {task: says(20)[None] for task in "abc"}
    summary = table.summarise(material, {"topk": topk, "gated": gated, "residual": residual}, random, full)
    rule = summary["rules"]["difference"]
    first, second = material.tasks[0].family, material.tasks[2].family
    assert rule["tasks"]["a"]["topk"]["1"]["by_seed"] == pytest.approx([1, 0.5])
    assert rule["summary"]["topk"][first]["1"]["by_seed"] == pytest.approx([0.75, 0.5])
    assert rule["summary"]["topk"]["all"]["1"]["by_seed"] == pytest.approx([0.875, 0.5])
    assert rule["summary"]["topk"]["all"]["1"]["mean"] == pytest.approx(0.6875)
    (difference,) = rule["differences"]["5"]["architectures"]
    assert difference["by_seed"] == pytest.approx([0.125, -0.25])
    assert difference["estimate"] == pytest.approx(-0.0625)
    leads = {d["first"]: d["estimate"] for d in rule["against_channels"][second]["2"]}
    assert leads == pytest.approx({"topk": 0.25, "gated": 0.25})
    assert summary["full_probe"]["all"]["mean"] == 1


def test_weights_trained_anew_have_another_identity(tmp_path):
    """The configuration may stay the same: answers of the old weights must not be served for the new."""
    names = []
    for shift in (0.0, 0.0, 1e-3):
        sae = build_sae(SaeConfig("topk", 4, 8, 2, site="layers.1.resid_post"))
        with torch.no_grad():
            sae.W_dec.copy_(torch.arange(32.0).reshape(8, 4) + shift)
        save_sae(sae, tmp_path / "sae")
        entry = run_folders.Entry(
            tmp_path / "sae", "topk", "layers.1.resid_post", "topk-l0_2-s0", l0=2, seed=0, d_sae=8
        )
        names.append(run_folders.identity([entry]))
    assert names[0] == names[1] != names[2]
    assert run_folders.identity([entry], n=1) != names[2]
