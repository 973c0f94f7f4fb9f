"""Prepares a table of rows for training and evaluation, in place of a model, its tokens and its activations.

Place on the data's path: tables.py → row_store.py → [this] → training and evaluation stages.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from monosemy.activations.row_store import RowStore, Split
from monosemy.activations.stream import StoredStream
from monosemy.activations.tables import ARRAY, BATCHES, Table, as_table, map_npy, open_table
from monosemy.config import RunConfig, room_settings
from monosemy.errors import UserError
from monosemy.models.sources import choose_device
from monosemy.pipeline.planning.fit import memory_of
from monosemy.pipeline.training_data import TrainingData, ValidationRows
from monosemy.rows.row_values import check_described
from monosemy.rows.settings import SITE, RowsConfig
from monosemy.support import ranks
from monosemy.support.estimates import ModelSize, estimate, require_resources
from monosemy.support.files import atomic_path
from monosemy.support.moved import remember_sources

if TYPE_CHECKING:
    from monosemy.run import Run


class PreparedRows(TrainingData):
    """A table of rows, split, centred and scaled, with its stream of shuffled batches."""

    store: RowStore
    unit = "rows"

    def __init__(self, store: RowStore, config: RunConfig, device: torch.device) -> None:
        """Raises UserError when a batch is larger than all passes over the training rows."""
        training = config.training
        self.store, self.config, self.sites = store, config, (SITE,)
        self.scale = store.scale
        self._device = device
        self.stream = StoredStream(
            store,
            self.sites,
            batch_tokens=training.batch_tokens,
            n_passes=training.n_passes,
            seed=room_settings(config, RowsConfig).seed,
            device=device,
        )

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def source_name(self) -> str:
        return self.store.table.name

    @property
    def fingerprint(self) -> str:
        return self.store.fingerprint

    @property
    def fingerprints(self) -> dict[str, str]:
        return {"rows": self.store.fingerprint}

    def width(self, site: str) -> int:
        return self.store.width(site)

    @property
    def n_validation(self) -> int:
        return len(self.store.validation)

    def held_in(self, n_tokens: int, seed: int) -> dict[str, Tensor]:
        """About n_tokens training rows, drawn at random, [n, d] at E‖x‖² = 1."""
        n_rows = self.store.n_rows
        return self.stored_rows(
            np.sort(np.random.default_rng(seed).choice(n_rows, min(n_tokens, n_rows), replace=False))
        )

    def validation(self) -> Iterator[ValidationRows]:
        for rows, groups in self.store.validation_rows():
            yield ValidationRows({SITE: rows}, groups, len(rows))

    def centre(self, site: str) -> Tensor:
        return torch.from_numpy(self.store.mean_row).float()


def prepare_run_rows(run: Run) -> PreparedRows:
    """The rows of a run whose configuration names their file, or that keeps a copy of its array or batches.

    Raises UserError when the file is missing or unsuitable, and when its content has changed since the run began.
    """
    settings = room_settings(run.config, RowsConfig)
    groups = np.asarray(map_npy(run.files.groups)) if run.files.groups.exists() else None
    if settings.source in (ARRAY, BATCHES):
        if not run.files.rows.exists():
            raise UserError(
                f"{run.files.rows}, the copy of the rows of {run.folder}, is missing; give them again: "
                f"monosemy.fit(X, run={str(run.folder)!r})"
            )
        name = "X" if settings.source == ARRAY else "batches"
        return prepare_rows(run, as_table(map_npy(run.files.rows), name), groups)
    path = Path(run.source("rows")).expanduser()
    table = open_table(path, tensor=settings.tensor, column=settings.column, spooled=run.files.rows)
    prepared = prepare_rows(run, table, groups)
    # Only a place whose content has passed the check is remembered.
    remember_sources(run.folder, rows=str(path))
    return prepared


def keep_rows(run: Run, staged: Path | None, groups: np.ndarray | None) -> None:
    """Keeps in the run folder what no other file holds: an array or batches, and the group of every row.

    `staged` is the file that the rows were written to, on the same disk; its table stays mapped.
    """
    if staged is not None:
        os.replace(staged, run.files.rows)
    if groups is not None:
        with atomic_path(run.files.groups) as temporary, temporary.open("wb") as file:
            np.save(file, groups, allow_pickle=False)


def prepare_rows(run: Run, table: Table, groups: np.ndarray | None = None) -> PreparedRows:
    """The rows of a table, ready for the run's training, with their origin in the run's provenance.

    `groups` are those of `RowStore`. Raises UserError as RowStore and PreparedRows do, when the machine cannot hold the
    run, and when the rows are others than those that the run began with.
    """
    started = time.perf_counter()
    settings = room_settings(run.config, RowsConfig)
    device = choose_device(run.config.model.device)
    _require_resources(run, table)
    split = Split(settings.validation_fraction, settings.max_validation_rows, settings.seed, settings.outlier_multiple)
    store = RowStore(table, SITE, split, groups)
    began_with = run.provenance.get("rows", {}).get("fingerprint")
    if began_with not in (None, store.fingerprint):
        raise UserError(
            f"{table.name} has changed since run {run.folder} began (fingerprint {store.fingerprint}, not {began_with})"
            "; give the same rows and groups, or choose another run folder"
        )
    prepared = PreparedRows(store, run.config, device)
    if not run.stage_done("activations", store.fingerprint):
        check_described(settings, table.n_rows)
        run.add_provenance(
            rows={
                "name": table.name,
                "fingerprint": store.fingerprint,
                "n_rows": table.n_rows,
                "width": table.width,
                "dtype": table.dtype,
                "n_train": store.n_rows,
                "n_validation": len(store.validation),
                "n_groups": len(np.unique(store.groups)),
            },
            dropped_positions={"norm_outlier": store.n_outliers},
            scale=dict(store.scale),
        )
        run.mark_done("activations", store.fingerprint, time.perf_counter() - started)
    return prepared


def _require_resources(run: Run, table: Table) -> None:
    """Raises UserError when the SAEs do not fit into memory or on the disk of the run folder."""
    size = ModelSize(n_parameters=0, n_layers=0, d_model=0, vocab_size=0)
    n_shards = run.n_latent_shards
    plan = estimate(run.config, {SITE: table.width}, size, n_latent_shards=n_shards)
    # There is no model, and the rows lie where they are.
    memory = {
        part: n
        for part, n in plan.memory.items()
        if part not in ("model", "model pass", "logits", "libraries", "activation shard")
    }
    memory = memory_of(ranks.n_local_ranks(), memory, n_ranks=ranks.n_ranks(), in_slices=n_shards > 0)
    run_disk = plan.run_disk if run.created else {}
    require_resources(dataclasses.replace(plan, memory=memory, cache_disk={}, run_disk=run_disk), run.folder)
