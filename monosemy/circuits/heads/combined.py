"""Our own method: codes and gradients propose heads, patching the few proposed confirms or rejects them.

Place on the path: `Contrast` → [propose → confirm → edges] → the circuit that `monosemy circuits` prints.

    1  codes        node scores |P_h \\ N_h| of the `fast` discrete method; positives are the prompts, negatives their
                    counterparts
    2  attribution  EAP for all heads, from one backward pass (`n_steps` above 1: EAP-IG)
    3  propose      the first heads of 2, and the first of 1 that 2 has not named
    4  confirm      exact patching of the proposed: effect = m(clean) − m(head replaced)
    5  restore      proposed heads without effect, by attribution: m(corrupted, head ← clean) − m(corrupted); finds
                    heads that stand in for each other, of which removing one shows nothing
    6  again        heads that nobody proposed but whose attribution is as large as a member's are checked as in 4
    7  score        of a checked head: the larger of 4 and 5 by size; of any other: its attribution

What differs between prompts and counterparts but is read by nothing is proposed by codes in step 1 and gets its exact
effect, zero, in step 4. Everything is in units of the metric, positive when the head supports the behaviour.

The passes over prompts and counterparts that the other causal methods start from are all that codes need here, so
reading is paid once. Budget: `share` of the heads are checked in 4 and 5, at least `min_checks`; a member's size in 6
is `MEMBER_SHARE` of m(clean) − m(corrupted); step 6 has no budget, and warns when it takes more than 4 and 5 may.

Source: ours; parts as named in `discrete.py`, `attribution.py`, `patching.py`. Limits: a head that neither codes nor
gradients propose is judged by its gradient alone; heads both of which are needed, and both of which have understudies,
stay hidden.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, isclose

import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.circuits.heads.attribution import integrated_attribution
from monosemy.circuits.heads.code_scores import node_scores
from monosemy.circuits.heads.contrast import MEMBER_SHARE, Ablation, Contrast, passes_of
from monosemy.circuits.heads.discrete import PRESETS, Codes, DiscreteConfig, discrete_codes, fitted
from monosemy.circuits.heads.model_heads import n_all
from monosemy.circuits.heads.patching import exhaustive_patching
from monosemy.circuits.heads.pooled import PooledHeads
from monosemy.circuits.heads.scores import HeadScores, mean_intervals
from monosemy.circuits.heads.task import accuracy
from monosemy.errors import UserError


@dataclass(frozen=True)
class CombinedConfig:
    """Settings of the combined method."""

    share: float = 0.075
    """Heads that are checked exactly, as a share of all; a quarter of the checks is kept for restoring."""
    min_checks: int = 8
    """Checked at least."""
    code_share: float = 0.2
    """Of the heads proposed, those that codes propose; 0 leaves the codes out."""
    n_steps: int = 1
    """Points of the attribution's path: 1 is EAP, more is EAP-IG, each for the time of about two passes."""
    weak: float = 0.02
    """A proposed head whose effect is below this share of m(clean) − m(corrupt) is also restored."""
    codes: DiscreteConfig = field(default_factory=lambda: PRESETS["fast"])

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or not 0 <= self.code_share <= 1:
            raise UserError(
                f"share must be above 0 and at most 1, code_share from 0 to 1; got {self.share} and {self.code_share}"
            )


@dataclass(frozen=True)
class Combined:
    """What the combined method found."""

    heads: HeadScores
    by_codes: list[int]
    """Proposed by codes alone, best first."""
    by_attribution: list[int]
    """Proposed by attribution, best first."""
    code_scores: Float[Tensor, " n"]
    codes: Codes | None
    """None where the codes were left out."""


def combined_circuit(
    contrast: Contrast, config: CombinedConfig | None = None, ablation: Ablation = "resample"
) -> Combined:
    """Scores of all heads, with what proposed them."""
    config = config or CombinedConfig()
    began = time.perf_counter()
    n = n_all(contrast.heads)
    estimate = integrated_attribution(contrast, ablation, config.n_steps)
    codes, code_scores = None, torch.zeros(n, dtype=torch.float64)
    if config.code_share:
        pooled = pooled_contrast(contrast)
        codes = discrete_codes(pooled, fitted(config.codes, len(pooled.metric)))
        code_scores = node_scores(codes, break_ties=True)
    n_checks = min(n, max(config.min_checks, ceil(config.share * n)))
    n_restored = n_checks // 4
    n_proposed = n_checks - n_restored
    n_by_codes = round(config.code_share * n_proposed)
    by_attribution, by_codes = propose(estimate.importance, code_scores, n_proposed, n_by_codes)
    proposed = [*by_attribution, *by_codes]
    effect = exhaustive_patching(contrast, ablation, indices=proposed)
    assert estimate.per_example is not None
    assert effect.per_example is not None
    per_example = estimate.per_example.clone()
    per_example[:, proposed] = effect.per_example[:, proposed]
    restored, replaced = _restore(
        contrast, config, estimate, effect, proposed=proposed, n_restored=n_restored, per_example=per_example
    )
    doubtful = _doubtful(contrast, estimate, proposed)
    if len(doubtful) > n_checks:
        minutes = passes_of(contrast.heads, doubtful) * contrast.seconds / 2 / 60
        warnings.warn(
            f"{len(doubtful)} more heads than the {n_checks} of the budget look like members and are patched too, "
            f"about {minutes:.1f} minutes",
            stacklevel=2,
        )
    if doubtful:
        effects = exhaustive_patching(contrast, ablation, indices=doubtful).per_example
        assert effects is not None
        per_example[:, doubtful] = effects[:, doubtful]
    n_passes = 3 * config.n_steps + passes_of(contrast.heads, [*proposed, *restored, *doubtful])
    scores = HeadScores(
        "combined",
        per_example.mean(0),
        True,
        time.perf_counter() - began,
        reading_seconds=contrast.seconds,
        per_example=per_example,
        intervals=mean_intervals(per_example),
        n_passes=n_passes,
        checked=frozenset([*proposed, *doubtful]),
        replaced=replaced,
    )
    return Combined(scores, by_codes, by_attribution, code_scores, codes=codes)


def _doubtful(contrast: Contrast, estimate: HeadScores, proposed: Sequence[int]) -> list[int]:
    """Heads not proposed whose estimate would make them members."""
    limit = MEMBER_SHARE * abs(float((contrast.m_clean - contrast.m_corrupt).mean()))
    large = (estimate.importance >= limit).nonzero()[:, 0].tolist() if limit else []
    return [i for i in large if i not in set(proposed)]


def propose(
    attribution: Float[Tensor, " n"], codes: Float[Tensor, " n"], n_proposed: int, n_codes: int
) -> tuple[list[int], list[int]]:
    """The first of both rankings, without repetition: `n_codes` by codes (equal ones by attribution) that attribution
    has not named, the rest by attribution. Heads whose score is 0 are not proposed. Heads equal to the last one
    proposed come too, so that no head's number decides."""
    with_effect = [i for i in range(len(attribution)) if attribution[i] > 0]
    by_attribution = _first(with_effect, n_proposed - n_codes, [attribution.tolist()])
    by_codes_only = [i for i in range(len(codes)) if codes[i] > 0 and i not in set(by_attribution)]
    return by_attribution, _first(by_codes_only, n_codes, [codes.tolist(), attribution.tolist()])


def _first(indices: list[int], k: int, keys: list[list[float]]) -> list[int]:
    """The k indices with the largest keys, and those equal (to 1 in 10,000) to the last of them."""
    order = sorted(indices, key=lambda i: tuple(-key[i] for key in keys))
    while 0 < k < len(order) and all(isclose(key[order[k]], key[order[k - 1]], rel_tol=1e-4) for key in keys):
        k += 1
    return order[:k]


def _restore(
    contrast: Contrast,
    config: CombinedConfig,
    estimate: HeadScores,
    effect: HeadScores,
    *,
    proposed: Sequence[int],
    n_restored: int,
    per_example: Tensor,
) -> tuple[list[int], dict[int, float]]:
    """Restores up to `n_restored` of the proposed heads without effect, those with the largest estimates, and puts
    larger effects into `per_example`. Returns the heads restored, and of those whose score changed the effect of
    replacing them."""
    limit = config.weak * abs(float((contrast.m_clean - contrast.m_corrupt).mean()))
    weak = [i for i in proposed if effect.importance[i] < limit and estimate.importance[i] > 0]
    weak = _first(weak, n_restored, [estimate.importance.tolist()])
    if not weak:
        return [], {}
    restored = exhaustive_patching(contrast, direction="denoise", indices=weak)
    assert restored.per_example is not None
    assert restored.intervals is not None
    changed = {}
    for i in weak:
        clear = bool((restored.intervals[i, 0] > 0) | (restored.intervals[i, 1] < 0))
        if clear and restored.importance[i] > max(limit, float(effect.importance[i])):
            per_example[:, i] = restored.per_example[:, i]
            changed[i] = float(effect.scores[i])
    return weak, changed


def pooled_contrast(contrast: Contrast) -> PooledHeads:
    """Prompts as positives and counterparts as negatives, pooled over positions, from the passes already made."""
    sides = [[batch.clean for batch in contrast.batches], [batch.corrupted for batch in contrast.batches]]
    every = [p.values.float() for side in sides for p in side]
    values = {"mean": torch.cat([v.mean(1) for v in every]), "last": torch.cat([v[:, -1] for v in every])}
    metric = torch.cat([contrast.m_clean, contrast.m_corrupt]).cpu()
    values = {name: value.cpu() for name, value in values.items()}
    right = [accuracy(b.clean.logits, b.examples) for b in contrast.batches]
    right += [accuracy(b.corrupted.logits, b.examples) for b in contrast.batches]
    return PooledHeads(
        contrast.heads,
        values,
        metric,
        torch.cat(right).cpu(),
        n_positives=contrast.n_examples,
        seconds=contrast.seconds,
    )
