"""A model whose activations are known in closed form and text with topics, for tests of the activations package.

Real models are in the tests too (test_activations_store.py, tests/integration); here the point is that every row can
be written down: x(site, token, position) = table[site][token] * (1000 at position 0, else 1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from monosemy.config import ActivationsConfig
from monosemy.errors import unknown

EOS, OUTLIER, N_TOPICS, TOPIC_SIZE = 0, 65, 8, 8
A, B = "layers.0.resid_post", "layers.1.mlp_out"
WIDTHS = {A: 16, B: 12}
NORMS = {A: 3.0, B: 0.2}
CONFIG = ActivationsConfig(sites=(A, B), dtype="float32", batch_sequences=2)


@dataclass
class TableModel:
    """Tokens 1..64 in eight topics of similar vectors; token 65 has 20 times the norm, at site B only."""

    seed: int = 0
    poison: tuple[str, int, float] | None = None
    """(site, token, value): that token's vectors hold the value (NaN, infinity, 1e6) in their first component."""
    n_passes: int = 0
    name: str = "table"
    dtype: torch.dtype = torch.float32
    special_token_ids: frozenset[int] = frozenset({EOS})
    tables: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        for site, width in WIDTHS.items():
            topics = torch.randn(N_TOPICS, width, generator=generator).repeat_interleave(TOPIC_SIZE, 0)
            rows = torch.randn(2 + len(topics), width, generator=generator)
            rows[1:-1] = 0.5 * rows[1:-1] + topics
            self.tables[site] = NORMS[site] * torch.nn.functional.normalize(rows, dim=1)
        self.tables[B][OUTLIER] *= 20
        if self.poison:
            site, token, value = self.poison
            self.tables[site][token, 0] = value

    @property
    def fingerprint(self) -> str:
        return f"table-{self.seed}"

    def resolve(self, site: str) -> str:
        name = {"blocks.0.hook_resid_post": A}.get(site, site)
        if name not in WIDTHS:
            raise unknown("site", site, WIDTHS)
        return name

    def site_width(self, site: str) -> int:
        return WIDTHS[self.resolve(site)]

    def activations(
        self, tokens: Tensor, sites: Sequence[str], *, attention_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        assert attention_mask is None or bool(attention_mask.all())
        self.n_passes += 1
        rows_by_site = {self.resolve(site): self.tables[self.resolve(site)][tokens] for site in sites}
        for rows in rows_by_site.values():
            rows[:, 0] *= 1000
        return rows_by_site


@dataclass
class ArrayTokens:
    """Token shards from two arrays [n_sequences, T]."""

    tokens: np.ndarray
    numbers: np.ndarray

    @property
    def n_sequences(self) -> int:
        return len(self.tokens)

    @property
    def context_length(self) -> int:
        return self.tokens.shape[1]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.tokens.tobytes()).hexdigest()[:16]

    def sequences(self, start: int, stop: int) -> np.ndarray:
        return self.tokens[start:stop]

    def documents(self, start: int, stop: int) -> np.ndarray:
        return self.numbers[start:stop]


def topical_text(n_sequences: int = 40, context_length: int = 32, outliers: float = 0.01, seed: int = 0) -> ArrayTokens:
    """Documents of 20 to 120 tokens on one topic each, EOS between them, a share of outlier tokens."""
    random = np.random.default_rng(seed)
    tokens: list[int] = []
    numbers: list[int] = []
    document = 0
    while len(tokens) < n_sequences * context_length:
        length = int(random.integers(20, 120))
        topic = int(random.integers(N_TOPICS))
        words = 1 + topic * TOPIC_SIZE + random.integers(TOPIC_SIZE, size=length)
        words[random.random(length) < outliers] = OUTLIER
        tokens += [*words.tolist(), EOS]
        numbers += [document] * (length + 1)
        document += 1
    shape = (n_sequences, context_length)
    cut = n_sequences * context_length
    return ArrayTokens(
        np.array(tokens[:cut], dtype=np.int32).reshape(shape), np.array(numbers[:cut], dtype=np.int32).reshape(shape)
    )


def expected_keep(text: ArrayTokens, first_positions: int = 1) -> np.ndarray:
    """[n_sequences, T] bool, written out independently of the package."""
    keep = (text.tokens != EOS) & (text.tokens != OUTLIER)
    keep[:, :first_positions] = False
    return keep
