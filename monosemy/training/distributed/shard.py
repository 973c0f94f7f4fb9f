"""One rank's slice of a dictionary: which latents it holds, and the SAE of these latents alone.

Place on the path: configuration and seed → the SAE that a rank trains. It is an ordinary SAE of the architecture, as
wide as the slice, whose code counts latents from the slice's first. Slices are those of `torch.chunk`, so that tensors
of a slice are a distributed tensor's parts in any number of ranks.

The decoder's random rows are those that one process would draw: the generator runs over all rows in blocks, and the
slice's are kept.
Limits: TopK, BatchTopK and JumpReLU; no nested dictionaries, transcoders, pairs or λ_P.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from monosemy.errors import UserError
from monosemy.ranges import number_name
from monosemy.saes.base import SaeConfig, SparseAutoencoder
from monosemy.saes.registry import build_sae
from monosemy.training.distributed.ranks import Ranks

ARCHITECTURES = ("topk", "batch_topk", "jumprelu")
"""What can be shared out: selections by comparison, whose common cut ranks can agree on."""
BLOCK_ROWS = 4096
"""Rows drawn at a time; a multiple of 16, the numbers that torch draws together, so that blocks are one sequence."""


@dataclass(frozen=True)
class Shard:
    """The latents `start` up to, but not including, `stop` of a dictionary that `config` describes as a whole."""

    config: SaeConfig
    start: int
    stop: int
    ranks: Ranks

    @property
    def d_sae(self) -> int:
        """The number of latents of the whole dictionary."""
        return self.config.d_sae

    @property
    def width(self) -> int:
        return self.stop - self.start

    def n_within(self, n_first: int) -> int:
        """How many of the dictionary's first `n_first` latents are of this slice; they come first in it."""
        return min(max(n_first - self.start, 0), self.width)


def shard_of(config: SaeConfig, ranks: Ranks) -> Shard:
    """The slice of this rank. Raises UserError for what cannot be shared out over so many ranks."""
    n_shards = ranks.n_latent_shards
    if config.architecture not in ARCHITECTURES:
        raise UserError(
            f"{config.architecture} cannot be shared out over processes by latents; choose {', '.join(ARCHITECTURES)}, "
            "or leave --shard-latents out"
        )
    if config.transforms.transcoder:
        raise UserError("a transcoder cannot be shared out over processes by latents; train it on one device")
    widest = -(-config.d_sae // n_shards)
    if widest * (n_shards - 1) >= config.d_sae or widest < config.l0:
        raise UserError(
            f"{config.d_sae} latents cannot be shared out over {n_shards} processes with at least l0 "
            f"{number_name(config.l0)} each; choose fewer processes or a wider dictionary"
        )
    start = widest * ranks.latent_shard
    return Shard(config, start, min(start + widest, config.d_sae), ranks)


@torch.no_grad()
def build_shard(shard: Shard) -> SparseAutoencoder:
    """The SAE of a slice, at the start that one process would draw for the whole. Raises UserError for its options."""
    whole = shard.config
    sae = build_sae(dataclasses.replace(whole, d_sae=shard.width, l0=min(whole.l0, float(shard.width))))
    sae.config = dataclasses.replace(sae.config, l0=whole.l0)
    _check_options(sae)
    rows = drawn_rows(whole, shard.start, shard.stop)
    sae.W_dec.copy_(rows)
    sae.W_enc.copy_(rows.T)
    return sae.to(shard.ranks.device)


def bias_of(sae: SparseAutoencoder) -> Tensor:
    """b_enc [F], which all of `ARCHITECTURES` have."""
    bias = sae.b_enc
    assert isinstance(bias, Tensor)
    return bias


def _check_options(sae: SparseAutoencoder) -> None:
    options = sae.options
    if getattr(options, "prefixes", ()):
        raise UserError("a nested dictionary cannot be shared out over processes by latents; leave prefixes out")
    if getattr(options, "recipe", "step") == "tanh" and options.pre_act_coef > 0:
        raise UserError("jumprelu.pre_act_coef cannot be used with latents shared out over processes; set it to 0")


def drawn_rows(config: SaeConfig, start: int, stop: int) -> Tensor:
    """Rows [stop − start, d_out] of the random unit rows [d_sae, d_out] that an SAE of this seed starts with."""
    generator = torch.Generator().manual_seed(config.seed)
    width = config.d_out or config.d_in
    rows = torch.empty(stop - start, width)
    n_blocks = max(1, config.d_sae // BLOCK_ROWS)
    for i in range(n_blocks):
        first = i * BLOCK_ROWS
        # The last block takes what remains: fewer than 16 numbers alone would be drawn in another way.
        last = first + BLOCK_ROWS if i < n_blocks - 1 else config.d_sae
        if first >= stop:
            break
        block = torch.randn(last - first, width, generator=generator)
        low, high = max(first, start), min(last, stop)
        if low < high:
            rows[low - start : high - start] = normalize(block[low - first : high - first], dim=1)
    return rows
