"""Methods by name on one bench: what each makes and counts, which are run for `all`, seeds."""

from __future__ import annotations

import pytest
import torch
from known_circuits import bench, circuit, contrast

from monosemy.circuits.heads.combined import combined_circuit
from monosemy.circuits.heads.controls import kmeans_codes
from monosemy.circuits.heads.discrete import discrete_codes
from monosemy.circuits.heads.masks import ProbeConfig, acdc, subnetwork_probing
from monosemy.circuits.heads.methods import METHODS, Bench, all_methods, expected_passes
from monosemy.circuits.heads.model_heads import AttentionOnlyHeads
from monosemy.circuits.heads.patching import exhaustive_patching


def test_seeds_reach_every_part():
    planted = circuit("induction")
    first, other = (Bench(AttentionOnlyHeads(planted.model), planted.data, 8, seed=seed) for seed in (0, 1))
    assert not torch.equal(first.combined.codes.codes, other.combined.codes.codes)
    by_seed = [subnetwork_probing(first.contrast, ProbeConfig(n_steps=3, seed=seed)).scores for seed in (0, 0, 1)]
    assert torch.equal(by_seed[0], by_seed[1])
    assert not torch.equal(by_seed[0], by_seed[2])


def test_controls_make_only_what_they_need(monkeypatch):
    monkeypatch.setattr(Bench, "codes", lambda self, name: pytest.fail("trained an SAE"))
    fresh = Bench(bench("induction").heads, circuit("induction").data, 8)
    assert len(METHODS["random"](fresh).scores) == 18
    assert not {"pooled", "contrast"} & set(fresh.__dict__)
    for name in ("mean-difference", "probe", "kmeans", "kmeans-paper"):
        METHODS[name](fresh)
    monkeypatch.undo()
    codes, (_, coding_seconds) = METHODS["codes-paper"](fresh), fresh.codes("paper")
    for scores in (codes, METHODS["distinct"](fresh), METHODS["shuffled"](fresh)):
        assert scores.seconds >= coding_seconds > 0  # its codes had to be made too
        assert scores.reading_seconds == codes.reading_seconds


def test_kmeans_counts_on_what_its_preset_counts_on():
    pooled = bench("induction").pooled
    for name in ("paper", "fast"):
        config = bench("induction").config(name)
        ours, theirs = kmeans_codes(pooled, config), discrete_codes(pooled, config)
        assert torch.equal(ours.positive, theirs.positive)
        assert ours.codes.shape == theirs.codes.shape
    assert len(ours.positive) < len(pooled.positive)  # `fast` holds out what it trains on


def test_all_methods_repeat_none():
    assert "patching-mean" not in all_methods("mean", "combined")
    assert "patching" in all_methods("mean", "combined")
    assert {"patching", "patching-zero"}.isdisjoint(all_methods("zero", "patching-zero"))
    assert len(all_methods("resample", "combined")) == len(METHODS) - 2


def test_passes_follow_one_convention():
    """Beyond reading; a model that cannot start late runs every layer; what is tried in vain counts too."""
    some, n_passes_of_all = contrast("or_pair"), 18.0
    assert exhaustive_patching(some).n_passes == n_passes_of_all
    assert acdc(some, [0.1]).n_passes == n_passes_of_all
    combined = combined_circuit(some)
    n_patched = len(combined.by_attribution) + len(combined.by_codes)
    assert combined.heads.n_passes in [3 + n_patched + n for n in range(len(combined.heads.replaced), 3)]
    assert expected_passes("patching-mean", some.heads, 1) == n_passes_of_all
    assert expected_passes("codes", some.heads, 1) == 0
