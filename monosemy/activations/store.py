"""Stores activations on disk: harvested once, kept in safetensors shards, memory-mapped and reused by later runs.

Place on the data's path: harvest.py -> [store] -> StoredStream (stream.py), feature database, probes.

A store is a folder:
    manifest.json                   identity, statistics, one entry per shard (bytes, SHA-256, rows, dropped counts)
    activations-00000.safetensors   the kept rows of a fixed range of sequences (shards.py)
The fingerprint of a store covers the model (hash and dtype), the tokens, the sites and their widths, the dtype on disk
and the drop rules. `build_store` reuses a folder with the same fingerprint and refuses one with another. It continues
an interrupted build shard by shard: a shard gets its name once it is complete and on disk, and only then its entry in
the manifest. Where a run has several processes (support/ranks.py), each harvests some of the shards, and the first one
puts all entries into the manifest at the end. No file holds a time or the name of a machine, so neither an interruption
nor the number of processes changes a byte.

Statistics, over all kept rows as stored, summed in float64: scale C = sqrt(E ||x||^2), mean = E x.

Cost: (sum of widths * bytes of dtype + 16) bytes a token. Reading 1,024 random rows of width 576 out of 300,000
(4 shards, in the page cache) takes about 0.4 ms on two cores. When a store is larger than main memory, each row of a
shuffled stream is a random read of one or two pages (about 0.1 ms on an SSD, 10 ms on a hard disk); prefer storage
"stream" then.
Limits: only one run may build a folder at a time. Opening a store reads every byte once to check the hashes;
`verify=False` checks the sizes only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from jaxtyping import Float32
from torch import Tensor

from monosemy.activations.harvest import (
    REASONS,
    ActivationModel,
    DropRules,
    SiteStatistics,
    Tokens,
    check_config,
    drop_rules,
    harvest_rows,
    measure_sites,
    resolve_sites,
)
from monosemy.activations.shards import DTYPES, LABEL_BYTES, ShardWriter, map_shard, verify_shards
from monosemy.config import ActivationsConfig, fingerprint
from monosemy.errors import UserError, unknown
from monosemy.support import estimates, files, progress, ranks
from monosemy.support.numbers import fixed_text

FORMAT = 1
KIND = "monosemy activations"
_ENTRIES = ".shard-*.json"
"""The entries of shards that several processes harvest, until the first process puts them into the manifest."""
_KEYS = {"complete", "fingerprint", "identity", "sequences_per_shard", "statistics", "rules", "shards"}


class ActivationStore:
    """A store's activation rows of several sites; row i is the same token at every site.

    Open one with `ActivationStore.open(folder)`, or get one from `build_store`.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        """For `open` and `build_store`: `manifest` must be complete and its shards checked."""
        self.folder = folder
        self.fingerprint: str = manifest["fingerprint"]
        self.dtype: str = manifest["identity"]["dtype"]
        self.rules = DropRules.from_json(manifest["rules"])
        self.statistics = {site: SiteStatistics(**values) for site, values in manifest["statistics"].items()}
        self.n_rows: int = manifest["n_rows"]
        self.n_sequences: int = manifest["identity"]["n_sequences"]
        self.scale: dict[str, float] = manifest["scale"]
        """C = sqrt(E ||x||^2) by site, in raw units."""
        self._widths: dict[str, int] = manifest["identity"]["sites"]
        self.sites = tuple(self._widths)
        self._shards = [map_shard(folder / entry["file"]) for entry in manifest["shards"]]
        self._starts = np.cumsum([0] + [entry["n_rows"] for entry in manifest["shards"]])
        self.mean = {site: self._mean(site) for site in self.sites}
        """E x by site: float32 [d], in raw units."""
        self.record: dict[str, Any] = {
            key: value for key, value in manifest.items() if key not in ("shards", "kind", "complete")
        }
        """Where the rows come from and what was dropped, as JSON values, for the record of a run."""

    @staticmethod
    def open(folder: Path, *, expected: str | None = None, verify: bool = True) -> ActivationStore:
        """Opens a complete store.

        `expected` is the fingerprint that it must have. `verify` hashes every shard; sizes are always checked. Raises
        UserError when the folder is not a store, is unfinished or has another fingerprint, and when a shard is missing,
        truncated or corrupted.
        """
        manifest = _read_manifest(folder)
        if expected is not None and manifest["fingerprint"] != expected:
            raise UserError(
                f"{folder} has fingerprint {manifest['fingerprint']}, not {expected}; choose its own folder"
            )
        if not manifest["complete"]:
            raise UserError(f"{folder} is unfinished (its building was interrupted); run the same command again")
        verify_shards(folder, manifest["shards"], hashes=verify)
        return ActivationStore(folder, manifest)

    def width(self, site: str) -> int:
        """The width d of a site's rows. Raises UserError for a site that the store does not hold."""
        if site not in self._widths:
            raise unknown("site of this store", site, self.sites)
        return self._widths[site]

    def rows(self, site: str, indices: np.ndarray | slice) -> Float32[Tensor, "n d_in"]:
        """The rows of a site in raw units, in the order of `indices` (an int array or a slice).

        Raises IndexError for a row number outside 0 to n_rows - 1, UserError for a site that the store does not hold.
        """
        width = self.width(site)
        if isinstance(indices, slice):
            start, stop, step = indices.indices(self.n_rows)
            # Consecutive rows are copied as ranges of the shards, without an array of their numbers.
            if step == 1:
                parts = [self._shards[k][site][a:b] for k, a, b in self._ranges(start, stop)]
                return torch.cat([torch.empty(0, width), *(part.float() for part in parts)])
            indices = np.arange(start, stop, step)
        out = torch.empty(len(indices), width)
        for k, places, local in self._grouped(np.asarray(indices)):
            out[torch.from_numpy(places)] = self._shards[k][site].index_select(0, torch.from_numpy(local)).float()
        return out

    @cached_property
    def token_ids(self) -> np.ndarray:
        """Token id of every row, int32 [n_rows]. Read into memory at first use, like the next three arrays."""
        return self._labels("token_ids")

    @cached_property
    def sequences(self) -> np.ndarray:
        """Number of every row's sequence in the token shards, int32 [n_rows]."""
        return self._labels("sequence")

    @cached_property
    def positions(self) -> np.ndarray:
        """Position of every row in its sequence, int32 [n_rows]."""
        return self._labels("position")

    @cached_property
    def documents(self) -> np.ndarray:
        """Number of every row's document, int32 [n_rows]."""
        return self._labels("document")

    def _labels(self, name: str) -> np.ndarray:
        return np.concatenate([shard[name].numpy() for shard in self._shards])

    def _ranges(self, start: int, stop: int) -> Iterable[tuple[int, int, int]]:
        """(shard, first row, row after the last) for each shard that overlaps rows `start` to `stop`."""
        for k, (first, last) in enumerate(zip(self._starts, self._starts[1:])):
            if start < last and stop > first:
                yield k, max(start, int(first)) - int(first), min(stop, int(last)) - int(first)

    def _grouped(self, indices: np.ndarray) -> Iterable[tuple[int, np.ndarray, np.ndarray]]:
        """(shard, places in the output, row numbers within the shard) for each shard that holds any of the rows."""
        if len(indices) and not 0 <= indices.min() <= indices.max() < self.n_rows:
            raise IndexError(f"row numbers must be from 0 to {self.n_rows - 1}")
        shard_of = np.searchsorted(self._starts, indices, side="right") - 1
        # Sorting the places by shard makes those of one shard adjacent; they are then cut where the shard changes.
        order = np.argsort(shard_of, kind="stable")
        touched, begins = np.unique(shard_of[order], return_index=True)
        for k, places in zip(touched, np.split(order, begins[1:])):
            yield int(k), places, indices[places] - self._starts[k]

    def _mean(self, site: str) -> Float32[Tensor, " d_in"]:
        total = torch.zeros(self.width(site), dtype=torch.float64)
        for shard in self._shards:
            total += shard[f"sum/{site}"]
        return (total / self.n_rows).float()


def store_identity(
    model: ActivationModel, shards: Tokens, sites: Sequence[str], config: ActivationsConfig
) -> dict[str, Any]:
    """Everything that a store's rows depend on, as JSON values; its fingerprint says whether a store can be reused."""
    names = resolve_sites(model, sites)
    return {
        "format": FORMAT,
        "model": model.fingerprint,
        "model_dtype": str(model.dtype).removeprefix("torch."),
        "tokens": shards.fingerprint,
        "n_sequences": shards.n_sequences,
        "context_length": shards.context_length,
        "sites": {site: model.site_width(site) for site in names},
        "dtype": config.dtype,
        "drop_first_positions": config.drop_first_positions,
        "special_token_ids": sorted(model.special_token_ids) if config.drop_special_tokens else [],
        "outlier_multiple": config.outlier_multiple,
    }


def default_folder(identity: dict[str, Any]) -> Path:
    """The folder in the cache where a store of this identity is kept, unless another folder is named."""
    return files.cache_folder() / "activations" / fingerprint(identity)


def build_store(
    model: ActivationModel,
    shards: Tokens,
    sites: Sequence[str],
    config: ActivationsConfig,
    *,
    folder: Path | None = None,
    shard_bytes: int | None = None,
    first_tokens: int | None = None,
) -> ActivationStore:
    """Builds the store of these activations, continues an interrupted build of it, or opens it when it is complete.

    `folder` defaults to one in the cache named by the fingerprint. `shard_bytes` is the approximate size of a shard; by
    default it is 16 MiB to 1 GiB, depending on the size of the store. With `first_tokens`, only the whole shards at the
    start that come nearest to so many tokens, at least one, are harvested and opened (`n_sequences` of the result says
    how many sequences they hold); a later call without it goes on from there, to the same files.
    Raises UserError for a folder of another configuration, a damaged shard, too little free space (estimated before the
    model runs), an unwritable folder, NaN or infinite activations, and when no rows are left after dropping.
    """
    check_config(config, shards.context_length)
    identity = store_identity(model, shards, sites, config)
    folder = Path(folder) if folder is not None else default_folder(identity)

    def begun() -> dict[str, Any]:
        if (folder / "manifest.json").exists():
            return _continued(folder, identity)
        _check_disk(folder, identity, shards.n_sequences)
        make_folder(folder)
        # The manifest keeps the statistics, so that a continued build drops by the same limits.
        statistics = measure_sites(model, shards, sites, config)
        manifest = new_manifest(model, identity, config, statistics, shard_bytes=shard_bytes)
        files.write_json(folder / "manifest.json", manifest)
        return manifest

    manifest = ranks.from_first(begun)
    shared = "set MONOSEMY_CACHE to a folder that all ranks share"
    ranks.require_visible((folder / "manifest.json").exists(), f"the activations {folder}", shared)
    total = shards.n_sequences
    if first_tokens is not None:
        size = manifest["sequences_per_shard"]
        total = min(total, size * max(1, round(first_tokens / (size * shards.context_length))))
    if not manifest["complete"]:
        _harvest_missing(model, shards, config, folder, manifest=manifest, total=total)
        ranks.barrier()
        if total == shards.n_sequences:
            manifest = ranks.from_first(lambda: _finished(folder, manifest))
    return ActivationStore(folder, manifest if total == shards.n_sequences else _start_of(manifest, total))


def _continued(folder: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a store that was begun, with the shards that several processes had finished."""
    manifest = _with_entries(folder, _read_manifest(folder))
    _check_identity(folder, manifest["identity"], identity)
    # A shard that was deleted, as the message on a damaged one advises, is harvested again; a damaged one that is
    # still there is refused.
    present = [entry for entry in manifest["shards"] if (folder / entry["file"]).exists()]
    verify_shards(folder, present, hashes=True)
    return manifest | {"shards": present, "complete": manifest["complete"] and len(present) == len(manifest["shards"])}


def _finished(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Completes and writes the manifest, whose shards are all there."""
    manifest = completed_manifest(_with_entries(folder, manifest))
    files.write_json(folder / "manifest.json", manifest)
    for path in folder.glob(_ENTRIES):
        path.unlink()
    return manifest


def _with_entries(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with the entries of shards that the processes of a run have left beside it."""
    entries = {entry["start"]: entry for entry in map(files.read_json, sorted(folder.glob(_ENTRIES)))}
    entries |= {entry["start"]: entry for entry in manifest["shards"]}
    return manifest | {"shards": [entries[start] for start in sorted(entries)]}


def bytes_per_token(identity: dict[str, Any]) -> int:
    """The bytes that a kept token takes in a store of this identity."""
    return sum(identity["sites"].values()) * DTYPES[identity["dtype"]].itemsize + LABEL_BYTES


def new_manifest(
    model: ActivationModel,
    identity: dict[str, Any],
    config: ActivationsConfig,
    statistics: Mapping[str, SiteStatistics],
    *,
    shard_bytes: int | None,
) -> dict[str, Any]:
    """The manifest of a store without any shards yet."""
    per_sequence = identity["context_length"] * bytes_per_token(identity)
    n_shard_bytes = shard_bytes or estimates.shard_bytes(per_sequence * identity["n_sequences"])
    # A shard holds whole passes of the model, so that a continued build runs the same passes as an uninterrupted one.
    batches = max(1, n_shard_bytes // (per_sequence * config.batch_sequences))
    return {
        "kind": KIND,
        "complete": False,
        "fingerprint": fingerprint(identity),
        "identity": identity,
        "model": model.name,
        "sequences_per_shard": batches * config.batch_sequences,
        "statistics": {site: stats.to_json() for site, stats in statistics.items()},
        "rules": drop_rules(model, config, statistics).to_json(),
        "shards": [],
    }


def _harvest_missing(
    model: ActivationModel,
    shards: Tokens,
    config: ActivationsConfig,
    folder: Path,
    *,
    manifest: dict[str, Any],
    total: int,
) -> None:
    """Harvests every shard of the first `total` sequences that has no entry in the manifest, which is written after
    each of them.

    Of several processes each harvests some of the shards, and leaves the entries beside the manifest.
    """
    size = manifest["sequences_per_shard"]
    have = {entry["start"] for entry in manifest["shards"]}
    all_missing = [start for start in range(0, total, size) if start not in have]
    if not all_missing:
        return
    _check_disk(folder, manifest["identity"], sum(min(start + size, total) - start for start in all_missing))
    ranks.barrier()  # all have looked at the disk before any of them fills it
    make_folder(folder)
    missing = all_missing[ranks.rank() :: ranks.n_ranks()]
    n_missing = sum(min(start + size, total) - start for start in missing)
    n_shown = total if ranks.n_ranks() == 1 else n_missing  # of this process
    length = shards.context_length
    manifest["complete"] = False
    with progress.stage("harvest", n_shown * length, "tokens", start=(n_shown - n_missing) * length) as bar:
        for start in missing:
            path = folder / f"activations-{start // size:05d}.safetensors"
            entry = harvest_shard(
                model,
                shards,
                config,
                manifest,
                start=start,
                stop=min(start + size, total),
                path=path,
                advance=bar.advance,
            )
            if ranks.n_ranks() > 1:
                files.write_json(folder / f".shard-{start // size:05d}.json", entry)
                continue
            manifest["shards"] = sorted([*manifest["shards"], entry], key=lambda shard: shard["start"])
            files.write_json(folder / "manifest.json", manifest)


def harvest_shard(
    model: ActivationModel,
    shards: Tokens,
    config: ActivationsConfig,
    manifest: Mapping[str, Any],
    *,
    start: int,
    stop: int,
    path: Path,
    advance: Callable[[int], object],
) -> dict[str, Any]:
    """Harvests sequences `start` to `stop` (exclusive) into a shard at `path`, and returns its entry for the manifest.

    `advance` is told the number of tokens of every pass of the model.
    """
    rules, widths = DropRules.from_json(manifest["rules"]), manifest["identity"]["sites"]
    shard = ShardWriter(widths, DTYPES[manifest["identity"]["dtype"]])
    for rows in harvest_rows(model, shards, list(widths), config, statistics=rules, start=start, stop=stop):
        shard.add(rows)
        advance(rows.n_tokens)
    return shard.write(path) | {"start": start, "stop": stop}


def completed_manifest(manifest: dict[str, Any]) -> dict[str, Any]:
    """Marks the manifest as complete and adds the totals over all shards. Raises UserError when no row was kept."""
    entries = manifest["shards"]
    n_rows = sum(entry["n_rows"] for entry in entries)
    n_tokens = sum(entry["n_tokens"] for entry in entries)
    dropped = {reason: sum(entry["n_dropped"][reason] for entry in entries) for reason in REASONS}
    if n_rows == 0:
        counts = ", ".join(f"{n} {reason}" for reason, n in dropped.items())
        raise UserError(f"no row is left of {n_tokens} tokens ({counts}); loosen the drop rules or give other text")
    squares = {site: sum(entry["square_sum"][site] for entry in entries) for site in manifest["identity"]["sites"]}
    manifest |= {
        "complete": True,
        "n_rows": n_rows,
        "n_tokens": n_tokens,
        "n_dropped": dropped,
        "scale": {site: (total / n_rows) ** 0.5 for site, total in squares.items()},
    }
    return manifest


def _start_of(manifest: dict[str, Any], n_sequences: int) -> dict[str, Any]:
    """A manifest of the shards that hold the first `n_sequences` alone, with a fingerprint of its own."""
    identity = manifest["identity"] | {"n_sequences": n_sequences}
    entries = [entry for entry in manifest["shards"] if entry["stop"] <= n_sequences]
    return completed_manifest(
        manifest | {"identity": identity, "fingerprint": fingerprint(identity), "shards": entries}
    )


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Reads a store's manifest. Raises UserError when the folder is not a store, or one of another format."""
    manifest = files.read_json(folder / "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND or not manifest.keys() >= _KEYS:
        raise UserError(
            f"{folder} is not an activation store (its manifest.json is of another kind); choose another folder"
        )
    if manifest["identity"]["format"] != FORMAT:
        raise UserError(
            f"{folder} has store format {manifest['identity']['format']}, this version reads {FORMAT}; delete it"
        )
    return manifest


def _check_identity(folder: Path, stored: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises UserError, naming everything that differs, when a folder holds another store."""
    different = [
        f"{key} {json.dumps(stored.get(key))} there, {json.dumps(expected[key])} asked"
        for key in expected
        if stored.get(key) != expected[key]
    ]
    if different:
        raise UserError(
            f"{folder} holds activations of another configuration ({'; '.join(different)}); choose another folder, "
            "or delete this one"
        )


def _check_disk(folder: Path, identity: dict[str, Any], n_sequences: int) -> None:
    """Raises UserError when the disk cannot hold the activations of `n_sequences` sequences, if none are dropped."""
    needed = n_sequences * identity["context_length"] * bytes_per_token(identity) + (1 << 20)
    free = files.free_bytes(folder)
    if needed > free:
        raise UserError(
            f"the activations need {fixed_text(needed / 1e9, 2)} GB at {folder}, where {fixed_text(free / 1e9, 2)} GB "
            "are free; free space, lower text.n_tokens, use fewer sites, set activations.dtype to bfloat16, or "
            "activations.storage to stream"
        )


def make_folder(folder: Path) -> None:
    """Creates the folder, and removes half-written files that killed builds left in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A temporary file's name ends in its process's number; those of processes that still run are left alone.
        for path in folder.glob(".*.tmp"):
            pid = path.name.split(".")[-2]
            if pid.isdigit() and not psutil.pid_exists(int(pid)):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise files.explain_os_error(error, folder) from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"cannot write {folder}: permission denied; choose a folder you may write to")
