"""What streams of activations share, and the whole of what those share that the model feeds as they go.

Place on the data's path: text, model → [HarvestedStream] → stream.py (a buffer in memory), windows.py (windows on
disk). A subclass says where the next rows come from and where it is in the text; identity, counts, meters, state and
record are here.

The number of steps is fixed before the first one, because schedules need it. First positions and special tokens are
counted exactly; the share of outliers is taken at the upper end of its interval on the sample of training tokens
(Wilson, 99.9%), so that the text lasts about 0.1% longer than the steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from monosemy.activations.harvest import (
    REASONS,
    ActivationModel,
    SiteStatistics,
    Tokens,
    check_config,
    drop_rules,
    resolve_sites,
)
from monosemy.activations.shuffle_quality import NeighbourMeter, ShuffleQuality
from monosemy.activations.store import store_identity
from monosemy.config import ActivationsConfig, fingerprint, positive
from monosemy.errors import UserError

Batch = dict[str, Float32[Tensor, "n _"]]
"""The rows of a batch by site: row i is the same token at every site, and sites differ in width."""


@dataclass(frozen=True)
class RowSource:
    """The source of rows that are not all stored on disk: a text, the model that reads it, and the sites to harvest."""

    model: ActivationModel
    shards: Tokens
    sites: Sequence[str]
    config: ActivationsConfig
    """Says which rows are dropped, and how large the buffer and a pass of the model are."""
    _: KW_ONLY
    statistics: Mapping[str, SiteStatistics]
    """Norms (for outliers) and scale by site, measured on a sample of the training tokens."""


class HarvestedStream(ABC):
    """A stream whose rows the model makes while it is read."""

    storage: ClassVar[str]
    """Its name among the settings (`activations.storage`)."""

    def __init__(
        self,
        source: RowSource,
        *,
        batch_tokens: int,
        n_passes: int = 1,
        scale: Mapping[str, float] | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        """`scale` is the one in the source's statistics where a site has no other here.

        Raises UserError when the text is too short for one step.
        """
        model, shards, config, statistics = source.model, source.shards, source.config, source.statistics
        check_config(config, shards.context_length)
        check_sizes(batch_tokens=batch_tokens, n_passes=n_passes, seed=seed)
        self.sites = resolve_sites(model, source.sites)
        self.model, self.shards, self.config = model, shards, config
        self.statistics = {site: statistics[site] for site in self.sites}
        self.rules = drop_rules(model, config, self.statistics)
        self.scale = {site: float((scale or {}).get(site, self.statistics[site].scale)) for site in self.sites}
        self.batch_tokens, self.n_passes, self.seed = batch_tokens, n_passes, seed
        self.device = torch.device(device)
        self.n_steps = usable_rows(shards, self.rules, self.statistics) * n_passes // batch_tokens
        if self.n_steps == 0:
            raise UserError(
                f"the text holds fewer usable tokens than one batch of {batch_tokens}; lower --training.batch-tokens "
                "or give more text"
            )
        self._store_identity = store_identity(model, shards, self.sites, config)
        self.step = self._n_read = 0
        self._dropped: Counter[str] = Counter()
        self._meters: dict[str, NeighbourMeter] = {}

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self.step >= self.n_steps:
            raise StopIteration
        batch = self._next_rows()
        for site, rows in batch.items():
            self._meters[site].update(rows)
        self.step += 1
        return {site: rows.to(self.device) for site, rows in batch.items()}

    def state(self) -> dict[str, Any]:
        """Everything that the following batches depend on, and the counts so far: JSON values, and tensors at the top
        level."""
        state = {
            **self._identity(),
            "step": self.step,
            **self._position(),
            "n_read": self._n_read,
            "n_dropped": self._counts(),
            **self._held(),
        }
        for site, meter in self._meters.items():
            state |= {f"meter/{site}/{name}": tensor for name, tensor in meter.state().items()}
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from `state`, bit for bit. Raises UserError when it belongs to another stream."""
        check_state(self._identity(), state)
        self.step, self._n_read, self._dropped = state["step"], state["n_read"], Counter(state["n_dropped"])
        self._restore(state)
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
            "storage": self.storage,
            "fingerprint": fingerprint(self._store_identity),
            "rules": fingerprint(self.rules.to_json()),
            "sites": list(self.sites),
            "scale": dict(self.scale),
            **self._settings(),
        }

    def _counts(self) -> dict[str, int]:
        return {reason: self._dropped[reason] for reason in REASONS}

    @abstractmethod
    def _next_rows(self) -> Batch:
        """The next batch in units of the scale, on the CPU; `_meters` has a meter for each of its sites afterwards."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """The part of the identity that is the subclass's own, as JSON values."""

    @abstractmethod
    def _position(self) -> dict[str, Any]:
        """Where the stream is in the text, as JSON values."""

    def _held(self) -> dict[str, Tensor]:
        """What the stream holds in memory, and the state of its random generator; nothing by default."""
        return {}

    @abstractmethod
    def _restore(self, state: Mapping[str, Any]) -> None:
        """Takes `_position` and `_held` back from a state."""


def usable_rows(shards: Tokens, rules: Any, statistics: Mapping[str, SiteStatistics]) -> int:
    """The number of rows that will be kept, with a chance of 1 in 2,000 that it is too high.

    It is the exact number of ordinary positions, less the upper end of the interval of the share of outliers.
    """
    special = np.array(sorted(rules.special_token_ids), dtype=np.int64)
    ordinary = 0
    for first in range(0, shards.n_sequences, 4096):
        tokens = np.asarray(shards.sequences(first, min(first + 4096, shards.n_sequences)))
        ordinary += int((~np.isin(tokens[:, rules.first_positions :], special)).sum())
    # Any site will do: outliers of one site are dropped at all, so every site has the same counts.
    measured = next(iter(statistics.values()))
    limited = any(np.isfinite(limit) for limit in rules.norm_limits.values())
    share = _wilson_upper(measured.n_outliers, measured.n_ordinary) if limited else 0.0
    return int(ordinary * (1 - share))


def _wilson_upper(count: int, n: int, z: float = 3.29) -> float:
    """The upper end of the Wilson interval of the share count / n (z = 3.29: 99.9%)."""
    p = count / n
    spread = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return (p + z * z / (2 * n) + spread) / (1 + z * z / n)


def check_sizes(*, seed: int, **sizes: int) -> None:
    """Raises UserError for a size that is not above 0 and for a negative seed."""
    positive(**sizes)
    if seed < 0:
        raise UserError(f"seed must be 0 or more, got {seed}")


def check_state(expected: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Raises UserError, naming what differs, for the state of a stream of another identity."""
    different = [
        f"{key} {state.get(key)} there, {value} here" for key, value in expected.items() if state.get(key) != value
    ]
    if different:
        raise UserError(
            f"the checkpoint belongs to another stream ({'; '.join(different)}); use the configuration it was made "
            "with, or another run folder"
        )


def quality_record(quality: ShuffleQuality | None) -> dict[str, Any] | None:
    """A shuffle quality as JSON values; None where it was not measured."""
    return quality.to_json() if quality is not None else None
