"""The parts of the comparisons' scripts that decide what is compared: units as latents, drawn latents, word classes."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from tiny_models import make_tiny_model

from monosemy.config import RunConfig, TextConfig
from monosemy.errors import UserError
from monosemy.features.encode_pass import Codes
from monosemy.run import open_run
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
from monosemy.saes.storage import save_sae


@pytest.fixture(scope="module")
def scripts():
    """`scripts(name)`: a script of benchmarks/ as a module."""
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    before = set(sys.modules)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    sys.path.remove(folder)
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(sys.modules[name].__file__).startswith(folder):
            del sys.modules[name]


def test_sides_are_the_strongest_entries_with_their_signs(scripts):
    values = torch.tensor([[1.0, -3.0, 2.0], [-0.5, 0.1, 0.2]])
    code = scripts("dictionaries").sides(values, 2)
    assert code.to_dense().tolist() == [[0, 0, 0, 3, 2, 0], [0, 0.5, 0, 0, pytest.approx(0.2), 0]]


def test_neurons_add_up_to_the_mlps_output(scripts):
    model = make_tiny_model("llama")
    tokens = torch.randint(0, 200, (2, 8), generator=torch.Generator().manual_seed(0))
    found = model.activations(tokens, ["layers.1.mlp_in", "layers.1.mlp_out"])
    x, y = (found[site].reshape(16, -1) for site in ("layers.1.mlp_in", "layers.1.mlp_out"))
    neurons = scripts("dictionaries").Neurons(model, 1, 48)  # all of its hidden units
    code = neurons.encode(x)
    assert torch.allclose(code.to_dense() @ neurons.W_dec, y, atol=1e-5)
    assert neurons.d_sae == 96
    assert code.l0 == 48


def test_restricted_codes_are_the_columns_of_the_drawn_latents(scripts):
    random = np.random.default_rng(0)
    dense = random.random((6, 10)) * (random.random((6, 10)) < 0.4)
    rows, latents = np.nonzero(dense)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=6))])
    codes = Codes(offsets, latents.astype(np.int32), dense[rows, latents].astype(np.float32), 10)
    module = scripts("interpretability")
    drawn, n_dead = module.drawn_latents(codes, 4, seed=0)
    assert n_dead == int((dense == 0).all(0).sum())
    assert (dense[:, drawn] > 0).any(0).all()
    few = module.restricted(codes, drawn)
    back = np.zeros((6, 4), np.float32)
    back[np.repeat(np.arange(6), np.diff(few.offsets)), few.indices] = few.values
    assert np.array_equal(back, dense[:, drawn].astype(np.float32))


def test_kinds_of_tokens(scripts):
    """A cut word is no word, a cut character no punctuation; what begins a sentence is no capital inside one."""
    text = "The| dog| quickly| ran| to| Paris|.| It| un|seen| 1|9| Bob|'| caf|�|�| end"
    kinds = "|lower|lower|lower|lower|capital|punctuation||||number|number|capital|punctuation||||"
    assert [kind for kind, _ in scripts("probing_tasks").token_kinds(text.split("|"))] == kinds.split("|")


def test_words_of_the_test_half_are_never_learned(scripts):
    tasks = scripts("probing_tasks")
    words = [f" {stem}{end}" for stem in ("quick", "slow", "glad", "warm", "cold") for end in ("ly", "er", "est")]
    words += [f" {a}{b}{end}" for a in "bdfglmnprst" for b in ("and", "old", "ust", "ink") for end in ("ly", "")]
    pieces = [word if len(word) > 5 else word + "ish" for word in words]
    random = np.random.default_rng(0)
    snippets = [
        tasks.Snippet("english", f"article {i}", tuple(random.integers(0, len(pieces), tasks.LENGTH).tolist()))
        for i in range(200)
    ]
    made = {task.name: task for task in tasks.make_tasks(snippets, pieces)}
    task = made["-ly"]
    word = np.array([pieces[snippets[e // tasks.LENGTH].ids[e % tasks.LENGTH]] for e in task.examples])
    assert set(word[task.train]).isdisjoint(word[~task.train])
    assert all(w.endswith("ly") == label for w, label in zip(word, task.labels))
    texts = task.examples // tasks.LENGTH
    assert set(texts[task.train]).isdisjoint(texts[~task.train])


def test_runs_on_other_terms_are_not_compared(scripts, tmp_path):
    run_folders = scripts("run_folders")
    for name, n_tokens in (("a", 1000), ("b", 1000), ("c", 2000)):
        with open_run(tmp_path / name, RunConfig(text=TextConfig(n_tokens=n_tokens))) as run:
            for seed in (0, 1):
                sae = build_sae(SaeConfig("topk", 4, 8, 2, site="layers.1.resid_post", seed=seed))
                save_sae(sae, run.sae_folder("layers.1.resid_post", f"topk-l0_2-s{seed}"))
    found = run_folders.gather([tmp_path / "a", tmp_path / "b"], None, 2)
    assert [(entry.kind, entry.seed) for entry in found] == [("topk", 0), ("topk", 1)]
    with pytest.raises(UserError, match="another text than"):
        run_folders.gather([tmp_path / "a", tmp_path / "c"], None, 2)
    with pytest.raises(UserError, match="no SAE of L0 3"):
        run_folders.gather([tmp_path / "a"], None, 3)
