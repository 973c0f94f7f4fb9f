"""The Jacobian averaged over the data, for every pair of latents of the two SAEs, kept sparse.

Place on the path: slices → [averages] → strong pairs (pairs.py, graph.py), shares of all pairs.

  mean_abs_ij    = (1/N) Σ_n |J_n,ij|            zero on tokens where the pair is not active
  mean_effect_ij = (1/N) Σ_n |J_n,ij| s_n,j      how much of output latent i goes through input latent j
  over_t         = #{(i, j): mean_abs_ij > t} / (m_x m_y)

Source: Farnik et al. 2025 (arXiv 2502.18147), the average over all pairs of latents. Units: those of slices.py.

Only pairs that are active together somewhere are kept, one entry a token and pair until `finish`: 22 bytes each, so
16,384 tokens of 1,024 pairs take 370 MB. `max_bytes` bounds that. Intervals of the shares resample documents; pairs
whose mean is below a quarter of the lowest threshold are counted as under it in every resample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from monosemy.errors import UserError
from monosemy.evals.intervals import Blocks, bootstrap_weights, percentiles
from monosemy.jacobian.measures import THRESHOLDS, Estimate
from monosemy.jacobian.slices import JacobianSlices

BYTES_PER_ENTRY = 22
MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class PairAverages:
    """Pairs of latents that were active together, strongest mean_effect first; P of them."""

    out: Int[ndarray, " pair"]
    """Output latent i (int32)."""
    inp: Int[ndarray, " pair"]
    """Input latent j (int32)."""
    mean_abs: Float[ndarray, " pair"]
    mean_effect: Float[ndarray, " pair"]
    """In the units of the output SAE's latents."""
    n_active: Int[ndarray, " pair"]
    """Tokens on which both are active (int32)."""
    n_tokens: int
    over: dict[str, Estimate]
    """Threshold → share of all m_x · m_y pairs whose mean |J| is above it."""

    def inputs_of(self, out: int, n: int) -> Int[ndarray, " pair"]:
        """Places of the n strongest pairs with output latent `out`."""
        return np.flatnonzero(self.out == out)[:n]

    def place(self, out: int, inp: int) -> int | None:
        """Place of a pair; None when it was never active."""
        found = np.flatnonzero((self.out == out) & (self.inp == inp))
        return int(found[0]) if len(found) else None


class AveragesMeter:
    """Collects the entries behind PairAverages. m_out, m_in: widths of the two SAEs."""

    def __init__(self, m_out: int, m_in: int, max_bytes: int = MAX_BYTES) -> None:
        self.m_out, self.m_in, self.max_bytes = m_out, m_in, max_bytes
        self._blocks = Blocks()
        self._tokens = np.zeros(self._blocks.limit)
        self._parts: list[tuple[ndarray, ndarray, ndarray, ndarray]] = []
        self._n = 0

    @torch.no_grad()
    def add(self, slices: JacobianSlices, documents: Int[Tensor, " n"]) -> None:
        """Counts N tokens. Raises UserError when their entries would exceed `max_bytes`."""
        pairs = slices.active
        self._n += int(pairs.sum())
        if self._n * BYTES_PER_ENTRY > self.max_bytes:
            raise UserError(
                f"averaging the Jacobian over {int(self._tokens.sum()) + len(documents)} tokens takes more than "
                f"{self.max_bytes / 1e9:.1f} GB; average over fewer tokens"
            )
        block = self._blocks.rows(torch.as_tensor(documents))
        self._tokens += np.bincount(block.cpu().numpy(), minlength=len(self._tokens))
        key = (slices.out_indices[:, :, None].long() * self.m_in + slices.in_indices[:, None, :].long())[pairs]
        size = slices.values.abs()
        effect = size * slices.in_values[:, None, :]
        where = block.to(pairs.device)[:, None, None].expand_as(pairs)[pairs].short()
        self._parts.append(
            tuple(part.cpu().numpy() for part in (key, size[pairs].float(), effect[pairs].float(), where))  # type: ignore[arg-type]
        )

    def finish(self, n_bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0) -> PairAverages:
        """The averages. Raises UserError when no token was counted."""
        n_tokens = int(self._tokens.sum())
        if not n_tokens:
            raise UserError("no validation tokens to average the Jacobian on: every token was dropped")
        key, size, effect, block = (np.concatenate(parts) for parts in zip(*self._parts))
        self._parts.clear()
        pairs, which = np.unique(key, return_inverse=True)
        n_active = np.bincount(which, minlength=len(pairs))
        mean_abs = np.bincount(which, size, minlength=len(pairs)) / n_tokens
        mean_effect = np.bincount(which, effect, minlength=len(pairs)) / n_tokens
        over = self._shares(which, size, block, mean_abs, n_bootstrap, confidence, seed)
        order = np.argsort(-mean_effect, kind="stable")
        return PairAverages(
            out=(pairs[order] // self.m_in).astype(np.int32),
            inp=(pairs[order] % self.m_in).astype(np.int32),
            mean_abs=mean_abs[order].astype(np.float32),
            mean_effect=mean_effect[order].astype(np.float32),
            n_active=n_active[order].astype(np.int32),
            n_tokens=n_tokens,
            over=over,
        )

    def _shares(
        self,
        which: ndarray,
        size: ndarray,
        block: ndarray,
        mean: ndarray,
        n_bootstrap: int,
        confidence: float,
        seed: int,
    ) -> dict[str, Estimate]:
        """Shares of all pairs over each threshold; resamples look at the pairs that come near the lowest one."""
        n_blocks, everything = self._blocks.n, self.m_out * self.m_in
        near = np.flatnonzero(mean > min(THRESHOLDS) / 4)
        place = np.full(len(mean), -1)
        place[near] = np.arange(len(near))
        kept = place[which] >= 0
        flat = place[which[kept]] * n_blocks + block[kept]
        by_block = np.bincount(flat, size[kept], minlength=len(near) * n_blocks).reshape(len(near), n_blocks)
        weights = bootstrap_weights(n_blocks, n_bootstrap, seed) if n_blocks > 1 else np.zeros((0, n_blocks))
        tokens = weights @ self._tokens[:n_blocks]
        counts = np.zeros((len(THRESHOLDS), len(weights)))
        for start in range(0, len(near), 4096):
            means = (weights @ by_block[start : start + 4096].T) / tokens[:, None]
            counts += np.array([(means > threshold).sum(1) for threshold in THRESHOLDS])
        return {
            f"{threshold:g}": Estimate(
                float((mean > threshold).sum()) / everything, percentiles(row / everything, confidence)
            )
            for threshold, row in zip(THRESHOLDS, counts)
        }
