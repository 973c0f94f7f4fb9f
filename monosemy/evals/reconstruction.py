"""Measures how well and how sparsely dictionaries reconstruct validation activations: many SAEs in one pass.

Place on the data's path: evaluation. The rows of a site, in raw units, are read once, and every SAE of that site
encodes each batch.

  FVU = Σ‖x − x̂‖² / Σ‖x − x̄‖²      x̄ the mean over *all* evaluated tokens, not over a batch
  γ   = E‖x̂‖² / E[x̂·x]              1: no shrinkage; the factor by which x̂ is too short (not centred, as defined)
  L0  = active latents per token     dead = no firing on any evaluated token

One pass is enough: with c the first batch's mean, q_b = Σ‖x − c‖² and s_b = Σ(x − c) over the tokens of block b,
Σ‖x − x̄‖² = Σ_b q_b − ‖Σ_b s_b‖²/N, in float64; shifting by c keeps a large mean from cancelling digits. The same
sums, weighted, give the denominator of every bootstrap resample, each centred at its own mean.

Source: γ is the relative reconstruction bias of Rajamanoharan et al. 2024 (arXiv 2404.16014); FVU is the textbook
1 − R². A latent fires where its value is not zero. Intervals: see intervals.py. The shares of latents above a firing
rate are bootstrapped over documents. The dead share has a delete-one-block jackknife instead, because resampling with
replacement leaves documents out and would count more latents as dead.

Limits: shares and rates refer only to the evaluated tokens; a latent dead on 60,000 tokens may fire once in a million.
Memory: a table of firing counts per SAE, blocks × d_sae, of at most 64 MB up to a d_sae of 2²⁰.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosemy.errors import UserError
from monosemy.evals.documents import DocumentSums
from monosemy.evals.intervals import (
    Blocks,
    Interval,
    bootstrap_weights,
    jackknife_interval,
    percentiles,
    ratio_interval,
    resampled_ratio,
)
from monosemy.evals.latent_statistics import LatentStatistics
from monosemy.latents import SparseLatents
from monosemy.shapes import EntryNumbers, PerEntry

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_MAX_COUNTS = 2**24  # the most entries of an SAE's table of firing counts, blocks × latents


@runtime_checkable
class Dictionary(Protocol):
    """An SAE or a control, as far as evaluation needs it. Its `d_in` or `config.d_in` is checked where present."""

    @property
    def d_sae(self) -> int: ...

    def encode(self, x: Float[Tensor, "n d"], /) -> SparseLatents: ...

    def decode(self, latents: SparseLatents, /) -> Float[Tensor, "n d"]: ...


@dataclass(frozen=True)
class ReconstructionRecord:
    """The results of one dictionary at one site. Every `_interval` is (low, high), or None with only one document."""

    n_tokens: int
    n_documents: int
    d_sae: int
    l0: float
    l0_interval: Interval
    l0_quantiles: dict[str, int]
    fvu: float
    fvu_interval: Interval
    gamma: float | None
    """None when x̂·x sums to zero, as for an SAE that never fires and has no bias."""
    gamma_interval: Interval
    dead_fraction: float | None
    """None, as the other shares, where there are no latents."""
    dead_fraction_interval: Interval
    over_1pct_fraction: float | None
    over_1pct_fraction_interval: Interval
    over_10pct_fraction: float | None
    over_10pct_fraction_interval: Interval


@dataclass(frozen=True)
class Reconstruction:
    """All results of one dictionary: its record, its latents' statistics and its error by block."""

    record: ReconstructionRecord
    latents: LatentStatistics
    error: Float[np.ndarray, " block"]
    """Σ‖x − x̂‖² over the tokens of each block of documents."""


def evaluate_reconstruction(
    saes: Mapping[str, Dictionary],
    batches: Iterable[tuple[Float[Tensor, "_ d"], Int[Tensor, " _"]]],
    *,
    site: str = "",
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    chunk_tokens: int = 4096,
    advance: Callable[[int], object] | None = None,
) -> dict[str, Reconstruction]:
    """Evaluates all SAEs in one pass over `batches` of (rows in raw units, number of each row's document).

    `chunk_tokens` bounds the rows encoded together; `advance` receives the number of rows done. Raises UserError when
    there are no rows, when an SAE's width is not the site's, and when rows or a reconstruction hold NaN or infinity.
    """
    meter = ReconstructionMeter(saes, site, chunk_tokens)
    for rows, ids in batches:
        meter.add(rows, ids)
        if advance:
            advance(len(rows))
    return meter.finish(n_bootstrap, confidence, seed)


def source_site(dictionary: Dictionary) -> str | None:
    """The site that a transcoder reads; None for a dictionary that reads the site where it is measured."""
    return getattr(dictionary, "source_site", None)


class ReconstructionMeter:
    """`evaluate_reconstruction` in steps, batch by batch, so that several sites can share one pass of the model."""

    def __init__(self, saes: Mapping[str, Dictionary], site: str = "", chunk_tokens: int = 4096) -> None:
        self.saes, self.site, self.chunk_tokens = saes, site, chunk_tokens
        self._sources = {source_site(sae) for sae in saes.values()}
        self._blocks = Blocks()
        self._rows: _RowSums | None = None
        self._sums: dict[str, _DictionarySums] = {}

    @torch.no_grad()
    def add(
        self,
        batch: Float[Tensor, "n d"],
        ids: Int[Tensor, " n"],
        sources: Mapping[str, Float[Tensor, "n _"]] | None = None,
    ) -> None:
        """Takes in rows in raw units, each with the number of its document or sequence.

        `sources` holds the same tokens' rows at the sites that transcoders read, by site.

        Raises UserError when an SAE's width is not the rows', and when rows or a reconstruction are not finite.
        """
        blocks = self._blocks.rows(torch.as_tensor(ids))
        for start in range(0, len(batch), self.chunk_tokens):
            chunk = slice(start, start + self.chunk_tokens)
            x = batch[chunk].detach().to(torch.float32)
            read = {site: rows[chunk].detach().to(x) for site, rows in (sources or {}).items() if site in self._sources}
            self._add_chunk(x, blocks[chunk].to(x.device), read)

    def _add_chunk(
        self, x: Float[Tensor, "n d"], block: Int[Tensor, " n"], sources: Mapping[str, Float[Tensor, "n _"]]
    ) -> None:
        if self._rows is None:
            for name, sae in self.saes.items():
                source = source_site(sae)
                check_width(name, sae, source or self.site, x.shape[1] if source is None else sources[source].shape[1])
            self._rows = _RowSums(x)
            self._sums = {name: _DictionarySums(sae.d_sae, x.device) for name, sae in self.saes.items()}
        if not torch.isfinite(x).all():
            raise UserError(f"validation activations at {self.site or 'the site'} hold NaN or infinity; rebuild them")
        self._rows.add(x, block)
        for name, sae in self.saes.items():
            source = source_site(sae)
            latents = sae.encode(x if source is None else sources[source])
            self._sums[name].add(x, latents, require_finite(name, sae.decode(latents), self.site), block)

    def documents(self, reconstructions: Mapping[str, Reconstruction]) -> DocumentSums:
        """The errors in the results of `finish`, for paired comparisons."""
        assert self._rows is not None, "finish comes first, and raises without rows"
        n_tokens = self._rows.n[: self._blocks.n]
        return DocumentSums(
            np.array(self._blocks.documents), n_tokens, {name: r.error for name, r in reconstructions.items()}
        )

    def finish(self, n_bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0) -> dict[str, Reconstruction]:
        """The results by name. Raises UserError when there were no rows."""
        if self._rows is None:
            where = self.site or "the site"
            raise UserError(f"no validation rows at {where}: every token was dropped or none was given")
        weights = bootstrap_weights(self._blocks.n, n_bootstrap, seed)
        denominator = self._rows.finish(weights)
        finished = {
            n: s.finish(denominator, self._blocks, weights, confidence, seed=seed) for n, s in self._sums.items()
        }
        return finished


def check_width(name: str, sae: Dictionary, site: str, width: int) -> None:
    """Raises UserError, naming both widths, when the SAE's width is not the site's."""
    d_in = getattr(sae, "d_in", None) or getattr(getattr(sae, "config", None), "d_in", None)
    if d_in is not None:
        require_width(name, d_in, site, width)


def require_width(name: str, d_in: int, site: str, width: int) -> None:
    """As `check_width`, for an SAE whose weights are not read yet."""
    if d_in != width:
        raise UserError(
            f"SAE {name!r} reads activations {d_in} wide, but {site or 'the site'} is {width} wide; "
            "choose the site that it was trained on"
        )


def require_finite(name: str, x_hat: Float[Tensor, "n d"], site: str = "") -> Float[Tensor, "n d"]:
    """Returns the reconstruction. Raises UserError, naming the SAE, when it holds NaN or infinity."""
    if not torch.isfinite(x_hat).all():
        n_bad = int((~torch.isfinite(x_hat)).any(dim=1).sum())
        raise UserError(
            f"SAE {name!r}{f' at {site}' if site else ''}: the reconstruction of {n_bad} of {len(x_hat)} tokens "
            "holds NaN or infinity; leave this SAE out or train it again with a lower learning rate"
        )
    return x_hat


class _RowSums:
    """Sums over the tokens of each block that all SAEs of the site share: token count, Σ‖x − c‖², Σ(x − c)."""

    def __init__(self, first: Float[Tensor, "n d"]):
        self.shift = first.to(torch.float64).mean(0)
        self.n = np.zeros(Blocks().limit)
        self.square = np.zeros(Blocks().limit)
        self.linear = torch.zeros(Blocks().limit, first.shape[1], dtype=torch.float64, device=first.device)

    def add(self, x: Float[Tensor, "n d"], block: Int[Tensor, " n"]) -> None:
        centred = x.to(torch.float64) - self.shift
        self.n += block_sums(torch.ones(len(x), 1), block, len(self.n))[:, 0]
        self.square += block_sums(centred.square().sum(1, keepdim=True), block, len(self.n))[:, 0]
        self.linear.index_add_(0, block, centred)

    def finish(self, weights: np.ndarray) -> _Denominator:
        linear = self.linear.cpu().numpy()[: weights.shape[1]]
        n, square = self.n[: weights.shape[1]], self.square[: weights.shape[1]]
        # Σ‖x − x̄‖² = Σ_b q_b − ‖Σ_b s_b‖²/N; the same with weights for every resample.
        total = float(square.sum() - np.square(linear.sum(0)).sum() / n.sum())
        resampled = weights @ square - np.square(weights @ linear).sum(1) / (weights @ n)
        return _Denominator(n, total, resampled)


@dataclass(frozen=True)
class _Denominator:
    """The denominator of the FVU, of the data and of every resample."""

    n: np.ndarray
    """The number of tokens of each block."""
    total: float
    """Σ‖x − x̄‖²."""
    resampled: np.ndarray
    """The same of each resample."""


class _DictionarySums:
    """Sums of one SAE over blocks and over latents, and the histogram of its active latents per token."""

    def __init__(self, d_sae: int, device: torch.device):
        self.d_sae = d_sae
        self.per_block = np.zeros((Blocks().limit, 4))  # Σ‖x − x̂‖², Σ‖x̂‖², Σ x̂·x, Σ L0
        self.l0_histogram = np.zeros(d_sae + 1, dtype=np.int64)
        # A wide SAE's counts are kept over fewer, merged blocks, so that the table stays small.
        self.n_count_blocks = max(16, min(Blocks().limit, _MAX_COUNTS // max(1, d_sae)))
        self.counts = torch.zeros(self.n_count_blocks, d_sae, dtype=torch.int32, device=device)
        self.sum = torch.zeros(d_sae, dtype=torch.float64, device=device)
        self.max = torch.full((d_sae,), -torch.inf, device=device)

    def add(
        self, x: Float[Tensor, "n d"], latents: SparseLatents, x_hat: Float[Tensor, "n d"], block: Int[Tensor, " n"]
    ) -> None:
        """Takes in the code and the reconstruction of rows, with each row's block."""
        token, index, value = active_entries(latents)
        l0 = torch.bincount(token, minlength=len(x))
        self.l0_histogram += torch.bincount(l0, minlength=self.d_sae + 1).cpu().numpy()
        x_hat = x_hat.to(torch.float32)
        error = x - x_hat
        squares = [torch.linalg.vecdot(*pair) for pair in ((error, error), (x_hat, x_hat), (x_hat, x))]
        # Per token in float32; `block_sums` adds up in float64.
        per_token = torch.stack([*squares, l0.to(torch.float32)], dim=1)
        self.per_block += block_sums(per_token, block, len(self.per_block))
        # Firing counts by block and latent in one bincount: (block, latent) becomes one number, over the blocks present
        # in this chunk only.
        present, local = torch.unique(block % self.n_count_blocks, return_inverse=True)
        cells = torch.bincount(local[token] * self.d_sae + index, minlength=len(present) * self.d_sae)
        self.counts[present] += cells.view(len(present), self.d_sae).to(torch.int32)
        self.sum += torch.bincount(index, weights=value.to(torch.float64), minlength=self.d_sae)
        self.max.scatter_reduce_(0, index, value.to(torch.float32), "amax")

    def finish(
        self, denominator: _Denominator, blocks: Blocks, weights: np.ndarray, confidence: float, *, seed: int
    ) -> Reconstruction:
        """Turns the sums into the record, the latents' statistics and the error by block."""
        n, n_tokens = denominator.n, int(denominator.n.sum())
        error, square, dot, l0 = self.per_block[: blocks.n].T
        counts = self.counts[: min(blocks.n, self.n_count_blocks)].cpu()
        firing = counts.sum(0, dtype=torch.int64)
        n_folded = np.bincount(np.arange(blocks.n) % self.n_count_blocks, weights=n)
        shares = _firing_shares(counts, n_folded, len(weights), confidence, seed=seed)
        with np.errstate(divide="ignore", invalid="ignore"):
            fvu_resampled = (weights @ error) / denominator.resampled
        several = blocks.n >= 2
        record = ReconstructionRecord(
            n_tokens=n_tokens,
            n_documents=blocks.n_documents,
            d_sae=self.d_sae,
            l0=float(l0.sum() / n_tokens),
            l0_interval=ratio_interval(l0, n, weights, confidence),
            l0_quantiles=_quantiles(self.l0_histogram),
            fvu=float(error.sum() / denominator.total) if denominator.total > 0 else float("inf"),
            fvu_interval=percentiles(fvu_resampled, confidence) if several else None,
            gamma=float(square.sum() / dot.sum()) if dot.sum() != 0 else None,
            gamma_interval=percentiles(resampled_ratio(square, dot, weights), confidence) if several else None,
            **shares,
        )
        largest = self.max.cpu().masked_fill(firing == 0, 0.0)
        total = self.sum.cpu().to(torch.float32)
        statistics = LatentStatistics(firing.numpy(), total.numpy(), largest.numpy(), n_tokens)
        return Reconstruction(record, statistics, error)


def active_entries(latents: SparseLatents) -> tuple[EntryNumbers, EntryNumbers, PerEntry]:
    """(token, latent, value) of every entry whose value is not zero, in row order."""
    token, index, value = latents.rows(), latents.indices.to(torch.int64), latents.values.detach()
    # Not `> 0`: the codes of PCA and of other controls have either sign.
    active = value != 0
    if bool(active.all()):
        return token, index, value
    return token[active], index[active], value[active]


def block_sums(per_token: Float[Tensor, "n s"], block: Int[Tensor, " n"], limit: int) -> np.ndarray:
    """Sums of the columns over the tokens of each block, float64 [limit, s]."""
    total = torch.zeros(limit, per_token.shape[1], dtype=torch.float64, device=block.device)
    return total.index_add_(0, block, per_token.to(block.device, torch.float64)).cpu().numpy()


def _quantiles(histogram: np.ndarray) -> dict[str, int]:
    """For each q, the smallest number of active latents that at least a share q of the tokens do not exceed."""
    share = np.cumsum(histogram) / histogram.sum()
    # The small subtraction keeps a share that equals q up to rounding from being taken as below it.
    return {str(q): int(np.searchsorted(share, q - 1e-12)) for q in QUANTILES}


def _firing_shares(
    counts: Int[Tensor, "block d_sae"], n: np.ndarray, n_bootstrap: int, confidence: float, *, seed: int
) -> dict[str, Any]:
    """The shares of latents that are dead or fire on more than 1% or 10% of the tokens, with their intervals."""
    n_blocks, d_sae = counts.shape
    if not d_sae:  # the linear map has no latents that could be dead
        names = ("dead_fraction", "over_1pct_fraction", "over_10pct_fraction")
        return dict.fromkeys((*names, *(f"{name}_interval" for name in names)))
    firing = counts.sum(0, dtype=torch.int64)
    # Latents that fire in one block only: without that block they would be dead, which gives all leave-one-out dead
    # shares at once.
    once = (counts > 0).sum(0) == 1
    dead = float((firing == 0).double().mean())
    without = dead + ((counts > 0) & once).sum(1).double().numpy() / d_sae
    values: dict[str, Any] = {
        "dead_fraction": dead,
        "dead_fraction_interval": jackknife_interval(dead, without, confidence, low=0.0, high=1.0),
    }
    weights = torch.from_numpy(bootstrap_weights(n_blocks, n_bootstrap, seed))
    n_resampled = weights @ torch.from_numpy(n)
    n_over = {"over_1pct_fraction": torch.zeros(n_bootstrap), "over_10pct_fraction": torch.zeros(n_bootstrap)}
    rates = {"over_1pct_fraction": 0.01, "over_10pct_fraction": 0.10}
    # In parts of the latents, to bound the memory of [resample, latent].
    for part in counts.split(8192, dim=1):
        # float32 is exact for whole numbers below 2²⁴.
        resampled = weights.to(torch.float32) @ part.to(torch.float32)
        for name, rate in rates.items():
            n_over[name] += (resampled > rate * n_resampled[:, None]).sum(1)
    for name, rate in rates.items():
        values[name] = float((firing > rate * n.sum()).double().mean())
        values[f"{name}_interval"] = (
            percentiles(n_over[name].double().numpy() / d_sae, confidence) if n_blocks > 1 else None
        )
    return values
