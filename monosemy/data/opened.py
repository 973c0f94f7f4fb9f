"""Reads text files as lines of Unicode, decompressed and without a byte order mark; refuses anything but UTF-8.

Place on the data's path: bytes on the disk -> **lines** -> rows (`formats`). Files may be compressed (`.gz`, `.zst`,
`.bz2`, `.xz`) and are decompressed as they are read. Line ends `\\r\\n` become `\\n`. Only `\\n` ends a line, neither a
lone `\\r` nor U+2028. Offsets in messages count decompressed bytes.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import pyarrow as pa

from monosemy.errors import UserError

COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz")


def format_of(name: str) -> tuple[str, str]:
    """The (format, compression) that a file's name says, in lower case: `a.JSONL.gz` is (".jsonl", ".gz")."""
    path = Path(name.lower())
    if path.suffix in COMPRESSIONS:
        return Path(path.stem).suffix, path.suffix
    return path.suffix, ""


def shown(path: Path | str) -> str:
    """A path as text that can be written anywhere; bytes that are not UTF-8 appear as `\\xe9`."""
    # Python holds such bytes as lone surrogates, which no file and no terminal can encode.
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """Opens the decompressed bytes of a file. Raises UserError when it cannot be read or is damaged or truncated."""
    compression = format_of(path.name)[1]
    try:
        with path.open("rb") as file, BufferedReader(_decompressed(file, compression)) as stream:
            yield stream
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise _damaged(path, compression, error) from None
    except OSError as error:
        # The decompressors raise OSError without a number; errors of the operating system have one.
        if compression and error.errno is None:
            raise _damaged(path, compression, error) from None
        raise UserError(f"cannot read {shown(path)}: {error.strerror or error}") from error


def _decompressed(file: BufferedReader, compression: str) -> Any:
    if compression == ".gz":
        return gzip.GzipFile(fileobj=file)
    if compression == ".bz2":
        return bz2.BZ2File(file)
    if compression == ".xz":
        return lzma.LZMAFile(file)
    if compression == ".zst":
        return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")
    return file


def _damaged(path: Path, compression: str, error: Exception) -> UserError:
    reason = str(error).rstrip(".") or type(error).__name__
    return UserError(f"{shown(path)} is no whole {compression} file ({reason}); restore it, or decompress it yourself")


def lines(path: Path) -> Iterator[str]:
    """Yields the lines of a UTF-8 file, ending in `\\n`. Raises UserError naming the first byte that is not text."""
    # Splitting the bytes at 0x0A is safe: in UTF-8 that byte is never part of another character.
    with opened(path) as file:
        start = 0
        for raw in file:
            if start == 0 and raw.startswith(b"\xef\xbb\xbf"):
                start, raw = 3, raw[3:]
            line = _decoded(raw, path, start)
            start += len(raw)
            yield line[:-2] + "\n" if line.endswith("\r\n") else line


def _decoded(raw: bytes, path: Path, start: int) -> str:
    """Decodes the line `raw`, which begins at byte `start`. Raises UserError, naming the offset, if it is not UTF-8."""
    if start == 0 and raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(
            f"{shown(path)} is not UTF-8: its byte order mark at offset 0 says UTF-16; "
            "convert it, `iconv -f utf-16 -t utf-8`"
        )
    if (at := raw.find(0)) >= 0:
        raise UserError(f"{shown(path)} is binary: zero byte at offset {start + at}; text must be UTF-8")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{shown(path)} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {start + error.start}; "
            f"convert it, e.g. `iconv -f latin1 -t utf-8`, or choose another file"
        ) from None
