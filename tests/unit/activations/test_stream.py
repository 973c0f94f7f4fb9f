"""Streams: every row where it should be, and after an interruption the very batches that would have followed."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from activation_cases import CONFIG, OUTLIER, A, ArrayTokens, B, TableModel, expected_keep, topical_text
from torch import Tensor

from monosemy.activations.harvest import measure_sites
from monosemy.activations.harvested_stream import RowSource
from monosemy.activations.shuffle_quality import NeighbourMeter, measure_shuffle
from monosemy.activations.store import ActivationStore, build_store
from monosemy.activations.stream import MixingStream, StoredStream
from monosemy.config import ActivationsConfig
from monosemy.errors import UserError

BATCH = 64


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    folder = tmp_path_factory.mktemp("store")
    return build_store(TableModel(), topical_text(), (A, B), CONFIG, folder=folder, shard_bytes=20_000)


def stored(store: ActivationStore, **changes: Any) -> StoredStream:
    return StoredStream(store, **({"sites": (A, B), "batch_tokens": BATCH, "seed": 3} | changes))


def mixing(text: ArrayTokens | None = None, config: ActivationsConfig = CONFIG, **changes: Any) -> MixingStream:
    text = topical_text() if text is None else text
    model = TableModel()
    statistics = changes.pop("statistics", None) or measure_sites(model, text, (A, B), config)
    options = {"batch_tokens": BATCH, "buffer_tokens": 256, "seed": 3} | changes
    return MixingStream(RowSource(model, text, (A, B), config, statistics=statistics), **options)


def tokens_of(rows: Tensor, scale: float, site: str = A) -> list[int]:
    """Which token each scaled row of the table model is."""
    table = TableModel().tables[site]
    nearest = torch.cdist(rows * scale, table, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    assert float(nearest.values.max()) < 1e-5
    return nearest.indices.tolist()


def through_files(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What a checkpoint does: tensors to safetensors, the rest to JSON, and back."""
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    plain = json.dumps({key: value for key, value in state.items() if key not in tensors})
    safetensors.torch.save_file(tensors, folder / "state.safetensors")
    return json.loads(plain) | safetensors.torch.load_file(folder / "state.safetensors")


def same(first: Iterator[dict[str, Tensor]], second: Iterator[dict[str, Tensor]]) -> int:
    """Asserts equal bits to the end; the number of batches."""
    n = 0
    for batch, other in itertools.zip_longest(first, second):
        assert batch.keys() == other.keys()
        assert all(torch.equal(batch[site], other[site]) for site in batch)
        n += 1
    return n


# --- StoredStream ---------------------------------------------------------------------------------------------------


def test_each_pass_visits_every_trained_row_once_in_its_own_order(store: ActivationStore) -> None:
    stream = stored(store, batch_tokens=1, n_passes=3)
    n = stream.n_rows
    order = np.concatenate([stream._indices(step) for step in range(stream.n_steps)]).reshape(3, n)
    reserved = stream.calibration_rows(store.n_rows)
    assert len(reserved) == store.n_rows // 10 == store.n_rows - n
    trained = sorted(set(range(store.n_rows)) - set(reserved.tolist()))
    assert all(sorted(pass_order) == trained for pass_order in order.tolist())
    # two random permutations agree at one place on average
    assert all((order[i] == order[j]).sum() < 10 for i, j in [(0, 1), (0, 2), (1, 2)])
    assert (order[0] == np.arange(n)).sum() < 10


def test_a_single_pass_reserves_nothing_and_calibrates_on_the_rows_it_meets_last(store: ActivationStore) -> None:
    stream = stored(store, batch_tokens=1)
    order = np.concatenate([stream._indices(step) for step in range(stream.n_steps)])
    assert sorted(order.tolist()) == list(range(store.n_rows))
    assert stream.calibration_rows(50).tolist() == sorted(order[-50:].tolist())
    assert stream.calibration_rows(10 * store.n_rows).tolist() == list(range(store.n_rows))  # below the least number


def test_batches_run_on_from_one_pass_into_the_next(store: ActivationStore) -> None:
    stream = stored(store, n_passes=2)
    assert stream.n_steps == 2 * stream.n_rows // BATCH > 2 * (stream.n_rows // BATCH)
    batches = list(stream)
    assert len(batches) == stream.n_steps
    assert {rows.shape for batch in batches for rows in batch.values()} == {(BATCH, 16), (BATCH, 12)}
    counts = Counter(tokens_of(torch.cat([batch[A] for batch in batches]), store.scale[A]))
    trained = np.delete(np.asarray(store.token_ids), stream.calibration_rows(store.n_rows))
    expected = Counter({token: 2 * count for token, count in Counter(trained.tolist()).items()})
    assert sum((expected - counts).values()) == 2 * stream.n_rows - stream.n_steps * BATCH < BATCH
    assert not counts - expected


def test_rows_are_aligned_over_sites_and_scaled_to_unit_mean_square(store: ActivationStore) -> None:
    batches = list(stored(store))
    for batch in batches:
        assert tokens_of(batch[A], store.scale[A]) == tokens_of(batch[B], store.scale[B], B)
    for site in (A, B):
        mean_square = torch.cat([batch[site] for batch in batches]).square().sum(1).mean()
        assert float(mean_square) == pytest.approx(1, rel=2e-2)


@pytest.mark.parametrize("stop", [0, 1, 17, 18, 32])
@pytest.mark.parametrize("prefetch", [False, True])
def test_a_restored_stream_goes_on_bit_for_bit(
    store: ActivationStore, tmp_path: Path, stop: int, prefetch: bool
) -> None:
    whole, interrupted, resumed = (stored(store, n_passes=2, prefetch=prefetch) for _ in range(3))
    list(itertools.islice(whole, stop))
    list(itertools.islice(interrupted, stop))
    next(resumed)  # a position of its own, to be given up
    resumed.restore(json.loads(json.dumps(interrupted.state())))
    assert same(whole, resumed) == whole.n_steps - stop > 0


def test_reading_ahead_changes_nothing(store: ActivationStore) -> None:
    assert same(stored(store, prefetch=True), stored(store, prefetch=False)) == stored(store).n_steps


def test_seeds_give_other_orders(store: ActivationStore) -> None:
    assert not torch.equal(next(stored(store, seed=1))[A], next(stored(store, seed=2))[A])


@pytest.mark.parametrize(("key", "value"), [("seed", 4), ("batch_tokens", 32), ("n_passes", 2), ("sites", (A,))])
def test_a_state_of_another_stream_is_refused(store: ActivationStore, key: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"another stream .*{key}"):
        stored(store).restore(stored(store, **{key: value}).state())
    with pytest.raises(UserError, match=r"another stream .*storage"):
        stored(store).restore(mixing().state())
    with pytest.raises(UserError, match="at step 99"):
        stored(store).restore(stored(store).state() | {"step": 99})


def test_sizes_that_cannot_work_are_refused(store: ActivationStore) -> None:
    with pytest.raises(UserError, match=r"batch_tokens 5000 is more than the \d+ rows"):
        stored(store, batch_tokens=5000)
    with pytest.raises(UserError, match="batch_tokens must be above 0"):
        stored(store, batch_tokens=0)
    with pytest.raises(UserError, match="n_passes must be above 0"):
        stored(store, n_passes=0)
    with pytest.raises(UserError, match="seed must be 0 or more"):
        stored(store, seed=-1)
    with pytest.raises(UserError, match="unknown site"):
        stored(store, sites=("layers.9.mlp_out",))


# --- MixingStream ---------------------------------------------------------------------------------------------------


def test_the_buffer_gives_each_row_of_the_text_once_and_leaves_out_little() -> None:
    text = topical_text(n_sequences=200)
    stream = mixing(text)
    batches = list(stream)
    expected = Counter(text.tokens[expected_keep(text)].tolist())
    counts = Counter(tokens_of(torch.cat([batch[A] for batch in batches]), stream.scale[A]))
    assert not counts - expected
    assert len(batches) == stream.n_steps
    # an upper limit on the share of outliers, from the sample, and the last incomplete batch are what is left out
    assert sum((expected - counts).values()) < BATCH + 0.02 * text.tokens.size
    record = json.loads(json.dumps(stream.record()))
    assert record["n_text_passes"] <= 1
    assert record["n_dropped"]["norm_outlier"] > 0


def test_mixing_rows_are_aligned_and_scaled() -> None:
    stream = mixing(topical_text(n_sequences=100))
    batches = list(stream)
    for batch in batches:
        assert tokens_of(batch[A], stream.scale[A]) == tokens_of(batch[B], stream.scale[B], B)
    mean_square = torch.cat([batch[B] for batch in batches]).square().sum(1).mean()
    assert float(mean_square) == pytest.approx(1, rel=1e-2)
    rescaled = mixing(scale={A: 2.0, B: 4.0})
    assert torch.equal(next(rescaled)[A] * 2.0, next(mixing())[A] * stream.scale[A])


@pytest.mark.parametrize("stop", [0, 1, 3, 9, 16])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_restored_buffer_goes_on_bit_for_bit(tmp_path: Path, stop: int, dtype: str) -> None:
    config = dataclasses.replace(CONFIG, dtype=dtype)
    whole, interrupted, resumed = (mixing(config=config) for _ in range(3))
    list(itertools.islice(whole, stop))
    list(itertools.islice(interrupted, stop))
    state = interrupted.state()
    next(interrupted)  # must not reach into the saved state
    next(resumed)
    resumed.restore(through_files(state, tmp_path))
    assert same(whole, resumed) == whole.n_steps - stop > 0
    assert whole.record() == resumed.record()


def test_the_buffer_is_as_large_as_asked_and_never_overfull() -> None:
    stream = mixing(topical_text(n_sequences=100), buffer_tokens=300)
    levels = []
    for _ in stream:
        levels.append(stream._n_buffered)
    assert all(len(buffer) == 300 for buffer in stream._buffer.values())
    assert 300 - 2 * 32 - BATCH < max(levels) <= 300 - BATCH
    # drawn from at half full or more, until the text ends
    assert min(levels[:-4]) >= 150 - BATCH


def test_text_with_more_outliers_than_the_sample_promised_is_begun_again() -> None:
    text = topical_text(n_sequences=100, outliers=0)
    statistics = measure_sites(TableModel(), text, (A, B), CONFIG, n_tokens=640)
    text.tokens[50:, ::2] = OUTLIER
    stream = mixing(text, statistics=statistics)
    assert len(list(stream)) == stream.n_steps > expected_keep(text).sum() // BATCH
    assert stream.record()["n_text_passes"] > 1


def test_a_state_of_another_buffer_is_refused() -> None:
    state = mixing().state()
    for changes, key in [({"seed": 4}, "seed"), ({"buffer_tokens": 512}, "buffer_tokens")]:
        with pytest.raises(UserError, match=f"another stream .*{key}"):
            mixing(**changes).restore(state)
    with pytest.raises(UserError, match=r"another stream .*fingerprint"):
        mixing(topical_text(seed=1)).restore(state)
    with pytest.raises(UserError, match=r"another stream .*batch_sequences 2 there, 1 here"):
        mixing(config=dataclasses.replace(CONFIG, batch_sequences=1)).restore(state)


def test_buffers_and_texts_that_are_too_small_are_refused() -> None:
    with pytest.raises(UserError, match="buffer_tokens must be at least 128"):
        mixing(buffer_tokens=127)
    with pytest.raises(UserError, match="buffer_tokens must be at least 200"):
        mixing(buffer_tokens=199, batch_tokens=100)
    with pytest.raises(UserError, match="fewer usable tokens than one batch"):
        mixing(batch_tokens=1200, buffer_tokens=4096)


# --- shuffle quality ------------------------------------------------------------------------------------------------


def test_neighbour_correlation_of_an_autoregressive_stream_is_its_coefficient() -> None:
    """x_{i+1} = rho x_i + sqrt(1 - rho^2) noise in 512 dimensions: neighbours have cosine rho, far rows 0."""
    generator = torch.Generator().manual_seed(0)
    for rho in (0.0, 0.3, 0.8):
        batches = torch.randn(32, 128, 512, generator=generator)
        for i in range(1, 128):
            batches[:, i] = rho * batches[:, i - 1] + (1 - rho**2) ** 0.5 * batches[:, i]
        quality = measure_shuffle(batches + 7.0, torch.full((512,), 7.0))
        assert quality is not None
        assert quality.correlation == pytest.approx(rho, abs=0.01)
        assert quality.interval[0] < quality.correlation < quality.interval[1]
        assert quality.n_pairs == 32 * 127


def test_a_direction_that_all_rows_share_is_no_correlation_of_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(128, 64, generator=generator) + 1.0 for _ in range(64)]
    quality = measure_shuffle(batches, torch.zeros(64))
    assert quality is not None
    assert quality.neighbour_cosine > 0.4
    assert quality.full_shuffle_cosine == pytest.approx(quality.neighbour_cosine, abs=0.01)
    assert abs(quality.correlation) < 0.01


def test_the_interval_of_shuffled_rows_covers_zero_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(1)
    covered = 0
    for _ in range(100):
        quality = measure_shuffle([torch.randn(128, 8, generator=generator) for _ in range(24)], torch.zeros(8))
        assert quality is not None
        covered += quality.interval[0] <= 0 <= quality.interval[1]
    assert 85 <= covered <= 100


def test_one_batch_has_nothing_to_be_compared_with() -> None:
    assert measure_shuffle([torch.randn(64, 8)], torch.zeros(8)) is None
    assert NeighbourMeter(torch.zeros(8)).result() is None


def test_a_full_shuffle_is_uncorrelated_the_stored_order_is_not_a_buffer_lies_between(tmp_path: Path) -> None:
    text = topical_text(n_sequences=400)
    full_store = build_store(TableModel(), text, (A, B), CONFIG, folder=tmp_path)
    shuffled = stored(full_store).shuffle_quality(A)
    unshuffled = stored(full_store).shuffle_quality(A, shuffled=False)

    def buffered(buffer_tokens: int) -> Callable[[], Any]:
        stream = mixing(text, buffer_tokens=buffer_tokens)
        for _ in stream:
            pass
        return stream.shuffle_quality(A)

    small, large = buffered(256), buffered(4096)
    assert shuffled is not None
    assert unshuffled is not None
    assert abs(shuffled.correlation) < 0.02
    assert shuffled.interval[0] < 0.01
    assert unshuffled.correlation > 0.5
    assert unshuffled.interval[0] > small.interval[1]
    assert small.interval[0] > max(large.interval[1], shuffled.interval[1])
    assert 0.05 < small.correlation < unshuffled.correlation - 0.1
    assert large.correlation < 0.05


def test_measuring_a_stream_does_not_move_it(store: ActivationStore) -> None:
    measured = stored(store, n_passes=2)
    record = json.loads(json.dumps(measured.record()))
    assert record["shuffle_quality"][A]["stored_order"]["correlation"] > 0.5
    assert same(measured, stored(store, n_passes=2)) == measured.n_steps
