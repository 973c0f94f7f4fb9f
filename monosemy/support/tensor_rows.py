"""Reads rows of tensors in a safetensors file in place, without torch and without loading the file.

Place on the path: beneath everything that reads a few rows of a large file (pages, comparison of SAEs) or maps a whole
one (activation shards). Format: 8 bytes with the header's length, a JSON header {tensor: dtype, shape, data_offsets},
then the data (safetensors' own specification).
Limits: rows of float32, float16 and bfloat16 matrices.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
