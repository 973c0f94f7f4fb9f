"""Collects activations of several sites in one pass of the model, and decides which positions are dropped.

Place on the data's path: tokens -> [harvest] -> activation rows, for the disk store (store.py), the on-the-fly
stream (stream.py) and evaluation. All three drop the same positions, because all of them use the rules below.

A position is dropped for the first of these reasons that holds:
  1. first_position     position < drop_first_positions (position 0 carries massive activations: residual norms
                        of some 23,000 against a median of 137-676 in SmolLM2-135M);
  2. special_token      the token is a special one (BOS, EOS, PAD, chat markers);
  3. norm_outlier       ||x|| > outlier_multiple * median ||x||, at ANY of the harvested sites.
A position dropped at one site is dropped at all sites, so that row i is the same token at every site.

The median is measured at every site over the ordinary positions (those without reason 1 or 2) of the first `n_tokens`
training tokens. Training and evaluation must use the same numbers, so they are handed on as `DropRules`.

Source: common practice in SAE training, which leaves out special tokens and norm outliers; outliers are usually defined
by a multiple of the median norm. Limits: the median is that of a sample, so the limit varies by a per cent or two.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int32, UInt8
from torch import Tensor

from monosemy.config import ActivationsConfig
from monosemy.errors import UserError
from monosemy.shapes import PositionMask, SiteActivations, SiteNorms, TextMask, TokenIds

REASONS = ("first_position", "special_token", "norm_outlier")
"""The reasons to drop a position, the strongest first; `drop_reasons` gives REASONS[i] the code i + 1."""
NOT_DROPPED = 0


@runtime_checkable
class ActivationModel(Protocol):
    """A language model, as far as harvesting needs it (implemented by models.adapter.LanguageModel)."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def special_token_ids(self) -> frozenset[int]: ...
    def resolve(self, site: str) -> str: ...
    def site_width(self, site: str) -> int: ...
    def activations(
        self, tokens: TokenIds, sites: Sequence[str], *, attention_mask: TextMask | None = None
    ) -> Mapping[str, SiteActivations]: ...


@runtime_checkable
class Tokens(Protocol):
    """Packed tokens, as far as harvesting needs them (implemented by data.tokens.TokenShards)."""

    @property
    def n_sequences(self) -> int: ...
    @property
    def context_length(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def sequences(self, start: int, stop: int) -> np.ndarray: ...
    def documents(self, start: int, stop: int) -> np.ndarray: ...


@dataclass(frozen=True)
class SiteStatistics:
    """Statistics of one site on a sample of the training tokens. Norms are in the model's own (raw) units."""

    median_norm: float
    """The median of ||x|| over ordinary positions."""
    scale: float
    """C = sqrt(E ||x||^2) over the kept positions of the sample; the stream divides activations by it."""
    n_tokens: int
    """The number of tokens read."""
    n_ordinary: int
    """How many of them are neither first positions nor special tokens; the median is taken over these."""
    n_outliers: int
    """How many ordinary positions are dropped as outliers of any site: the same number at every site."""

    def to_json(self) -> dict[str, float | int]:
        return dict(vars(self))


@dataclass(frozen=True)
class DropRules:
    """The rules that decide which positions are dropped, as plain values that can be written to a record."""

    first_positions: int
    """How many positions are dropped at the start of each sequence."""
    special_token_ids: frozenset[int]
    """The ids of tokens that are dropped; empty when special tokens are kept."""
    norm_limits: Mapping[str, float]
    """The largest norm that is kept, by site; infinity keeps all."""

    def only(self, sites: Sequence[str]) -> DropRules:
        """The rules with the norm limits of these sites only, for use where the other sites were not harvested."""
        return DropRules(self.first_positions, self.special_token_ids, {s: self.norm_limits[s] for s in sites})

    def to_json(self) -> dict[str, Any]:
        """The rules as JSON values."""
        # JSON has no infinity: a site without a limit is written as null.
        limits = {site: None if math.isinf(limit) else limit for site, limit in self.norm_limits.items()}
        return {
            "first_positions": self.first_positions,
            "special_token_ids": sorted(self.special_token_ids),
            "norm_limits": limits,
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> DropRules:
        limits = {site: math.inf if limit is None else float(limit) for site, limit in values["norm_limits"].items()}
        return DropRules(int(values["first_positions"]), frozenset(values["special_token_ids"]), limits)


@dataclass(frozen=True)
class HarvestedRows:
    """The rows kept of one pass of the model; row i is the same token at every site."""

    activations: dict[str, Float[Tensor, "n _"]]
    """The activations by site, in the model's dtype, on its device, in raw units; sites differ in width."""
    token_ids: Int32[Tensor, " n"]
    """The token ids, on the CPU like the next three tensors."""
    sequence: Int32[Tensor, " n"]
    """The number of each row's sequence in the token shards."""
    position: Int32[Tensor, " n"]
    """Each row's position in its sequence."""
    _: KW_ONLY
    document: Int32[Tensor, " n"]
    """The number of each row's document."""
    n_tokens: int
    """The number of positions read, whether kept or not."""
    n_dropped: dict[str, int]
    """Reason -> number of positions dropped for it; n_tokens = n + the sum of these."""


def drop_reasons(
    tokens: TokenIds, activations: Mapping[str, SiteActivations], rules: DropRules
) -> UInt8[Tensor, "batch position"]:
    """The reason why each position is dropped, on the tokens' device: i + 1 for REASONS[i], 0 if kept.

    `activations` must hold every site in `rules.norm_limits`, else ValueError.
    """
    missing = sorted(set(rules.norm_limits) - set(activations))
    if missing:
        raise ValueError(f"the drop rules need sites {missing}; use rules.only({sorted(activations)})")
    return _reasons(tokens, {site: norms(activations[site]) for site in rules.norm_limits}, rules)


def keep_mask(tokens: TokenIds, activations: Mapping[str, SiteActivations], rules: DropRules) -> PositionMask:
    """The positions that training and evaluation use. Arguments as for `drop_reasons`."""
    return drop_reasons(tokens, activations, rules) == NOT_DROPPED


def read_packed(model: ActivationModel, tokens: TokenIds, sites: Sequence[str]) -> Mapping[str, SiteActivations]:
    """Activations of packed sequences, which have no padding.

    Without the mask of ones, a padding token that occurs in the text would be taken for padding.
    """
    return model.activations(tokens, sites, attention_mask=torch.ones_like(tokens))


def norms(activations: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows"]:
    """||x|| over the last dimension, in float32: the squares of massive activations overflow float16."""
    return torch.linalg.vector_norm(activations, dim=-1, dtype=torch.float32)


def _reasons(tokens: TokenIds, lengths: Mapping[str, SiteNorms], rules: DropRules) -> UInt8[Tensor, "batch position"]:
    """As `drop_reasons`, from the norms of every site that has a limit."""
    # From the last reason to the first: each overwrites those that come after it in REASONS.
    reasons = torch.zeros(tokens.shape, dtype=torch.uint8, device=tokens.device)
    for site, limit in rules.norm_limits.items():
        reasons[(lengths[site] > limit).to(tokens.device)] = 1 + REASONS.index("norm_outlier")
    if rules.special_token_ids:
        special = torch.tensor(sorted(rules.special_token_ids), device=tokens.device, dtype=tokens.dtype)
        reasons[torch.isin(tokens, special)] = 1 + REASONS.index("special_token")
    reasons[:, : rules.first_positions] = 1 + REASONS.index("first_position")
    return reasons


def check_config(config: ActivationsConfig, context_length: int) -> None:
    """Raises UserError when a value of the configuration makes no sense for sequences of this length."""
    if not 0 <= config.drop_first_positions < context_length:
        raise UserError(
            f"drop_first_positions must be from 0 to {context_length - 1} (the context length minus 1), "
            f"got {config.drop_first_positions}"
        )
    if config.outlier_multiple != 0 and not config.outlier_multiple > 1:
        raise UserError(
            f"outlier_multiple must be above 1 (a multiple of the median norm) or 0 to keep all, "
            f"got {config.outlier_multiple}"
        )
    if config.batch_sequences < 1:
        raise UserError(f"batch_sequences must be at least 1, got {config.batch_sequences}")


def resolve_sites(model: ActivationModel, sites: Sequence[str]) -> tuple[str, ...]:
    """The canonical names of `sites`, in the order given and without duplicates.

    Raises UserError when there are none; the model raises it for an unknown site.
    """
    names = tuple(dict.fromkeys(model.resolve(site) for site in sites))
    if not names:
        raise UserError("no sites given; name at least one, e.g. layers.12.resid_post")
    return names


def drop_rules(
    model: ActivationModel, config: ActivationsConfig, statistics: Mapping[str, SiteStatistics]
) -> DropRules:
    """The drop rules of this configuration, with norm limits that follow from the measured medians."""
    multiple = config.outlier_multiple
    limits = {s: multiple * stats.median_norm if multiple else math.inf for s, stats in statistics.items()}
    return DropRules(config.drop_first_positions, _special(model, config), limits)


def _special(model: ActivationModel, config: ActivationsConfig) -> frozenset[int]:
    return frozenset(model.special_token_ids) if config.drop_special_tokens else frozenset()


@torch.no_grad()
def measure_sites(
    model: ActivationModel, shards: Tokens, sites: Sequence[str], config: ActivationsConfig, *, n_tokens: int = 8192
) -> dict[str, SiteStatistics]:
    """Measures median norm, scale and outliers of every site over the first `n_tokens` training tokens.

    Only norms are kept, which takes 4 bytes per token and site. Raises UserError when no position is ordinary, when
    every ordinary position is an outlier, when most activations of a site are zero, and when one is not finite.
    """
    check_config(config, shards.context_length)
    names = resolve_sites(model, sites)
    n_sequences = min(shards.n_sequences, max(1, -(-n_tokens // shards.context_length)))
    # No norm limits yet: they follow from the medians measured here.
    rules = DropRules(config.drop_first_positions, _special(model, config), {})
    collected: dict[str, list[Tensor]] = {site: [] for site in names}
    ordinary_parts = []
    for first, _, tokens in _batches(shards, config, 0, n_sequences):
        lengths = checked_norms(read_packed(model, tokens, names), names, first)
        ordinary_parts.append(_reasons(tokens, lengths, rules) == NOT_DROPPED)
        for site in names:
            collected[site].append(lengths[site].cpu())
    ordinary = torch.cat(ordinary_parts)
    if not ordinary.any():
        raise UserError(
            f"none of the first {ordinary.numel()} tokens counts: all are first positions or special tokens; "
            "check the text and drop_first_positions"
        )
    # Only ordinary positions: the massive activations of first positions would distort the statistics.
    lengths = {site: torch.cat(parts)[ordinary].double() for site, parts in collected.items()}
    return _site_statistics(lengths, config.outlier_multiple, ordinary.numel())


def _site_statistics(
    lengths: Mapping[str, Tensor], outlier_multiple: float, n_tokens: int
) -> dict[str, SiteStatistics]:
    """The statistics from the norms [n_ordinary] of every site, all at the same positions."""
    medians = {site: float(length.median()) for site, length in lengths.items()}
    # Outliers of any site are dropped at all sites, so the scale of each is taken over what all sites keep.
    ordinary = torch.ones_like(next(iter(lengths.values())), dtype=torch.bool)
    for site, length in lengths.items():
        if medians[site] == 0:
            raise UserError(f"most activations at {site} are zero vectors; choose another site")
        if outlier_multiple:
            ordinary &= length <= outlier_multiple * medians[site]
    if not ordinary.any():
        raise UserError(
            f"every token of the sample is a norm outlier at some site; raise outlier_multiple (now {outlier_multiple})"
        )
    return {
        site: SiteStatistics(
            median_norm=medians[site],
            scale=float(length[ordinary].square().mean().sqrt()),
            n_tokens=n_tokens,
            n_ordinary=len(ordinary),
            n_outliers=int((~ordinary).sum()),
        )
        for site, length in lengths.items()
    }


def harvest_rows(
    model: ActivationModel,
    shards: Tokens,
    sites: Sequence[str],
    config: ActivationsConfig,
    *,
    statistics: Mapping[str, SiteStatistics] | DropRules,
    start: int = 0,
    stop: int | None = None,
    finite: bool = True,
) -> Iterator[HarvestedRows]:
    """Yields the kept rows of sequences `start` to `stop` (exclusive), `config.batch_sequences` sequences at a time.

    With `finite`, raises UserError naming site, sequence and position when an activation is NaN or infinite, even at a
    dropped position: the model is then broken or its dtype too narrow.
    """
    names = resolve_sites(model, sites)
    rules = statistics if isinstance(statistics, DropRules) else drop_rules(model, config, statistics)
    stop = shards.n_sequences if stop is None else min(stop, shards.n_sequences)
    for first, last, tokens in _batches(shards, config, start, stop):
        with torch.no_grad():
            activations = read_packed(model, tokens, names)
        lengths = (
            checked_norms(activations, names, first) if finite else {site: norms(activations[site]) for site in names}
        )
        yield _kept_rows(
            tokens, activations, lengths, rules, names=names, first=first, documents=shards.documents(first, last)
        )


def _kept_rows(
    tokens: TokenIds,
    activations: Mapping[str, SiteActivations],
    lengths: Mapping[str, SiteNorms],
    rules: DropRules,
    *,
    names: Sequence[str],
    first: int,
    documents: np.ndarray,
) -> HarvestedRows:
    reasons = _reasons(tokens, lengths, rules)
    keep = reasons == NOT_DROPPED
    sequence, position = keep.nonzero(as_tuple=True)
    counts = Counter(reasons[~keep].tolist())
    return HarvestedRows(
        activations={site: activations[site][keep.to(activations[site].device)] for site in names},
        token_ids=tokens[keep].int(),
        sequence=(sequence + first).int(),
        position=position.int(),
        document=torch.from_numpy(np.array(documents, dtype=np.int32))[keep],
        n_tokens=tokens.numel(),
        n_dropped={reason: counts.get(code + 1, 0) for code, reason in enumerate(REASONS)},
    )


def checked_norms(activations: Mapping[str, SiteActivations], names: Sequence[str], first: int) -> dict[str, SiteNorms]:
    """The norms by site. Raises UserError, naming site, sequence and position, if one is not finite.

    `first` is the number of the first of the sequences.
    """
    lengths = {site: norms(activations[site]) for site in names}
    for site, length in lengths.items():
        if not bool(torch.isfinite(length).all()):
            row, position = (~torch.isfinite(length)).nonzero()[0].tolist()
            raise UserError(
                f"activations at {site} are NaN or infinite in sequence {first + row}, position {position}; "
                "check the model's weights, or load it in float32 or bfloat16"
            )
    return lengths


def _batches(shards: Tokens, config: ActivationsConfig, start: int, stop: int) -> Iterator[tuple[int, int, TokenIds]]:
    """Yields (first sequence, sequence after the last, tokens) for each pass of the model."""
    for first in range(start, stop, config.batch_sequences):
        last = min(first + config.batch_sequences, stop)
        yield first, last, torch.from_numpy(np.array(shards.sequences(first, last), dtype=np.int64))
