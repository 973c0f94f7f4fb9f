"""The shards of an activation store: written atomically, checked by size and hash, read through a memory map.

Place on the data's path: below store.py. A shard is a safetensors file:
    <site>        [n, d]  bfloat16 | float16 | float32, raw units
    token_ids, sequence, position, document   [n] int32
    sum/<site>    [d]     float64, sum of the rows as stored

Reading parses the header here (support/tensor_rows.py) and maps the file, rather than using the safetensors library:
the views must stay lazy with every version of that library, and thousands of open shards must not use up file
descriptors.
Limits: sums are taken in float64, and are the same to the last bit only for the same number of threads.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosemy.activations.harvest import REASONS, HarvestedRows
from monosemy.errors import UserError
from monosemy.support import files, progress
from monosemy.support.tensor_rows import stored_tensors

LABELS = ("token_ids", "sequence", "position", "document")
LABEL_BYTES = 4 * len(LABELS)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I32": torch.int32,
}
_REDO = "delete that file and run the same command again to harvest it anew"


class ShardWriter:
    """Collects the rows of one shard in the dtype kept on disk, with their sums in float64, and writes the shard."""

    def __init__(self, widths: Mapping[str, int], dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.n_rows = self.n_tokens = 0
        self.dropped: Counter[str] = Counter()
        self.sums = {site: torch.zeros(d, dtype=torch.float64) for site, d in widths.items()}
        self.square_sums = dict.fromkeys(widths, 0.0)
        self.parts: dict[str, list[Tensor]] = {name: [] for name in (*widths, *LABELS)}

    def add(self, rows: HarvestedRows) -> None:
        """Appends the rows of one pass of the model. Raises UserError when a value does not fit into float16."""
        for site, values in rows.activations.items():
            narrow = narrowed(values, self.dtype, site, rows.sequence)
            # Sums of the rows as stored: the store's mean and scale then fit what training reads, rounding included.
            exact = narrow.double()
            self.sums[site] += exact.sum(0)
            self.square_sums[site] += float(exact.square().sum())
            self.parts[site].append(narrow)
        for name in LABELS:
            self.parts[name].append(getattr(rows, name))
        self.n_rows += len(rows.token_ids)
        self.n_tokens += rows.n_tokens
        self.dropped.update(rows.n_dropped)

    def write(self, path: Path) -> dict[str, Any]:
        """Writes the shard durably, and returns its entry for the manifest."""
        tensors = {name: torch.cat(parts) for name, parts in self.parts.items()}
        tensors |= {f"sum/{site}": total for site, total in self.sums.items()}
        # To bytes first: a full disk is then an OSError, which atomic_path explains, and hashing needs no second read.
        content = safetensors.torch.save(tensors)
        with files.atomic_path(path) as temporary:
            temporary.write_bytes(content)
        return {
            "file": path.name,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "n_rows": self.n_rows,
            "n_tokens": self.n_tokens,
            "n_dropped": {reason: self.dropped[reason] for reason in REASONS},
            "square_sum": self.square_sums,
        }


def narrowed(
    values: Float[Tensor, "n d_in"], dtype: torch.dtype, site: str, sequences: Int[Tensor, " n"]
) -> Float[Tensor, "n d_in"]:
    """Copies rows to the CPU in `dtype`. Raises UserError, naming site and sequence, on a float16 overflow."""
    narrow = values.to(device="cpu", dtype=dtype)
    if dtype == torch.float16 and not bool(torch.isfinite(narrow).all()):
        row = int((~torch.isfinite(narrow)).any(1).nonzero()[0])
        raise UserError(
            f"an activation at {site} in sequence {int(sequences[row])} is beyond float16's 65504; "
            "set activations.dtype to bfloat16 or float32"
        )
    return narrow


def verify_shards(folder: Path, entries: Sequence[dict[str, Any]], *, hashes: bool) -> None:
    """Raises UserError for the first shard that is missing or has another size or, with `hashes`, other content."""
    for entry in entries:
        path = folder / entry["file"]
        if not path.exists():
            raise UserError(f"shard {path} is missing; run the command that built the store again to harvest it anew")
        if (size := path.stat().st_size) != entry["bytes"]:
            raise UserError(f"shard {path} has {size} bytes, not {entry['bytes']}: it was truncated; {_REDO}")
    total = sum(entry["bytes"] for entry in entries)
    # A progress bar only where hashing takes seconds.
    reporting = progress.stage("verify", total / 1e6, "MB") if total > 1 << 30 else contextlib.nullcontext()
    with reporting as bar:
        for entry in entries if hashes else ():
            if files.sha256(folder / entry["file"]) != entry["sha256"]:
                raise UserError(f"shard {folder / entry['file']} is corrupted (its SHA-256 is another); {_REDO}")
            if bar is not None:
                bar.advance(entry["bytes"] / 1e6)


def map_shard(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file as views of one memory map: nothing is read until it is used.

    Raises UserError when the file cannot be read as a safetensors file.
    """
    try:
        # `torch.from_file` closes the file once it is mapped, so that thousands of shards need no file descriptors. The
        # map is private: what is written into a view never reaches the file.
        stored = stored_tensors(path)
        content = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
        return {
            name: content[tensor.start : tensor.end].view(_SAFETENSORS_DTYPES[tensor.dtype]).reshape(tensor.shape)
            for name, tensor in stored.items()
        }
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"shard {path} cannot be read ({str(error).splitlines()[0]}); {_REDO}") from None
