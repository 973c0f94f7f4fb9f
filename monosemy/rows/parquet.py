"""Reads a single column of a Parquet file value by value."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monosemy.errors import UserError, unknown

_ROWS_AT_A_TIME = 1_024


def iterate_column(path: Path, column: str | None, flag: str) -> Iterator[Any]:
    """Yields the values of a column as Python objects, in the file's order.

    Raises UserError, which begins with `flag`, for a column that is not there and for a damaged file.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = file.schema_arrow.names
        if column not in names:
            raise unknown(f"column of {path} for {flag}", str(column), names)
        for batch in file.iter_batches(batch_size=_ROWS_AT_A_TIME, columns=[column]):
            yield from batch.column(0).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{flag} {path} cannot be read as a Parquet file ({str(error).splitlines()[0]})") from None
