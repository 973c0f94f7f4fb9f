"""Streams shuffled batches of activations to training, with a state that is saved and restored bit for bit.

Place on the data's path: store.py or harvest.py -> [stream] -> training. A stream is an iterator over
{site: float32 [batch_tokens, d]}. Row i is the same token at every site. Rows are divided by the site's scale C so that
E ||x||^2 = 1; C is folded back into the weights when an SAE is saved.

StoredStream (storage "disk") shuffles fully and exactly. Pass p visits the rows of the store in the order
permutation(PCG64(seed, p)). Passes follow one another without a gap, so a batch may hold the end of one and the start
of the next; only the rows left over after the last full batch of the last pass are not used. Where there are several
passes, a random twentieth of the rows is reserved for calibration and never trained on: an SAE fires less often on rows
that it was trained on than on others (`saes.base.calibrate`). Its state is the step.
Cost: 8 bytes of memory per stored row for the permutation, and one random read per row and site.

MixingStream (storage "stream") keeps nothing on disk. A buffer of `buffer_tokens` rows, in the dtype of the
configuration, is refilled from the model whenever it is less than half full; each batch is drawn from it at random
without replacement. Its state holds the buffer, the cursor in the text and the random generator. A buffer mixes rows
only as far as it reaches; `shuffle_quality` measures the correlation that remains. Correlation of neighbours (0: full
shuffle) on 400,000 tokens of SmolLM2-135M, layers.12.resid_post, batches of 1,024 rows, with 95% intervals:
    stored order 0.258 (0.250, 0.266)      buffer of 4,096 tokens 0.027 (0.021, 0.032)
    full shuffle 0.000 (-0.003, 0.003)     16,384: 0.007 (0.005, 0.009)     65,536 and 131,072: 0.001 (0.000, 0.002)

If the share of outliers is higher than the number of steps allows for (harvested_stream.py), the stream starts the text
again, and the record shows it (`n_text_passes`).

Limits: bit-exact only on the same machine with the same number of threads, since the model's sums depend on both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from monosemy.activations.harvest import harvest_rows
from monosemy.activations.harvested_stream import (
    Batch,
    HarvestedStream,
    RowSource,
    check_sizes,
    check_state,
    quality_record,
)
from monosemy.activations.row_store import RowStore
from monosemy.activations.shards import DTYPES, narrowed
from monosemy.activations.shuffle_quality import ROWS_PER_BATCH, NeighbourMeter, ShuffleQuality, measure_shuffle
from monosemy.activations.store import ActivationStore
from monosemy.errors import UserError

LEAST_CALIBRATION_ROWS, MOST_CALIBRATION_ROWS = 4096, 32_768
"""How many rows are reserved: a twentieth, or in small stores up to a tenth in order to reach the first number."""


class StoredStream:
    """A stream that gives every row of a store once per pass, in a new random order for each pass."""

    def __init__(
        self,
        store: ActivationStore | RowStore,
        sites: Sequence[str],
        *,
        batch_tokens: int,
        n_passes: int = 1,
        seed: int = 0,
        device: torch.device | str = "cpu",
        prefetch: bool | None = None,
    ) -> None:
        """`prefetch` reads the next batch in a thread while the current one is used, by default when `device` is not
        the CPU; the batches are the same either way. Raises UserError when the store has fewer rows than one batch or
        does not hold a site."""
        check_sizes(batch_tokens=batch_tokens, n_passes=n_passes, seed=seed)
        for site in sites:
            store.width(site)
        self.store, self.sites = store, tuple(sites)
        self.read_sites = self.sites
        """The sites that batches hold: all, unless a process that trains SAEs of some of them lowers their number."""
        self.batch_tokens, self.n_passes, self.seed = batch_tokens, n_passes, seed
        self.device = torch.device(device)
        self._reserved = self._draw_reserved()
        self.n_rows = store.n_rows - len(self._reserved)
        self.n_steps = self.n_rows * n_passes // batch_tokens
        if self.n_steps == 0:
            raise UserError(
                f"batch_tokens {batch_tokens} is more than the {self.n_rows * n_passes} rows of {n_passes} pass(es) "
                "of the store; lower --training.batch-tokens or give more text"
            )
        self.step = 0
        self._permutations: dict[int, np.ndarray] = {}
        threaded = self.device.type != "cpu" if prefetch is None else prefetch
        self._reader = ThreadPoolExecutor(1, "activations") if threaded else None
        self._ahead: tuple[int, Future[Batch]] | None = None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self.step >= self.n_steps:
            raise StopIteration
        batch = self._read(self.step) if self._reader is None else self._read_ahead(self._reader)
        self.step += 1
        return {site: rows.to(self.device) for site, rows in batch.items()}

    def calibration_rows(self, n_rows: int) -> np.ndarray:
        """The numbers of at most n_rows rows that training leaves out or meets last, sorted, int64 [n].

        With several passes these are the reserved rows. With one pass they are those of the last tenth of the steps (in
        small stores, of as many as hold `LEAST_CALIBRATION_ROWS`) and the rows left over: they come when the learning
        rate has fallen to half of its peak or less, and never again.
        """
        if len(self._reserved):
            return np.sort(self._reserved[:n_rows])
        n_last = max(min(self.n_rows, LEAST_CALIBRATION_ROWS), self.n_rows // 10)
        return np.sort(self._permutation(0)[-min(n_rows, n_last) :])

    def state(self) -> dict[str, Any]:
        """The position in the stream, as JSON values. Batches read ahead are not part of it."""
        return {**self._identity(), "step": self.step}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from `state`. Raises UserError when it belongs to another stream."""
        check_state(self._identity(), state)
        if not 0 <= state["step"] <= self.n_steps:
            raise UserError(
                f"the checkpoint's stream is at step {state['step']}, beyond the {self.n_steps} of this run"
            )
        self.step = state["step"]

    def shuffle_quality(self, site: str, n_batches: int = 64, *, shuffled: bool = True) -> ShuffleQuality | None:
        """Measures the neighbour correlation over batches spread evenly over the first pass; the stream does not move.

        `shuffled=False` measures the stored order instead, for comparison. Returns None for fewer than two batches.
        """
        n_available = max(1, self.n_rows // self.batch_tokens)
        steps = np.unique(np.linspace(0, n_available - 1, min(n_batches, n_available)).astype(int))

        def batches() -> Iterator[Float32[Tensor, "n d_in"]]:
            for step in steps.tolist():
                first = step * self.batch_tokens
                in_order = np.arange(first, min(first + self.batch_tokens, self.store.n_rows))
                indices = self._indices(step) if shuffled else in_order
                yield self.store.rows(site, indices[:ROWS_PER_BATCH])

        return measure_shuffle(batches(), self.store.mean[site])

    def record(self) -> dict[str, Any]:
        """The stream's identity, length and shuffle quality, as JSON values, for the record of a run."""
        qualities = {
            site: {
                "shuffled": quality_record(self.shuffle_quality(site)),
                "stored_order": quality_record(self.shuffle_quality(site, shuffled=False)),
            }
            for site in self.sites
        }
        return {**self._identity(), "n_steps": self.n_steps, "shuffle_quality": qualities}

    def _identity(self) -> dict[str, Any]:
        """Everything that the batches depend on: a state of another identity is refused."""
        return {
            "storage": "disk",
            "fingerprint": self.store.fingerprint,
            "n_rows": self.store.n_rows,
            "n_reserved": len(self._reserved),
            "sites": list(self.sites),
            "batch_tokens": self.batch_tokens,
            "n_passes": self.n_passes,
            "seed": self.seed,
        }

    def _draw_reserved(self) -> np.ndarray:
        """The numbers of the rows that are never trained on, in random order; none where there is only one pass."""
        n = self.store.n_rows
        if self.n_passes == 1:
            return np.empty(0, dtype=np.int64)
        # A stream of its own: passes count from 0 and never come here.
        random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, 1 << 32])))
        n_reserved = max(n // 20, min(LEAST_CALIBRATION_ROWS, n // 10))
        return random.permutation(n)[: min(n_reserved, MOST_CALIBRATION_ROWS)]

    def _read(self, step: int) -> Batch:
        indices = self._indices(step)
        return {site: self.store.rows(site, indices).div_(self.store.scale[site]) for site in self.read_sites}

    def _read_ahead(self, reader: ThreadPoolExecutor) -> Batch:
        """The batch of the present step, while the thread starts reading that of the next one."""
        ahead, self._ahead = self._ahead, None
        # After a restore the batch read ahead may be of another step; it is then discarded.
        batch = ahead[1].result() if ahead is not None and ahead[0] == self.step else self._read(self.step)
        if self.step + 1 < self.n_steps:
            self._ahead = (self.step + 1, reader.submit(self._read, self.step + 1))
        return batch

    def _indices(self, step: int) -> np.ndarray:
        """The row numbers of a step: its batch_tokens entries of all passes' permutations, laid end to end."""
        n = self.n_rows
        first, last = step * self.batch_tokens, (step + 1) * self.batch_tokens
        passes = range(first // n, (last - 1) // n + 1)
        return np.concatenate([self._permutation(p)[max(first - p * n, 0) : last - p * n] for p in passes])

    def _permutation(self, p: int) -> np.ndarray:
        """The order of the trained rows in pass p, int64 [n_rows]. Seed and p determine it: no state has to hold it."""
        permutation = self._permutations.get(p)
        if permutation is None:
            random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, p])))
            permutation = random.permutation(np.setdiff1d(np.arange(self.store.n_rows), self._reserved))
            # A batch can straddle two passes, so the previous pass's order is kept as well; older ones are freed.
            previous = {key: order for key, order in self._permutations.items() if key == p - 1}
            self._permutations = previous | {p: permutation}
        return permutation


class MixingStream(HarvestedStream):
    """A stream that draws rows from a shuffle buffer, which the model fills; it reads the text once."""

    storage = "stream"

    def __init__(
        self,
        source: RowSource,
        *,
        batch_tokens: int,
        buffer_tokens: int | None = None,
        scale: Mapping[str, float] | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        """`buffer_tokens` defaults to the configuration's, `scale` to the one in the source's statistics.

        Raises UserError when the buffer is smaller than two batches or two passes of the model, and when the text is
        too short for one step.
        """
        super().__init__(source, batch_tokens=batch_tokens, scale=scale, seed=seed, device=device)
        capacity = self.config.buffer_tokens if buffer_tokens is None else buffer_tokens
        self._per_pass = self.config.batch_sequences * self.shards.context_length
        if capacity < (least := 2 * max(batch_tokens, self._per_pass)):
            raise UserError(
                f"buffer_tokens must be at least {least} (two batches of {batch_tokens}, two model passes of "
                f"{self._per_pass}), got {capacity}; raise activations.buffer_tokens or lower batch_sequences"
            )
        self.buffer_tokens = capacity
        dtype = DTYPES[self.config.dtype]
        self._buffer = {site: torch.empty(capacity, self.model.site_width(site), dtype=dtype) for site in self.sites}
        self._generator = torch.Generator().manual_seed(seed)
        self._n_buffered = self._cursor = 0

    def _next_rows(self) -> Batch:
        # Refilled at half, so that a batch is always drawn from much more text than its own size.
        if self._n_buffered < self.buffer_tokens // 2:
            self._refill()
        return self._draw()

    def _settings(self) -> dict[str, Any]:
        return {
            "batch_tokens": self.batch_tokens,
            "batch_sequences": self.config.batch_sequences,
            "buffer_tokens": self.buffer_tokens,
            "seed": self.seed,
        }

    def _position(self) -> dict[str, Any]:
        return {"cursor": self._cursor}

    def _held(self) -> dict[str, Tensor]:
        buffers = {f"buffer/{site}": buffer[: self._n_buffered].clone() for site, buffer in self._buffer.items()}
        return {"generator": self._generator.get_state(), **buffers}

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._cursor = state["cursor"]
        self._generator.set_state(state["generator"])
        for site, buffer in self._buffer.items():
            rows = state[f"buffer/{site}"]
            self._n_buffered = len(rows)
            buffer[: len(rows)] = rows

    def _refill(self) -> None:
        """Harvests until another pass of the model might not fit, or until the text ends with a batch in the buffer."""
        # A pass is harvested as a whole or not at all, so that the cursor alone says where to continue in the text.
        while self._n_buffered + self._per_pass <= self.buffer_tokens:
            if self._cursor >= self.shards.n_sequences:
                if self._n_buffered >= self.batch_tokens:
                    break
                # More outliers than the number of steps allowed for: start the text again rather than end early.
                self._cursor = 0
            stop = min(self._cursor + self.config.batch_sequences, self.shards.n_sequences)
            # Values that are not finite are passed on: the trainer stops the SAEs of that site and no others.
            for rows in harvest_rows(
                self.model,
                self.shards,
                self.sites,
                self.config,
                statistics=self.rules,
                start=self._cursor,
                stop=stop,
                finite=False,
            ):
                first, last = self._n_buffered, self._n_buffered + len(rows.token_ids)
                for site, buffer in self._buffer.items():
                    buffer[first:last] = narrowed(rows.activations[site], buffer.dtype, site, rows.sequence)
                self._n_buffered = last
                self._n_read += rows.n_tokens
                self._dropped.update(rows.n_dropped)
            self._cursor = stop
        if not self._meters:
            for site, buffer in self._buffer.items():
                # Rows are centred by the mean of the first full buffer, which stands for the mean of the text.
                mean = buffer[: self._n_buffered].mean(0, dtype=torch.float64)
                self._meters[site] = NeighbourMeter(mean / self.scale[site])

    def _draw(self) -> Batch:
        """Takes batch_tokens random rows out of the buffer, and fills their places with rows from its end."""
        n, left = self._n_buffered, self._n_buffered - self.batch_tokens
        slots = torch.randperm(n, generator=self._generator)[: self.batch_tokens]
        is_drawn = torch.zeros(n, dtype=torch.bool)
        is_drawn[slots] = True
        # The buffer stays dense: rows in its last batch_tokens places that were not drawn move into the drawn places
        # before them. The two are equally many, at most batch_tokens rows move, and their order does not matter, since
        # draws are random.
        holes, movers = is_drawn[:left].nonzero()[:, 0], left + (~is_drawn[left:]).nonzero()[:, 0]
        batch = {}
        for site, buffer in self._buffer.items():
            batch[site] = buffer.index_select(0, slots).float().div_(self.scale[site])
            buffer[holes] = buffer[movers]
        self._n_buffered = left
        return batch
