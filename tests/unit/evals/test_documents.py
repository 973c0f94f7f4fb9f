"""Paired comparisons over documents: against direct computation on the tokens, and far sharper than unpaired ones."""

import numpy as np
import pytest
import torch

from monosemy.errors import UserError
from monosemy.evals.documents import (
    DocumentSums,
    joined,
    load_documents,
    paired_differences,
    paired_ratios,
    save_documents,
)
from monosemy.evals.intervals import MAX_BLOCKS
from monosemy.evals.reconstruction import ReconstructionMeter
from monosemy.latents import SparseLatents


class Scaled:
    """x̂ = factor · x."""

    d_sae = 1

    def __init__(self, factor):
        self.factor = factor

    def encode(self, x):
        self.x = x
        return SparseLatents.from_dense(torch.ones(len(x), 1))

    def decode(self, latents):
        return self.factor * self.x


def measured(n_documents=30, **factors):
    generator = torch.Generator().manual_seed(0)
    meter = ReconstructionMeter({name: Scaled(factor) for name, factor in factors.items()}, "site")
    rows = torch.randn(900, 6, generator=generator) * (1 + 4 * torch.rand(900, 1, generator=generator))
    ids = torch.randint(0, n_documents, (900,), generator=generator)
    for part, number in zip(rows.split(256), ids.split(256)):
        meter.add(part, number)
    return meter.documents(meter.finish(n_bootstrap=10)), rows, ids


def test_sums_are_those_of_the_tokens():
    document_sums, rows, ids = measured(half=0.5)
    assert sorted(document_sums.documents) == sorted(set(ids.tolist()))
    for block, document in enumerate(document_sums.documents):
        mine = rows[ids == document].double()
        assert document_sums.n_tokens[block] == len(mine)
        assert document_sums.sums["half"][block] == pytest.approx(0.25 * float(mine.square().sum()), rel=1e-6)


def test_documents_beyond_the_limit_share_blocks():
    document_sums, rows, ids = measured(n_documents=600, half=0.5)
    assert len(document_sums.documents) == len(set(ids.tolist())) > MAX_BLOCKS == len(document_sums.n_tokens)
    assert document_sums.sums["half"].sum() == pytest.approx(0.25 * float(rows.double().square().sum()), rel=1e-6)


def test_a_constant_ratio_has_an_interval_without_width():
    document_sums, _, _ = measured(a=0.5, b=0.4)
    (ratio,) = paired_ratios(document_sums, {"a": ["a"], "b": ["b"]})
    assert ratio.estimate == pytest.approx(0.25 / 0.36 - 1, rel=1e-5)
    assert ratio.high - ratio.low < 1e-4


def test_differences_are_per_token_and_of_the_groups_means():
    n = np.array([10.0, 30.0, 20.0])
    sums = {"a0": np.array([1.0, 2.0, 3.0]), "a1": np.array([3.0, 4.0, 5.0]), "b": np.array([0.0, 0.0, 6.0])}
    document_sums = DocumentSums(np.array([7, 3, 5]), n, sums)
    (difference,) = paired_differences(document_sums, {"a": ["a0", "a1"], "b": ["b"]})
    assert difference.estimate == pytest.approx((9 - 6) / 60)
    assert difference.low < difference.estimate < difference.high


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    random, hits = np.random.default_rng(0), 0
    for trial in range(200):
        n = random.integers(20, 60, 60).astype(float)
        hardness = random.gamma(2.0, 1.0, 60)
        sums = {"a": n * hardness * 1.10, "b": n * hardness * (1 + 0.05 * random.standard_normal(60))}
        (difference,) = paired_ratios(DocumentSums(np.arange(60), n, sums), {"a": ["a"], "b": ["b"]}, seed=trial)
        hits += difference.low <= 0.10 <= difference.high
        assert difference.apart
    assert hits >= 180


def test_round_trip_and_joining(tmp_path):
    document_sums, _, _ = measured(a=0.5, b=0.4)
    other, _, _ = measured(c=0.3)
    path = tmp_path / "documents.safetensors"
    save_documents(path, {"layers.0.mlp_out": {"error": document_sums, "delta_loss": other}})
    read = load_documents(path)["layers.0.mlp_out"]
    assert list(read["error"].sums) == ["a", "b"]
    whole = joined([read["error"], read["delta_loss"]])
    assert list(whole.sums) == ["a", "b", "c"]
    np.testing.assert_array_equal(whole.sums["c"], other.sums["c"])


def test_what_cannot_be_paired_is_refused(tmp_path):
    document_sums, _, _ = measured(a=0.5)
    fewer, _, _ = measured(n_documents=29, b=0.5)
    with pytest.raises(UserError, match="cannot pair evaluations over other tokens"):
        document_sums.joined(fewer)
    with pytest.raises(UserError, match="no dictionary 'z'"):
        paired_ratios(document_sums, {"a": ["a"], "z": ["z"]})
    with pytest.raises(UserError, match="two documents"):
        paired_ratios(measured(n_documents=1, a=0.5, b=0.5)[0], {"a": ["a"], "b": ["b"]})
    path = tmp_path / "documents.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a file of document sums"):
        load_documents(path)
    with pytest.raises(UserError, match="no evaluation to compare"):
        joined([])
