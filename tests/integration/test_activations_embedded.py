"""Harvest, store and streams on the real model and real text, a few thousand tokens of them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from monosemy.activations.harvest import keep_mask, measure_sites
from monosemy.activations.harvested_stream import RowSource
from monosemy.activations.store import ActivationStore, build_store
from monosemy.activations.stream import MixingStream, StoredStream
from monosemy.config import ActivationsConfig, TextConfig
from monosemy.data.tokens import TokenShards, prepare_tokens
from monosemy.models.adapter import LanguageModel

pytestmark = pytest.mark.integration

SITES = ("layers.3.resid_post", "layers.5.mlp_out")
CONFIG = ActivationsConfig(sites=SITES, batch_sequences=8)
SHARD_BYTES = 2_500_000  # 8 sequences of 128 tokens a shard


@pytest.fixture(scope="module")
def shards(embedded_model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    text = TextConfig(source="embedded:english", n_tokens=6_144, n_validation_tokens=1_024, context_length=128)
    folder = tmp_path_factory.mktemp("tokens")
    tokens = prepare_tokens(text, embedded_model.tokenizer, embedded_model.tokenizer_fingerprint, folder=folder)
    return tokens.train


@pytest.fixture(scope="module")
def store(
    embedded_model: LanguageModel, shards: TokenShards, tmp_path_factory: pytest.TempPathFactory
) -> ActivationStore:
    folder = tmp_path_factory.mktemp("store")
    return build_store(embedded_model, shards, SITES, CONFIG, folder=folder, shard_bytes=SHARD_BYTES)


def test_stored_rows_are_the_models_activations(
    store: ActivationStore, embedded_model: LanguageModel, shards: TokenShards
) -> None:
    tokens = torch.from_numpy(shards.sequences(8, 16).astype(np.int64))
    activations = embedded_model.activations(tokens, SITES)
    keep = keep_mask(tokens, activations, store.rules)
    here = (store.sequences >= 8) & (store.sequences < 16)
    assert store.token_ids[here].tolist() == tokens[keep].tolist()
    for site in SITES:
        assert torch.equal(store.rows(site, np.flatnonzero(here)), activations[site][keep].bfloat16().float())


def test_massive_activations_and_special_tokens_are_left_out(
    store: ActivationStore, embedded_model: LanguageModel, shards: TokenShards
) -> None:
    dropped = store.record["n_dropped"]
    assert dropped["first_position"] == shards.n_sequences
    assert dropped["special_token"] > 0
    assert store.n_rows > 0.9 * shards.n_tokens
    assert store.positions.min() == 1
    assert not set(store.token_ids.tolist()) & embedded_model.special_token_ids
    site = SITES[0]
    first = embedded_model.activations(torch.from_numpy(shards.sequences(0, 4).astype(np.int64)), [site])[site][:, 0]
    median = store.statistics[site].median_norm
    assert float(first.norm(dim=1).min()) > CONFIG.outlier_multiple * median
    assert float(store.rows(site, slice(None)).norm(dim=1).max()) < 6.1 * median


def test_a_shard_harvested_anew_has_the_same_bytes(
    store: ActivationStore, embedded_model: LanguageModel, shards: TokenShards
) -> None:
    path = store.folder / "activations-00002.safetensors"
    before = path.read_bytes()
    path.unlink()
    again = build_store(embedded_model, shards, SITES, CONFIG, folder=store.folder)
    assert path.read_bytes() == before
    assert again.record == store.record


def test_scaled_batches_have_unit_mean_square(store: ActivationStore) -> None:
    batches = list(StoredStream(store, SITES, batch_tokens=256))
    for site in SITES:
        mean_square = torch.cat([batch[site] for batch in batches]).square().sum(1).mean()
        assert float(mean_square) == pytest.approx(1, rel=0.02)


def test_a_buffer_on_the_real_model_resumes_bit_for_bit_and_mixes_less_than_a_full_shuffle(
    store: ActivationStore, embedded_model: LanguageModel, shards: TokenShards
) -> None:
    statistics = measure_sites(embedded_model, shards, SITES, CONFIG, n_tokens=2048)

    def stream() -> MixingStream:
        return MixingStream(
            RowSource(embedded_model, shards, SITES, CONFIG, statistics=statistics),
            batch_tokens=128,
            buffer_tokens=2048,
            seed=1,
        )

    whole, interrupted, resumed = stream(), stream(), stream()
    batches = list(whole)
    assert len(batches) == whole.n_steps > 0.9 * shards.n_tokens / 128 - 1
    list(itertools.islice(interrupted, 11))
    resumed.restore(interrupted.state())
    for expected, batch in itertools.zip_longest(batches[11:], resumed):
        assert all(torch.equal(expected[site], batch[site]) for site in SITES)

    full = StoredStream(store, SITES, batch_tokens=128)
    for site in SITES:
        shuffled, stored_order = full.shuffle_quality(site), full.shuffle_quality(site, shuffled=False)
        mixed = whole.shuffle_quality(site)
        assert shuffled is not None
        assert stored_order is not None
        assert mixed is not None
        assert abs(shuffled.correlation) < 0.02
        assert stored_order.interval[0] > 0.05
        assert shuffled.correlation < mixed.correlation < stored_order.interval[0]


def test_the_store_opens_again_from_disk(store: ActivationStore, tmp_path: Path) -> None:
    again = ActivationStore.open(store.folder, expected=store.fingerprint)
    assert again.scale == store.scale
    assert all(torch.equal(again.mean[site], store.mean[site]) for site in SITES)
