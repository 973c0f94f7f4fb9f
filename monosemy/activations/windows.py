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
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monosemy.activations.harvest import REASONS, check_config, drop_rules, resolve_sites
from monosemy.activations.shuffle_quality import NeighbourMeter, ShuffleQuality
from monosemy.activations.store import (
    ActivationStore,
    completed_manifest,
    harvest_shard,
    make_folder,
    new_manifest,
    store_identity,
)
from monosemy.activations.stream import Batch, RowSource, check_sizes, check_state, quality_record, usable_rows
from monosemy.config import fingerprint
from monosemy.errors import UserError
from monosemy.support import files
from monosemy.support.estimates import Windows


class _Stopped(Exception):
    """Ends the harvest of a window that is not needed any more."""


class WindowStream:
    """A stream that reads the text window by window, from activations of which the disk holds a bounded part."""

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
        model, shards, config = source.model, source.shards, source.config
        check_config(config, shards.context_length)
        check_sizes(batch_tokens=batch_tokens, n_passes=n_passes, seed=seed)
        self.sites = resolve_sites(model, source.sites)
        self.model, self.shards, self.config = model, shards, config
        self.statistics = {site: source.statistics[site] for site in self.sites}
        self.rules = drop_rules(model, config, self.statistics)
        self.scale = {site: float(self.statistics[site].scale) for site in self.sites}
        self.batch_tokens, self.n_passes, self.seed = batch_tokens, n_passes, seed
        self.device = torch.device(device)
        self.n_steps = usable_rows(shards, self.rules, self.statistics) * n_passes // batch_tokens
        if self.n_steps == 0:
            raise UserError(
                f"the text holds fewer usable tokens than one batch of {batch_tokens}; lower --training.batch-tokens "
                "or give more text"
            )
        widths = [model.site_width(site) for site in self.sites]
        self.windows = Windows.of(config, shards.context_length, shards.n_sequences, widths, n_sharing=n_sharing)
        self._store_identity = store_identity(model, shards, self.sites, config)
        self.folder = folder / fingerprint([self._store_identity, self.rules.to_json(), self.windows.n_sequences])
        self.step = self._visit = self._row = self._n_read = 0
        self._dropped: Counter[str] = Counter()
        self._meters: dict[str, NeighbourMeter] = {}
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

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self.step >= self.n_steps:
            raise StopIteration
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
        batch = {site: torch.cat(rows) for site, rows in parts.items()}
        for site, meter in self._meters.items():
            meter.update(batch[site])
        self.step += 1
        return {site: rows.to(self.device) for site, rows in batch.items()}

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

    def state(self) -> dict[str, Any]:
        """Everything that the following batches depend on, and the counts so far: JSON values and tensors."""
        state: dict[str, Any] = {
            **self._identity(),
            "step": self.step,
            "visit": self._visit,
            "row": self._row,
            "n_read": self._n_read,
            "n_dropped": self._counts(),
        }
        for site, meter in self._meters.items():
            state |= {f"meter/{site}/{name}": tensor for name, tensor in meter.state().items()}
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from `state`, bit for bit. Raises UserError when it belongs to another stream."""
        check_state(self._identity(), state)
        self.step, self._visit, self._row = state["step"], state["visit"], state["row"]
        self._n_read, self._dropped = state["n_read"], Counter(state["n_dropped"])
        self._store = None
        self._meters = {}
        for site in self.sites:
            if f"meter/{site}/mean" in state:
                saved = {name: state[f"meter/{site}/{name}"] for name in ("mean", "direction_sum", "totals")}
                self._meters[site] = NeighbourMeter(saved["mean"])
                self._meters[site].restore(saved)

    def shuffle_quality(self, site: str) -> ShuffleQuality | None:
        """The neighbour correlation over all batches so far, across interruptions; None before the second batch."""
        return self._meters[site].result() if site in self._meters else None

    def record(self) -> dict[str, Any]:
        """The stream's identity, length, dropped positions and shuffle quality so far, as JSON values for a record."""
        return {
            **self._identity(),
            "n_steps": self.n_steps,
            "n_tokens": self._n_read,
            "n_text_passes": self._n_read / (self.shards.n_sequences * self.shards.context_length),
            "n_dropped": self._counts(),
            "rules": self.rules.to_json(),
            "statistics": {site: stats.to_json() for site, stats in self.statistics.items()},
            "shuffle_quality": {site: {"shuffled": quality_record(self.shuffle_quality(site))} for site in self.sites},
        }

    def _identity(self) -> dict[str, Any]:
        """Everything that the batches depend on: a state of another identity is refused."""
        return {
            "storage": "windows",
            "fingerprint": fingerprint(self._store_identity),
            "rules": fingerprint(self.rules.to_json()),
            "sites": list(self.sites),
            "scale": dict(self.scale),
            "window_sequences": self.windows.n_sequences,
            "batch_tokens": self.batch_tokens,
            "batch_sequences": self.config.batch_sequences,
            "n_passes": self.n_passes,
            "seed": self.seed,
        }

    def _counts(self) -> dict[str, int]:
        return {reason: self._dropped[reason] for reason in REASONS}

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
