"""Measures how much a language model's loss rises when reconstructions replace its activations.

Place on the data's path: evaluation, in the part that runs the whole model. For each batch of sequences the layers up
to the site run once; the rest of the model then runs once unchanged (clean), once with zeros and once per SAE.

  Δloss     = CE(spliced) − CE(clean)                                    nats per token
  recovered = (CE(zero) − CE(spliced)) / (CE(zero) − CE(clean))          1: nothing lost, 0: as bad as zeros
  KL        = mean over tokens of Σ_v p_clean(v) log(p_clean(v) / p_spliced(v))

Positions dropped from training (first position, special tokens, norm outliers) keep their true activation in *every*
splice, the one with zeros included: SAEs are not trained on them, and damage there would drown everything else. The
losses counted are those of predictions made *at kept positions*, the same for clean, zeros and SAEs. A sequence's last
position predicts nothing and does not count. This is common practice (SAELens and SAEBench mask positions with an
ignored token out of the mean); damage that reaches dropped positions through attention is not counted. Padding does not
count as positions at all.

`check_splice` runs first: an identity dictionary must leave every logit bit-identical (Δloss exactly 0), and zeros
must change at least one; otherwise the model is not edited where it should be.

Intervals: sums of the paired per-token differences over documents are resampled (intervals.py). Pairing makes the
interval of Δloss far tighter than those of the losses. Per-token losses are computed in float32 and summed in float64.

Limits: two arrays [batch, T, V] are in memory at once, the clean log-probabilities and the logits of a splice;
log-softmax works on a few rows at a time. Cost: tokens × (1 + (1 + number of SAEs) × the share of the model after the
site); the losses and KL add about 4% to that on a CPU (135M parameters, vocabulary 49,152).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosemy.errors import UserError
from monosemy.evals.documents import DocumentSums
from monosemy.evals.intervals import Blocks, Interval, bootstrap_weights, ratio_interval
from monosemy.evals.reconstruction import Dictionary, block_sums, check_width, require_finite, source_site
from monosemy.models.padding import Padding, read_mask, text_positions
from monosemy.shapes import PositionMask, SiteActivations, TextMask, TokenIds
from monosemy.support.numbers import rounded_text

Edit = Callable[[Tensor], Tensor]
_LOGIT_BYTES = 2**28  # the target size of one array of logits
_CHUNK_ENTRIES = {
    "cpu": 2**19,
    "other": 2**24,
}  # how many logits one log-softmax takes: on a CPU, as many as fit into its cache


@runtime_checkable
class Model(Protocol):
    """A language model, as far as it is needed here (implemented by `models.adapter.LanguageModel`)."""

    def site_width(self, site: str, /) -> int: ...

    def prefix(self, tokens: TokenIds, site: str, /, *, attention_mask: TextMask | None = None) -> Any: ...

    def logits(
        self, tokens: TokenIds, edits: Mapping[str, Edit] | None = None, start: Any = None
    ) -> Float[Tensor, "batch position vocab"]: ...


@dataclass(frozen=True)
class ModelLossRecord:
    """The effect of one dictionary on the model. Every `_interval` is (low, high), or None with only one document."""

    delta_loss: float
    """CE(spliced) − CE(clean), in nats per token."""
    delta_loss_interval: Interval
    loss_recovered: float | None
    """The share of the loss recovered; None when zeros do not raise the loss, so that there is nothing to recover."""
    loss_recovered_interval: Interval
    _: KW_ONLY
    kl: float
    """The divergence of the spliced predictions from the clean ones, in nats per token."""
    kl_interval: Interval
    n_loss_tokens: int


@dataclass(frozen=True)
class ModelLosses:
    """The model's own loss, its loss with zeros at the site, and each dictionary's effect; in nats per token."""

    clean_loss: float
    clean_loss_interval: Interval
    zero_loss: float
    zero_loss_interval: Interval
    _: KW_ONLY
    n_loss_tokens: int
    records: dict[str, ModelLossRecord]
    documents: DocumentSums = field(compare=False, repr=False)
    """Σ (CE(spliced) − CE(clean)) of each SAE by blocks of documents, for paired comparisons."""


def splice(
    dictionary: Dictionary | None,
    keep: PositionMask | None = None,
    *,
    name: str = "",
    site: str = "",
) -> Splice:
    """Makes the edit that replaces activations at kept positions by their reconstruction, or by zeros (None).

    Without `keep`, all positions are kept except the first token of each sequence, whose massive activation no SAE is
    trained on. In padded sequences the model's `attention_mask` says which token is the first; padding is not edited.

    Rows are read in float32 and written back in the model's own dtype. The edit raises UserError, naming the SAE, when
    a reconstruction is not finite, and when the shape of `keep` is not that of the tokens.
    """
    return Splice(dictionary, keep, name, site)


@dataclass(frozen=True)
class Splice:
    """The edit that `splice` makes: a function from the activations of a site [B, T, d] to those that replace them."""

    dictionary: Dictionary | None
    keep: PositionMask | None
    name: str
    site: str
    source: SiteActivations | None = None
    """A transcoder's input, at all positions; None for a dictionary that reads the site itself."""

    def with_mask(self, mask: PositionMask) -> Splice:
        """The same edit for padded sequences, given where their text is (True)."""
        keep = text_positions(mask) > 0 if self.keep is None else self.keep.to(mask.device) & mask
        return replace(self, keep=keep)

    def __call__(self, x_BTD: Float[Tensor, "batch position d"]) -> Float[Tensor, "batch position d"]:
        if self.keep is None:
            at = torch.ones(x_BTD.shape[:2], dtype=torch.bool, device=x_BTD.device)
            at[:, 0] = False
        else:
            at = self.keep.to(x_BTD.device)
        if at.shape != x_BTD.shape[:2]:
            raise UserError(f"keep has shape {list(at.shape)}, but the tokens {list(x_BTD.shape[:2])}; they must match")
        spliced = x_BTD.clone()
        rows = x_BTD[at]
        # Without rows there is nothing to encode, and writing zeros to no place changes nothing.
        if self.dictionary is None or not len(rows):
            spliced[at] = 0
        else:
            read = rows if self.source is None else self.source.to(at.device)[at]
            home = _device_of(self.dictionary, rows)
            x_hat = self.dictionary.decode(self.dictionary.encode(read.to(home, torch.float32)))
            spliced[at] = require_finite(self.name, x_hat, self.site).to(x_BTD.device, x_BTD.dtype)
        return spliced


def _device_of(dictionary: Dictionary, rows: Tensor) -> torch.device:
    """Where a dictionary computes: on the device of its tensors, or on that of the rows if it has none."""
    if not isinstance(dictionary, torch.nn.Module):
        return rows.device
    tensors = itertools.chain(dictionary.parameters(), dictionary.buffers())
    return next((tensor.device for tensor in tensors), rows.device)


class IdentityDictionary:
    """A dictionary that loses nothing: `encode` and `decode` return their argument (its code is the activation)."""

    def __init__(self, d_in: int):
        self.d_in = self.d_sae = d_in

    def encode(self, x: Float[Tensor, "n d"]) -> Any:
        return x

    def decode(self, latents: Any) -> Float[Tensor, "n d"]:
        return latents


def check_splice(
    model: Model,
    site: str,
    tokens: TokenIds,
    keep: PositionMask,
    *,
    attention_mask: TextMask | None = None,
) -> float:
    """Checks on the first sequence with a kept position that splicing reaches the model and changes nothing else.

    Returns the largest change of a logit by an identity dictionary, which is always exactly 0.0. Raises RuntimeError
    when splicing the activation itself changes a logit, or when splicing zeros changes none. Either is a fault of the
    adapter, not of the user.
    """
    # argmax gives the first of several maxima.
    row = int(keep.any(dim=1).to(torch.int64).argmax())
    tokens, keep = tokens[row : row + 1], keep[row : row + 1]
    start = model.prefix(tokens, site, attention_mask=None if attention_mask is None else attention_mask[row : row + 1])
    clean = model.logits(tokens, start=start)
    identity = splice(IdentityDictionary(model.site_width(site)), keep, name="identity", site=site)
    spliced = model.logits(tokens, edits={site: identity}, start=start)
    if not torch.equal(clean, spliced):
        difference = float((clean - spliced).abs().max())
        raise RuntimeError(
            f"splice check at {site}: an identity dictionary changed the logits by up to {rounded_text(difference)}"
        )
    if bool(keep.any()) and torch.equal(clean, model.logits(tokens, edits={site: splice(None, keep)}, start=start)):
        raise RuntimeError(
            f"splice check at {site}: zeros at the site changed no logit, so edits do not reach the model"
        )
    return float((spliced - clean).abs().max())


def n_passes(saes: Mapping[str, Dictionary]) -> int:
    """How many passes over the tokens `evaluate_model_loss` reports to `advance`: clean, zeros and one per SAE."""
    return len(saes) + 2


def evaluate_model_loss(
    model: Model,
    site: str,
    saes: Mapping[str, Dictionary],
    tokens: TokenIds,
    keep: PositionMask,
    *,
    attention_mask: TextMask | None = None,
    documents: TokenIds | None = None,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    batch_sequences: int | None = None,
    advance: Callable[[int], object] | None = None,
) -> ModelLosses:
    """Splices each SAE at `site` of `model` over `tokens`, and measures the model's loss.

    `attention_mask` marks the text (1) of padded sequences. Padding is neither replaced nor predicted, and each
    sequence gives the same numbers as it does alone. `keep` is True where activations are replaced and predictions
    counted. `documents` holds the number of each token's document, which the bootstrap resamples; without it each
    sequence is a document. `batch_sequences` is how many sequences go through the model together (None: as many as
    256 MB of logits allow). `advance` receives tokens.numel() × `n_passes(saes)` in total.

    Raises UserError when no position counts, when an SAE's width is not the site's, when a reconstruction is not
    finite, and for padding without a mask.
    """
    tokens, keep = torch.as_tensor(tokens, dtype=torch.int64).cpu(), torch.as_tensor(keep, dtype=torch.bool).cpu()
    if tokens.shape != keep.shape:
        raise UserError(f"tokens are {tuple(tokens.shape)} but the kept positions {tuple(keep.shape)}: they must match")
    for name, sae in saes.items():
        check_width(name, sae, source_site(sae) or site, model.site_width(source_site(sae) or site))
    if documents is None:
        documents = torch.arange(len(tokens))[:, None].expand_as(tokens)
    documents = torch.as_tensor(documents).cpu()
    has_next = torch.ones_like(keep)
    if attention_mask is not None:
        # Text is moved to the front, where a causal model never attends to the padding behind it. The padding may then
        # pass for text, which the mask of ones says.
        padding = Padding.of(read_mask(attention_mask, tokens))
        tokens, keep, documents = (padding.text_first(values) for values in (tokens, keep, documents))
        tokens, keep = tokens.masked_fill(~padding.is_text, 0), keep & padding.is_text
        has_next = padding.is_text.roll(-1, dims=1)
        attention_mask = torch.ones_like(tokens)
    has_next[:, -1] = False
    if not bool((keep & has_next).any()):
        raise UserError(f"no validation rows for the loss at {site}: every position that predicts a token was dropped")
    blocks = Blocks()
    sums = _LossSums(list(saes), blocks.limit)
    with torch.no_grad():
        check_splice(model, site, tokens, keep, attention_mask=attention_mask)
        for part in _batches(model, tokens, batch_sequences):
            counted = keep[part] & has_next[part]
            if bool(counted.any()):
                # A prediction belongs to the document of the token that makes it, not of the one it predicts.
                block = blocks.rows(documents[part][counted])
                start = model.prefix(
                    tokens[part],
                    min([site, *_sources(saes)], key=_layer),
                    attention_mask=None if attention_mask is None else attention_mask[part],
                )
                batch = _LossBatch(tokens[part], start, keep[part], counted, block=block)
                _measure_batch(model, site, saes, batch, sums=sums, advance=advance)
            elif advance:
                advance(tokens[part].numel() * n_passes(saes))
    weights = bootstrap_weights(blocks.n, n_bootstrap, seed)
    return sums.finish(weights, confidence, blocks.documents)


def _sources(saes: Mapping[str, Dictionary]) -> list[str]:
    """The sites that transcoders among the dictionaries read."""
    return list(dict.fromkeys(source for sae in saes.values() if (source := source_site(sae)) is not None))


def _layer(site: str) -> int:
    """The layer of a site, by its canonical name; 0 for a name of another form, whose layers are then all run."""
    match = re.match(r"layers\.(\d+)\.", site)
    return int(match[1]) if match else 0


def _batches(model: Model, tokens: TokenIds, batch_sequences: int | None) -> Iterator[slice]:
    """Yields the sequences of each pass; by default as many as `_LOGIT_BYTES` of float32 logits allow."""
    if batch_sequences is None:
        vocabulary = int(getattr(model, "vocab_size", 50_000))
        batch_sequences = max(1, _LOGIT_BYTES // (4 * vocabulary * tokens.shape[1]))
    for first in range(0, len(tokens), batch_sequences):
        yield slice(first, first + batch_sequences)


@dataclass(frozen=True)
class _LossBatch:
    """Sequences that go through the model together."""

    tokens: TokenIds
    start: Any
    """The model's state just before the site (`Model.prefix`), computed once for all passes."""
    keep: PositionMask
    """Where activations are replaced."""
    counted: PositionMask
    """Where predictions count."""
    _: KW_ONLY
    block: Int[Tensor, " n"]
    """The block of documents of each counted prediction, in order."""


def _measure_batch(
    model: Model,
    site: str,
    saes: Mapping[str, Dictionary],
    batch: _LossBatch,
    *,
    sums: _LossSums,
    advance: Callable[[int], object] | None,
) -> None:
    """Adds one batch to `sums`: the clean pass, zeros at the site, and every SAE spliced there."""
    tokens, start, block = batch.tokens, batch.start, batch.block
    # The clean pass also reads what transcoders take in, which no edit of the site changes.
    read: dict[str, Tensor] = {}

    def reader(source: str) -> Edit:
        def keep(value: Tensor) -> Tensor:
            read[source] = value.clone()  # the model may overwrite it in place
            return value

        return keep

    readers = {source: reader(source) for source in _sources(saes)}
    base = _TokenLosses(model.logits(tokens, readers, start), tokens, batch.counted)
    sums.add_clean(base.loss, block)
    if advance:
        advance(tokens.numel())
    spliced: list[tuple[str | None, Dictionary | None]] = [(None, None), *saes.items()]
    for name, sae in spliced:
        edit = splice(sae, batch.keep, name=name or "zeros", site=site)
        if sae is not None and (source := source_site(sae)) is not None:
            edit = replace(edit, source=read[source])
        logits = model.logits(tokens, edits={site: edit}, start=start)
        sums.add(name, *base.against(logits, with_kl=name is not None), block)
        # Freed before the next pass makes its own: only two arrays of this size may be alive.
        del logits
        if advance:
            advance(tokens.numel())


class _TokenLosses:
    """The clean cross-entropy at the counted positions, and the comparison of other logits with it.

    Rows are processed whether counted or not: selecting the counted ones, nearly all, would copy them.
    """

    def __init__(self, clean_BTV: Float[Tensor, "batch position vocab"], tokens: TokenIds, counted: PositionMask):
        self.log_p = clean_BTV.flatten(0, 1).to(torch.float32)
        # Each position's target is the next token. The last position wraps around to the first token, but never counts.
        self.targets = tokens.roll(-1, dims=1).flatten()[:, None].to(self.log_p.device)
        self.counted = counted.flatten().to(self.log_p.device)
        losses = []
        for rows in self._chunks():
            # Overwrites the logits, which nothing else uses: that saves an array of their size.
            self.log_p[rows] = self.log_p[rows].log_softmax(dim=1)
            losses.append(-self.log_p[rows].gather(1, self.targets[rows])[:, 0])
        self.every_loss = torch.cat(losses)
        self.loss = self.every_loss[self.counted]

    def _chunks(self) -> Iterator[slice]:
        n_rows, n_vocabulary = self.log_p.shape
        size = max(1, _CHUNK_ENTRIES["cpu" if self.log_p.device.type == "cpu" else "other"] // n_vocabulary)
        return (slice(first, first + size) for first in range(0, n_rows, size))

    def against(
        self, logits_BTV: Float[Tensor, "batch position vocab"], *, with_kl: bool
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"] | None]:
        """(CE − CE_clean, KL) of every counted token, [n]; both are exactly 0 for identical logits."""
        logits, losses, kls = logits_BTV.flatten(0, 1), [], []
        for rows in self._chunks():
            log_q = logits[rows].to(torch.float32).log_softmax(dim=1)
            losses.append(-log_q.gather(1, self.targets[rows])[:, 0])
            if with_kl:
                # Σ p (log p − log q), with the difference written over log q.
                log_ratio = torch.sub(self.log_p[rows], log_q, out=log_q)
                kls.append(torch.linalg.vecdot(self.log_p[rows].exp(), log_ratio))
        delta = (torch.cat(losses) - self.every_loss)[self.counted]
        return delta, torch.cat(kls)[self.counted] if with_kl else None


class _LossSums:
    """Sums per block, in float64: counted tokens, clean loss, Δloss of zeros, and Δloss and KL of each SAE."""

    def __init__(self, names: list[str], limit: int):
        self.limit = limit
        self.clean = np.zeros((limit, 2))  # tokens, loss
        self.zero = np.zeros((limit, 1))  # Δloss
        self.saes = {name: np.zeros((limit, 2)) for name in names}  # Δloss, KL

    def add_clean(self, loss: Float[Tensor, " n"], block: Int[Tensor, " n"]) -> None:
        loss = loss.cpu().to(torch.float64)
        self.clean += block_sums(torch.stack([torch.ones_like(loss), loss], dim=1), block, self.limit)

    def add(
        self, name: str | None, delta: Float[Tensor, " n"], kl: Float[Tensor, " n"] | None, block: Int[Tensor, " n"]
    ) -> None:
        columns = torch.stack([delta] if kl is None else [delta, kl], dim=1).cpu()
        total = block_sums(columns, block, self.limit)
        if name is None:
            self.zero += total
        else:
            self.saes[name] += total

    def finish(self, weights: np.ndarray, confidence: float, documents: list[int]) -> ModelLosses:
        """Divides the sums by the tokens, with intervals from the bootstrap's weights [resample, block]."""
        used = slice(0, weights.shape[1])
        n, clean = self.clean[used].T
        zero = self.zero[used, 0]
        n_tokens = n.sum()
        records = {}
        for name, total in self.saes.items():
            delta, kl = total[used].T
            damaged = zero.sum() > 0
            records[name] = ModelLossRecord(
                delta_loss=float(delta.sum() / n_tokens),
                delta_loss_interval=ratio_interval(delta, n, weights, confidence),
                loss_recovered=float((zero - delta).sum() / zero.sum()) if damaged else None,
                loss_recovered_interval=ratio_interval(zero - delta, zero, weights, confidence) if damaged else None,
                kl=float(kl.sum() / n_tokens),
                kl_interval=ratio_interval(kl, n, weights, confidence),
                n_loss_tokens=int(n_tokens),
            )
        return ModelLosses(
            clean_loss=float(clean.sum() / n_tokens),
            clean_loss_interval=ratio_interval(clean, n, weights, confidence),
            zero_loss=float((clean + zero).sum() / n_tokens),
            zero_loss_interval=ratio_interval(clean + zero, n, weights, confidence),
            n_loss_tokens=int(n_tokens),
            records=records,
            documents=DocumentSums(np.array(documents), n, {name: s[used, 0] for name, s in self.saes.items()}),
        )
