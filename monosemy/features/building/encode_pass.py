"""Encodes the text with all SAEs in one pass; the codes are appended to files shard by shard, resumable at any byte.

Place on the path: activation rows of a site → [codes of every token, mean hidden state of every window] → `by_latent`.

The work folder holds flat binary files that only ever grow:
    progress.json                    what it depends on, sequences done, length of every file at that point
    kept.bin                         bool [tokens]: positions that were encoded
    <site>/hidden.bin                float16 [windows, d]: mean of the kept rows of each window, divided by the scale
    <site>/<name>/counts.bin         int32 [tokens]: stored entries of each token (0 where the position was dropped)
    <site>/<name>/indices.bin        int32 [entries]: latents, tokens in order
    <site>/<name>/values.bin         float32 [entries]: activations, all above zero
A shard is appended and flushed to the device before progress.json is renamed into place. After a kill, the next pass
truncates the files to the lengths in progress.json and continues, so the bytes do not depend on kills. A pass for some
of the SAEs of an earlier pass reuses their codes.

Cost: (4 + 8·L0) bytes per token and SAE on disk, freed when the databases are written; memory of one shard.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Float16, Float32, Int32, Int64, Shaped
from numpy import ndarray

from monosemy.errors import UserError
from monosemy.support import files

if TYPE_CHECKING:
    from torch import Tensor

    from monosemy.saes.base import SparseAutoencoder

SHARD_SEQUENCES = 64
_ENCODE_ROWS = 4096
Key = tuple[str, str]
"""(site, SAE name)."""


@dataclass(frozen=True)
class ShardRows:
    """Activations at the kept positions of consecutive sequences; row i is the same token at every site."""

    activations: Mapping[str, Float[Tensor, "n _"]]
    """Site → rows in raw units."""
    token: Int64[ndarray, " n"]
    """Increasing: sequence · T + position."""


@dataclass(frozen=True)
class Codes:
    """The codes of all tokens of the pass as compressed rows, like `SparseLatents`; indices and values are mapped."""

    offsets: Int64[ndarray, " n_plus_1"]
    """Token n has entries offsets[n]:offsets[n+1]."""
    indices: Int32[ndarray, " z"]
    """The latents of every token, token after token."""
    values: Float32[ndarray, " z"]
    """Their activations, all above zero."""
    d_sae: int

    @property
    def n_tokens(self) -> int:
        return len(self.offsets) - 1


class EncodePass:
    """The files of one pass, which grow shard by shard.

    `identity` describes what each SAE's codes depend on (text, activations, weights). Files with another identity are
    discarded. `scale` holds the number by which each site's hidden means are divided. Raises UserError when the folder
    cannot be written to.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[Key, str],
        saes: Mapping[Key, SparseAutoencoder],
        scale: Mapping[str, float],
        *,
        n_sequences: int,
        context_length: int,
        window: int,
    ) -> None:
        if context_length % window:
            raise ValueError(f"window {window} does not divide the context of {context_length} tokens")
        self.folder, self.saes, self.scale = folder, saes, scale
        self.identity: dict[str, Any] = {
            "saes": {"/".join(key): identity[key] for key in saes},
            "text": [n_sequences, context_length, window],
        }
        self.n_sequences, self.context_length, self.window = n_sequences, context_length, window
        self.n_sequences_done = 0
        """Sequences already on disk."""
        self._lengths = dict.fromkeys(self._names(), 0)
        self._resume()

    def run(
        self, read: Callable[[int, int], Iterable[ShardRows]], advance: Callable[[int], object] = lambda n: None
    ) -> None:
        """Encodes the sequences that are not on disk yet.

        `read(start, stop)` gives the kept rows of sequences start … stop − 1 in order. `advance` is called with the
        number of tokens of each finished shard.
        """
        for start in range(self.n_sequences_done, self.n_sequences, SHARD_SEQUENCES):
            stop = min(start + SHARD_SEQUENCES, self.n_sequences)
            self._append(start, stop, list(read(start, stop)))
            advance((stop - start) * self.context_length)

    def codes(self, key: Key) -> Codes:
        """The finished codes of one SAE."""
        folder = self._sae_folder(key)
        counts = np.fromfile(folder / "counts.bin", np.int32)
        offsets = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        return Codes(
            offsets,
            _mapped(folder / "indices.bin", np.int32),
            _mapped(folder / "values.bin", np.float32),
            self.saes[key].d_sae,
        )

    def encoded(self) -> Bool[ndarray, " token"]:
        """Whether each position was encoded."""
        return np.fromfile(self.folder / "kept.bin", bool)

    def hidden(self, site: str) -> Float16[ndarray, "window d_in"]:
        """Mean hidden state of each window divided by the site's scale; zeros where no row was kept."""
        flat = _mapped(self.folder / site / "hidden.bin", np.float16)
        return flat.reshape(self.n_sequences * self.context_length // self.window, -1)

    def _append(self, start: int, stop: int, parts: list[ShardRows]) -> None:
        """Encodes one shard and appends it to all files; progress is recorded once they are on disk."""
        # everything of the shard is computed before anything is written; token indices are relative to the shard
        first, n_tokens = start * self.context_length, (stop - start) * self.context_length
        new: dict[str, list[Shaped[ndarray, " ..."]]] = {name: [] for name in self._names()}
        token = np.concatenate([np.empty(0, np.int64), *(part.token for part in parts)]) - first
        encoded = np.zeros(n_tokens, bool)
        encoded[token] = True
        new["kept.bin"] = [encoded]
        for site in {site for site, _ in self.saes}:
            new[f"{site}/hidden.bin"] = [self._means(parts, token, site, n_tokens)]
        for (site, name), sae in self.saes.items():
            counts = np.zeros(n_tokens, np.int32)
            base = f"{site}/{name}"
            # dropped positions keep the count 0
            counts[token], new[f"{base}/indices.bin"], new[f"{base}/values.bin"] = encode_rows(
                sae, [part.activations[sae.source_site or site] for part in parts]
            )
            new[f"{base}/counts.bin"] = [counts]
        # data before progress: a kill in between leaves bytes that progress.json does not count, and resuming cuts them
        try:
            for name, arrays in new.items():
                with (self.folder / name).open("ab") as file:
                    for array in arrays:
                        file.write(np.ascontiguousarray(array).data)
                        self._lengths[name] += array.nbytes  # recorded by `_write_progress` once all files are flushed
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise files.explain_os_error(error, self.folder) from error
        self.n_sequences_done = stop
        self._write_progress()

    def _means(
        self, parts: list[ShardRows], token: Int64[ndarray, " n"], site: str, n_tokens: int
    ) -> Float16[ndarray, "window d_in"]:
        """The mean kept row of each window of a shard in units of the site's scale, float16 [windows, d]."""
        rows = np.concatenate([part.activations[site].float().cpu().numpy() for part in parts])
        n_windows = n_tokens // self.window
        sums = np.zeros((n_windows, rows.shape[1]), np.float32)
        windows = token // self.window
        # add.at, since a window repeats in `windows` and `sums[windows] += …` would keep only its last row
        np.add.at(sums, windows, rows / np.float32(self.scale[site]))
        counts = np.bincount(windows, minlength=n_windows).astype(np.float32)
        return (sums / np.maximum(counts, 1)[:, None]).astype(np.float16)

    def _names(self) -> list[str]:
        sites = [f"{site}/hidden.bin" for site in dict.fromkeys(site for site, _ in self.saes)]
        kinds = ("counts", "indices", "values")
        return ["kept.bin", *sites] + [f"{site}/{name}/{kind}.bin" for site, name in self.saes for kind in kinds]

    def _sae_folder(self, key: Key) -> Path:
        return self.folder / key[0] / key[1]

    def _resume(self) -> None:
        """Continues the files of an earlier pass that was the same, and starts over with empty ones otherwise."""
        path = self.folder / "progress.json"
        state: dict[str, Any] = {}
        if path.exists():
            try:
                state = files.read_json(path)
            except UserError:
                state = {}
        # −1: not recorded, as when a pass for other SAEs left the folder
        lengths = {name: state.get("lengths", {}).get(name, -1) for name in self._names()}
        paths = {name: self.folder / name for name in self._names()}
        # a file shorter than recorded was tampered with or lost: nothing of the pass can be trusted then
        if not self._continues(state) or any(_size(paths[name]) < n or n < 0 for name, n in lengths.items()):
            state, lengths = {"done": 0}, dict.fromkeys(self._names(), 0)
        self.n_sequences_done, self._lengths = state["done"], lengths
        try:
            for name, file in paths.items():
                file.parent.mkdir(parents=True, exist_ok=True)
                # cut off what was appended after the last progress.json
                file.touch()
                os.truncate(file, self._lengths[name])
        except OSError as error:
            raise files.explain_os_error(error, self.folder) from error
        self._write_progress()

    def _continues(self, state: Mapping[str, Any]) -> bool:
        """Whether recorded progress is of the same text and of at least the requested SAEs."""
        recorded = state.get("identity", {})
        requested = self.identity["saes"].items()
        # dict views compare as sets: every requested SAE is recorded with the same identity
        return recorded.get("text") == self.identity["text"] and requested <= recorded.get("saes", {}).items()

    def _write_progress(self) -> None:
        state = {"identity": self.identity, "done": self.n_sequences_done, "lengths": self._lengths}
        files.write_json(self.folder / "progress.json", state)


def encode_rows(
    sae: SparseAutoencoder, parts: list[Float[Tensor, "_ d_in"]]
) -> tuple[Int32[ndarray, " n"], list[Int32[ndarray, " _"]], list[Float32[ndarray, " _"]]]:
    """Encodes rows: the number of positive entries of each row, and parts of their latents and values.

    The parts, one for each batch of rows, hold the entries row after row.
    """
    import torch

    device = next(sae.parameters()).device
    counts, indices, values = [np.empty(0, np.int32)], [], []
    with torch.no_grad():
        for rows in parts:
            for x in rows.split(_ENCODE_ROWS):
                code = sae.encode(x.to(device, torch.float32))
                n_active, latents, activations = code.offsets.diff(), code.indices, code.values
                positive = activations > 0
                if not bool(positive.all()):  # stored zeros are rare, and dropping them costs a copy
                    n_active, latents, activations = code.n_active, latents[positive], activations[positive]
                counts.append(n_active.cpu().numpy().astype(np.int32))
                indices.append(latents.cpu().numpy().astype(np.int32))
                values.append(activations.float().cpu().numpy())
    return np.concatenate(counts), indices, values


def _mapped(path: Path, dtype: Any) -> Shaped[ndarray, " _"]:
    # an empty file cannot be mapped
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
