"""Tables: one set of numbers through every source, and what is refused in one line."""

from __future__ import annotations

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import save_file

from monosemy.activations.tables import as_table, open_table, spool
from monosemy.errors import UserError

VALUES = np.random.default_rng(0).normal(size=(23, 5)).astype(np.float32)


def parquet(path, rows, name="embedding"):
    pyarrow.parquet.write_table(pyarrow.table({name: rows, "id": list(range(len(rows)))}), path, row_group_size=7)
    return path


def fixed_size(values):
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.ravel()), values.shape[1])


@pytest.mark.parametrize(
    "of",
    [
        lambda _: as_table(VALUES),
        lambda _: as_table(VALUES.tolist()),
        lambda _: as_table(torch.from_numpy(VALUES)),
        lambda _: as_table(np.repeat(VALUES, 2, axis=0)[::2]),
        lambda _: as_table(np.asfortranarray(VALUES)),
        lambda _: as_table(VALUES.astype(object)),
        lambda folder: spool(iter(np.array_split(VALUES, 4)), folder / "rows.npy"),
        lambda folder: spool([(torch.from_numpy(VALUES), torch.zeros(23))], folder / "rows.npy"),
        lambda folder: np.save(folder / "x.npy", VALUES) or open_table(folder / "x.npy"),
        lambda folder: (
            save_file({"x": torch.from_numpy(VALUES), "b": torch.zeros(3)}, folder / "x.safetensors")
            or open_table(folder / "x.safetensors")
        ),
        lambda folder: open_table(parquet(folder / "x.parquet", VALUES.tolist()), spooled=folder / "rows.npy"),
        lambda folder: open_table(parquet(folder / "x.parquet", fixed_size(VALUES)), spooled=folder / "rows.npy"),
    ],
)
def test_every_source_gives_the_same_rows(tmp_path, of):
    table = of(tmp_path)
    assert (table.n_rows, table.width) == VALUES.shape
    np.testing.assert_array_equal(table.rows(slice(3, 9)).astype(np.float32), VALUES[3:9])
    np.testing.assert_array_equal(table.rows(np.array([20, 0, 20])).astype(np.float32), VALUES[[20, 0, 20]])


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.int64, np.uint8, bool])
def test_every_number_format_is_read(dtype):
    values = (VALUES * 10).astype(dtype)
    np.testing.assert_array_equal(as_table(values).rows(slice(None)), values.astype(np.float64))


def test_bfloat16_has_no_array_of_its_own(tmp_path):
    values = torch.from_numpy(VALUES).bfloat16()
    save_file({"x": values}, tmp_path / "x.safetensors")
    table = open_table(tmp_path / "x.safetensors", tensor="x")
    np.testing.assert_array_equal(table.rows(np.arange(23)), values.float().numpy())


def test_a_spool_keeps_eight_byte_numbers_and_its_rows_stay_after_the_file_is_moved(tmp_path):
    values = np.arange(2_000_000, dtype=np.int64).reshape(-1, 2) + 2**40
    table = spool(np.array_split(values, 7), tmp_path / "rows.npy")
    (tmp_path / "rows.npy").rename(tmp_path / "moved.npy")
    np.testing.assert_array_equal(table.rows(slice(-3, None)), values[-3:])
    np.testing.assert_array_equal(np.load(tmp_path / "moved.npy"), values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros(5), "has shape (5,); it must be [rows, columns]"),
        (np.zeros((2, 3, 4)), "X.reshape(len(X), -1) for images"),
        (np.zeros((5, 0)), "0 feature(s)"),
        (np.array([["a", "b"]]), "not numbers"),
        (np.array([[{}, 1]], dtype=object), "objects that are not numbers"),
        (np.zeros((2, 2), dtype=complex), "Complex data not supported"),
        ([[1, 2], [3]], "cannot be read as an array"),
        (torch.zeros(2, 2).to_sparse(), "to_dense"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(values, words):
    with pytest.raises(UserError) as caught:
        as_table(values)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def damaged(folder):
    np.save(folder / "cut.npy", VALUES)
    (folder / "cut.npy").write_bytes((folder / "cut.npy").read_bytes()[:100])
    np.save(folder / "pickle.npy", np.array([{}], dtype=object))
    save_file({"a": torch.zeros(2, 2), "b": torch.zeros(2, 2)}, folder / "two.safetensors")
    (folder / "cut.safetensors").write_bytes(b"\xff" * 40)
    (folder / "cut.parquet").write_bytes(b"PAR1nothing")
    parquet(folder / "ragged.parquet", [[1.0, 2.0], [3.0]])
    parquet(folder / "null.parquet", [[1.0, 2.0], None])
    pyarrow.parquet.write_table(pyarrow.table({"id": [1, 2], "text": ["a", "b"]}), folder / "flat.parquet")


@pytest.mark.parametrize(
    ("name", "choice", "words"),
    [
        ("gone.npy", {}, "does not exist"),
        ("x.csv", {}, "choose one of .npy"),
        ("cut.npy", {}, "cannot be read as a .npy file"),
        ("pickle.npy", {}, "cannot be read as a .npy file"),
        ("cut.npy", {"tensor": "x"}, "tensor 'x' belongs to a .safetensors file"),
        ("two.safetensors", {}, "(a, b); name one: tensor"),
        ("two.safetensors", {"tensor": "c"}, "unknown tensor"),
        ("cut.safetensors", {}, "cannot be read as a safetensors file"),
        ("cut.parquet", {}, "cannot be read as a Parquet file"),
        ("ragged.parquet", {}, "unequal length, first in row 1"),
        ("null.parquet", {}, "null) in row 1"),
        ("flat.parquet", {}, "no single column of lists (none)"),
        ("flat.parquet", {"column": "vec"}, "unknown column"),
        ("flat.parquet", {"column": "text"}, "not lists of numbers"),
    ],
)
def test_files_that_cannot_be_used_are_refused_in_one_line(tmp_path, name, choice, words):
    damaged(tmp_path)
    with pytest.raises(UserError) as caught:
        open_table(tmp_path / name, spooled=tmp_path / "rows.npy", **choice)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("batches", "words"),
    [([], "gave no row"), ([np.zeros((0, 3))], "gave no row"), ([np.zeros((2, 3)), np.zeros((2, 4))], "batch 1 of")],
)
def test_batches_that_do_not_fit_are_refused(tmp_path, batches, words):
    with pytest.raises(UserError, match=words):
        spool(iter(batches), tmp_path / "rows.npy")
    assert list(tmp_path.iterdir()) == []
