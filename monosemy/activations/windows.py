"""Streams batches from windows of the text that are harvested ahead, trained on and deleted behind: a bound on disk.

Place on the data's path: harvest.py -> [window after window, each a small store] -> training. Storage "windows" stands
between "disk", which keeps every row, and "stream", which keeps a buffer in memory.

The text is cut into windows of `window_tokens`. Visit v is to window v mod W, so pass p has visits pW … pW + W − 1. A
visit gives every row of its window once, in the order permutation(PCG64(seed, v)); visits follow one another without a
gap, so a batch may hold the end of one and the start of the next. The order depends on the size of the windows alone:
the bound on disk (`disk_budget`), whether windows are made ahead, and kills change no bit of a batch.

The bound says how many windows the disk holds at a time, C = budget / bytes of a window, at least two. With C ≥ W all
are kept, and the model runs once over the text. Otherwise a window goes when its visit is over, and the model runs
again in every pass. Where the device is not the CPU, a thread makes the next C − 1 windows while one is trained on; it
never makes more, so that training sets the pace when it is the slower of the two. On the CPU, model and training would
share the same cores, and windows are made when they are needed.

The state is the visit, the row within it and what was counted so far. A window that is needed and not there (deleted
behind, or unfinished when the process was killed) is harvested again, to the same bits. Scale and number of steps are
those of a MixingStream: from a sample and the exact count of ordinary positions.

Limits: rows mix within a window only; several processes each make their own windows and share the bound.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monosemy.activations.harvested_stream import Batch, HarvestedStream, RowSource
from monosemy.activations.shuffle_quality import NeighbourMeter
from monosemy.activations.store import (
    ActivationStore,
    completed_manifest,
    harvest_shard,
    make_folder,
    new_manifest,
)
from monosemy.config import fingerprint
from monosemy.support import files
from monosemy.support.estimates import Windows


class _Stopped(Exception):
    """Ends the harvest of a window that is not needed any more."""


class WindowStream(HarvestedStream):
    """A stream that reads the text window by window, from activations of which the disk holds a bounded part."""

    storage = "windows"

    def __init__(
        self,
        source: RowSource,
        folder: Path,
        *,
        batch_tokens: int,
        n_passes: int = 1,
        seed: int = 0,
        device: torch.device | str = "cpu",
        prefetch: bool | None = None,
        n_sharing: int = 1,
    ) -> None:
        """Windows lie in `folder`. `n_sharing` processes have an equal part of the disk budget each. `prefetch` makes
        windows ahead in a thread, by default where `device` is not the CPU.

        Raises UserError when two windows do not fit into the budget, and when the text is too short for one step.
        """
        super().__init__(source, batch_tokens=batch_tokens, n_passes=n_passes, seed=seed, device=device)
        model, shards, config = self.model, self.shards, self.config
        widths = [model.site_width(site) for site in self.sites]
        self.windows = Windows.of(config, shards.context_length, shards.n_sequences, widths, n_sharing=n_sharing)
        self.folder = folder / fingerprint([self._store_identity, self.rules.to_json(), self.windows.n_sequences])
        self._visit = self._row = 0
        self._store: ActivationStore | None = None
        self._order = np.empty(0, dtype=np.int64)
        threaded = self.device.type != "cpu" if prefetch is None else prefetch
        # Its passes have the threads of those in the main thread: sums depend on their number.
        n_threads = torch.get_num_threads()
        self._maker = (
            ThreadPoolExecutor(1, "windows", initializer=torch.set_num_threads, initargs=(n_threads,))
            if threaded
            else None
        )
        self._ahead: dict[int, Future[None]] = {}
        self._stop = threading.Event()

    def _next_rows(self) -> Batch:
        parts: dict[str, list[torch.Tensor]] = {site: [] for site in self.sites}
        needed = self.batch_tokens
        while needed:
            store = self._store or self._open()
            row_numbers = self._order[self._row : self._row + needed]
            for site, rows in parts.items():
                rows.append(store.rows(site, row_numbers).div_(self.scale[site]))
            self._row, needed = self._row + len(row_numbers), needed - len(row_numbers)
            if self._row == len(self._order):
                self._leave()
        return {site: torch.cat(rows) for site, rows in parts.items()}

    def close(self) -> None:
        """Ends what is being made ahead; the stream can go on afterwards, without making windows ahead."""
        self._stop.set()
        for future in self._ahead.values():
            future.cancel()
        if self._maker is not None:
            self._maker.shutdown(wait=True)
            self._maker = None
        self._ahead = {}
        self._stop.clear()

    def _settings(self) -> dict[str, Any]:
        return {
            "window_sequences": self.windows.n_sequences,
            "batch_tokens": self.batch_tokens,
            "batch_sequences": self.config.batch_sequences,
            "n_passes": self.n_passes,
            "seed": self.seed,
        }

    def _position(self) -> dict[str, Any]:
        return {"visit": self._visit, "row": self._row}

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._visit, self._row = state["visit"], state["row"]
        self._store = None

    # --- windows ----------------------------------------------------------------------------------------------------

    def _open(self) -> ActivationStore:
        """Opens the window of the present visit, and has the next ones made."""
        self._clear()
        if (harvest := self._ahead.pop(self._visit, None)) is not None:
            harvest.result()
        else:
            self._make(self._window(self._visit))
        self._make_ahead()
        window = self._window(self._visit)
        store = ActivationStore.open(self._place(window), expected=self._fingerprint(window), verify=False)
        if self._row == 0:  # counted once, whether or not the visit is interrupted
            self._n_read += store.record["n_tokens"]
            self._dropped.update(store.record["n_dropped"])
        random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, self._visit])))
        self._order, self._store = random.permutation(store.n_rows), store
        if not self._meters:
            # Rows are centred by the mean of the first window, which stands for the mean of the text.
            self._meters = {site: NeighbourMeter(store.mean[site] / self.scale[site]) for site in self.sites}
        return store

    def _leave(self) -> None:
        """Ends the present visit; its window is deleted unless all are kept."""
        self._store = None  # unmapped first: mapped files would keep their space
        if not self.windows.all_kept:
            self._delete(self._window(self._visit))
        self._visit, self._row = self._visit + 1, 0

    def _window(self, visit: int) -> int:
        return visit % self.windows.n_windows

    def _place(self, window: int) -> Path:
        return self.folder / f"window-{window:05d}"

    def _fingerprint(self, window: int) -> str:
        return fingerprint([self.folder.name, window])

    def _coming(self) -> range:
        """The visits whose windows the disk may hold."""
        last = max(self._visit + 1, self.n_passes * self.windows.n_windows)
        return range(self._visit, min(self._visit + self.windows.n_kept, last))

    def _clear(self) -> None:
        """Deletes windows that a killed process left and that are not among the next ones, and other windows."""
        if self._ahead:
            return
        coming = {self._place(self._window(visit)) for visit in self._coming()}
        for folder in (*self.folder.parent.glob("*/window-*"), *self.folder.parent.glob("*")):
            foreign = folder.parent == self.folder.parent and folder != self.folder
            stale = folder.parent == self.folder and folder not in coming and not self.windows.all_kept
            if foreign or stale:
                shutil.rmtree(folder, ignore_errors=True)

    def _make_ahead(self) -> None:
        """Has the thread make the windows of the coming visits, as many as the disk may hold and no more."""
        for visit in self._coming():
            if self._maker is not None and visit > self._visit and visit not in self._ahead:
                self._ahead[visit] = self._maker.submit(self._make, self._window(visit))

    def _make(self, window: int) -> None:
        """Harvests a window unless it is there. Raises UserError as `build_store` does."""
        folder, size = self._place(window), self.windows.n_sequences
        if (folder / "manifest.json").exists():
            return
        shutil.rmtree(folder, ignore_errors=True)  # what a killed process had begun
        make_folder(folder)
        start, stop = window * size, min((window + 1) * size, self.shards.n_sequences)
        identity = self._store_identity | {"n_sequences": stop - start, "window": window}
        manifest = new_manifest(self.model, identity, self.config, self.statistics, shard_bytes=self.windows.part_bytes)
        manifest["fingerprint"] = self._fingerprint(window)
        step = manifest["sequences_per_shard"]
        for number, first in enumerate(range(start, stop, step)):
            path = folder / f"activations-{number:05d}.safetensors"
            last = min(first + step, stop)
            shard = harvest_shard(
                self.model,
                self.shards,
                self.config,
                manifest,
                start=first,
                stop=last,
                path=path,
                advance=self._going,
            )
            manifest["shards"].append(shard)
        files.write_json(folder / "manifest.json", completed_manifest(manifest))

    def _going(self, n_tokens: int) -> None:
        if self._stop.is_set():
            raise _Stopped

    def _delete(self, window: int) -> None:
        folder = self._place(window)
        # The manifest first: without it, what a kill leaves of the window counts as not there.
        (folder / "manifest.json").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
