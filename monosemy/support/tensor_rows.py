"""Reads safetensors files without torch: rows of a large file in place, or a small file of arrays as a whole.

Place on the path: beneath everything that reads a few rows of a large file (pages, comparison of SAEs), maps a whole
one (activation shards), or reads the small files of a run (statistics, sums, draws) and of the cache.
Format: 8 bytes with the header's length, a JSON header {tensor: dtype, shape, data_offsets}, then the data
(safetensors' own specification).
Limits: rows of float32, float16 and bfloat16 matrices; whole arrays of number formats that numpy has (no bfloat16).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from monosemy.errors import UserError

_DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


@dataclass(frozen=True)
class StoredTensor:
    """The place of a tensor in its file: the bytes from `start` up to, but not including, `end`."""

    dtype: str
    """Its number format as safetensors names it: F32, BF16, I32, …"""
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class StoredArrays:
    """The content of a safetensors file: arrays by name, and the texts that were stored with them."""

    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]


def read_arrays(path: Path, content: str, fix: str, names: Sequence[str] | None = None) -> StoredArrays:
    """Reads the arrays called `names`, or all, into memory.

    content: what such a file holds, in the plural, and fix: what the user can do; both are for messages.
    Raises UserError when the file is missing or damaged, or lacks one of the arrays.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}
            return StoredArrays(arrays, file.metadata() or {})
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {fix}") from None
    except (OSError, SafetensorError) as error:
        raise unreadable(path, content, error, fix) from None


def unreadable(path: Path, content: str, error: Exception, fix: str) -> UserError:
    """The error for a file whose content is not what `read_arrays` or its caller expects."""
    return UserError(f"{path} is not a readable file of {content} ({error}); {fix}")


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """The places of all tensors of a safetensors file, by name.

    Raises OSError, ValueError, KeyError or TypeError for a damaged file.
    """
    with path.open("rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
        # Checked first: a damaged length could ask for any amount of memory.
        if n_header > path.stat().st_size - 8:
            raise ValueError("its header is cut short")
        header = json.loads(file.read(n_header))
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = (8 + n_header + offset for offset in entry["data_offsets"])
            tensors[name] = StoredTensor(entry["dtype"], tuple(entry["shape"]), start, end)
    return tensors


def read_rows(path: Path, tensor: str, rows: slice | np.ndarray) -> np.ndarray:
    """Reads rows of a stored matrix as float32 [n, d]. Raises UserError for a missing or damaged file."""
    try:
        stored = stored_tensors(path)[tensor]
        matrix = np.memmap(path, _DTYPES[stored.dtype], "r", stored.start, shape=stored.shape)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; restore the SAE's folder") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}); restore the SAE's folder") from None
    read = np.array(matrix[rows])
    # numpy has no bfloat16: its 16 bits are the upper half of a float32.
    if stored.dtype == "BF16":
        return (read.astype(np.uint32) << 16).view(np.float32)
    return read.astype(np.float32)
