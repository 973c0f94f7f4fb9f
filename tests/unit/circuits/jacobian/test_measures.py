"""Sparsity measures of the Jacobian against values known in advance."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch
from jacobian_slices import make_slices

from monosemy.circuits.jacobian import figures as jacobian_figures
from monosemy.circuits.jacobian.averages import BYTES_PER_ENTRY, AveragesMeter, PairAverages
from monosemy.circuits.jacobian.frontier import short_notes
from monosemy.circuits.jacobian.measures import BINS_PER_DECADE, LOWEST, N_BINS, JacobianMeter, bins
from monosemy.circuits.jacobian.resamples import load_draws, ratio, save_draws
from monosemy.errors import UserError


def record_of(values: torch.Tensor, documents: torch.Tensor | None = None, **indices: torch.Tensor):
    meter = JacobianMeter()
    documents = torch.arange(len(values)) if documents is None else documents
    for start in range(0, len(values), 7):  # in uneven batches
        part = slice(start, start + 7)
        here = {name: value[part] for name, value in indices.items()}
        meter.add(make_slices(values[part], **here), documents[part])
    return meter.finish()


def test_shares_over_thresholds_are_counted():
    values = torch.zeros(20, 4, 5, dtype=torch.float64)
    values[:, 0, :] = 0.015  # 5 of 20 above .01
    values[:, 1, 0] = -0.5  # 1 more, above .02
    values[:, 2, :2] = 0.007
    record = record_of(values)
    assert record.n_elements == 400
    assert record.n_tokens == 20
    assert record["over_0.005"].value == pytest.approx(8 / 20)
    assert record["over_0.01"].value == pytest.approx(6 / 20)
    assert record["over_0.02"].value == pytest.approx(1 / 20)
    assert record["mean_abs"].value == pytest.approx((5 * 0.015 + 0.5 + 2 * 0.007) / 20)
    assert record["over_0.01"].interval == pytest.approx((0.3, 0.3)), "all documents alike: no width"


def test_padding_is_no_element():
    values = torch.full((6, 3, 4), 0.5)
    out = torch.tensor([0, 1, -1]).expand(6, -1)
    inp = torch.tensor([3, -1, -1, -1]).expand(6, -1)
    record = record_of(values, out_indices=out, in_indices=inp)
    assert record.n_elements == 12
    assert record["over_0.01"].value == 1
    assert record["elements_per_token"].value == 2


def test_kurtosis_of_known_distributions():
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(400, 20, 20, generator=generator, dtype=torch.float64)
    record = record_of(normal)
    assert record["kurtosis"].value == pytest.approx(3, abs=0.08)
    low, high = record["kurtosis"].interval
    assert low < 3 < high
    signs = torch.where(torch.rand(50, 8, 8, generator=generator) < 0.5, -1.0, 1.0).double()
    mean = float(signs.mean())
    assert record_of(signs)["kurtosis"].value == pytest.approx(1 + 4 * mean**2 / (1 - mean**2)), (
        "two-point distribution"
    )
    spike = torch.zeros(10, 10, 10, dtype=torch.float64)
    spike[:, 0, 0] = 1.0  # Bernoulli with p = 1/100: (1 − 3p(1−p)) / (p(1−p))
    p = 0.01
    assert record_of(spike)["kurtosis"].value == pytest.approx((1 - 3 * p * (1 - p)) / (p * (1 - p)))


def test_scaled_measures_ignore_the_scale_of_each_token():
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(60, 6, 6, generator=generator, dtype=torch.float64)
    wild = values * 10 ** torch.empty(60, 1, 1, dtype=torch.float64).uniform_(-5, 3, generator=generator)
    plain, scaled = record_of(values), record_of(wild)
    for measure in ("scaled_over_0.01", "scaled_over_0.5", "scaled_kurtosis", "token_share_of_90"):
        assert scaled[measure].value == pytest.approx(plain[measure].value), measure
    assert scaled["kurtosis"].value > 5 * plain["kurtosis"].value


def test_scaled_thresholds_are_multiples_of_the_rms():
    values = torch.ones(5, 2, 2, dtype=torch.float64) * 1e-6
    values[:, 0, 0] = 3e-6  # rms √3·1e-6: ratios 1.73 and 0.577
    record = record_of(values)
    assert record["scaled_over_0.5"].value == 1
    assert record["scaled_over_1"].value == 0.25
    assert record["over_0.005"].value == 0
    assert record["rms"].value == pytest.approx(math.sqrt(3) * 1e-6)


def test_share_that_holds_ninety_percent():
    values = torch.full((30, 10, 10), 1e-3, dtype=torch.float64)
    values[:, 0, :9] = 1.0  # 9 of 9.091 in 9 elements: 90% lies within the ninth
    record = record_of(values)
    total = 9 + 91e-3
    assert record["share_of_90"].value == pytest.approx(0.9 * total / 100, rel=1e-6)
    assert record["token_share_of_90"].value == pytest.approx(9 / 100)
    even = record_of(torch.ones(4, 10, 10))
    assert even["share_of_90"].value == pytest.approx(0.9)
    assert even["token_share_of_90"].value == pytest.approx(0.9)


def test_share_from_bins_is_near_the_exact_one():
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(200, 8, 8, generator=generator, dtype=torch.float64) ** 3
    ordered = values.abs().flatten().sort(descending=True).values
    exact = int((ordered.cumsum(0) < 0.9 * ordered.sum()).sum() + 1) / len(ordered)
    assert record_of(values)["share_of_90"].value == pytest.approx(exact, rel=0.03)


def test_histogram_counts_every_element_in_its_bin():
    values = torch.tensor([[[0.0, 1e-12, 0.02, -0.02, 3.0, 1e6]]], dtype=torch.float64)
    histogram = record_of(values).histogram
    assert sum(histogram) == 6
    assert histogram[0] == 2
    assert histogram[-1] == 1
    edges = 10.0 ** (LOWEST + np.arange(N_BINS - 1) / BINS_PER_DECADE)
    place = int(bins(torch.tensor([0.02], dtype=torch.float64))[0])
    assert edges[place - 1] <= 0.02 < edges[place]
    assert histogram[place] == 2
    assert (jacobian_figures.LOWEST, jacobian_figures.PER_DECADE) == (LOWEST, BINS_PER_DECADE), "the report's bins"


def test_intervals_follow_documents_not_tokens():
    values = torch.zeros(400, 2, 2, dtype=torch.float64)
    values[::2] = 1.0  # half of all tokens, in whichever document
    many = record_of(values, torch.arange(400))["over_0.01"].interval
    few = torch.arange(400) % 2 + torch.arange(400) // 40 * 2  # 20 documents, each wholly dense or wholly empty
    wide = record_of(values, few)["over_0.01"].interval
    assert many[1] - many[0] < 0.15
    assert wide[1] - wide[0] > 0.3


def test_ratios_of_pairs_over_the_same_documents_are_known_better_than_either(tmp_path):
    generator = torch.Generator().manual_seed(0)
    documents = torch.arange(400) // 10
    hard = torch.rand(40, generator=generator)[documents][:, None, None]  # documents differ, alike for both pairs
    draw = torch.rand(400, 4, 4, generator=generator)
    first, second = (record_of((draw < share * hard).double(), documents) for share in (0.8, 0.4))
    for name, record in (("first", first), ("second", second)):
        save_draws(tmp_path / name, record.draws)
    before, after = (load_draws(tmp_path / name)["over_0.01"] for name in ("first", "second"))
    np.testing.assert_array_equal(before, first.draws["over_0.01"])
    low, high = np.quantile(before, 0.025), np.quantile(before, 0.975)
    assert (low, high) == pytest.approx(first["over_0.01"].interval)
    factors = ratio(before, after)
    true = first["over_0.01"].value / second["over_0.01"].value
    assert np.quantile(factors, 0.025) < true < np.quantile(factors, 0.975)
    assert np.std(np.log(factors)) < 0.5 * np.hypot(np.std(np.log(before)), np.std(np.log(after)))
    assert ratio(before, None) is None
    (tmp_path / "first").write_bytes(b"short")
    with pytest.raises(UserError, match="measure the run again"):
        load_draws(tmp_path / "first")


def test_a_zero_jacobian_has_no_kurtosis_and_no_share():
    record = record_of(torch.zeros(3, 2, 2))
    assert record["kurtosis"].value is None
    assert record["share_of_90"].value is None
    assert record["over_0.01"].value == 0
    assert record["scaled_over_0.005"].value == 0


def test_tokens_with_fewer_active_latents_than_k_are_counted():
    """Of 10 tokens 3 lack an input latent and 1 two output latents."""
    inputs, outputs = torch.arange(4).expand(10, -1).clone(), torch.arange(4).expand(10, -1).clone()
    inputs[:3, 3] = -1
    outputs[9, 2:] = -1
    meter = JacobianMeter(k=4)
    meter.add(make_slices(torch.ones(10, 4, 4), outputs, inputs), torch.arange(10))
    record = meter.finish()
    assert (record["short_in"].value, record["short_out"].value) == (0.3, 0.1)
    estimates = {name: {"value": estimate.value} for name, estimate in record.estimates.items()}
    (note,) = short_notes([{"name": "pair", "l0": 4.0, "estimates": estimates}])
    assert "30.0% of the tokens have fewer than 4 positive input latents and 10.0% fewer output latents" in note
    full = JacobianMeter(k=4)
    full.add(make_slices(torch.ones(10, 4, 4)), torch.arange(10))
    estimates = {name: {"value": estimate.value} for name, estimate in full.finish().estimates.items()}
    assert short_notes([{"name": "pair", "l0": 4.0, "estimates": estimates}]) == []
    assert "short_in" not in record_of(torch.ones(3, 2, 2)).estimates, "no fixed k, nothing to fall short of"


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="no validation tokens"):
        JacobianMeter().finish()
    with pytest.raises(UserError, match="NaN"):
        record_of(torch.full((1, 2, 2), math.nan))
    with pytest.raises(UserError, match="average over fewer tokens"):
        AveragesMeter(10, 10, max_bytes=1000).add(make_slices(torch.ones(50, 4, 4)), torch.zeros(50, dtype=torch.int64))


@pytest.fixture
def planted() -> tuple[PairAverages, np.ndarray]:
    """200 tokens of 3 × 3 random pairs over 12 × 10 latents, |J| = 2 on the planted pairs (i, i) and .004 elsewhere."""
    generator = torch.Generator().manual_seed(3)
    out = torch.stack([torch.randperm(12, generator=generator)[:3] for _ in range(200)])
    inp = torch.stack([torch.randperm(10, generator=generator)[:3] for _ in range(200)])
    values = torch.where(out[:, :, None] == inp[:, None, :], -2.0, 0.004)
    activations = torch.rand(200, 3, generator=generator) + 0.5
    meter = AveragesMeter(12, 10)
    dense = np.zeros((12, 10))
    effect = np.zeros((12, 10))
    for n in range(200):
        for a, i in enumerate(out[n].tolist()):
            for b, j in enumerate(inp[n].tolist()):
                dense[i, j] += abs(float(values[n, a, b])) / 200
                effect[i, j] += abs(float(values[n, a, b])) * float(activations[n, b]) / 200
    for start in range(0, 200, 33):
        part = slice(start, start + 33)
        meter.add(make_slices(values[part], out[part], inp[part], activations[part]), torch.arange(200)[part])
    return meter.finish(), np.stack([dense, effect])


def test_averages_equal_the_dense_ones(planted):
    averages, (dense, effect) = planted
    measured = np.zeros((2, 12, 10))
    measured[0, averages.out, averages.inp] = averages.mean_abs
    measured[1, averages.out, averages.inp] = averages.mean_effect
    np.testing.assert_allclose(measured[0], dense, rtol=1e-5)
    np.testing.assert_allclose(measured[1], effect, rtol=1e-5)
    assert (np.diff(averages.mean_effect) <= 0).all()
    for threshold in (0.005, 0.01, 0.02):
        estimate = averages.over[f"{threshold:g}"]
        assert estimate.value == pytest.approx((dense > threshold).sum() / 120)
        assert estimate.interval[0] <= estimate.value <= estimate.interval[1]


def test_averages_find_the_planted_pairs(planted):
    averages, _ = planted
    assert set(averages.out[:10].tolist()) == set(range(10))
    assert (averages.out[:10] == averages.inp[:10]).all()
    first = averages.inputs_of(7, 1)[0]
    assert averages.inp[first] == 7
    assert averages.place(7, 7) == first
    assert averages.place(7, 99) is None


@pytest.mark.parametrize("size", [0.01, 5.0])
def test_averages_take_the_memory_that_is_promised(size):
    """Latents drawn evenly, so that hardly two tokens share a pair; all of `size` 5 come near the thresholds."""
    n, k, m = 2000, 16, 4608
    generator = torch.Generator().manual_seed(0)
    out, inp = (torch.rand(n, m, generator=generator).topk(k).indices for _ in range(2))
    values = size * torch.rand(n, k, k, generator=generator)
    meter = AveragesMeter(m, m)
    for start in range(0, n, 250):
        part = slice(start, start + 250)
        meter.add(make_slices(values[part], out[part], inp[part]), torch.arange(n)[part] // 20)
    tracemalloc.start()
    averages = meter.finish(100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(averages.out) > 0.95 * n * k * k
    assert 0.8 * BYTES_PER_ENTRY < peak / (n * k * k) < 1.1 * BYTES_PER_ENTRY
    assert averages.over["0.005"].value == pytest.approx((averages.mean_abs > 0.005).mean() * len(averages.out) / m**2)
