"""Writes a trained dictionary whose latents are spread over ranks: each rank its slice, the first one the index.

Place on the path: the end of sharded training → **files** (saes/slices.py), which `load_sae` and `saes.wide` read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from monosemy.config import to_json
from monosemy.layout import SaeFiles
from monosemy.saes.base import SparseAutoencoder
from monosemy.saes.slices import Slice, of_latents, write_index, write_slice
from monosemy.training.distributed.ranks import LATENTS
from monosemy.training.distributed.shard import Shard


def save_slices(sae: SparseAutoencoder, shard: Shard, folder: Path, record: Mapping[str, Any]) -> None:
    """Writes the dictionary to `folder`, with `record` in its configuration; returns when all of it is there.

    Raises UserError when a slice cannot be written. All ranks call it.
    """
    ranks, digest = shard.ranks, torch.zeros(32, dtype=torch.uint8)
    n_slices = ranks.n_latent_shards
    if ranks.token_shard == 0:
        # What is not of a latent is the same everywhere, and stands in the first slice.
        tensors = {
            name: tensor
            for name, tensor in sae.tensors().items()
            if ranks.latent_shard == 0 or of_latents(name, tensor)
        }
        written = write_slice(folder, ranks.latent_shard, n_slices, tensors, start=shard.start)
        digest = torch.frombuffer(bytearray.fromhex(written.sha256), dtype=torch.uint8)
    digests = ranks.gather(digest.to(ranks.device), LATENTS)
    if ranks.is_first:
        widest = -(-shard.d_sae // n_slices)
        slices = [
            Slice(
                SaeFiles(folder).slice_weights(number, n_slices).name,
                number * widest,
                min((number + 1) * widest, shard.d_sae),
                sha256=bytes(part.tolist()).hex(),
            )
            for number, part in enumerate(digests)
        ]
        described = dataclasses.replace(sae.config, d_sae=shard.d_sae, record={**sae.config.record, **record})
        write_index(folder, slices, to_json(described))
    ranks.barrier()
