"""Measures a bias in what a model expects next, and what scaling a few latents does to it and to everything else.

Place on the path: texts with two continuations → [leans, search on half, judgement on half] → table, recipe.

    lean of a text     log P(first | text) − log P(second | text), summed over a continuation's tokens          nats
    lean of an item    mean over its texts
    gap                mean lean of the first group's items − mean lean of the second's; of a single group its mean lean

A change multiplies a latent's activation by 0 (silences it) or by 3, at every position. Candidates are the latents
whose mean activation differs most between the two groups (of a single group: those that fire most). Each is tried
alone on the search half; those that bring the gap nearest to zero are combined, best first. What is reported was
measured on the other half, beside the same factors on random latents that fire about as often, and beside what it
costs: the loss on other text, the probability of either continuation, and where the mean lean of each group has gone.
The gap alone hides a cover-up, in which a new lean of everybody covers the difference.

Source: the occupations and pronouns of WinoBias (Zhao et al. 2018), for which research/steering measures this.
Intervals (95%) resample items within each group. Limits: a lean is of the next words, not of whole answers; factors
other than 0 and 3 are not tried; single effects are combined without a new search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from torch import Tensor

from monosemy.data.tokens import separator_and_bos
from monosemy.errors import UserError
from monosemy.evals.intervals import Interval, bootstrap_weights, ratio_interval
from monosemy.models.adapter import LanguageModel, Start
from monosemy.models.generation import whole_text
from monosemy.models.prompts import check_vocabulary, plain_ids, text_ids
from monosemy.shapes import TokenIds
from monosemy.steering.bias_texts import BiasText, BiasTexts
from monosemy.steering.control import control_edits
from monosemy.steering.edits import Steering
from monosemy.steering.request import Edit
from monosemy.steering.saes import SteeringSaes, TextEdits

FACTORS = (0.0, 3.0)
Change = tuple[int, float]
"""(latent, factor of its activation)"""
N_BOOTSTRAP = 2000
_BATCH = 80
_LONGEST = 4096
"""Tokens in a batch at most."""


@dataclass(frozen=True)
class Leans:
    """What some texts lean to, by group; one number per item."""

    groups: tuple[str, ...]
    leans: tuple[Float[ndarray, " item"], ...]
    """Of each group's items, nats."""
    either: float
    """Mean probability of one continuation or the other."""

    @property
    def gap(self) -> float:
        means = [float(lean.mean()) for lean in self.leans]
        return means[0] - means[1] if len(means) == 2 else means[0]

    def interval(self) -> tuple[float, float]:
        """95% bootstrap interval of the gap; items are resampled within each group."""
        random = np.random.default_rng(0)
        drawn = [lean[random.integers(len(lean), size=(N_BOOTSTRAP, len(lean)))].mean(1) for lean in self.leans]
        low, high = np.quantile(drawn[0] - drawn[1] if len(drawn) == 2 else drawn[0], [0.025, 0.975])
        return float(low), float(high)

    def to_json(self) -> dict[str, Any]:
        return {
            "gap": {"mean": self.gap, "interval": list(self.interval())},
            "lean": [float(lean.mean()) for lean in self.leans],
            "either": self.either,
        }


@dataclass(frozen=True)
class LossCost:
    """What changes do to the loss on other text, nats per token; the interval resamples sequences."""

    loss_change: float
    interval: Interval
    n_sequences: int
    n_tokens: int
    perplexity_before: float
    perplexity_after: float


class BiasBench:
    """A model and an SAE with the texts of one half, ready to be measured under many changes.

    The layers before the SAE's site run once. A text in which no changed latent fires keeps its lean, which is exact.
    Raises UserError for a text or continuation without tokens, and for tokens that the model lacks.
    """

    def __init__(self, model: LanguageModel, saes: SteeringSaes, texts: BiasTexts) -> None:
        self.model, self.saes, self.texts = model, saes, texts
        self.site = model.resolve(saes.own.sae.config.site)
        self._sums = [torch.zeros(saes.own.sae.d_sae, dtype=torch.float64) for _ in texts.groups]
        sequences = [sequence for k, text in enumerate(texts.texts) for sequence in _sequences(model, text, k)]
        self._batches = [self._opened(batch) for batch in _batches(sequences)]
        self._plain = np.full((len(texts.texts), 2), 0.0)
        for batch in self._batches:
            self._read(batch, slice(None), [], self._plain)

    def leans(self, changes: Sequence[Change]) -> Leans:
        """What the texts lean to with the changes at every position."""
        log_p = self._plain.copy()
        changed = [latent for latent, factor in changes if factor != 1]
        for batch in self._batches:
            fires = batch.fires[:, changed].any(1).nonzero()[:, 0] if changed else torch.zeros(0, dtype=torch.int64)
            if len(fires):
                for k in fires.tolist():
                    log_p[batch.sequences[k].text, batch.sequences[k].sides] = 0.0
                self._read(batch, fires, changes, log_p)
        return self._by_item(log_p)

    def mean_activations(self) -> list[Float[Tensor, " d_sae"]]:
        """Of every group, the mean over its items of each latent's summed activation, first tokens left out;
        float64."""
        return [
            total / len(self.texts.items(group)) for group, total in zip(self.texts.groups, self._sums, strict=True)
        ]

    def _by_item(self, log_p: Float[ndarray, "text 2"]) -> Leans:
        by_item: dict[tuple[str, str], list[float]] = {}
        for text, (first, second) in zip(self.texts.texts, log_p, strict=True):
            by_item.setdefault((text.group, text.item), []).append(first - second)
        groups = self.texts.groups
        leans = tuple(np.array([np.mean(v) for (g, _), v in by_item.items() if g == group]) for group in groups)
        return Leans(groups, leans, float(np.exp(log_p).sum(1).mean()))

    def _opened(self, sequences: list[_Sequence]) -> _Batch:
        """The batch with its start; the activity of its latents is added to the groups' sums."""
        tokens = torch.tensor([sequence.ids for sequence in sequences], device=self.model.device)
        start = self.model.prefix(tokens, self.site)
        sae = self.saes.own.sae
        x_BTD = self.model.activations(tokens, [self.site], start)[self.site][:, 1:].float()
        fires = []
        for sequence, x_TD in zip(sequences, x_BTD, strict=True):
            code = sae.encode(x_TD)
            self._sums[self.texts.groups.index(self.texts.texts[sequence.text].group)] += code.sums().cpu()
            fires.append(code.firing_counts().cpu() > 0)
        return _Batch(sequences, start, torch.stack(fires))

    def _read(
        self,
        batch: _Batch,
        rows: Int64[Tensor, " n"] | slice,
        changes: Sequence[Change],
        log_p: Float[ndarray, "text 2"],
    ) -> None:
        """Adds the log-probabilities that a batch's rows read under the changes to `log_p`."""
        tokens, resid = batch.start.tokens[rows], batch.start.resid
        start = Start(tokens, batch.start.layer, None if resid is None else resid[rows])
        sequences = [batch.sequences[k] for k in torch.arange(len(batch.sequences))[rows].tolist()]
        hooks = None
        if changes:
            edits = TextEdits(self.model, self.saes, [steering_of(changes)] * len(tokens))
            hooks = edits.at(whole_text(tokens, tokens.shape[1]))
        n_read = max(len(sequence.continuations[0]) for sequence in sequences)
        logits = self.model.logits(tokens, hooks, start, last_only=n_read == 1)
        for row, sequence in enumerate(sequences):
            n = len(sequence.continuations[0])
            # a continuation of n tokens is read where the sequence ends, its last token being none of the input
            log_q = logits[row, logits.shape[1] - n :].float().log_softmax(-1).cpu()
            for side, ids in zip(sequence.sides, sequence.continuations, strict=True):
                log_p[sequence.text, side] += float(log_q[torch.arange(n), torch.tensor(ids)].double().sum())


@dataclass(frozen=True)
class _Sequence:
    """What one row of a batch reads: the input ids, and the continuations whose log-probabilities it gives."""

    ids: list[int]
    text: int
    """Number of the text."""
    sides: list[int]
    """0 for the first continuation, 1 for the second."""
    continuations: list[list[int]]
    """Of equal length n; the ids end with all tokens but the last of each, so two sides share only n = 1."""


@dataclass(frozen=True)
class _Batch:
    """Sequences of one length."""

    sequences: list[_Sequence]
    start: Start
    fires: Bool[Tensor, "batch d_sae"]
    """Whether a latent fires anywhere in a sequence but on its first token."""


def _sequences(model: LanguageModel, text: BiasText, number: int) -> list[_Sequence]:
    tokenizer = model.tokenizer_for("measuring a bias")
    separator, _ = separator_and_bos(tokenizer)
    context = text_ids(tokenizer, text.text) if text.text else [token for token in (separator,) if token is not None]
    continuations = [plain_ids(tokenizer, _continuation(text.text, words)) for words in (text.first, text.second)]
    if not context or not all(continuations):
        raise UserError(
            f"the row {(text.text or text.first)[:40]!r} has no tokens to read or to compare; give more text"
        )
    check_vocabulary([*context, *continuations[0], *continuations[1]], tokenizer, model.vocab_size, model.name)
    longest = len(context) + max(map(len, continuations))
    if longest > model.max_positions:
        raise UserError(
            f"the row {(text.text or text.first)[:40]!r} has {longest} tokens, more than the {model.max_positions} "
            f"positions of {model.name}; shorten it"
        )
    if all(len(ids) == 1 for ids in continuations):
        return [_Sequence(context, number, [0, 1], continuations)]
    return [_Sequence([*context, *ids[:-1]], number, [side], [ids]) for side, ids in enumerate(continuations)]


def _continuation(text: str, words: str) -> str:
    """A word behind a text begins with a space, unless one of them brings its own or it is punctuation."""
    joined = not text or text[-1].isspace() or words[0].isspace() or not words[0].isalnum()
    return words if joined else f" {words}"


def _batches(sequences: Sequence[_Sequence]) -> Iterator[list[_Sequence]]:
    """Sequences of equal length, and with continuations of equal length, together: no padding is needed."""
    alike: dict[tuple[int, int], list[_Sequence]] = {}
    for sequence in sequences:
        alike.setdefault((len(sequence.ids), len(sequence.continuations[0])), []).append(sequence)
    for (length, _), group in alike.items():
        size = max(1, min(_BATCH, _LONGEST // length))
        yield from (group[first : first + size] for first in range(0, len(group), size))


def steering_of(changes: Sequence[Change]) -> Steering:
    return Steering(tuple(Edit(latent, "scale", factor) for latent, factor in changes))


def candidates(bench: BiasBench, n: int) -> list[int]:
    """The n latents that differ most between the groups, or fire most in a single one; latents that never fire left
    out."""
    means = bench.mean_activations()
    size = (means[0] - means[1]).abs() if len(means) == 2 else means[0]
    values, latents = size.topk(min(n, len(size)))
    return latents[values > 0].tolist()


def search(
    bench: BiasBench, latents: Sequence[int], *, advance: Callable[[int], object] | None = None
) -> tuple[list[Change], dict[Change, float]]:
    """(the latents with the factor that alone brings the gap nearest to zero, best first; the gap of every change
    tried).

    `advance` is called with the number of latents as they are finished.
    """
    gaps: dict[Change, float] = {}
    for latent in latents:
        gaps |= {(latent, factor): bench.leans([(latent, factor)]).gap for factor in FACTORS}
        if advance:
            advance(1)
    best = {latent: min(((latent, factor) for factor in FACTORS), key=lambda c: abs(gaps[c])) for latent in latents}
    return sorted(best.values(), key=lambda change: abs(gaps[change])), gaps


def random_changes(changes: Sequence[Change], saes: SteeringSaes, seed: int) -> list[Change]:
    """The same factors on latents that fire about as often. Raises UserError where none is left."""
    ablations = tuple(Edit(latent, "ablate") for latent, _ in changes)
    controls = control_edits(ablations, saes.own.sae, saes.own.scales, seed)
    return [(control.latent, factor) for control, (_, factor) in zip(controls, changes, strict=True)]


class LossBench:
    """Text [B, T] whose loss is measured under many changes; what lies before the SAE's site is computed once."""

    def __init__(self, model: LanguageModel, saes: SteeringSaes, sequences: TokenIds) -> None:
        self.model, self.saes, self.n_tokens = model, saes, int(sequences.numel())
        self._starts = [saes.start(model, row[None].to(model.device), ()) for row in sequences]
        self._plain = np.array([self._loss(start, []) for start in self._starts])

    def cost(self, changes: Sequence[Change]) -> LossCost:
        """What the changes at every position do to the loss."""
        differences = np.array([self._loss(start, changes) for start in self._starts]) - self._plain
        weights = bootstrap_weights(len(differences), N_BOOTSTRAP)
        change, clean = float(differences.mean()), float(self._plain.mean())
        return LossCost(
            change,
            ratio_interval(differences, np.ones(len(differences)), weights),
            len(differences),
            self.n_tokens,
            perplexity_before=float(np.exp(clean)),
            perplexity_after=float(np.exp(clean + change)),
        )

    def _loss(self, start: Start, changes: Sequence[Change]) -> float:
        tokens, hooks = start.tokens, None
        if changes:
            edits = TextEdits(self.model, self.saes, [steering_of(changes)])
            hooks = edits.at(whole_text(tokens, tokens.shape[1]))
        logits = self.model.logits(tokens, hooks, start)[0, :-1].float()
        return float(torch.nn.functional.cross_entropy(logits, tokens[0, 1:]))


def judged(bench: BiasBench, losses: LossBench | None, changes: Sequence[Change]) -> dict[str, Any]:
    """What changes do, as JSON: {"changes", "judged": of `Leans`, "cost": of `LossCost` or None without text}."""
    cost = None if losses is None else asdict(losses.cost(changes))
    return {"changes": [list(change) for change in changes], "judged": bench.leans(changes).to_json(), "cost": cost}


@dataclass(frozen=True)
class BiasSettings:
    """How much is tried."""

    n_candidates: int = 40
    counts: tuple[int, ...] = (1, 2, 5)
    """Numbers of latents that are changed together, each judged."""
    n_controls: int = 3
    """Random sets of latents beside each."""


def measure_bias(
    model: LanguageModel,
    saes: SteeringSaes,
    texts: BiasTexts,
    *,
    validation: TokenIds | None = None,
    settings: BiasSettings | None = None,
    advance: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Searches on one half of the texts and judges on the other, as JSON:

    {"groups", "search": {group: items}, "judge": {group: items}, "n_candidates": tried, "search_gap_before",
     "single": [{"latent", "factor", "search_gap"}] best first, "before": of `Leans` on the judged half,
     "changed": {count: {"changes", "judged", "cost", "search_gap": of `Leans.gap`, "random": [the first three again]}}}

    `validation` [B, T] are tokens of other text for the loss. Raises UserError for too few items, texts on which no
    latent fires, and as `BiasBench` does.
    """
    settings = settings or BiasSettings()
    halves = texts.halves()
    search_bench, judge_bench = (BiasBench(model, saes, half) for half in halves)
    latents = candidates(search_bench, settings.n_candidates)
    if not latents:
        raise UserError(f"no latent of the SAE at {search_bench.site} fires in these texts: there is nothing to change")
    losses = None if validation is None else LossBench(model, saes, validation)
    ranked, gaps = search(search_bench, latents, advance=advance)
    changed: dict[str, Any] = {}
    for count in settings.counts:
        changes = ranked[:count]
        controls = [random_changes(changes, saes, seed) for seed in range(settings.n_controls)]
        changed[str(count)] = {
            **judged(judge_bench, losses, changes),
            "search_gap": search_bench.leans(changes).to_json()["gap"],
            "random": [judged(judge_bench, losses, control) for control in controls],
        }
    return {
        "groups": list(texts.groups),
        "search": {group: halves[0].items(group) for group in texts.groups},
        "judge": {group: halves[1].items(group) for group in texts.groups},
        "n_candidates": len(latents),
        "search_gap_before": search_bench.leans([]).gap,
        "single": [{"latent": i, "factor": factor, "search_gap": gaps[i, factor]} for i, factor in ranked[:20]],
        "before": judge_bench.leans([]).to_json(),
        "changed": changed,
    }


def cover_up(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether the gap shrank under a new lean of both groups: their common lean grew by more than the gap that was
    closed.

    Takes two of `Leans.to_json`. Of a single group there is no such thing.
    """
    if len(before["lean"]) < 2:
        return False
    closed = abs(before["gap"]["mean"]) - abs(after["gap"]["mean"])
    grown = abs(sum(after["lean"]) / 2) - abs(sum(before["lean"]) / 2)
    return closed > 0 and grown > closed
