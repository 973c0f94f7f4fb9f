"""Rows and places of tensors in a safetensors file, against the safetensors library's own reading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from monosemy.errors import UserError
from monosemy.support.tensor_rows import read_arrays, read_rows, stored_tensors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"rows_{dtype}".replace("torch.", ""): torch.randn(7, 3, generator=generator).to(dtype)
        for dtype in (torch.float32, torch.float16, torch.bfloat16)
    }
    save_file({**tensors, "counts": torch.arange(5)}, tmp_path / "a.safetensors", {"about": "a test"})
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize("tensor", ["rows_float32", "rows_float16", "rows_bfloat16"])
@pytest.mark.parametrize("rows", [slice(2, 5), np.array([6, 0, 6])])
def test_rows_are_those_that_the_library_reads(path: Path, tensor: str, rows: slice | np.ndarray):
    expected = load_file(path)[tensor].float().numpy()[rows]
    read = read_rows(path, tensor, rows)
    assert read.dtype == np.float32
    assert np.array_equal(read, expected)


def test_every_tensor_lies_where_its_bytes_are(path: Path):
    content, tensors = path.read_bytes(), load_file(path)
    stored = stored_tensors(path)
    assert set(stored) == set(tensors)
    for name, tensor in tensors.items():
        assert stored[name].shape == tuple(tensor.shape)
        assert content[stored[name].start : stored[name].end] == bytes(tensor.view(torch.uint8).flatten().tolist())


def test_arrays_are_those_that_the_library_reads(path: Path):
    stored = read_arrays(path, "rows", "write it again", ("rows_float32", "rows_float16", "counts"))
    tensors = load_file(path)
    assert stored.metadata == {"about": "a test"}
    assert set(stored.arrays) == {"rows_float32", "rows_float16", "counts"}
    for name, array in stored.arrays.items():
        assert np.array_equal(array, tensors[name].numpy())
        assert array.dtype == tensors[name].numpy().dtype
    save_file({"counts": torch.arange(5)}, path)
    assert set(read_arrays(path, "rows", "write it again").arrays) == {"counts"}


@pytest.mark.parametrize("n_bytes", [0, 5, 40, -3])
def test_a_truncated_file_of_arrays_is_named_with_the_fix(path: Path, n_bytes: int):
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(UserError, match=r"^.*a\.safetensors is not a readable file of rows \(.+\); write it again$"):
        read_arrays(path, "rows", "write it again", ("counts",))


def test_a_missing_file_or_array_is_named_with_the_fix(path: Path):
    with pytest.raises(
        UserError, match=r"^.*a\.safetensors is not a readable file of rows \(.*sums.*\); write it again$"
    ):
        read_arrays(path, "rows", "write it again", ("sums",))
    with pytest.raises(UserError, match=r"^.*c\.safetensors is missing; write it again$"):
        read_arrays(path.with_name("c.safetensors"), "rows", "write it again")


@pytest.mark.parametrize("content", [b"", b"\xff" * 7, b"\xff" * 64, b"\x02" + bytes(7) + b"[]", bytes(8)])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes):
    path = tmp_path / "b.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"b\.safetensors is not a readable safetensors file"):
        read_rows(path, "rows", slice(0, 1))
    with pytest.raises(UserError, match=r"c\.safetensors is missing"):
        read_rows(tmp_path / "c.safetensors", "rows", slice(0, 1))
