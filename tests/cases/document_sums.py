"""Sums over documents of dictionaries that scale their input, with the rows and documents behind them."""

from __future__ import annotations

import torch

from monosemy.evals.reconstruction import ReconstructionMeter
from monosemy.latents import SparseLatents


class Scaled:
    """x̂ = factor · x, with one latent that is always on."""

    d_sae = 1

    def __init__(self, factor):
        self.factor = factor

    def encode(self, x):
        self.x = x
        return SparseLatents.from_dense(torch.ones(len(x), 1))

    def decode(self, latents):
        return self.factor * self.x


def measured(n_documents=30, **factors):
    generator = torch.Generator().manual_seed(0)
    meter = ReconstructionMeter({name: Scaled(factor) for name, factor in factors.items()}, "site")
    rows = torch.randn(900, 6, generator=generator) * (1 + 4 * torch.rand(900, 1, generator=generator))
    ids = torch.randint(0, n_documents, (900,), generator=generator)
    for part, number in zip(rows.split(256), ids.split(256)):
        meter.add(part, number)
    return meter.documents(meter.finish(n_bootstrap=10)), rows, ids
