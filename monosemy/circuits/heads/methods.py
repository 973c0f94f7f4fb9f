"""All methods by name, on the same heads and the same prompts.

Place on the path: a task's prompts, read once → [a name → HeadScores] → tables, benchmarks, `find_circuit`.

Causal methods start from `Contrast` (prompts and counterparts, position by position); code methods and controls start
from `PooledHeads` (positives and negatives, pooled). Each is read at most once, when it is first needed, and its
seconds count for every method that uses it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from torch import Tensor

from monosemy.circuits.heads import attribution, code_scores, controls, masks, patching
from monosemy.circuits.heads.combined import Combined, CombinedConfig, combined_circuit
from monosemy.circuits.heads.contrast import ABLATIONS, Ablation, Contrast, all_heads, passes_of, read_contrast
from monosemy.circuits.heads.discrete import Codes, DiscreteConfig, discrete_codes, fitted, preset
from monosemy.circuits.heads.model_heads import Heads, n_all
from monosemy.circuits.heads.pooled import PooledHeads, pooled_heads
from monosemy.circuits.heads.scores import HeadScores
from monosemy.circuits.heads.task import TaskData
from monosemy.errors import UserError, unknown


@dataclass(frozen=True)
class Bench:
    """A model and a task, with the passes and codes that the methods share.

    Raises UserError for an unknown ablation, or for fewer than 2 prompts.
    """

    heads: Heads
    data: TaskData
    n_prompts: int = 64
    """Number of positives that causal methods run on."""
    ablation: Ablation = "resample"
    seed: int = 0
    fresh: bool = False
    """Whether to read the heads now even if they are cached; for timings."""

    def __post_init__(self) -> None:
        if self.ablation not in ABLATIONS:
            raise unknown("ablation", self.ablation, ABLATIONS)
        if self.n_prompts < 2:
            raise UserError(f"{self.n_prompts} prompts give no interval; take at least 2")

    @cached_property
    def contrast(self) -> Contrast:
        """The prompts and counterparts that causal methods start from."""
        return read_contrast(self.heads, self.data.positives[: self.n_prompts], self.data.metric)

    @cached_property
    def pooled(self) -> PooledHeads:
        """All negatives and the positives that the model gets right; all positives when fewer than 5 are right."""
        all_examples = pooled_heads(self.heads, self.data, fresh=self.fresh)
        right = all_examples.correct.bool() | ~all_examples.positive
        return all_examples.choose(right) if int((right & all_examples.positive).sum()) >= 5 else all_examples

    @cached_property
    def combined(self) -> Combined:
        """The combined method's result; its codes serve other methods too."""
        return combined_circuit(self.contrast, CombinedConfig(codes=self.config("fast")), self.ablation)

    def config(self, name: str) -> DiscreteConfig:
        """A preset's settings for this task and seed."""
        return preset(name, self.data.name, seed=self.seed)

    def codes(self, name: str) -> tuple[Codes, float]:
        """The codes of a preset and the seconds they took; each preset is computed once."""
        # A frozen dataclass refuses assignment, but its __dict__ can still hold a cache.
        cache: dict[str, tuple[Codes, float]] = self.__dict__.setdefault("_codes", {})
        if name not in cache:
            pooled = self.pooled  # before the clock starts: reading is counted separately
            began = time.perf_counter()
            settings = fitted(self.config(name), len(pooled.metric))
            cache[name] = discrete_codes(pooled, settings), time.perf_counter() - began
        return cache[name]


def codes_by_node(bench: Bench, name: str) -> HeadScores:
    """The discrete method: scores |P_h \\ N_h| from a preset's codes, with intervals over prompts."""
    codes, seconds = bench.codes(name)
    ties = bench.config(name).break_ties
    # The clock stops before the intervals: they are not part of the method.
    began = time.perf_counter()
    scores = code_scores.node_scores(codes, break_ties=ties)
    seconds += time.perf_counter() - began
    intervals = code_scores.node_intervals(codes, break_ties=ties)
    return HeadScores(
        f"codes, {name}", scores, False, seconds, reading_seconds=bench.pooled.seconds, intervals=intervals, n_passes=0
    )


def codes_by_pairs(bench: Bench, name: str) -> HeadScores:
    """The source's "edge-level" method: how often a head is among the top pairs of a preset's codes."""
    codes, seconds = bench.codes(name)
    began = time.perf_counter()
    ties = bench.config(name).break_ties
    counts = code_scores.pair_counts(codes, break_ties=ties)
    scores = code_scores.head_scores_by_pairs(counts, bench.heads.n_heads, break_ties=ties)
    seconds += time.perf_counter() - began
    return HeadScores(f"code pairs, {name}", scores, False, seconds, reading_seconds=bench.pooled.seconds)


def _combined(bench: Bench) -> HeadScores:
    return bench.combined.heads


def _combined_without_codes(bench: Bench) -> HeadScores:
    """The control of the combined method, in which gradients alone propose heads."""
    scores = combined_circuit(bench.contrast, CombinedConfig(code_share=0.0), bench.ablation).heads
    return replace(scores, method="combined, no codes")


def _combined_with_step(bench: Bench) -> HeadScores:
    """The combined method with a second look, a gradient after a finite step, in the place of codes."""
    config = CombinedConfig(code_share=0.0, step=attribution.STEP)
    return replace(combined_circuit(bench.contrast, config, bench.ablation).heads, method="combined, step")


def _control(
    name: str, bench: Bench, score: Callable[[PooledHeads], Tensor], coding_seconds: float = 0.0
) -> HeadScores:
    """A control that scores pooled outputs; `coding_seconds`: the time of codes that were made before."""
    pooled = bench.pooled
    began = time.perf_counter()
    scores = score(pooled)
    seconds = time.perf_counter() - began + coding_seconds
    return HeadScores(f"{name} (control)", scores.double(), False, seconds, reading_seconds=pooled.seconds)


def _of_codes(name: str, bench: Bench, score: Callable[[Codes], Tensor]) -> HeadScores:
    """A control that scores the codes of preset `paper`."""
    codes, seconds = bench.codes("paper")
    return _control(name, bench, lambda _: score(codes), seconds)


def _kmeans(bench: Bench, name: str) -> HeadScores:
    config = fitted(bench.config(name), len(bench.pooled.metric))
    return _control(f"k-means codes, {name}", bench, lambda pooled: controls.kmeans_scores(pooled, config))


CONTROLS: dict[str, Callable[[Bench], HeadScores]] = {
    "random": lambda bench: controls.random_scores(n_all(bench.heads), bench.seed),
    "shuffled": lambda bench: _of_codes(
        "shuffled labels", bench, lambda codes: controls.shuffled_labels(codes, bench.config("paper"), bench.seed)
    ),
    "distinct": lambda bench: _of_codes("distinct codes", bench, code_scores.distinct_codes),
    "kmeans": partial(_kmeans, name="fast"),
    "kmeans-paper": partial(_kmeans, name="paper"),
    "mean-difference": lambda bench: _control(
        "mean difference", bench, lambda pooled: controls.mean_difference(pooled, bench.config("paper"))
    ),
    "probe": lambda bench: _control(
        "linear probe", bench, lambda pooled: controls.probe_accuracy(pooled, bench.config("paper"), bench.seed)
    ),
}
METHODS: dict[str, Callable[[Bench], HeadScores]] = {
    "combined": _combined,
    "combined-no-codes": _combined_without_codes,
    "combined-step": _combined_with_step,
    "codes": partial(codes_by_node, name="fast"),
    "codes-paper": partial(codes_by_node, name="paper"),
    "pairs": partial(codes_by_pairs, name="fast"),
    "pairs-paper": partial(codes_by_pairs, name="paper"),
    "patching": lambda bench: patching.exhaustive_patching(bench.contrast, bench.ablation),
    "patching-resample": lambda bench: patching.exhaustive_patching(bench.contrast, "resample"),
    "patching-mean": lambda bench: patching.exhaustive_patching(bench.contrast, "mean"),
    "patching-zero": lambda bench: patching.exhaustive_patching(bench.contrast, "zero"),
    "restoring": lambda bench: patching.exhaustive_patching(bench.contrast, direction="denoise"),
    "eap": lambda bench: attribution.attribution_patching(bench.contrast, bench.ablation),
    "eap-ig": lambda bench: attribution.integrated_attribution(bench.contrast, bench.ablation),
    "eap-step": lambda bench: attribution.step_attribution(bench.contrast, bench.ablation),
    "hisp": lambda bench: attribution.head_importance(bench.contrast, bench.ablation),
    "acdc": lambda bench: masks.acdc(bench.contrast, ablation=bench.ablation),
    "sp": lambda bench: masks.subnetwork_probing(bench.contrast, masks.ProbeConfig(seed=bench.seed), bench.ablation),
    **CONTROLS,
}
"""For each method's name, the function that scores all heads."""
NEEDS_NEGATIVES = ("codes", "codes-paper", "pairs", "pairs-paper", *(name for name in CONTROLS if name != "random"))
"""Names of the methods that read the task's negatives."""


CODE_PRESETS = {"codes": "fast", "pairs": "fast", "codes-paper": "paper", "pairs-paper": "paper"}
"""The methods that rank heads by codes, with the preset that makes the codes."""
MAX_SEED = 2**63


def all_methods(ablation: Ablation, main: str) -> list[str]:
    """All methods except those that would repeat another's scores: `main`, and patching under its second name."""
    duplicates = {main, f"patching-{ablation}"} | ({"patching"} if main == f"patching-{ablation}" else set())
    return [name for name in METHODS if name not in duplicates]


def expected_passes(name: str, heads: Heads, n_batches: int) -> float:
    """About how many passes over the prompts a causal method will make; 0 for methods that only read."""
    n_patching = passes_of(heads, all_heads(heads))
    share = CombinedConfig().share
    return {
        "combined": 3 * CombinedConfig().n_steps + share * n_patching,  # without step 6, whose cost is not known before
        "combined-no-codes": 3 * CombinedConfig().n_steps + share * n_patching,
        "combined-step": 3 + 3 * CombinedConfig().step_share + share * n_patching,
        "eap": 3,
        "eap-step": 3,
        "hisp": 3,
        "eap-ig": 3 * attribution.N_STEPS,
        "acdc": len(masks.THRESHOLDS) * n_patching,
        "sp": 3 * masks.ProbeConfig().n_steps / n_batches,
    }.get(name, n_patching if name.startswith("patching") or name == "restoring" else 0.0)


def expected_seconds(bench: Bench, names: Sequence[str]) -> float:
    """How long the methods will take, estimated from the time that reading prompts and counterparts took."""
    n_batches = len(bench.contrast.batches)
    # Reading was two passes, so half of it is the time of one.
    return bench.contrast.seconds / 2 * sum(expected_passes(name, bench.heads, n_batches) for name in names)


def check_seed(seed: int) -> None:
    """Raises UserError for a seed that random generators do not accept."""
    if not 0 <= seed < MAX_SEED:
        raise UserError(f"the seed must be from 0 to 2^63 − 1, got {seed}")


def check_methods(names: Sequence[str]) -> None:
    """Raises UserError for an unknown method, before anything is loaded."""
    for name in names:
        if name not in METHODS:
            raise unknown("method", name, METHODS)
