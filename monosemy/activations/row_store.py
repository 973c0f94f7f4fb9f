"""A store over a table of a user's own activations: split, centred and scaled, for `StoredStream`.

Place on the data's path: tables.py → [row store] → stream.py → training; evaluation reads the validation rows.

One pass over the table checks that every value is finite, hashes the content, and measures, over training rows:

  c  the coordinate-wise median of a sample           r  the median of ‖x − c‖ over that sample
  a row is an outlier if ‖x − c‖ > outlier_multiple · r, and is then left out of training and validation
  m  the mean of the training rows                     C = sqrt(E‖x − m‖²)

Training reads (x − m) / C; both are undone in the saved SAE. Deviations from harvest.py: distances are taken from the
centre, since embeddings, pixels and measurements may have any offset, and the sample is spread over the table. Where
more than half of the rows are the same, r is 0 and no row is an outlier.

Limits: 8 bytes of memory per row for the split, and one random read per row.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from monosemy.activations.tables import Table, require_finite, too_few_rows
from monosemy.errors import UserError
from monosemy.support import progress

CHUNK_BYTES = 1 << 25
SAMPLE_ROWS = 8_192
LEAST_ROWS = 4
"""Two rows to learn from, and two to measure an interval on."""


@dataclass(frozen=True)
class Split:
    """How a table is divided into training and validation rows."""

    validation_fraction: float
    max_validation_rows: int
    seed: int
    outlier_multiple: float
    """Leave out rows farther from the centre than this multiple of the median distance; 0 keeps all."""


class RowStore:
    """The training rows of a table at one site, as `StoredStream` reads them, with the validation rows beside them."""

    def __init__(self, table: Table, site: str, split: Split, groups: Int[np.ndarray, " n"] | None = None) -> None:
        """`groups` gives every row the number of what it belongs to (a document, a patient, a picture): rows of one
        group are all on one side of the split, and intervals resample groups.

        Raises UserError for too few rows, values that are not finite, and rows that are all the same.
        """
        if table.n_rows < LEAST_ROWS:
            raise too_few_rows(table, LEAST_ROWS)
        self.table, self.site, self.dtype = table, site, "float32"
        self.groups = np.arange(table.n_rows) if groups is None else groups
        is_validation = _validation_rows(self.groups, split)
        measured = _measure(table, is_validation, split)
        self.mean_row = measured.mean
        self.scale = {site: measured.scale}
        # The stream's rows are centred, so that their mean is zero.
        self.mean = {site: torch.zeros(table.width)}
        self.n_outliers = int((~measured.kept).sum())
        self.train = np.flatnonzero(measured.kept & ~is_validation)
        """Numbers in the table of the training rows, and below of the validation rows, both without outliers."""
        self.validation = np.flatnonzero(measured.kept & is_validation)
        if len(self.train) < 2 or len(self.validation) < 1:
            raise UserError(
                f"{table.name} has {len(self.train)} training and {len(self.validation)} validation rows left after "
                f"{self.n_outliers} outliers; give more rows or groups, or set outlier_multiple to 0"
            )
        self.n_rows = len(self.train)
        digest = hashlib.blake2b(digest_size=8)
        for part in (measured.digest.encode(), self.groups.tobytes(), repr(split).encode()):
            digest.update(part)
        self.fingerprint = digest.hexdigest()

    def width(self, site: str) -> int:
        """The width of the rows."""
        assert site == self.site, site
        return self.table.width

    def rows(self, site: str, indices: np.ndarray | slice) -> Float32[Tensor, "n d_in"]:
        """Training rows, centred but not scaled, in the order of `indices`."""
        assert site == self.site, site
        # In float64: a large offset must not round away what is left of a row without it.
        values = self.table.rows(self.train[indices]).astype(np.float64)
        return torch.from_numpy((values - self.mean_row).astype(np.float32))

    def validation_rows(self) -> Iterator[tuple[Float[Tensor, "n d_in"], Int[Tensor, " n"]]]:
        """Yields (rows in raw units, number of each row's group) of the validation rows, in the table's order."""
        for part in np.array_split(self.validation, math.ceil(len(self.validation) / _chunk_rows(self.table))):
            rows = torch.from_numpy(self.table.rows(part).astype(np.float32))
            yield rows, torch.from_numpy(self.groups[part].astype(np.int64))


@dataclass(frozen=True)
class _Measured:
    """The result of the pass over a table."""

    digest: str
    kept: np.ndarray
    """bool [n]: the rows that are no outliers."""
    mean: np.ndarray
    """float64 [d]: the mean of the training rows that are kept."""
    scale: float


def _validation_rows(groups: Int[np.ndarray, " n"], split: Split) -> np.ndarray:
    """Which rows are held out, bool [n]: whole groups in a random order, until their share of the rows is reached."""
    names, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < LEAST_ROWS:
        raise UserError(f"groups has {len(names)} distinct values; at least {LEAST_ROWS} are needed for a split")
    n_wanted = min(split.max_validation_rows, round(split.validation_fraction * len(groups)))
    order = np.random.default_rng(split.seed).permutation(len(names))
    # A group larger than the whole share stays in training, unless there are no two smaller ones.
    small = max(n_wanted, np.sort(sizes)[1])
    order = order[sizes[order] <= small]
    n_groups = int(np.searchsorted(np.cumsum(sizes[order]), n_wanted)) + 1
    # At least two groups on either side: fewer have no interval.
    n_groups = min(max(2, n_groups), len(names) - 2)
    held_out = np.zeros(len(names), dtype=bool)
    held_out[order[:n_groups]] = True
    return held_out[numbers]


def _measure(table: Table, is_validation: np.ndarray, split: Split) -> _Measured:
    """Reads the whole table once: checks it, hashes it, finds outliers, and measures centre and scale."""
    centre, limit = _centre_and_limit(table, is_validation, split)
    digest = hashlib.blake2b(f"{table.dtype} {table.n_rows} {table.width}".encode(), digest_size=8)
    kept = np.ones(table.n_rows, dtype=bool)
    total, squares, n_train = np.zeros(table.width), 0.0, 0
    size = _chunk_rows(table)
    with progress.stage(f"reading {table.name}", total=table.n_rows, unit="rows") as bar:
        for start in range(0, table.n_rows, size):
            values = np.ascontiguousarray(table.rows(slice(start, start + size)))
            require_finite(values, table.name, range(start, start + len(values)))
            digest.update(values.data)
            deviations = values.astype(np.float64) - centre
            lengths = np.einsum("nd,nd->n", deviations, deviations)
            ordinary = lengths <= limit**2
            kept[start : start + len(values)] = ordinary
            train = ordinary & ~is_validation[start : start + len(values)]
            total += deviations[train].sum(0)
            squares += float(lengths[train].sum())
            n_train += int(train.sum())
            bar.advance(len(values))
    shift = total / max(1, n_train)
    # Around the sample's median, so that a large offset cancels no digits.
    variance = squares / max(1, n_train) - float(shift @ shift)
    largest = float(np.abs(centre).max(initial=0)) or 1.0
    if n_train >= 2 and not variance > (1e-12 * largest) ** 2 * table.width:
        raise UserError(f"the training rows of {table.name} are all the same; there is nothing to learn from them")
    return _Measured(digest.hexdigest(), kept, centre + shift, math.sqrt(max(variance, 0.0)))


def _centre_and_limit(table: Table, is_validation: np.ndarray, split: Split) -> tuple[np.ndarray, float]:
    """(the median of a sample of the training rows by column, the largest distance from it that is kept)."""
    train = np.flatnonzero(~is_validation)
    drawn = np.random.default_rng(split.seed + 1).choice(train, min(SAMPLE_ROWS, len(train)), replace=False)
    drawn = np.sort(drawn)
    values = table.rows(drawn)
    require_finite(values, table.name, drawn)
    sample = values.astype(np.float64)
    centre = np.median(sample, axis=0)
    distance = float(np.median(np.linalg.norm(sample - centre, axis=1)))
    limited = split.outlier_multiple > 0 and distance > 0
    return centre, split.outlier_multiple * distance if limited else math.inf


def _chunk_rows(table: Table) -> int:
    return max(1, CHUNK_BYTES // (8 * table.width))
