"""Reads tensors out of strangers' files: safetensors, NumPy's .npz and torch's .pt, in blocks and without running code.

Place on the path: a file → [named tensors that are still in it] → a layout names, turns and places them → an SAE.
Headers, types, shapes and lengths are checked before anything of that size is allocated, and a tensor is read block by
block into the place where it is needed, so that opening an SAE takes little more memory than the SAE itself.

Never unpickled: an .npz is read with pickles refused; of a .pt only tensors and plain values are read
(`torch.load(weights_only=True)`), and only from torch's zip form, whose sizes can be checked first. Limits: real
floating-point numbers of 16, 32 and 64 bits, and whole numbers for what is counted (k, group sizes); NaN and infinity
are refused.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from monosemy.errors import UserError
from monosemy.support.numbers import count_text
from monosemy.support.pages import forget_mapped
from monosemy.support.visible import visible

_BLOCK_BYTES = 1 << 23
_HEADER_BYTES = 1 << 24
"""The longest header or settings file that is read: hundreds of times what an SAE's has."""
_YAML_BYTES = 1 << 16
"""The longest YAML file of settings: it is parsed hundreds of times slower than JSON."""
_YAML_DEPTH = 16
"""The most groups within each other there: time to parse grows with the square of it."""
_MOST_CHARACTERS = 80
_COMPRESSION = 50
"""The most that a file may grow when it is unpacked. Weights hardly shrink; what grows more is made to fill memory."""
_SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NUMPY_DTYPES = {
    "f8": torch.float64,
    "f4": torch.float32,
    "f2": torch.float16,
    "i8": torch.int64,
    "i4": torch.int32,
}

Blocks = Callable[[], Iterator[Tensor]]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is still in its file. `shape` is the one it will have; it is stored transposed if `transposed`."""

    name: str
    path: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    blocks: Blocks
    """Yields the stored tensor's rows in order, as blocks [rows, …]; a scalar or vector comes as one block.

    A block is gone when the next is taken: all are read into the same memory.
    """
    transposed: bool = False

    @property
    def T(self) -> StoredTensor:
        """The transpose of a matrix, which costs nothing until it is read."""
        return replace(self, shape=self.shape[::-1], transposed=not self.transposed)

    def row_lengths(self) -> Tensor:
        """The lengths of a matrix's rows, in float32."""
        blocks = (block.float() for block in self.blocks())
        if not self.transposed:
            return torch.cat([block.norm(dim=1) for block in blocks])
        squares = torch.zeros(self.shape[0], dtype=torch.float64)
        for block in blocks:
            squares += block.square().sum(0, dtype=torch.float64)
        return squares.sqrt().float()

    def rows_times(self, factors: Tensor) -> StoredTensor:
        """A matrix [n, d] whose rows are multiplied by factors [n], or all by one [1], as it is read; in float32."""

        def blocks() -> Iterator[Tensor]:
            position = 0
            for block in self.blocks():
                # In small pieces: each product takes memory beside the block.
                for piece in block.split(max(1, len(block) // 8)):
                    if self.transposed:
                        yield piece.float() * factors
                    else:
                        yield piece.float() * factors.expand(self.shape[0])[position : position + len(piece), None]
                    position += len(piece)

        return replace(self, dtype=torch.float32, blocks=blocks)

    def read(self) -> Tensor:
        """The tensor in memory, with its own type. Raises UserError when the file is damaged or holds a NaN."""
        tensor = torch.empty(self.shape, dtype=self.dtype)
        self.copy_into(tensor)
        return tensor

    def copy_into(self, target: Tensor) -> None:
        """Copies the tensor into one of the same shape and any type. Raises UserError as `read`."""
        assert tuple(target.shape) == self.shape
        rows = target.T if self.transposed else target
        turned: Tensor | None = None
        position = 0
        for block in self.blocks():
            if not _usable(block, infinity="threshold" in self.name):
                raise UserError(
                    f"tensor {self.name} of {self.path} holds NaN or infinity, so that no SAE can be made of it"
                )
            if block.dim() == 0:
                rows.copy_(block)
                return
            place = rows[position : position + len(block)]
            if block.dim() == 2 and place.stride(0) == 1 and place.stride(1) > 1:
                # Rows into columns: by way of a small transpose, which takes a third less time than at once.
                if turned is None or turned.shape != block.T.shape:
                    turned = torch.empty(block.T.shape, dtype=target.dtype)
                place.T.copy_(turned.copy_(block.T))
            else:
                place.copy_(block)
            position += len(block)
        if target.dim() and position != len(rows):
            raise UserError(f"{self.path} is cut off within tensor {self.name}; download or copy it again")


def _usable(block: Tensor, *, infinity: bool) -> bool:
    """Whether a block has no NaN, and no infinity unless it may: an infinite threshold switches a latent off."""
    # The sum tells in a tenth of the time: NaN and infinity stay what they are in it. Large numbers may overflow, hence
    # the second look.
    if not block.is_floating_point() or math.isfinite(float(block.sum())):
        return True
    return not bool((block.isnan() if infinity else ~block.isfinite()).any())


def in_memory(name: str, path: Path, tensor: Tensor) -> StoredTensor:
    """A tensor that is in memory already, as one of a file."""
    return StoredTensor(name, path, tuple(tensor.shape), tensor.dtype, blocks=lambda: iter([tensor]))


def mapped(name: str, path: Path, tensor: Tensor) -> StoredTensor:
    """A tensor of a file that is mapped into memory, given in blocks whose memory is handed back after each."""
    if tensor.dim() < 2 or not tensor.is_contiguous():
        return in_memory(name, path, tensor)

    def blocks() -> Iterator[Tensor]:
        row_bytes = max(1, tensor[:1].numel() * tensor.element_size())
        for block in tensor.split(max(1, _BLOCK_BYTES // row_bytes)):
            yield block
            forget_mapped(block)

    return StoredTensor(name, path, tuple(tensor.shape), tensor.dtype, blocks=blocks)


def read_settings(path: Path) -> dict[str, Any]:
    """Reads a JSON file of settings. Raises UserError when it is missing, far too large, or not a JSON object."""
    text = _settings_text(path)
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({_line(error)}); download or copy it again") from None
    if not isinstance(settings, dict):
        raise UserError(f"{path} holds {type(settings).__name__} instead of an object of named settings")
    return settings


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file of settings, plain values only. Raises UserError as `read_settings`, and for aliases.

    Aliases let a few lines stand for more values than any memory holds; no file of settings needs them.
    """
    import yaml

    text = _settings_text(path, limit=_YAML_BYTES)
    try:
        depth = 0
        for event in yaml.parse(text):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise UserError(
                    f"{path} has YAML anchors or aliases (&a, *a), which are not read; write the values out"
                )
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _YAML_DEPTH:
                raise UserError(f"{path} has groups within groups, {depth} deep, which no file of settings has")
        settings = yaml.safe_load(text)
        if isinstance(settings, dict):
            return {str(key): value for key, value in settings.items()}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not valid YAML ({_line(error)}); download or copy it again") from None
    raise UserError(f"{path} holds {type(settings).__name__} instead of named settings")


def _settings_text(path: Path, *, limit: int = _HEADER_BYTES) -> str:
    try:
        if path.stat().st_size > limit:
            raise UserError(f"{path} is too large for a file of settings ({count_text(path.stat().st_size)} bytes)")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({_line(error)})") from None


def read_file(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file, by its suffix. Raises UserError when it is none of these kinds or is damaged."""
    readers = {".safetensors": read_safetensors, ".npz": read_npz, ".pt": read_torch, ".pth": read_torch}
    reader = readers.get(path.suffix)
    if reader is None:
        raise UserError(f"{path} is no file of weights that is read here; it must end with {', '.join(readers)}")
    if not path.is_file():
        raise UserError(f"{path} does not exist or is not a file")
    try:
        return reader(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({_line(error)})") from None


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file. Raises UserError when its header does not describe exactly this file."""
    header, start, size = _safetensors_header(path)
    tensors: dict[str, StoredTensor] = {}
    spans = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape = _SAFETENSORS_DTYPES[entry["dtype"]], tuple(entry["shape"])
            begin, end = entry["data_offsets"]
        except (KeyError, TypeError, ValueError):
            raise UserError(f"tensor {shown(name)} of {path} is not described as one of {_type_names()} is") from None
        if not all(_is_count(value) for value in (*shape, begin, end)):
            raise UserError(f"tensor {shown(name)} of {path} has a shape or place that is not of whole numbers")
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise UserError(f"tensor {shown(name)} of {path} has shape {shown(shape)} but {end - begin} bytes")
        spans.append((begin, end))
        offset = start + begin
        tensors[name] = StoredTensor(name, path, shape, dtype, blocks=_file_blocks(path, offset, shape, dtype))
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise UserError(f"the tensors of {path} overlap or leave gaps; download or copy it again")
        position = end
    if position != size - start:
        raise UserError(
            f"{path} has {count_text(size - start)} bytes of tensors but its header describes "
            f"{count_text(position)}: it is cut off or damaged; download or copy it again"
        )
    return tensors


def _safetensors_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """(header, where the tensors start, size of the file)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _HEADER_BYTES):
            raise UserError(f"{path} is not a safetensors file, or is cut off; download or copy it again")
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise UserError(f"{path} is not a safetensors file: its header is no JSON object; download or copy it again")
    return header, 8 + length, size


def _file_blocks(path: Path, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> Blocks:
    """Blocks of a tensor that lies uncompressed in a file, from byte `offset` on."""

    def blocks() -> Iterator[Tensor]:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            yield from _stream_blocks(file, path, shape, dtype)

    return blocks


def _stream_blocks(
    file: io.RawIOBase | IO[bytes], path: Path, shape: tuple[int, ...], dtype: torch.dtype
) -> Iterator[Tensor]:
    """Blocks of a tensor whose bytes come next in `file`, all in the same memory."""
    n_rows = shape[0] if len(shape) > 1 else 1
    row_shape = shape[1:] if len(shape) > 1 else shape
    row_bytes = math.prod(row_shape) * dtype.itemsize
    step = min(n_rows, max(1, _BLOCK_BYTES // max(1, row_bytes)))
    buffer = torch.empty((step, *row_shape), dtype=dtype)
    for first in range(0, n_rows, step):
        block = buffer[: min(step, n_rows - first)]
        view = memoryview(block.view(-1).view(torch.uint8).numpy()) if block.numel() else memoryview(b"")  # type: ignore[arg-type]
        done = 0
        while done < len(view):
            n_read = file.readinto(view[done:])  # type: ignore[union-attr]
            if not n_read:
                raise UserError(f"{path} is cut off; download or copy it again")
            done += n_read
        yield block if len(shape) > 1 else block[0]


def read_npz(path: Path) -> dict[str, StoredTensor]:
    """The arrays of an .npz file. Raises UserError for pickled objects, other types, and headers that do not fit."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_growth(path, archive)
            return {
                entry.filename.removesuffix(".npy"): _npz_entry(path, archive, entry)
                for entry in archive.infolist()
                if entry.filename.endswith(".npy")
            }
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not a NumPy .npz file ({_line(error)}); download or copy it again") from None


def _npz_entry(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> StoredTensor:
    name = shown(entry.filename.removesuffix(".npy"))[1:-1]
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read_header:
            raise UserError(f"array {name} of {path} has the unknown version {version}")
        try:
            shape, fortran, dtype = read_header[version](file)
        except ValueError:
            raise UserError(f"array {name} of {path} has a damaged or far too long header; download it again") from None
        data_start = file.tell()
    torch_dtype = _NUMPY_DTYPES.get(dtype.str[1:]) if dtype.str[0] in "<|" and not dtype.hasobject else None
    if torch_dtype is None:
        raise UserError(f"array {name} of {path} holds {shown(dtype.str)}, but weights are of {_type_names()}")
    if math.prod(shape) * torch_dtype.itemsize != entry.file_size - data_start:
        raise UserError(f"array {name} of {path} has shape {shown(shape)} but {entry.file_size - data_start} bytes")
    stored_shape = tuple(shape[::-1]) if fortran else tuple(shape)

    def blocks() -> Iterator[Tensor]:
        try:
            with zipfile.ZipFile(path) as opened, opened.open(entry.filename) as file:
                file.read(data_start)
                yield from _stream_blocks(file, path, stored_shape, torch_dtype)
        except (zipfile.BadZipFile, OSError, EOFError, RuntimeError) as error:
            raise UserError(f"array {name} of {path} cannot be read ({_line(error)})") from None

    stored = StoredTensor(name, path, stored_shape, torch_dtype, blocks=blocks)
    return stored.T if fortran else stored


def read_torch(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a .pt file's dictionary, and its whole numbers as scalars. Raises UserError for anything else."""
    values = read_torch_values(path)
    return {name: mapped(name, path, value) for name, value in values.items() if isinstance(value, Tensor)}


def read_torch_values(path: Path) -> dict[str, Any]:
    """The dictionary of a .pt file: tensors, numbers, texts and dictionaries of them; whole numbers become tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_growth(path, archive)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path} is not a torch file in zip form ({_line(error)}), the only one that can be read safely; "
            "save it again with a current torch"
        ) from None
    try:
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged or hostile pickle may raise anything
        raise _unsafe(path, error) from None
    if not isinstance(values, Mapping):
        raise UserError(f"{path} holds {type(values).__name__} instead of named tensors")
    read: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Tensor):
            _check_tensor(path, shown(str(name))[1:-1], value)
            value = value.detach()
        elif isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
            value = torch.tensor(value)
        read[str(name)] = value
    return read


def _unsafe(path: Path, error: Exception) -> UserError:
    """The refusal of a file that torch does not read safely. Torch's own text advises to open it unsafely."""
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    if named:
        return UserError(
            f"{path} names {shown(named[1])}, which could run code when it is opened; only tensors and plain values "
            "are read: ask for a file of tensors alone, such as safetensors"
        )
    return UserError(f"{path} is damaged, or holds more than tensors, which could run code when it is opened")


def _check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    """Refuses what is not a plain tensor with all its numbers in the file."""
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided and not tensor.is_quantized
    if not plain or tensor.device.type != "cpu" or tensor.dtype not in _SAFETENSORS_DTYPES.values():
        raise UserError(f"tensor {name} of {path} is not a plain tensor of {_type_names()}")
    # A stride of zero makes a tensor of any size out of a few bytes.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UserError(f"tensor {name} of {path} claims to have more numbers than the file holds")


def _check_growth(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuses an archive that would grow far beyond its own size."""
    unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > _COMPRESSION * path.stat().st_size + _HEADER_BYTES:
        raise UserError(
            f"{path} would grow to {count_text(unpacked)} bytes when unpacked, which no file of weights does"
        )


def shown(value: object) -> str:
    """A value of a stranger's file for a message: on one line, every character visible, cut to 80 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, groups within groups
        return f"a {type(value).__name__} of enormous size"
    return visible(text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…")


def shown_names(names: Iterable[object], *, n_most: int = 8) -> str:
    """The first names of several, each as `shown` gives it, without quotes; `nothing` where there are none."""
    return ", ".join(shown(str(name))[1:].rstrip("'\"") for name in islice(names, n_most)) or "nothing"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**60


def _type_names() -> str:
    return "float64, float32, float16, bfloat16 or whole numbers"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
