"""Reconstruction measures against direct computation on all rows at once."""

import dataclasses

import numpy as np
import pytest
import torch
from document_sums import Scaled

from monosemy.errors import UserError
from monosemy.evals.controls import PcaDictionary
from monosemy.evals.intervals import bootstrap_weights, percentiles
from monosemy.evals.latent_statistics import LatentStatistics
from monosemy.evals.reconstruction import evaluate_reconstruction
from monosemy.latents import SparseLatents
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import ARCHITECTURES, build_sae

D, F = 12, 40


class Thresholded:
    """A small dictionary with known code: f = ReLU((x − b) W) where above `threshold`; x̂ = gain · (f Wᵀ) + b."""

    def __init__(self, threshold=0.5, gain=1.0, d_in=D, d_sae=F, b=0.0, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.W = torch.nn.functional.normalize(torch.randn(d_in, d_sae, generator=generator), dim=0)
        self.threshold, self.gain, self.b, self.d_in, self.d_sae = threshold, gain, b, d_in, d_sae

    def dense(self, x):
        pre_acts = (x - self.b) @ self.W
        return pre_acts * (pre_acts > self.threshold)

    def encode(self, x):
        return SparseLatents.from_dense(self.dense(x))

    def decode(self, latents):
        return self.gain * latents.to_dense() @ self.W.T + self.b


def rows_and_documents(n=700, mean=0.0, seed=0, n_documents=25):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, generator=generator) + mean
    return x, torch.randint(0, n_documents, (n,), generator=generator)


def batches(x, documents, size):
    return list(zip(x.split(size), documents.split(size)))


def direct_fvu(x, x_hat):
    x, x_hat = x.double(), x_hat.double()
    return float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())


@pytest.mark.parametrize("mean", [0.0, 3.0, 1e4])
def test_fvu_is_centred_on_the_mean_of_all_tokens(mean):
    """With a mean 10,000 times the spread an uncentred denominator is off by 1e8, and float32 sums lose everything."""
    x, documents = rows_and_documents(mean=mean)
    x = x.sort(dim=0).values  # every batch has its own mean: only the mean over all tokens gives the right variance
    sae = Thresholded(b=mean)
    record = evaluate_reconstruction({"a": sae}, batches(x, documents, 64), n_bootstrap=50)["a"].record
    assert record.fvu == pytest.approx(direct_fvu(x, sae.decode(sae.encode(x))), rel=1e-5)
    assert record.fvu_interval[0] < record.fvu < record.fvu_interval[1]


def test_predicting_the_mean_has_fvu_one():
    x, documents = rows_and_documents(mean=50.0)
    mean_only = PcaDictionary(x.mean(0), torch.zeros(1, D))
    record = evaluate_reconstruction({"mean": mean_only}, batches(x, documents, 100))["mean"].record
    assert record.fvu == pytest.approx(1.0, abs=1e-6)
    assert record.l0 == 0.0


def test_batches_and_chunks_do_not_change_the_numbers():
    x, documents = rows_and_documents()
    sae = Thresholded()
    whole = evaluate_reconstruction({"a": sae}, [(x, documents)])["a"]
    parts = evaluate_reconstruction({"a": sae}, batches(x, documents, 37), chunk_tokens=10)["a"]
    assert parts.record.l0_quantiles == whole.record.l0_quantiles
    for field in ("n_tokens", "n_documents", "l0", "dead_fraction", "over_1pct_fraction", "over_10pct_fraction"):
        assert getattr(parts.record, field) == pytest.approx(getattr(whole.record, field), rel=1e-12)
    assert parts.record.fvu == pytest.approx(whole.record.fvu, rel=1e-6)
    assert np.array_equal(parts.latents.firing_count, whole.latents.firing_count)
    np.testing.assert_allclose(
        parts.latents.max, whole.latents.max, rtol=1.3e-6, atol=1e-5
    )  # products of other shapes round otherwise


def test_latent_statistics_and_shares_match_the_dense_code():
    x, documents = rows_and_documents(n=2000)
    saes = {"low": Thresholded(0.3), "high": Thresholded(3.2, seed=1)}
    results = evaluate_reconstruction(saes, batches(x, documents, 256))
    for name, sae in saes.items():
        code, record, latents = sae.dense(x), results[name].record, results[name].latents
        rate = (code > 0).double().mean(0)
        assert np.array_equal(latents.firing_count, (code > 0).sum(0))
        torch.testing.assert_close(torch.from_numpy(latents.sum), code.sum(0), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(torch.from_numpy(latents.max), code.max(0).values, rtol=1e-5, atol=0)
        assert latents.n_tokens == record.n_tokens == 2000
        assert record.dead_fraction == pytest.approx(float((rate == 0).double().mean()))
        assert record.over_1pct_fraction == pytest.approx(float((rate > 0.01).double().mean()))
        assert record.over_10pct_fraction == pytest.approx(float((rate > 0.10).double().mean()))
        n_active = (code > 0).sum(1).double()
        assert record.l0 == pytest.approx(float(n_active.mean()))
        quantiles = np.quantile(n_active.numpy(), [0.05, 0.25, 0.5, 0.75, 0.95], method="inverted_cdf")
        assert list(record.l0_quantiles.values()) == quantiles.tolist()
    assert results["low"].record.over_10pct_fraction == 1.0
    assert 0 < results["high"].record.dead_fraction < 1


def test_zero_entries_do_not_fire_and_negative_ones_do():
    class Stored:
        d_sae = 3

        def encode(self, x):
            n = len(x)
            indices = torch.tensor([0, 1, 2], dtype=torch.int32).repeat(n)
            values = torch.tensor([0.0, -2.0, 1.5]).repeat(n)
            return SparseLatents(torch.arange(0, 3 * n + 1, 3), indices, values, 3)

        def decode(self, latents):
            return torch.zeros(latents.n_tokens, D)

    x, documents = rows_and_documents(n=50)
    evaluation = evaluate_reconstruction({"a": Stored()}, [(x, documents)])["a"]
    assert evaluation.latents.firing_count.tolist() == [0, 50, 50]
    assert evaluation.latents.max.tolist() == [0.0, -2.0, 1.5]
    assert evaluation.record.l0 == 2.0
    assert evaluation.record.gamma is None  # x̂ = 0 everywhere


def test_quantiles_of_the_l0_where_shares_are_met_exactly():
    """Of 20 tokens, one has no active latent, four have one, five two, five three, four four, and one five."""

    class Counted:
        d_sae = 5

        def encode(self, x):
            return SparseLatents.from_dense((torch.arange(5) < x[:, :1]).float())

        def decode(self, latents):
            return torch.zeros(latents.n_tokens, 2)

    n_active = torch.tensor([0] + 4 * [1] + 5 * [2] + 5 * [3] + 4 * [4] + [5]).float()
    x = torch.stack([n_active, torch.ones(20)], dim=1)
    record = evaluate_reconstruction({"a": Counted()}, [(x, torch.arange(20))])["a"].record
    assert record.l0_quantiles == {"0.05": 0, "0.25": 1, "0.5": 2, "0.75": 3, "0.95": 4}


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.3])
def test_gamma_is_the_factor_of_a_scaled_identity(factor):
    x, documents = rows_and_documents()
    record = evaluate_reconstruction({"a": Scaled(factor)}, [(x, documents)])["a"].record
    assert record.gamma == pytest.approx(factor, rel=1e-6)
    assert record.gamma_interval == pytest.approx((factor, factor), rel=1e-6)
    variance = (x - x.mean(0)).square().sum()
    assert record.fvu == pytest.approx(float((1 - factor) ** 2 * x.square().sum() / variance), rel=1e-4, abs=1e-9)


def test_intervals_are_those_of_explicitly_resampled_documents():
    """Each resample's FVU is centred at its own mean, and its firing rates are its own."""
    x, documents = rows_and_documents(n=300, mean=2.0, n_documents=9)
    documents = documents.sort().values
    sae = Thresholded(1.5, b=2.0)
    record = evaluate_reconstruction({"a": sae}, [(x, documents)], n_bootstrap=40, seed=5)["a"].record
    fvus, l0s, over = [], [], []
    for row in bootstrap_weights(9, 40, seed=5).astype(int):
        drawn = torch.cat([x[documents == b] for b in range(9) for _ in range(row[b])])
        code = sae.dense(drawn)
        fvus.append(direct_fvu(drawn, sae.decode(sae.encode(drawn))))
        l0s.append(float((code > 0).sum(1).double().mean()))
        over.append(float(((code > 0).double().mean(0) > 0.10).double().mean()))
    assert record.fvu_interval == pytest.approx(percentiles(np.array(fvus)), rel=1e-4)
    assert record.l0_interval == pytest.approx(percentiles(np.array(l0s)), rel=1e-9)
    assert record.over_10pct_fraction_interval == pytest.approx(percentiles(np.array(over)), abs=1e-9)


def test_dead_share_interval_by_leaving_documents_out():
    """Latent i fires in document i only: leaving any one out kills one latent, so there is no doubt left."""

    class OneEach:
        d_sae = 10

        def encode(self, x):
            return SparseLatents.from_dense(torch.nn.functional.one_hot(x[:, 0].long(), 10).float())

        def decode(self, latents):
            return torch.zeros(latents.n_tokens, D)

    documents = torch.arange(8).repeat_interleave(5)
    x = documents[:, None].float().expand(-1, D).contiguous()
    even = evaluate_reconstruction({"a": OneEach()}, [(x, documents)])["a"].record
    assert even.dead_fraction == pytest.approx(0.2)
    assert even.dead_fraction_interval == pytest.approx((0.2, 0.2))
    grouped = evaluate_reconstruction({"a": OneEach()}, [(x, documents.clamp(max=3))])["a"].record
    assert grouped.dead_fraction_interval[0] < 0.2 < grouped.dead_fraction_interval[1]


def test_one_document_has_values_but_no_intervals():
    x, _ = rows_and_documents()
    record = evaluate_reconstruction({"a": Thresholded()}, [(x, torch.zeros(len(x), dtype=torch.int64))])["a"].record
    assert np.isfinite(record.fvu)
    assert record.n_documents == 1
    for field in ("fvu", "l0", "gamma", "dead_fraction", "over_1pct_fraction", "over_10pct_fraction"):
        assert getattr(record, f"{field}_interval") is None


def test_more_documents_than_blocks():
    x, _ = rows_and_documents(n=900)
    record = evaluate_reconstruction({"a": Thresholded()}, [(x, torch.arange(900))])["a"].record
    assert record.n_documents == 900
    assert record.fvu == pytest.approx(direct_fvu(x, Thresholded().decode(Thresholded().encode(x))), rel=1e-5)
    width = record.l0_interval[1] - record.l0_interval[0]
    spread = (Thresholded().dense(x) > 0).sum(1).double().std()
    assert width == pytest.approx(float(2 * 1.96 * spread / np.sqrt(900)), rel=0.25)


def test_progress_counts_rows():
    x, documents = rows_and_documents()
    done = []
    evaluate_reconstruction({"a": Thresholded()}, batches(x, documents, 300), advance=done.append, chunk_tokens=128)
    assert sum(done) == len(x)


def test_statistics_file_round_trip_and_damage(tmp_path):
    statistics = LatentStatistics(np.array([3, 0]), np.float32([1.5, 0.0]), np.float32([1.0, 0.0]), 77)
    path = tmp_path / "saes" / "latents.safetensors"
    statistics.save(path)
    read = LatentStatistics.load(path)
    assert read.n_tokens == 77
    assert np.array_equal(read.firing_count, statistics.firing_count)
    assert np.array_equal(read.sum, statistics.sum)
    dataclasses.replace(statistics, n_tokens=None).save(path)
    assert LatentStatistics.load(path).n_tokens is None
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"latents\.safetensors"):
        LatentStatistics.load(path)
    with pytest.raises(UserError, match=r"missing\.safetensors"):
        LatentStatistics.load(tmp_path / "missing.safetensors")


class TestBadInput:
    def test_no_rows(self):
        for empty in ([], [(torch.zeros(0, D), torch.zeros(0, dtype=torch.int64))]):
            with pytest.raises(UserError, match=r"no validation rows at layers\.3\.mlp_out"):
                evaluate_reconstruction({"a": Thresholded()}, empty, site="layers.3.mlp_out")

    def test_not_finite_reconstruction_names_the_sae(self):
        x, documents = rows_and_documents()
        broken = Thresholded()
        broken.W[0, 0] = torch.nan
        with pytest.raises(UserError, match=r"'topk-l0_8-s0' at layers\.1\.resid_post.*NaN"):
            evaluate_reconstruction(
                {"fine": Thresholded(), "topk-l0_8-s0": broken}, [(x, documents)], site="layers.1.resid_post"
            )

    def test_not_finite_activations_are_not_blamed_on_a_sae(self):
        x, documents = rows_and_documents()
        x[3, 2] = torch.inf
        with pytest.raises(UserError, match="validation activations"):
            evaluate_reconstruction({"a": Thresholded()}, [(x, documents)])

    def test_width_mismatch_names_both_widths(self):
        x, documents = rows_and_documents()
        with pytest.raises(UserError, match=rf"'wide' reads activations 64 wide, but layers\.2\.resid_pre is {D} wide"):
            evaluate_reconstruction({"wide": Thresholded(d_in=64)}, [(x, documents)], site="layers.2.resid_pre")


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_architecture_is_evaluated_as_its_own_dense_code_says(architecture):
    """Raw units, a large mean, the code and reconstruction of the SAE itself."""
    x, documents = rows_and_documents(n=400, mean=5.0)
    sae = build_sae(SaeConfig(architecture, d_in=D, d_sae=F, l0=4.0))
    sae.initialise(x, 4.0)
    sae.shift_margins(-1e-3)  # off the very pre-activation that the threshold was read from
    evaluation = evaluate_reconstruction({"sae": sae}, batches(x, documents, 128))["sae"]
    with torch.no_grad():
        code = sae.encode(x).to_dense()
        x_hat = sae(x)
    assert np.array_equal(evaluation.latents.firing_count, (code > 0).sum(0))
    assert evaluation.record.l0 == pytest.approx(float((code > 0).sum(1).double().mean()))
    assert evaluation.record.l0 > 1
    assert evaluation.record.fvu == pytest.approx(direct_fvu(x, x_hat), rel=1e-5)
    assert evaluation.record.gamma == pytest.approx(float(x_hat.square().sum() / (x_hat * x).sum()), rel=1e-5)
