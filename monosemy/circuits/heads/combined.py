"""Our own method: codes and gradients propose heads, and patching the few proposed confirms or rejects them.

Place on the path: `Contrast` → [propose → confirm → edges] → the circuit that `monosemy circuits` prints.

    1  codes        node scores |P_h \\ N_h| of the `fast` discrete method; positives are the prompts, negatives their
                    counterparts
    2  attribution  EAP for all heads, from one backward pass (`n_steps` above 1: EAP-IG); with a `step` above 0 also a
                    second look, the derivative after a finite step, on a share of the prompts
    3  propose      the first heads of 2, each by the larger of its two estimates, and the first of 1 that 2 did not
                    propose
    4  confirm      exact patching of the proposed: effect = m(clean) − m(head replaced)
    5  restore      proposed heads without effect, those with the largest attribution first: m(corrupted, head ← clean)
                    − m(corrupted). This finds heads that stand in for each other, so that removing one shows nothing
    6  again        heads that were not proposed, but whose attribution is as large as a member's, are checked as in 4
    7  score        of a checked head, the larger in size of 4 and 5; of any other head, its attribution (EAP)

A head that differs between prompts and counterparts, but whose output nothing reads, may be proposed by its codes in
step 3; step 4 then finds its exact effect, zero. All scores are in units of the metric, positive when the head supports
the behaviour.

Codes need only the passes over prompts and counterparts from which the other causal methods start, so the prompts are
read once. Budget: steps 4 and 5 check a `share` of the heads, at least `min_checks`. Step 6 has no budget: it checks
every head whose attribution is at least `MEMBER_SHARE` of m(clean) − m(corrupted), and warns when these are more than
the budget of steps 4 and 5.

Source: ours; parts as named in `discrete.py`, `attribution.py`, `patching.py`. Limits: a head that neither codes nor
gradients propose is judged by its gradient alone; two heads that are both needed, and both have backups, stay hidden.
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

from monosemy.circuits.heads.attribution import integrated_attribution, step_attribution
from monosemy.circuits.heads.code_scores import node_scores
from monosemy.circuits.heads.contrast import MEMBER_SHARE, Ablation, Contrast, passes_of
from monosemy.circuits.heads.discrete import PRESETS, Codes, DiscreteConfig, discrete_codes, fitted
from monosemy.circuits.heads.model_heads import n_all
from monosemy.circuits.heads.patching import exhaustive_patching
from monosemy.circuits.heads.pooled import PooledHeads
from monosemy.circuits.heads.scores import HeadScores, mean_intervals
from monosemy.circuits.heads.task import accuracy
from monosemy.errors import UserError
from monosemy.support.numbers import fixed_text


@dataclass(frozen=True)
class CombinedConfig:
    """Settings of the combined method."""

    share: float = 0.075
    """Share of all heads that are checked exactly; a quarter of the checks is kept for restoring."""
    min_checks: int = 8
    """The fewest heads that are checked."""
    code_share: float = 0.2
    """Share of the proposed heads that codes propose; 0 leaves the codes out."""
    n_steps: int = 1
    """Points on the attribution's path: 1 is EAP, more is EAP-IG; each takes the time of about two passes."""
    step: float = 0.0
    """How far towards the replacement the second look takes its derivative (`attribution.STEP` is a quarter of the
    way); 0 leaves the second look out."""
    step_share: float = 0.5
    """Share of the prompts that the second look reads; it only proposes heads, so it need not read all."""
    weak: float = 0.02
    """A proposed head whose effect is below this share of m(clean) − m(corrupt) is restored as well."""
    codes: DiscreteConfig = field(default_factory=lambda: PRESETS["fast"])
    """Settings of the discrete method."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or not 0 <= self.code_share <= 1:
            raise UserError(
                f"share must be above 0 and at most 1, code_share from 0 to 1; got {self.share} and {self.code_share}"
            )
        if not 0 <= self.step <= 1 or not 0 < self.step_share <= 1:
            raise UserError(
                f"step must be from 0 to 1, step_share above 0 and at most 1; got {self.step} and {self.step_share}"
            )


@dataclass(frozen=True)
class Combined:
    """The result of the combined method: scores of all heads, and what proposed the checked ones."""

    heads: HeadScores
    by_codes: list[int]
    """Heads proposed by codes but not by attribution, best first."""
    by_attribution: list[int]
    """Heads proposed by attribution, best first."""
    code_scores: Float[Tensor, " n"]
    codes: Codes | None
    """The codes behind `code_scores`; None where codes were left out."""


def combined_circuit(
    contrast: Contrast, config: CombinedConfig | None = None, ablation: Ablation = "resample"
) -> Combined:
    """Scores all heads by the steps in the module's docstring; `ablation` says what replaces a head's values."""
    config = config or CombinedConfig()
    began = time.perf_counter()
    n = n_all(contrast.heads)
    # 1 and 2: codes and attribution of all heads.
    estimate = integrated_attribution(contrast, ablation, config.n_steps)
    attribution, n_look_passes = _second_look(contrast, config, ablation, estimate)
    codes, code_scores = None, torch.zeros(n, dtype=torch.float64)
    if config.code_share:
        pooled = pooled_contrast(contrast)
        codes = discrete_codes(pooled, fitted(config.codes, len(pooled.metric)))
        code_scores = node_scores(codes, break_ties=True)
    # 3: propose.
    n_checks = min(n, max(config.min_checks, ceil(config.share * n)))
    n_restored = n_checks // 4  # reserved for step 5, out of the same budget
    n_proposed = n_checks - n_restored
    n_by_codes = round(config.code_share * n_proposed)
    by_attribution, by_codes = propose(attribution, code_scores, n_proposed, n_by_codes)
    proposed = [*by_attribution, *by_codes]
    # 4: the exact effects of the proposed heads take the place of their estimates.
    effect = exhaustive_patching(contrast, ablation, indices=proposed)
    assert estimate.per_example is not None
    assert effect.per_example is not None
    per_example = estimate.per_example.clone()
    per_example[:, proposed] = effect.per_example[:, proposed]
    # 5: restore those without effect; `per_example` is changed in place.
    restored, replaced = _restore(
        contrast, config, estimate, effect, proposed=proposed, n_restored=n_restored, per_example=per_example
    )
    # 6: check the heads that would be members by an unchecked estimate.
    doubtful = _doubtful(contrast, estimate, proposed)
    if len(doubtful) > n_checks:
        _warn_of_doubtful(contrast, doubtful, n_checks)
    if doubtful:
        effects = exhaustive_patching(contrast, ablation, indices=doubtful).per_example
        assert effects is not None
        per_example[:, doubtful] = effects[:, doubtful]
    # 7: scores are means over prompts of whatever `per_example` now holds for each head.
    n_passes = 3 * config.n_steps + n_look_passes + passes_of(contrast.heads, [*proposed, *restored, *doubtful])
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


def _second_look(
    contrast: Contrast, config: CombinedConfig, ablation: Ablation, estimate: HeadScores
) -> tuple[Float[Tensor, " n"], float]:
    """What attribution ranks heads by when it proposes, and the passes that the second look took.

    Without a second look, the size of the estimate; with one, the larger of it and the size of the derivative after a
    finite step.
    """
    if not config.step:
        return estimate.importance, 0.0
    some = contrast.first(ceil(config.step_share * contrast.n_examples))
    after_step = step_attribution(some, ablation, config.step)
    n_passes = after_step.n_passes * some.n_examples / contrast.n_examples
    return torch.maximum(estimate.importance, after_step.importance), n_passes


def _warn_of_doubtful(contrast: Contrast, doubtful: Sequence[int], n_checks: int) -> None:
    minutes = passes_of(contrast.heads, doubtful) * contrast.seconds / 2 / 60
    warnings.warn(
        f"{len(doubtful)} more heads than the {n_checks} of the budget look like members and are patched too, "
        f"about {fixed_text(minutes, 1)} minutes",
        stacklevel=3,
    )


def _doubtful(contrast: Contrast, estimate: HeadScores, proposed: Sequence[int]) -> list[int]:
    """Heads that were not proposed, but whose estimates are as large as a member's effect."""
    limit = MEMBER_SHARE * abs(float((contrast.m_clean - contrast.m_corrupt).mean()))
    large = (estimate.importance >= limit).nonzero()[:, 0].tolist() if limit else []
    return [i for i in large if i not in set(proposed)]


def propose(
    attribution: Float[Tensor, " n"], codes: Float[Tensor, " n"], n_proposed: int, n_codes: int
) -> tuple[list[int], list[int]]:
    """The heads proposed by attribution and those proposed by codes alone, best first, without repetition.

    `n_codes` of the `n_proposed` are taken from the codes' ranking (ties by attribution) among the heads that
    attribution does not propose. Heads whose score is 0 are not proposed. Heads tied with the last one are proposed
    too, so that the order of numbering decides nothing.
    """
    with_effect = [i for i in range(len(attribution)) if attribution[i] > 0]
    by_attribution = _first(with_effect, n_proposed - n_codes, [attribution.tolist()])
    by_codes_only = [i for i in range(len(codes)) if codes[i] > 0 and i not in set(by_attribution)]
    return by_attribution, _first(by_codes_only, n_codes, [codes.tolist(), attribution.tolist()])


def _first(indices: list[int], k: int, keys: list[list[float]]) -> list[int]:
    """The k indices with the largest keys, compared in order, and those tied (to 1 in 10,000) with the last of them."""
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
    """Restores up to `n_restored` of the proposed heads without effect, those with the largest estimates.

    An effect of restoring that is clear of 0 and larger than that of replacing goes into `per_example`, in place.
    Returns the restored heads and, for those whose score changed, the effect of replacing them.
    """
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
    """Prompts as positives and counterparts as negatives, pooled over positions; makes no pass of its own."""
    sides = [[batch.clean for batch in contrast.batches], [batch.corrupted for batch in contrast.batches]]
    head_values = [p.values.float() for side in sides for p in side]
    values = {"mean": torch.cat([v.mean(1) for v in head_values]), "last": torch.cat([v[:, -1] for v in head_values])}
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
