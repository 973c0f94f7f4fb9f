"""What people give `fit` to learn from: an array, a file, or batches; and where the table of it lies.

Place on the data's path: a user's rows → [source] → `activations.tables.Table` → prepare.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monosemy.activations.tables import ARRAY, BATCHES, Table, as_table, open_table, spool
from monosemy.errors import UserError
from monosemy.rows.settings import RowsConfig

_ROWS_AT_A_TIME = 65_536


@dataclass(frozen=True)
class FileOfRows:
    """A file with rows; `tensor` and `column` as for `open_table`."""

    path: Path
    tensor: str | None = None
    column: str | None = None


@dataclass(frozen=True)
class Source:
    """A table, and the settings that say where it comes from."""

    table: Table
    settings: RowsConfig
    staged: Path | None = None
    """A file that was written for the table, and that a kept run takes over; None for none."""

    @property
    def is_array(self) -> bool:
        return self.settings.source == ARRAY


def source_of(X: Any, staged: Path) -> Source:
    """The source behind what `fit` was given; batches and Parquet columns are written to `staged`.

    Raises UserError for what is no array, no file and no batches.
    """
    if isinstance(X, str | os.PathLike):
        X = FileOfRows(Path(X))
    if isinstance(X, FileOfRows):
        table = open_table(X.path, tensor=X.tensor, column=X.column, spooled=staged)
        return Source(table, RowsConfig(str(X.path), X.tensor, X.column))
    if is_batches(X):
        return Source(spool(X, staged), RowsConfig(BATCHES), staged)
    return Source(as_table(X), RowsConfig(ARRAY))


def copied(source: Source, staged: Path) -> Source:
    """The source with its table in a file, which a kept run takes over: no command could read an array again.

    Raises UserError when the disk is full.
    """
    table = source.table
    parts = (table.rows(slice(start, start + _ROWS_AT_A_TIME)) for start in range(0, table.n_rows, _ROWS_AT_A_TIME))
    return Source(spool(parts, staged, table.name), source.settings, staged)


def is_batches(X: Any) -> bool:
    """Whether X is an iterable of batches rather than a single array, DataFrame or nested list."""
    if isinstance(X, list | tuple):
        return len(X) > 0 and all(isinstance(item, np.ndarray | torch.Tensor) and item.ndim == 2 for item in X)
    array_like = hasattr(X, "__array__") or hasattr(X, "shape") or isinstance(X, str | bytes | dict)
    return isinstance(X, Iterable) and not array_like


def group_numbers(groups: Any, table: Table) -> np.ndarray:
    """A number for every row's group, int64 [n]. Raises UserError unless there is one group per row."""
    names = np.asarray(groups)
    if names.shape != (table.n_rows,):
        raise UserError(
            f"groups has shape {names.shape}, and {table.name} has {table.n_rows} rows; give one group for each row"
        )
    return np.unique(names, return_inverse=True)[1].astype(np.int64)
