"""An SAE that is used from its files, without holding all of it: weights are mapped, and read latent by latent.

Place on the path: a saved SAE of several slices (slices.py) → **codes and reconstructions**. Encoding
walks over the dictionary in blocks of latents and keeps what is selected so far; decoding reads the rows of the latents
that are active. Memory: a block of W_enc and its pre-activations, and the codes.
Limits: our own layout; TopK, BatchTopK and JumpReLU. An SAE of one file stores W_enc by inputs, and is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosemy.errors import UserError
from monosemy.kernels import dispatch
from monosemy.kernels.reference import Pattern, rows_of
from monosemy.latents import SparseLatents
from monosemy.saes.base import check_input
from monosemy.saes.formats import own
from monosemy.saes.slices import ENCODER_ROWS, is_sliced, read_slices
from monosemy.shapes import Activations, PerEntry
from monosemy.support.tensor_rows import stored_tensors

BLOCK_LATENTS = 16_384
"""Latents whose weights and pre-activations are held at a time."""


class _File(NamedTuple):
    """The mapped tensors of one slice."""

    start: int
    tensors: dict[str, np.memmap]


class WideSae:
    """A saved SAE opened in place. `folder` is that of its config.json.

    Raises UserError when the folder holds no SAE in slices, or one of another architecture or number format.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder).expanduser()
        self.config = own.config(folder)
        if not is_sliced(folder):
            raise UserError(f"{folder} holds an SAE in one file, not in slices; open it with load_sae")
        if self.config.architecture not in ("topk", "batch_topk", "jumprelu"):
            raise UserError(f"{self.config.architecture} cannot be used in place; open it with load_sae")
        self._files = [_File(part.start, _mapped(folder / part.file)) for part in read_slices(folder, self.config)]
        self.b_dec = torch.from_numpy(np.array(self._files[0].tensors["b_dec"]))

    @property
    def d_in(self) -> int:
        return self.config.d_in

    @property
    def d_sae(self) -> int:
        return self.config.d_sae

    @torch.no_grad()
    def encode(self, x: Activations) -> SparseLatents:
        """The code of raw activations x [N, d_in], as `load_sae(folder).encode(x)` gives it. Raises UserError."""
        check_input(x, self.d_in)
        centred, k = x - self.b_dec, round(self.config.l0)
        pattern, values = None, centred.new_zeros(0)
        for start, W_enc, b_enc, threshold in self._blocks():
            if threshold is None:
                block, block_values = dispatch.encode_topk(centred, W_enc, b_enc, k)
            else:
                block, block_values = dispatch.encode_above(centred, W_enc, b_enc, threshold.clamp_min(0))
            block = Pattern(block.offsets, block.indices + start)
            pattern, values = (
                (block, block_values) if pattern is None else _joined(pattern, values, block, block_values)
            )
            if threshold is None:
                pattern, values = _largest(pattern, values, k)
        assert pattern is not None
        return SparseLatents(pattern.offsets, pattern.indices, values, self.d_sae)

    @torch.no_grad()
    def decode(self, latents: SparseLatents) -> Activations:
        """x̂ [N, d_in] of a code, from the decoder rows of its active latents. Raises UserError for another width."""
        if latents.d_sae != self.d_sae:
            raise UserError(f"the code has {latents.d_sae} latents but this SAE has {self.d_sae}")
        active, places = latents.indices.unique(return_inverse=True)
        pattern = Pattern(latents.offsets, places.to(torch.int32))
        return dispatch.decode(pattern, latents.values, self.decoder_rows(active), self.b_dec)

    def __call__(self, x: Activations) -> Activations:
        return self.decode(self.encode(x))

    def decoder_rows(self, latents: Int[Tensor, " r"]) -> Float[Tensor, "r d_in"]:
        """W_dec's rows of these latents."""
        return self._rows("W_dec", latents)

    def encoder_rows(self, latents: Int[Tensor, " r"]) -> Float[Tensor, "r d_in"]:
        """W_enc's columns of these latents, as rows."""
        return self._rows(ENCODER_ROWS, latents)

    def _rows(self, name: str, latents: Tensor) -> Tensor:
        numbers = latents.long().numpy()
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < self.d_sae:
            raise UserError(f"latents are numbered 0 to {self.d_sae - 1}, got {numbers.min()} to {numbers.max()}")
        rows = torch.empty(len(numbers), self.d_in)
        for start, tensors in self._files:
            here = np.flatnonzero((numbers >= start) & (numbers < start + len(tensors[name])))
            rows[here] = torch.from_numpy(tensors[name][numbers[here] - start])
        return rows

    def _blocks(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor | None]]:
        """(first latent, W_enc, b_enc, thresholds or None) of a block of latents at a time."""
        for first, tensors in self._files:
            rows = tensors[ENCODER_ROWS]
            for start in range(0, len(rows), BLOCK_LATENTS):
                block = slice(start, start + BLOCK_LATENTS)
                W_enc, b_enc = (torch.from_numpy(np.array(tensors[name][block])) for name in (ENCODER_ROWS, "b_enc"))
                yield first + start, W_enc.T, b_enc, self._thresholds(tensors, block, len(b_enc))

    def _thresholds(self, tensors: dict[str, np.memmap], block: slice, n: int) -> Tensor | None:
        if self.config.architecture == "topk":
            return None
        if self.config.architecture == "batch_topk":
            return torch.from_numpy(np.array(self._files[0].tensors["threshold"])).expand(n)
        return torch.from_numpy(np.array(tensors["threshold"][block]))


def _mapped(path: Path) -> dict[str, np.memmap]:
    try:
        places = stored_tensors(path)
        return {
            name: np.memmap(path, np.float32, "r", place.start, shape=place.shape)
            for name, place in places.items()
            if place.dtype == "F32"
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}); restore the SAE's folder") from None


def _joined(a: Pattern, a_values: PerEntry, b: Pattern, b_values: PerEntry) -> tuple[Pattern, PerEntry]:
    """Two patterns over the same rows as one; a's entries come first in each row."""
    order = torch.cat([rows_of(a), rows_of(b)]).argsort(stable=True)
    indices, values = torch.cat([a.indices, b.indices]), torch.cat([a_values, b_values])
    return Pattern(a.offsets + b.offsets, indices[order]), values[order]


def _largest(pattern: Pattern, values: PerEntry, k: int) -> tuple[Pattern, PerEntry]:
    """The k largest entries of each row; ties go to the lower index, which comes first."""
    counts = pattern.offsets.diff()
    if int(counts.max()) <= k:
        return pattern, values
    rows = rows_of(pattern)
    places = torch.arange(len(values), device=values.device) - pattern.offsets[rows]
    padded = values.new_zeros(len(counts), int(counts.max()))
    padded[rows, places] = values
    largest = dispatch.select_topk(padded, k)
    entries = pattern.offsets[rows_of(largest)] + largest.indices.long()
    return Pattern(largest.offsets, pattern.indices[entries]), values[entries]
