"""The compiled aggregation against the same thing written plainly, on ties, latents that never fire and dense ones."""

from __future__ import annotations

import numpy as np
import pytest
from feature_codes import (
    SETTINGS,
    WINDOW,
    T,
    codes_of,
    dense_codes,
    fifths,
    index_scores,
    peaks_of,
    statistics_of,
    text_of,
    top_contexts,
)
from hypothesis import given, settings

from monosemy.features.building.by_latent import blocks, document_ends, summarise
from monosemy.features.building.coactivation import MIN_TOGETHER, coactivation, sketches
from monosemy.features.building.contexts import gather_examples
from monosemy.features.building.label_inputs import background_firings, draw_background
from monosemy.features.store.settings import GROUPS, N_QUANTILES

few = settings(max_examples=40)


@given(dense_codes())
@few
def test_blocks_are_the_code_turned_round_whatever_their_size(case):
    dense, _ = case
    for at_once in (1, 7, 10**9):
        rebuilt, covered = np.zeros_like(dense), []
        for firings in blocks(codes_of(dense), at_once):
            for f in range(firings.n_latents):
                span = slice(*firings.offsets[f : f + 2])
                assert (np.diff(firings.token[span]) > 0).all()
                rebuilt[firings.token[span], firings.first + f] = firings.value[span]
                covered.append(firings.first + f)
        assert covered == list(range(dense.shape[1]))
        np.testing.assert_array_equal(rebuilt, dense)


@given(dense_codes())
@few
def test_statistics_are_those_of_the_positive_activations(case):
    dense, text = case
    (firings,) = blocks(codes_of(dense))
    summary = summarise(firings, text, SETTINGS)
    for latent in range(dense.shape[1]):
        for name, expected in statistics_of(dense[:, latent], text).items():
            np.testing.assert_allclose(
                summary[name][latent], expected, rtol=1e-5, atol=1e-6, err_msg=f"{name} {latent}"
            )
    assert np.isnan(summary["quantiles"][0]).all()
    assert summary["histogram"][0].sum() == 0


@given(dense_codes())
@few
def test_the_strongest_contexts_come_first_and_equal_ones_in_order_of_the_text(case):
    dense, text = case
    (firings,) = blocks(codes_of(dense))
    strongest = summarise(firings, text, SETTINGS)["chosen"][:, : SETTINGS.n_top]
    for latent in range(dense.shape[1]):
        assert [t for t in strongest[latent] if t >= 0] == top_contexts(dense[:, latent])


@given(dense_codes())
@few
def test_examples_of_each_fifth_come_from_it_and_samples_are_firing_windows(case):
    dense, text = case
    (firings,) = blocks(codes_of(dense))
    summary = summarise(firings, text, SETTINGS)
    k = SETTINGS.n_per_quantile
    for latent in range(dense.shape[1]):
        drawn = summary["chosen"][latent, SETTINGS.n_top :].reshape(N_QUANTILES, k)
        for row, fifth in zip(drawn, fifths(dense[:, latent])):
            own = [t for t in row if t >= 0]
            assert len(own) == len(set(own)) == min(k, len(fifth))
            assert set(own) <= fifth
        peaks = dict(peaks_of(dense[:, latent], WINDOW))
        sample = summary["sample"][latent]
        windows = sample[sample >= 0]
        assert len(windows) == min(SETTINGS.n_sample, len(peaks)) == len(set(windows))
        assert summary["n_windows"][latent] == len(peaks)
        assert [peaks[t] for t in windows] == summary["sample_value"][latent, : len(windows)].tolist()
        assert (np.diff(windows) > 0).all()


def test_samples_are_uniform_over_the_firing_windows():
    n_sequences, m = 8, 4000
    dense = np.zeros((n_sequences * T, m), np.float32)
    dense[1::WINDOW] = 1
    text = text_of(n_sequences)
    sample = np.concatenate([summarise(f, text, SETTINGS)["sample"] for f in blocks(codes_of(dense))])
    counts = np.bincount(sample.reshape(-1) // WINDOW, minlength=text.n_windows)
    expected = m * SETTINGS.n_sample / text.n_windows
    # five standard deviations of a count drawn with this probability
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


@given(dense_codes())
@few
def test_the_token_index_lists_the_tokens_a_latent_goes_with(case):
    dense, text = case
    (firings,) = blocks(codes_of(dense))
    summary = summarise(firings, text, SETTINGS)
    for latent in range(dense.shape[1]):
        expected = index_scores(dense[:, latent], text) if dense[:, latent].any() else {}
        there = summary["index_token"][latent] >= 0
        stored = dict(zip(summary["index_token"][latent][there].tolist(), summary["index_score"][latent][there]))
        assert len(stored) == min(len(expected), SETTINGS.n_index_tokens)
        for token, score in stored.items():
            assert score == pytest.approx(expected[token], rel=1e-5)
        weakest = min(stored.values(), default=0)
        assert all(score <= weakest * (1 + 1e-5) for token, score in expected.items() if token not in stored)


@given(dense_codes())
@few
def test_coactivation_is_the_correlation_of_firing_over_all_pairs(case):
    dense, text = case
    codes, fires = codes_of(dense), dense[text.encoded] > 0
    (firings,) = blocks(codes)
    n, n_kept = fires.sum(0), int(text.encoded.sum())
    latents, phi = coactivation(firings, codes, n.astype(np.int64), n_kept, n_neighbours=SETTINGS.n_neighbours)
    together = fires.T.astype(int) @ fires
    for i in range(dense.shape[1]):
        expected = {
            j: float(np.corrcoef(fires[:, i], fires[:, j])[0, 1])
            for j in range(dense.shape[1])
            if j != i and together[i, j] >= MIN_TOGETHER and 0 < n[i] < n_kept and 0 < n[j] < n_kept
        }
        neighbour_phi = {int(j): float(v) for j, v in zip(latents[i], phi[i]) if j >= 0}
        assert len(neighbour_phi) == min(len(expected), SETTINGS.n_neighbours)
        assert all(value == pytest.approx(expected[j], abs=1e-6) for j, value in neighbour_phi.items())
        assert sorted(neighbour_phi.values(), reverse=True) == list(neighbour_phi.values())
        rest = [value for j, value in expected.items() if j not in neighbour_phi]
        assert max(rest, default=-1) <= min(neighbour_phi.values(), default=1) + 1e-6


@given(dense_codes())
@few
def test_silent_windows_are_silent_and_activations_are_those_of_the_whole_context(case):
    dense, text = case
    (firings,) = blocks(codes_of(dense))
    m = dense.shape[1]
    summary = summarise(firings, text, SETTINGS)
    near = np.array([[j for j in range(m) if j != i][:2] for i in range(m)])
    examples = gather_examples(
        firings,
        text,
        SETTINGS,
        summary["chosen"],
        peaks=summary["chosen"][:, : SETTINGS.n_top],
        neighbours=near,
        largest=summary["max"],
    )
    for latent in range(m):
        span = range(*examples.offsets[latent : latent + 2])
        groups = [GROUPS[examples.group[e]] for e in span]
        assert groups == sorted(groups, key=GROUPS.index)
        for e, group in zip(span, groups):
            token = int(examples.token[e])
            if group in ("near_miss", "random"):
                window = token // WINDOW * WINDOW
                assert not dense[window : window + WINDOW, latent].any()
            fired = slice(*examples.activation_offsets[e : e + 2])
            context = np.zeros(T, np.float32)
            context[examples.position[fired]] = examples.activation[fired] * summary["max"][latent]
            start = token // T * T
            np.testing.assert_allclose(context, dense[start : start + T, latent], rtol=1e-6)
        misses = [int(examples.token[e]) for e, g in zip(span, groups) if g == "near_miss"]
        strongest = {t for j in near[latent] for t in top_contexts(dense[:, j])}
        assert set(misses) <= strongest
        if (dense[:, latent] == 0).all():
            assert len(misses) == min(SETTINGS.n_near_miss, len({t // WINDOW for t in strongest}))


@given(dense_codes())
@few
def test_background_windows_hold_an_encoded_token_and_say_who_fires(case):
    dense, text = case
    (firings,) = blocks(codes_of(dense))
    background = draw_background(text, SETTINGS)
    assert len(set(background)) == len(background)
    offsets, fired = background_firings(firings, text, background)
    windows = dense.reshape(-1, WINDOW, dense.shape[1]).any(1)
    for latent in range(dense.shape[1]):
        own = fired[offsets[latent] : offsets[latent + 1]]
        np.testing.assert_array_equal(own, np.flatnonzero(windows[background, latent]))


def test_sketches_estimate_correlations_across_databases():
    random = np.random.default_rng(0)
    text = text_of(200)
    shared = random.exponential(size=(200 * T, 40)) * (random.random((200 * T, 40)) < 0.1)
    noise = random.exponential(size=shared.shape) * (random.random(shared.shape) < 0.1)
    mixes = np.linspace(0, 1, 40)
    left, right = (a.astype(np.float32) * text.encoded[:, None] for a in (shared, mixes * shared + (1 - mixes) * noise))
    length = 1024
    first, second = (
        np.concatenate([sketches(f, text.encoded, length) for f in blocks(codes_of(a))]).astype(float) / 127
        for a in (left, right)
    )
    encoded = text.encoded
    true = np.array([np.corrcoef(left[encoded, i], right[encoded, i])[0, 1] for i in range(40)])
    estimated = (first * second).sum(1)
    errors = (estimated - true) * np.sqrt(length)
    assert np.abs(errors).max() < 5
    assert np.sqrt((errors**2).mean()) < 1.5


def test_a_latent_that_never_fires_has_an_empty_sketch():
    dense = np.zeros((2 * T, 2), np.float32)
    dense[3, 1] = 1
    (firings,) = blocks(codes_of(dense))
    latent_sketches = sketches(firings, text_of(2).encoded, 16)
    assert not latent_sketches[0].any()
    assert latent_sketches[1].any()


def test_the_ends_of_documents_are_their_first_and_last_encoded_tokens():
    documents = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    encoded = np.array([0, 1, 1, 1, 0, 0, 1, 1], bool)
    first, last = document_ends(documents, encoded)
    assert np.flatnonzero(first).tolist() == [1, 3, 6]
    assert np.flatnonzero(last).tolist() == [2, 3, 7]
    for ends in document_ends(documents, np.zeros(8, bool)):
        assert not ends.any()
