"""The file of training metrics: JSON lines that are appended, and cut back to a known length on resume.

Place on the data's path: training → metrics.jsonl → report. A checkpoint stores `offset()`. A resumed run first calls
`truncate(offset)`, which removes the records written after the checkpoint, since training writes them again. The file
of an interrupted run is therefore equal, byte for byte, to that of an uninterrupted one.

Numbers that are not finite become null (JSON has no NaN).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monosemy.errors import UserError
from monosemy.support import json_text
from monosemy.support.files import explain_os_error, write_text


class MetricsWriter:
    """Appends records to `path`. Each `append` is written completely or, on a full disk, not at all."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Appends one JSON line per record. Raises UserError when they cannot be written."""
        data = "".join(_line(record) for record in records).encode()
        if not data:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                self._write(descriptor, data)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise explain_os_error(error, self.path) from error

    @staticmethod
    def _write(descriptor: int, data: bytes) -> None:
        # os.write may write less than it is given; on an error, what was written so far is taken back.
        before = os.fstat(descriptor).st_size
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        except OSError:
            os.ftruncate(descriptor, before)
            raise

    def rewrite(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Replaces all records at once. Raises UserError when they cannot be written; the old ones then stay."""
        write_text(self.path, "".join(_line(record) for record in records))

    def offset(self) -> int:
        """The number of bytes written so far, once they are flushed to the device; a checkpoint stores it."""
        if not self.path.exists():
            return 0
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            return os.fstat(descriptor).st_size
        except OSError as error:
            raise explain_os_error(error, self.path) from error
        finally:
            os.close(descriptor)

    def truncate(self, offset: int) -> None:
        """Cuts the file back to `offset` bytes. Raises UserError when the file is shorter than that."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < offset:
            raise UserError(
                f"{self.path} has {size} bytes but the checkpoint counted {offset}: records are missing; "
                "restore the file, or delete the run folder to start again"
            )
        if size > offset:
            os.truncate(self.path, offset)


def _line(record: Mapping[str, Any]) -> str:
    return json_text.dumps(record, separators=(",", ":")) + "\n"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads all records, without a last line that a kill cut short. Raises UserError for any other damage."""
    records = []
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    # What follows the last newline is empty, or a line that was never finished.
    for number, line in enumerate(lines[:-1], start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"{path} is damaged at line {number} ({error}); restore it or train again") from None
    return records
