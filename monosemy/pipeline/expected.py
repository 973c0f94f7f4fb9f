"""What the stages of a run with a first look should cost, so that the time left can be told from the first minute on.

Place on the path: configuration → [expected seconds of every stage, in order] → `progress.together`. The amounts of
work are those of `planning.work`, the costs CPU seconds of the demo on one core without fast 8-bit products.
Only their proportions count: `support.outlook` carries them over to the machine at hand. Limits: for another model the
share of what the model does (harvest, losses) is off, and the time left with it, until training has begun.
"""

from __future__ import annotations

from collections.abc import Mapping

from monosemy.config import RunConfig
from monosemy.models.embedded import SIZE
from monosemy.pipeline.feature_source import N_TOKENS as FEATURE_TOKENS
from monosemy.pipeline.planning.work import SAMPLE_TOKENS, Sizes, Work, work_of

COSTS: Mapping[str, float] = {
    "second": 1.0,
    "token": 8e-6,
    "operation": 1.34e-11,
    "step": 5.0e-11,
    "step alone": 1.06e-10,
    "encode": 4.5e-11,
}
"""CPU seconds a unit of work (`planning.work`); `step alone` where one SAE trains and not many side by side."""
LOADING, DATABASE, REPORT = 8.0, 25.0, 10.0
"""Seconds."""


Stages = list[tuple[str, float]]
"""(beginning of the stage's name, expected seconds), in order; see `outlook.Outlook`."""


def expected_stages(config: RunConfig, first_tokens: int) -> Stages:
    """The stages of a whole run whose first look reads `first_tokens` (0: it has none, or has had it)."""
    sizes = _sizes(config)
    whole = {work.stage: work.seconds(COSTS) for work in work_of(sizes)}
    rest = Work("harvest", {"operation": (config.text.n_tokens - first_tokens) * sizes.read_operations})
    return [
        *(first_look_stages(config, first_tokens) if first_tokens else _opening(sizes)),
        ("harvest", rest.seconds(COSTS)),
        ("training ", whole["training"]),
        *_features(sizes, min(config.text.n_tokens, FEATURE_TOKENS)),
        ("reconstruction", whole["reconstruction"]),
        ("model loss", whole["model loss"]),
        ("report", REPORT),
    ]


def first_look_stages(config: RunConfig, first_tokens: int) -> Stages:
    """The stages of a first look that reads `first_tokens`."""
    sizes = _sizes(config)
    n_rows = first_tokens * config.training.n_passes
    return [
        *_opening(sizes),
        ("harvest", Work("", {"operation": first_tokens * sizes.read_operations}).seconds(COSTS)),
        ("training the first SAE", Work("", {"step alone": n_rows * _weights_of_one(sizes)}).seconds(COSTS)),
        *_features(sizes, first_tokens),
    ]


def _sizes(config: RunConfig) -> Sizes:
    return Sizes(config, SIZE, dict.fromkeys(config.activations.sites, SIZE.d_model))


def _weights_of_one(sizes: Sizes) -> float:
    return max(sizes.widths.values()) * sizes.config.d_sae


def _features(sizes: Sizes, n_tokens: int) -> Stages:
    reading = Work("", {"encode": n_tokens * _weights_of_one(sizes)})
    return [("features: reading", reading.seconds(COSTS)), ("features: ", DATABASE)]


def _opening(sizes: Sizes) -> Stages:
    """What comes before the activations."""
    text = sizes.config.text
    tokens = Work("", {"token": text.n_tokens + text.n_validation_tokens})
    measuring = Work("", {"operation": SAMPLE_TOKENS * sizes.read_operations})
    return [("", LOADING), ("tokenise", tokens.seconds(COSTS)), ("", measuring.seconds(COSTS))]
