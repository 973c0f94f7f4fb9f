"""What a feature build reads, wherever a run's activations come from.

Place on the path: prepared activations → [this interface] → encoding pass and feature databases. Behind
`feature_text.TextSource` are a language model and its training text; a room that brings activations of another origin
brings its own source (`Room.features`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from monosemy.features.building.build import FeatureInputs
    from monosemy.features.building.encode_pass import EncodePass, ShardRows
    from monosemy.features.labels.embeddings import Encoder
    from monosemy.features.store.settings import FeatureSettings
    from monosemy.saes.base import SparseAutoencoder
    from monosemy.saes.listing import Key

N_TOKENS = 150_000


@dataclass(frozen=True)
class FeatureRequest:
    """What the user asks of a feature build, beside the SAEs."""

    n_tokens: int = N_TOKENS
    """About how many tokens or rows to read; all of them if there are fewer."""
    embedding_model: str | Encoder | None = None
    """A hub id or a folder of sentence-transformers, or an object like it."""


class FeatureSource(ABC):
    """The tokens or rows that features are built from: S sequences of T positions each."""

    settings: FeatureSettings
    n_sequences: int
    context_length: int
    window: int
    """Positions over which the encoding pass averages hidden states; divides the context."""
    name = "text"
    """What is read, for displays of progress."""
    unit = "tokens"
    """What a position is."""
    scale: Mapping[str, float]
    """Number by which each site's hidden means are divided."""
    device: torch.device

    @property
    @abstractmethod
    def identity(self) -> list[Any]:
        """Everything that a database depends on beside its SAE, as JSON values."""

    @abstractmethod
    def load(self) -> None:
        """Loads what the build needs beside the activations, so that a wrong name is refused before the long pass."""

    @abstractmethod
    def reader(self, sites: list[str]) -> Callable[[int, int], Iterable[ShardRows]]:
        """A function that yields the rows of sequences `start` to `stop`."""

    @abstractmethod
    def collect(self) -> None:
        """Collects what all databases share, after the pass."""

    @abstractmethod
    def inputs(self, encode_pass: EncodePass, key: Key, sae: SparseAutoencoder, info: dict[str, Any]) -> FeatureInputs:
        """The inputs from which the database of one SAE is built."""

    @abstractmethod
    def info(self, site: str) -> dict[str, Any]:
        """The facts about the source for features.json, as JSON values."""
