"""What training and evaluation need of a run's activations, wherever they come from.

Place on the path: prepared activations → [this interface] → trainees, training stage, evaluation stage. Behind
`prepare.Prepared` are a language model and a text; a room may bring activations of another origin (`Room.activations`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from monosemy.config import RunConfig

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from monosemy.activations.row_store import RowStore
    from monosemy.activations.store import ActivationStore
    from monosemy.activations.stream import MixingStream, StoredStream
    from monosemy.activations.windows import WindowStream


Key = tuple[str, str]
"""The (site, name) of an SAE."""


class ValidationRows(NamedTuple):
    """A part of the validation rows; row i is the same one at every site."""

    activations: Mapping[str, Tensor]
    """Rows [n, d] by site, in raw units."""
    documents: Tensor
    """int [n]: the number of each row's document or group; intervals resample these."""
    n_read: int
    """The number of rows or positions read, including those left out."""


class TrainingData(ABC):
    """Activations of one or several sites, ready for training at E‖x‖² = 1 and for evaluation in raw units."""

    sites: tuple[str, ...]
    store: ActivationStore | RowStore | None
    """The activations on disk; None where they are made while training."""
    stream: StoredStream | MixingStream | WindowStream
    scale: Mapping[str, float]
    """C by site: training reads rows divided by it."""
    unit = "tokens"
    """What a row is, for displays of progress."""
    config: RunConfig
    own: frozenset[Key] | None = None
    """The (site, name) of the SAEs that this process trains; None where it is the only one and trains all."""

    def trains(self, key: Key) -> bool:
        """Whether this process trains the SAE."""
        return self.own is None or key in self.own

    @property
    def text_facts(self) -> dict[str, Any]:
        """What is recorded of the text with each SAE: prepend_bos, context_size, dataset_path; empty for rows."""
        return {}

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where SAEs are trained."""

    @property
    @abstractmethod
    def source_name(self) -> str:
        """The name of the model, or of the file, that the activations come from."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of everything that the activations depend on."""

    @property
    @abstractmethod
    def fingerprints(self) -> dict[str, str]:
        """The separate fingerprints of what `fingerprint` covers."""

    @property
    @abstractmethod
    def n_validation(self) -> int:
        """How many rows or positions `validation` reads."""

    @abstractmethod
    def width(self, site: str) -> int:
        """The width d of a site's rows."""

    @abstractmethod
    def held_in(self, n_tokens: int, seed: int) -> dict[str, Tensor]:
        """About n_tokens training rows of every site, drawn at random, [n, d] at E‖x‖² = 1."""

    def calibration(self, n_tokens: int) -> dict[str, Tensor]:
        """At most n_tokens rows of every site for calibration, [n, d] at E‖x‖² = 1.

        From a store they are those that training leaves out or meets last, because an SAE fires less often on rows
        that it was trained on; otherwise they are drawn at random from the training text.
        """
        from monosemy.activations.stream import StoredStream

        if self.store is None or not isinstance(self.stream, StoredStream):
            return self.held_in(n_tokens, seed=2)
        return self.stored_rows(self.stream.calibration_rows(n_tokens))

    def stored_rows(self, row_numbers: np.ndarray) -> dict[str, Tensor]:
        """Rows of the store by their sorted numbers, of every site, [n, d] at E‖x‖² = 1."""
        assert self.store is not None
        return {site: (self.store.rows(site, row_numbers) / self.scale[site]).to(self.device) for site in self.sites}

    @abstractmethod
    def validation(self) -> Iterator[ValidationRows]:
        """Yields all validation rows."""

    def centre(self, site: str) -> Tensor | None:
        """The row [d], in raw units, that is subtracted from every row before it is scaled; None for no such row."""
        return None

    def raw(self, site: str, rows: Tensor) -> Tensor:
        """Rows [n, d] at E‖x‖² = 1, such as those of `held_in`, in raw units."""
        rows = rows * self.scale[site]
        centre = self.centre(site)
        return rows if centre is None else rows + centre.to(rows.device)
