"""Measures how much a language model's loss rises when reconstructions replace its activations.

Place on the data's path: evaluation, in the part that runs the whole model. For each batch of sequences the layers
below the first site run once, and from there the model runs on unchanged (clean). At every site, in the order of
layers, it runs from there once with zeros and once per SAE; the layers between a site and the next run once more.

  Δloss     = CE(spliced) − CE(clean)                                    nats per token
  recovered = (CE(zero) − CE(spliced)) / (CE(zero) − CE(clean))          1: nothing lost, 0: as bad as zeros
  KL        = mean over tokens of Σ_v p_clean(v) log(p_clean(v) / p_spliced(v))

Positions dropped from training (first position, special tokens, norm outliers) keep their true activation in *every*
splice, the one with zeros included: SAEs are not trained on them, and damage there would drown everything else. The
losses counted are those of predictions made *at kept positions*, the same for clean, zeros and SAEs. A sequence's last
position predicts nothing and does not count. This is common practice (SAELens and SAEBench mask positions with an
ignored token out of the mean); damage that reaches dropped positions through attention is not counted. Padding does not
count as positions at all.

`splice.check_splice` runs first: the model must be edited where it should be, and nowhere else.

Intervals: sums of the paired per-token differences over documents are resampled (intervals.py). Pairing makes the
interval of Δloss far tighter than those of the losses. Per-token losses are computed in float32 and summed in float64.

Limits: two arrays [batch, T, V] are in memory at once, the clean log-probabilities and the logits of a splice; log-
softmax works on a few rows at a time. Cost: tokens × (1 + the share of the model between the first and the last site +
for each site (1 + number of SAEs) × the share after it); the losses and KL add about 4% to that on a CPU (135M
parameters, vocabulary 49,152).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosemy.errors import UserError
from monosemy.evals.documents import DocumentSums
from monosemy.evals.intervals import Blocks, Interval, bootstrap_weights, ratio_interval
from monosemy.evals.reconstruction import Dictionary, block_sums, check_width, source_site
from monosemy.evals.splice import Edit, Model, check_splice, splice
from monosemy.models.padding import Padding, read_mask
from monosemy.shapes import PositionMask, TextMask, TokenIds
from monosemy.support.wording import sites_text

_LOGIT_BYTES = 2**28  # the target size of one array of logits
_CHUNK_ENTRIES = {
    "cpu": 2**19,
    "other": 2**24,
}  # how many logits one log-softmax takes: on a CPU, as many as fit into its cache


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


@dataclass(frozen=True)
class LossText:
    """The sequences over which losses are measured; the fields are those of `evaluate_model_loss`.

    Raises UserError where the shapes differ.
    """

    tokens: TokenIds
    keep: PositionMask
    attention_mask: TextMask | None = None
    documents: TokenIds | None = None

    def __post_init__(self) -> None:
        tokens, keep = (tuple(torch.as_tensor(values).shape) for values in (self.tokens, self.keep))
        if tokens != keep:
            raise UserError(f"tokens are {tokens} but the kept positions {keep}: they must match")

    def read(self) -> _ReadText:
        """The same on the CPU, with the text of padded sequences first, and with the positions that count.

        Raises UserError for a mask that does not fit.
        """
        tokens = torch.as_tensor(self.tokens, dtype=torch.int64).cpu()
        keep = torch.as_tensor(self.keep, dtype=torch.bool).cpu()
        documents = self.documents
        if documents is None:
            documents = torch.arange(len(tokens))[:, None].expand_as(tokens)
        documents, has_next, mask = torch.as_tensor(documents).cpu(), torch.ones_like(keep), None
        if self.attention_mask is not None:
            # Text is moved to the front, where a causal model never attends to the padding behind it. The padding may
            # then pass for text, which the mask of ones says.
            padding = Padding.of(read_mask(self.attention_mask, tokens))
            tokens, keep, documents = (padding.text_first(values) for values in (tokens, keep, documents))
            tokens, keep = tokens.masked_fill(~padding.is_text, 0), keep & padding.is_text
            has_next, mask = padding.is_text.roll(-1, dims=1), torch.ones_like(tokens)
        has_next[:, -1] = False
        return _ReadText(tokens, keep, mask, documents, counted=keep & has_next)


@dataclass(frozen=True)
class _ReadText:
    """Sequences on the CPU, their text first; with the positions that are replaced (`keep`) and those that count."""

    tokens: TokenIds
    keep: PositionMask
    attention_mask: TextMask | None
    documents: TokenIds
    _: KW_ONLY
    counted: PositionMask

    def of(self, part: slice) -> _ReadText:
        mask = None if self.attention_mask is None else self.attention_mask[part]
        return _ReadText(self.tokens[part], self.keep[part], mask, self.documents[part], counted=self.counted[part])


def n_passes(*sites: Mapping[str, Dictionary]) -> int:
    """How many passes over the tokens are reported to `advance`, by the SAEs of each site: a clean one, and at each
    site one with zeros and one per SAE."""
    return 1 + sum(1 + len(saes) for saes in sites)


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
    text = LossText(tokens, keep, attention_mask, documents)
    return evaluate_model_losses(
        model,
        {site: saes},
        text,
        n_bootstrap=n_bootstrap,
        confidence=confidence,
        seed=seed,
        batch_sequences=batch_sequences,
        advance=advance,
    )[site]


def evaluate_model_losses(
    model: Model,
    saes: Mapping[str, Mapping[str, Dictionary]],
    text: LossText,
    *,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    batch_sequences: int | None = None,
    advance: Callable[[int], object] | None = None,
) -> dict[str, ModelLosses]:
    """Measures the SAEs of several sites, `saes` {site: {name: SAE}}, as `evaluate_model_loss` does those of one.

    The numbers are the same, to the last bit; the clean pass and the layers below the sites are shared. Errors are
    those of `evaluate_model_loss`. `advance` receives tokens.numel() × `n_passes(*saes.values())` in total.
    """
    read = text.read()
    for site, of_site in saes.items():
        for name, sae in of_site.items():
            check_width(name, sae, source_site(sae) or site, model.site_width(source_site(sae) or site))
    if not bool(read.counted.any()):
        raise UserError(
            f"no validation rows for the loss at {sites_text(saes)}: every position that predicts a token was dropped"
        )
    blocks = Blocks()
    sums = {site: _LossSums(list(of_site), blocks.limit) for site, of_site in saes.items()}
    with torch.no_grad():
        for site in saes:
            check_splice(model, site, read.tokens, read.keep, attention_mask=read.attention_mask)
        for part in _batches(model, read.tokens, batch_sequences):
            batch = read.of(part)
            if bool(batch.counted.any()):
                # A prediction belongs to the document of the token that makes it, not of the one it predicts.
                block = blocks.rows(batch.documents[batch.counted])
                _measure_batch(model, saes, batch, block, sums=sums, advance=advance)
            elif advance:
                advance(batch.tokens.numel() * n_passes(*saes.values()))
    weights = bootstrap_weights(blocks.n, n_bootstrap, seed)
    return {site: of_site.finish(weights, confidence, blocks.documents) for site, of_site in sums.items()}


def _sources(saes: Mapping[str, Dictionary]) -> list[str]:
    """The sites that transcoders among the dictionaries read."""
    return list(dict.fromkeys(source for sae in saes.values() if (source := source_site(sae)) is not None))


def _start_layer(site: str) -> int:
    """The layer that a pass for the site begins with, by its canonical name: for a layer's output the one after it.

    0 for a name of another form, whose layers are then all run.
    """
    match = re.match(r"layers\.(\d+)\.(.*)", site)
    return int(match[1]) + (match[2] == "resid_post") if match else 0


def _batches(model: Model, tokens: TokenIds, batch_sequences: int | None) -> Iterator[slice]:
    """Yields the sequences of each pass; by default as many as `_LOGIT_BYTES` of float32 logits allow."""
    if batch_sequences is None:
        vocabulary = int(getattr(model, "vocab_size", 50_000))
        batch_sequences = max(1, _LOGIT_BYTES // (4 * vocabulary * tokens.shape[1]))
    for first in range(0, len(tokens), batch_sequences):
        yield slice(first, first + batch_sequences)


def _measure_batch(
    model: Model,
    saes: Mapping[str, Mapping[str, Dictionary]],
    batch: _ReadText,
    block: Int[Tensor, " n"],
    *,
    sums: Mapping[str, _LossSums],
    advance: Callable[[int], object] | None,
) -> None:
    """Adds sequences that go through the model together to the `sums` of every site: the clean pass, zeros at the site,
    and every SAE spliced there. `block` is the block of documents of each counted prediction, in order."""
    tokens = batch.tokens
    first_sites = {site: min([site, *_sources(of_site)], key=_start_layer) for site, of_site in saes.items()}
    sites = sorted(saes, key=lambda site: _start_layer(first_sites[site]))
    # The clean pass also reads what transcoders take in, which no edit of a later site changes.
    read: dict[str, Tensor] = {}

    def reader(source: str) -> Edit:
        def keep(value: Tensor) -> Tensor:
            read[source] = value.clone()  # the model may overwrite it in place
            return value

        return keep

    readers = {source: reader(source) for of_site in saes.values() for source in _sources(of_site)}
    start: Any = None
    base: _TokenLosses | None = None
    for site in sites:
        start = model.prefix(tokens, first_sites[site], attention_mask=batch.attention_mask, start=start)
        if base is None:
            base = _TokenLosses(model.logits(tokens, readers, start), tokens, batch.counted)
            if advance:
                advance(tokens.numel())
        sums[site].add_clean(base.loss, block)
        spliced: list[tuple[str | None, Dictionary | None]] = [(None, None), *saes[site].items()]
        for name, sae in spliced:
            edit = splice(sae, batch.keep, name=name or "zeros", site=site)
            if sae is not None and (source := source_site(sae)) is not None:
                edit = replace(edit, source=read[source])
            logits = model.logits(tokens, edits={site: edit}, start=start)
            sums[site].add(name, *base.against(logits, with_kl=name is not None), block)
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
