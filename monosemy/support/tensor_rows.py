"""Rows of a matrix in a safetensors file, memory-mapped, without torch.

Place on the path: saes/<site>/<name>/sae.safetensors → [decoder rows] → pages, comparison of SAEs. Format: 8 bytes with
the header's length, a JSON header {tensor: dtype, shape, data_offsets}, the data (safetensors' own specification).
Limits: float32, float16 and bfloat16 matrices.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from monosemy.errors import UserError

_DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


def read_rows(path: Path, tensor: str, rows: slice | np.ndarray) -> np.ndarray:
    """float32 [n, d]: rows of a stored matrix. Raises UserError for a missing or damaged file."""
    try:
        with path.open("rb") as file:
            n_header = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(n_header))[tensor]
        start = 8 + n_header + entry["data_offsets"][0]
        matrix = np.memmap(path, _DTYPES[entry["dtype"]], "r", start, tuple(entry["shape"]))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; restore the SAE's folder") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}); restore the SAE's folder") from None
    chosen = np.array(matrix[rows])
    if entry["dtype"] == "BF16":
        return (chosen.astype(np.uint32) << 16).view(np.float32)
    return chosen.astype(np.float32)
