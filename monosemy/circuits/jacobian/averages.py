"""The Jacobian averaged over the data for every pair of latents of the two SAEs, stored sparsely.

Place on the path: slices → [averages] → strong pairs (strongest_pairs.py, graph.py), shares of all pairs.

  mean_abs_ij    = (1/N) Σ_n |J_n,ij|            J_n,ij is zero on tokens where the pair is not active
  mean_effect_ij = (1/N) Σ_n |J_n,ij| s_n,j      how much of output latent i goes through input latent j
  over_t         = #{(i, j): mean_abs_ij > t} / (m_x m_y)

Source: Farnik et al. 2025 (arXiv 2502.18147), the average over all pairs of latents. Units: those of slices.py.

Memory: only pairs that are active together on some token are kept. Until `finish` sorts and sums them there is one
entry of 16 bytes per token and pair; at the peak of the sorting an entry takes `BYTES_PER_ENTRY`, so 16,384 tokens of
1,024 pairs each take up to 840 MB. `max_bytes` bounds that. Intervals of the shares resample documents; pairs whose
mean is below a quarter of the lowest threshold are taken to be below it in every resample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from monosemy.circuits.jacobian.measures import THRESHOLDS, Estimate
from monosemy.circuits.jacobian.slices import JacobianSlices
from monosemy.errors import UserError
from monosemy.evals.intervals import Blocks, bootstrap_weights, percentiles
from monosemy.ranges import number_name
from monosemy.support.numbers import fixed_text

BYTES_PER_ENTRY = 50
"""Bytes per entry at the peak of `AveragesMeter.finish`, measured where hardly any tokens share a pair; about 30 where
many do."""
MAX_BYTES = 1_500_000_000
"""Default bound on the memory of the entries, in bytes."""
_PAIRS = 2048
"""Pairs that are resampled at a time, which bounds the array of sums by pair and document."""


@dataclass(frozen=True)
class PairAverages:
    """Averages of the P pairs of latents that were ever active together, in falling order of mean_effect."""

    out: Int[ndarray, " pair"]
    """Output latent i (int32)."""
    inp: Int[ndarray, " pair"]
    """Input latent j (int32)."""
    mean_abs: Float[ndarray, " pair"]
    mean_effect: Float[ndarray, " pair"]
    """In units of the output SAE's latents."""
    n_active: Int[ndarray, " pair"]
    """Tokens on which both are active (int32)."""
    n_tokens: int
    over: dict[str, Estimate]
    """Threshold → share of all m_x · m_y pairs whose mean |J| is above it."""

    def inputs_of(self, out: int, n: int) -> Int[ndarray, " pair"]:
        """Positions in the arrays of the n strongest pairs with output latent `out`."""
        return np.flatnonzero(self.out == out)[:n]

    def place(self, out: int, inp: int) -> int | None:
        """Position of a pair in the arrays; None when it was never active."""
        places = np.flatnonzero((self.out == out) & (self.inp == inp))
        return int(places[0]) if len(places) else None


class AveragesMeter:
    """Collects the entries behind PairAverages, batch by batch.

    m_out, m_in: numbers of latents of the two SAEs. max_bytes: bound on the memory of the entries.
    """

    def __init__(self, m_out: int, m_in: int, max_bytes: int = MAX_BYTES) -> None:
        self.m_out, self.m_in, self.max_bytes = m_out, m_in, max_bytes
        self._blocks = Blocks()
        self._tokens = np.zeros(self._blocks.limit)
        self._parts: dict[str, list[ndarray]] = {"key": [], "size": [], "effect": []}
        self._n = 0

    @torch.no_grad()
    def add(self, slices: JacobianSlices, documents: Int[Tensor, " n"]) -> None:
        """Adds the entries of N tokens, given the number of each one's document.

        Raises UserError when all entries together would exceed `max_bytes`.
        """
        pairs = slices.active
        self._n += int(pairs.sum())
        if self._n * BYTES_PER_ENTRY > self.max_bytes:
            raise UserError(
                f"averaging the Jacobian over {int(self._tokens.sum()) + len(documents)} tokens takes more than "
                f"{fixed_text(self.max_bytes / 1e9, 1)} GB; average over fewer tokens"
            )
        block = self._blocks.rows(torch.as_tensor(documents))
        self._tokens += np.bincount(block.cpu().numpy(), minlength=len(self._tokens))
        # One integer holds pair and block, so that a single sort groups the entries by pair and, within it, by block.
        limit = self._blocks.limit
        pair = slices.out_indices[:, :, None].long() * self.m_in + slices.in_indices[:, None, :].long()
        size = slices.values.abs()
        effect = size * slices.in_values[:, None, :]
        key = pair * limit + block.to(pairs.device)[:, None, None]
        for name, part in (("key", key), ("size", size.float()), ("effect", effect.float())):
            self._parts[name].append(part[pairs].cpu().numpy())

    def finish(self, n_bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0) -> PairAverages:
        """The averages of everything added so far, whose entries are given up: call it once.

        Raises UserError when no token was counted.
        """
        n_tokens = int(self._tokens.sum())
        if not n_tokens:
            raise UserError("no validation tokens to average the Jacobian on: every token was dropped")
        # Entries in order of pair. Each `del` below frees an array once it is used up: BYTES_PER_ENTRY counts on that.
        key = self._joined("key")
        order = np.argsort(key)
        key = key[order]
        size, effect = (self._joined(name)[order] for name in ("size", "effect"))
        del order
        # Back to block and pair; a pair's entries begin where its number differs from the one before.
        block = (key % self._blocks.limit).astype(np.int16)
        key //= self._blocks.limit
        starts = np.flatnonzero(np.concatenate([np.ones(min(1, len(key)), bool), key[1:] != key[:-1]]))
        pairs = key[starts]
        del key
        mean_effect = (_sums(effect, starts) / n_tokens).astype(np.float32)
        del effect
        mean_abs = _sums(size, starts) / n_tokens
        over = self._shares(starts, size, block, mean_abs, n_bootstrap=n_bootstrap, confidence=confidence, seed=seed)
        mean_abs = mean_abs.astype(np.float32)
        n_active = np.diff(starts, append=len(size)).astype(np.int32)
        del size, block, starts
        # Stable, so pairs of equal effect stay in order of latents on every platform.
        order = np.argsort(-mean_effect, kind="stable")
        pairs = pairs[order]
        return PairAverages(
            out=(pairs // self.m_in).astype(np.int32),
            inp=(pairs % self.m_in).astype(np.int32),
            mean_abs=mean_abs[order],
            mean_effect=mean_effect[order],
            n_active=n_active[order],
            n_tokens=n_tokens,
            over=over,
        )

    def _joined(self, name: str) -> ndarray:
        """One column of all entries, as one array; the parts it came in are freed."""
        column = np.concatenate(self._parts[name])
        self._parts[name].clear()
        return column

    def _shares(
        self,
        starts: ndarray,
        size: ndarray,
        block: ndarray,
        mean: ndarray,
        *,
        n_bootstrap: int,
        confidence: float,
        seed: int,
    ) -> dict[str, Estimate]:
        """The share of all m_x · m_y pairs above each threshold, with its interval.

        size, block: |J| and document block of each entry, pair by pair; `starts` holds where each pair's entries begin.
        mean: each pair's mean |J|.
        """
        # Only pairs near or above a threshold need their mean on every resample.
        n_blocks, n_all_pairs = self._blocks.n, self.m_out * self.m_in
        near = np.flatnonzero(mean > min(THRESHOLDS) / 4)
        weights = bootstrap_weights(n_blocks, n_bootstrap, seed) if n_blocks > 1 else np.zeros((0, n_blocks))
        tokens = weights @ self._tokens[:n_blocks]
        counts = np.zeros((len(THRESHOLDS), len(weights)))
        for first in range(0, len(near), _PAIRS):
            chunk = near[first : first + _PAIRS]
            # The next pair's start ends a pair's entries; the last pair has no next one.
            ends = np.where(chunk + 1 < len(starts), starts[np.minimum(chunk + 1, len(starts) - 1)], len(size))
            lengths = ends - starts[chunk]
            # The positions of all entries of the chunk, without a loop: a count through them, shifted for each pair by
            # the distance between its place in the chunk and its place in `size`.
            pair_of_entry = np.repeat(np.arange(len(chunk)), lengths)
            entries = np.arange(len(pair_of_entry)) + np.repeat(starts[chunk] - (np.cumsum(lengths) - lengths), lengths)
            # Sums by pair and document block, then their weighted means on every resample.
            flat = pair_of_entry * n_blocks + block[entries]
            by_block = np.bincount(flat, size[entries], minlength=len(chunk) * n_blocks).reshape(-1, n_blocks)
            means = (weights @ by_block.T) / tokens[:, None]
            counts += np.array([(means > threshold).sum(1) for threshold in THRESHOLDS])
        return {
            number_name(threshold): Estimate(
                float((mean > threshold).sum()) / n_all_pairs, percentiles(row / n_all_pairs, confidence)
            )
            for threshold, row in zip(THRESHOLDS, counts)
        }


def _sums(values: ndarray, starts: ndarray) -> Float[ndarray, " part"]:
    """The sum of `values` from each start to the next, in float64."""
    # reduceat refuses an empty list of starts.
    return np.add.reduceat(values, starts, dtype=np.float64) if len(starts) else np.zeros(0)
