"""Tables of activations that people bring along: arrays, .npy and .safetensors files, Parquet columns, batches.

Place on the data's path: a user's own activations → [table] → row_store.py → training. A table gives any of its rows
at any time, which a full shuffle and an exact resume need. Arrays, .npy and .safetensors files are used where they
are; files are mapped, not loaded. Batches and Parquet columns can only be read in order, so they are written once into
a .npy file (`spool`) that is then mapped.

Limits: values become float32 when they are read. Nothing that is read can run code: no pickle, no object arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from monosemy.errors import UserError, unknown
from monosemy.support.files import atomic_path

ARRAY, BATCHES = "<array>", "<batches>"
"""The names of sources that are no files: an array in memory, and an iterable of batches."""
SUFFIXES = (".npy", ".safetensors", ".parquet")
_NUMERIC = "biuf"
"""NumPy's kinds of booleans, integers and floats."""


@dataclass(frozen=True)
class Table:
    """A table [n_rows, width] of numbers. `name` is what messages call it."""

    name: str
    values: np.ndarray | torch.Tensor

    @property
    def n_rows(self) -> int:
        return int(self.values.shape[0])

    @property
    def width(self) -> int:
        return int(self.values.shape[1])

    @property
    def dtype(self) -> str:
        """The table's number format, such as `float16`."""
        return str(self.values.dtype).removeprefix("torch.")

    def rows(self, indices: np.ndarray | slice) -> np.ndarray:
        """The rows at `indices`, in their order: float64 where the table has 8-byte numbers, else float32."""
        if isinstance(self.values, torch.Tensor):
            part = self.values[indices if isinstance(indices, slice) else torch.from_numpy(np.asarray(indices))]
            return part.detach().cpu().to(torch.float64 if part.element_size() == 8 else torch.float32).numpy()
        selected = self.values[indices]
        return selected.astype(np.float64 if selected.dtype.itemsize >= 8 else np.float32)


def as_table(values: Any, name: str = "X") -> Table:
    """The table of an array, a tensor, a DataFrame or nested lists; nothing is copied where that is possible.

    Raises UserError for values that are not numbers, for sparse matrices, and for a shape other than [rows, columns].
    """
    if isinstance(values, torch.Tensor):
        if values.is_complex() or values.is_quantized:
            raise UserError(f"{name} holds values of type {values.dtype}; give real numbers, e.g. X.real")
        if values.layout != torch.strided:
            raise UserError(f"{name} is a sparse tensor; give X.to_dense(), or dense batches of it")
    else:
        if hasattr(values, "toarray") and hasattr(values, "nnz"):
            raise UserError(f"{name} is a sparse matrix; give X.toarray(), or dense batches of it")
        values = _numeric(values, name)
    if values.ndim != 2:
        raise UserError(
            f"{name} has shape {tuple(values.shape)}; it must be [rows, columns]. Reshape your data: X.reshape(-1, 1) "
            "for a single column, X.reshape(1, -1) for a single row, X.reshape(len(X), -1) for images"
        )
    if values.shape[1] == 0:
        raise UserError(f"{name} has 0 feature(s) (shape={tuple(values.shape)}) while a minimum of 1 is required.")
    return Table(name, values)


def _numeric(values: Any, name: str) -> np.ndarray:
    """The values as an array of real numbers. Raises UserError when they are none."""
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise UserError(f"{name} cannot be read as an array ({error}); its rows must be equally long") from None
    if array.dtype.kind == "c":
        raise UserError(f"Complex data not supported: {name} holds {array.dtype}; give X.real or both parts as columns")
    if array.dtype.kind == "O":
        # Numbers in an object array, as a DataFrame of mixed columns gives them, are numbers all the same.
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise _NotNumbers(
                f"{name} holds objects that are not numbers ({error}); give an array of numbers"
            ) from None
    if array.dtype.kind not in _NUMERIC:
        raise UserError(f"{name} holds values of type {array.dtype}, not numbers; give an array of floats or integers")
    return array


class _NotNumbers(UserError, TypeError):
    """Objects where numbers are needed: a TypeError too, as NumPy's own is."""


def require_finite(values: np.ndarray, name: str, rows: Sequence[int] | np.ndarray) -> None:
    """Raises UserError, naming the first place, for NaN, infinity, and numbers beyond float32; `rows` are numbers."""
    finite = np.abs(values) <= np.finfo(np.float32).max
    if finite.all():
        return
    row, column = (int(place) for place in np.argwhere(~finite)[0])
    value = values[row, column]
    problem = "NaN" if np.isnan(value) else "infinity (inf)" if np.isinf(value) else "a value too large for float32"
    raise UserError(
        f"{name} holds {problem} at row {rows[row]}, column {column}; all values must be finite: drop or fill such rows"
    )


def too_few_rows(table: Table, least: int) -> UserError:
    """The error for a table that cannot be split; its words are those that scikit-learn's checks look for."""
    return UserError(
        f"{table.name} has {table.n_rows} sample(s) (n_samples = {table.n_rows}) while a minimum of {least} is "
        "required: two rows to train on and two to validate on; give more rows"
    )


def open_table(
    path: Path, *, tensor: str | None = None, column: str | None = None, spooled: Path | None = None
) -> Table:
    """The table in a .npy file, a tensor of a .safetensors file, or a column of a .parquet file.

    `tensor` and `column` may be left out where the file has only one that fits. A Parquet column is written to
    `spooled` first. Raises UserError for a missing, damaged or unsuitable file.
    """
    path = path.expanduser()
    if path.suffix not in SUFFIXES:
        fix = ", or save its numbers: numpy.save('rows.npy', table)" if path.suffix in (".csv", ".tsv", ".txt") else ""
        raise UserError(f"{path} is no file of activations that can be read; choose one of {', '.join(SUFFIXES)}{fix}")
    if not path.is_file():
        raise UserError(f"{path} does not exist; give the path of a {', '.join(SUFFIXES)} file")
    for flag, value, suffix in (("tensor", tensor, ".safetensors"), ("column", column, ".parquet")):
        if value and path.suffix != suffix:
            raise UserError(f"{flag} {value!r} belongs to a {suffix} file, and {path} is none; leave it out")
    if path.suffix == ".npy":
        return as_table(map_npy(path), path.name)
    if path.suffix == ".safetensors":
        return _safetensors_table(path, tensor)
    assert spooled is not None, "a Parquet column needs a place to be written to"
    return spool(parquet_batches(path, column), spooled, path.name)


def table_size(path: Path, tensor: str | None = None, column: str | None = None) -> tuple[int, int]:
    """The (rows, columns) of the table in a file, without reading it. Raises UserError as `open_table` does."""
    path = path.expanduser()
    if path.suffix != ".parquet" or not path.is_file():
        table = open_table(path, tensor=tensor, column=column)
        return table.n_rows, table.width
    first = next(parquet_batches(path, column), np.zeros((0, 0)))
    import pyarrow.parquet

    return pyarrow.parquet.read_metadata(path).num_rows, first.shape[1]


def map_npy(path: Path) -> np.ndarray:
    """A .npy file, mapped rather than read. Raises UserError when it is no whole file of numbers."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as a .npy file of numbers ({reason}); write it anew: np.save") from None


def _safetensors_table(path: Path, tensor: str | None) -> Table:
    """A tensor of a .safetensors file: the named one, or the only one with two dimensions."""
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (no mapping)
            matrices = [name for name, shape in shapes.items() if len(shape) == 2]
            if not tensor and len(matrices) == 1:
                (tensor,) = matrices
            if not tensor:
                listing = ", ".join(matrices) or "none"
                raise UserError(f"{path} has no single tensor of shape [rows, columns] ({listing}); name one: tensor")
            if tensor not in shapes:
                raise unknown(f"tensor of {path}", tensor, shapes)
            # A view of the mapped file: rows are read when they are used.
            return as_table(file.get_tensor(tensor), f"{path.name}:{tensor}")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as a safetensors file ({error}); write it anew") from None


def parquet_batches(path: Path, column: str | None) -> Iterator[np.ndarray]:
    """The rows of a column of lists, in the file's order. Raises UserError for another column or unequal lengths."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{path} needs pyarrow to be read: pip install pyarrow, or save the rows as .npy") from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = [field.name for field in file.schema_arrow if pyarrow.types.is_nested(field.type)]
        if not column and len(names) == 1:
            (column,) = names
        if not column:
            listing = ", ".join(names) or "none"
            raise UserError(f"{path} has no single column of lists ({listing}); name the one with the rows: column")
        if column not in file.schema_arrow.names:
            raise unknown(f"column of {path}", column, file.schema_arrow.names)
        first = 0
        for batch in file.iter_batches(columns=[column]):
            yield _list_rows(batch.column(0), f"column {column!r} of {path}", first)
            first += len(batch)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as a Parquet file ({str(error).splitlines()[0]})") from None


def _list_rows(values: Any, name: str, first: int) -> np.ndarray:
    """A column of lists of equal length as an array [n, width]; `first` is the number of its first row."""
    import pyarrow
    import pyarrow.compute

    if not hasattr(values, "flatten") or not pyarrow.types.is_nested(values.type):
        raise UserError(f"{name} holds {values.type}, not lists of numbers; choose a column with one list per row")
    if values.null_count:
        row = first + int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        raise UserError(f"{name} is empty (null) in row {row}; fill or drop that row")
    lengths = np.asarray(pyarrow.compute.list_value_length(values))
    if len(set(lengths.tolist())) > 1:
        row = first + int(np.flatnonzero(lengths != lengths[0])[0])
        raise UserError(f"{name} has lists of unequal length, first in row {row}; all rows must be equally long")
    return _numeric(values.flatten().to_numpy(zero_copy_only=False), name).reshape(len(values), -1)


def spool(batches: Iterable[Any], path: Path, name: str = "batches") -> Table:
    """Writes batches [n, width] into a .npy file, one after the other, and maps it.

    The first batch fixes the width and the number format. Raises UserError when there is no row, for a batch of another
    width, and when the disk is full.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        n_rows, first = 0, None
        for number, batch in enumerate(batches):
            # A DataLoader gives tuples; the rows are their first element.
            rows = batch[0] if isinstance(batch, list | tuple) and getattr(batch[0], "ndim", 0) == 2 else batch
            table = as_table(rows, f"batch {number} of {name}")
            values = np.ascontiguousarray(table.rows(slice(None)))
            if first is None:
                first = values
                _write_header(file, 0, values)
            if values.shape[1] != first.shape[1]:
                raise UserError(
                    f"{table.name} is {values.shape[1]} wide and the first one {first.shape[1]}; all must be equal"
                )
            file.write(values.astype(first.dtype, copy=False).tobytes())
            n_rows += len(values)
        if first is None or n_rows == 0:
            raise UserError(f"{name} gave no row; give an iterable of arrays [rows, columns] that is not used up")
        file.seek(0)
        _write_header(file, n_rows, first)
    return as_table(map_npy(path), name)


def _write_header(file: Any, n_rows: int, like: np.ndarray) -> None:
    """Writes the header of a .npy file. NumPy leaves room in it for `n_rows` to grow, so it can be written again."""
    description = np.lib.format.dtype_to_descr(like.dtype)
    header = {"descr": description, "fortran_order": False, "shape": (n_rows, like.shape[1])}
    np.lib.format.write_array_header_1_0(file, header)
