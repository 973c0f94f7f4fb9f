"""An SAE whose weights lie in several files, each with the latents of one slice; written by the ranks that trained it.

Place on the path: sharded training → **slices** → `load_sae`, which reads them as one SAE where that fits into memory,
or `saes.wide`, which opens them in place. In the folder, beside config.json:

    sae.safetensors.index.json    {"format": "monosemy-sae-slices", "files": [{"file", "start", "stop", "sha256"}, …]}
    sae-<number>-of-<n>.safetensors    W_enc_rows [n, d_in], W_dec [n, d_out], b_enc [n], …; the first also what is not
                                       of a latent, such as b_dec

W_enc is stored latent by latent, so that a latent's weights are consecutive in both matrices and can be mapped.
config.json holds the hash of the index, as it holds that of sae.safetensors where there is one file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor

from monosemy.errors import UserError
from monosemy.layout import SaeFiles
from monosemy.saes.base import SaeConfig
from monosemy.saes.config_file import read_weights_sha256, write_config_file
from monosemy.saes.formats.stored import StoredTensor, read_file
from monosemy.support import files
from monosemy.support.tensors import save_tensors

FORMAT = "monosemy-sae-slices"
ENCODER_ROWS = "W_enc_rows"
"""W_enc's transpose."""


@dataclass(frozen=True)
class Slice:
    """The file with the latents `start` up to, but not including, `stop`."""

    file: str
    start: int
    stop: int
    sha256: str


def write_slice(folder: Path, number: int, n_slices: int, tensors: Mapping[str, Tensor], *, start: int) -> Slice:
    """Writes the weights of a slice, W_enc [d_in, n] among them. Raises UserError when they cannot be written."""
    path = SaeFiles(folder).slice_weights(number, n_slices)
    stored = {ENCODER_ROWS if name == "W_enc" else name: t.T if name == "W_enc" else t for name, t in tensors.items()}
    with files.atomic_path(path) as temporary:
        save_tensors(temporary, stored)
        digest = files.sha256(temporary)
    return Slice(path.name, start, start + len(tensors["W_dec"]), digest)


def write_index(folder: Path, slices: Sequence[Slice], described: Mapping[str, object]) -> None:
    """Makes the folder an SAE, once all its slices are written; `described` is its SaeConfig as JSON."""
    index = SaeFiles(folder).slices
    files.write_json(index, {"format": FORMAT, "files": [asdict(part) for part in slices]})
    write_config_file(folder, described, files.sha256(index))


def of_latents(name: str, tensor: Tensor | StoredTensor) -> bool:
    """Whether each slice has its own part of a tensor; all others are in the first."""
    return name != "b_dec" and len(tensor.shape) > 0


def is_sliced(folder: Path) -> bool:
    """Whether the weights are those of the slices; while these are made into one file, config.json says which count."""
    sae = SaeFiles(folder)
    if not sae.slices.exists() or not sae.weights.exists():
        return sae.slices.exists()
    return files.sha256(sae.slices) == read_weights_sha256(folder)


def remove_slices(folder: Path) -> None:
    """Removes the slices of an SAE that has been written as one file too."""
    sae = SaeFiles(folder)
    sae.slices.unlink(missing_ok=True)
    for path in folder.glob(sae.slice_weights(0, 1).name.replace("00001", "?????")):
        path.unlink()


def read_slices(folder: Path, config: SaeConfig) -> list[Slice]:
    """The slices of an SAE, in order. Raises UserError when the index is damaged, or a file is missing."""
    index, fix = SaeFiles(folder).slices, f"restore it, or delete {folder} and train again"
    if files.sha256(index) != read_weights_sha256(folder):
        raise UserError(f"{index} is damaged (its SHA-256 is not the one in config.json); {fix}")
    try:
        slices = [Slice(**entry) for entry in files.read_json(index)["files"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{index} does not list slices of an SAE ({error}); {fix}") from None
    ends = [0, *(part.stop for part in slices)]
    if [part.start for part in slices] != ends[:-1] or ends[-1] != config.d_sae:
        raise UserError(f"{index} does not list all of {config.d_sae} latents once; {fix}")
    for part in slices:
        if "/" in part.file or not (folder / part.file).is_file():
            raise UserError(f"{folder / part.file} is missing; {fix}")
    return slices


def sliced_tensors(folder: Path, config: SaeConfig) -> dict[str, StoredTensor]:
    """The weights of the whole SAE, still in their files. Raises UserError as `read_slices`, and for damaged files."""
    parts = []
    for part in read_slices(folder, config):
        path = folder / part.file
        if files.sha256(path) != part.sha256:
            raise UserError(f"{path} is damaged (its SHA-256 is not the one in the index); restore it")
        parts.append(read_file(path))
    whole = {}
    for name, first in parts[0].items():
        joined = _joined([part[name] for part in parts]) if of_latents(name, first) else first
        whole["W_enc" if name == ENCODER_ROWS else name] = joined.T if name == ENCODER_ROWS else joined
    return whole


def _joined(parts: Sequence[StoredTensor]) -> StoredTensor:
    def blocks() -> Iterator[Tensor]:
        for part in parts:
            yield from part.blocks()

    n_rows = sum(part.shape[0] for part in parts)
    return replace(parts[0], shape=(n_rows, *parts[0].shape[1:]), blocks=blocks)
