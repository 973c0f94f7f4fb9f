"""The split, centre and scale of a table, against the definitions on whole arrays."""

from __future__ import annotations

import re

import numpy as np
import pytest

from monosemy.activations import row_store
from monosemy.activations.row_store import RowStore, Split
from monosemy.activations.stream import StoredStream
from monosemy.activations.tables import as_table
from monosemy.errors import UserError

SPLIT = Split(validation_fraction=0.2, max_validation_rows=10_000, seed=3, outlier_multiple=6.0)


def table(n=200, d=6, offset=0.0, seed=0):
    return as_table(offset + np.random.default_rng(seed).normal(size=(n, d)))


def train_rows(store):
    return store.rows("rows", slice(None)).numpy() + store.mean_row


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_training_reads_centred_rows_at_unit_scale(monkeypatch, offset):
    monkeypatch.setattr(row_store, "CHUNK_BYTES", 8 * 6 * 17)  # many chunks
    source = table(offset=offset)
    store = RowStore(source, "rows", SPLIT)
    values = np.delete(source.values, store.validation, axis=0)
    assert store.n_outliers == 0
    np.testing.assert_allclose(store.mean_row, values.mean(0), rtol=1e-12)
    deviations = values - values.mean(0)
    assert store.scale["rows"] == pytest.approx(np.sqrt((deviations**2).sum(1).mean()), rel=1e-7)
    np.testing.assert_allclose(store.rows("rows", slice(None)), deviations, atol=1e-6)
    batch = next(StoredStream(store, ("rows",), batch_tokens=160))["rows"].double()
    assert float(batch.square().sum(1).mean()) == pytest.approx(1, rel=1e-5)


def test_no_row_is_on_both_sides():
    source = table()
    store = RowStore(source, "rows", SPLIT)
    validation = np.concatenate([rows.numpy() for rows, _ in store.validation_rows()])
    assert len(validation) == 40
    together = np.concatenate([train_rows(store), validation])
    np.testing.assert_allclose(np.sort(together, axis=0), np.sort(source.values, axis=0), atol=1e-6)
    other = RowStore(source, "rows", Split(0.2, 10_000, 4, 6.0))
    assert set(other.validation) != set(store.validation)
    assert store.fingerprint == RowStore(source, "rows", SPLIT).fingerprint != other.fingerprint


def test_groups_stay_together_and_a_giant_one_stays_in_training():
    groups = np.repeat(np.arange(20), [110, *[10] * 18, 10])
    store = RowStore(table(300), "rows", SPLIT, groups)
    held_out = set(groups[store.validation])
    assert held_out.isdisjoint(np.delete(groups, store.validation))
    assert 0 not in held_out
    assert 60 <= len(store.validation) <= 70
    ids = np.concatenate([group.numpy() for _, group in store.validation_rows()])
    np.testing.assert_array_equal(ids, groups[store.validation])


def test_outliers_are_left_out_of_scale_training_and_validation():
    source = table(400)
    source.values[[7, 300]] *= 1e6
    store = RowStore(source, "rows", SPLIT)
    assert store.n_outliers == 2
    assert store.n_rows + len(store.validation) == 398
    assert 1 < store.scale["rows"] < 4
    everything = RowStore(source, "rows", Split(0.2, 10_000, 3, 0.0))
    assert everything.n_outliers == 0
    assert everything.scale["rows"] > 1e4


def test_mostly_zero_rows_are_no_reason_to_drop_the_others():
    values = np.zeros((300, 4))
    values[::5] = np.random.default_rng(0).normal(size=(60, 4))
    assert RowStore(as_table(values), "rows", SPLIT).n_outliers == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((5, 2, np.nan), "NaN at row 5, column 2"),
        ((199, 0, np.inf), "infinity (inf) at row 199, column 0"),
        ((8, 1, -1e300), "too large for float32 at row 8, column 1"),
    ],
)
def test_values_that_are_not_finite_are_named_by_place(monkeypatch, change, words):
    monkeypatch.setattr(row_store, "SAMPLE_ROWS", 8)
    source = table()
    row, column, value = change
    source.values[row, column] = value
    with pytest.raises(UserError, match=re.escape(words)):
        RowStore(source, "rows", SPLIT)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((3, 4)), "3 sample"),
        (np.ones((50, 4)) * 7.3, "all the same"),
        (np.ones((50, 4), dtype=np.float32) * 1e7, "all the same"),
    ],
)
def test_tables_that_cannot_be_learnt_from_are_refused(values, words):
    with pytest.raises(UserError, match=words):
        RowStore(as_table(values), "rows", SPLIT)


def test_too_few_groups_are_refused():
    with pytest.raises(UserError, match="groups has 2 distinct values"):
        RowStore(table(), "rows", SPLIT, np.arange(200) % 2)
