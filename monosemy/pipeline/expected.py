"""What the stages of a run with a first look should cost, so that the time left can be told from the first minute on.

Place on the path: configuration → [expected seconds of every stage, in order] → `progress.together`. The amounts of
work are those of `planning.work`, the costs those of the demo on two cores. Only their proportions count:
`support.outlook` carries them over to the machine at hand, each kind of work by itself.

Limits: what training costs beside the model differs by two between a quiet machine and a loaded one, and by more among
processors; its costs lie in between, and the time left may be off by the difference until an SAE was trained. For
another model the share of what the model does (harvest, losses) is off, likewise.
"""

from __future__ import annotations

from collections.abc import Mapping

from monosemy.config import RunConfig
from monosemy.models.embedded import SIZE
from monosemy.pipeline.feature_source import N_TOKENS as FEATURE_TOKENS
from monosemy.pipeline.planning.work import SAMPLE_TOKENS, Sizes, Work, work_of
from monosemy.support.outlook import ExpectedStage

MODEL, TRAINING, OTHER = "model", "training", "other"
"""Kinds of work, each as fast as the machine does it (`support.outlook`)."""
COSTS: Mapping[str, float] = {
    "second": 1.0,
    "token": 8e-6,
    "operation": 1.34e-11,
    "step": 3.5e-11,
    "step alone": 8e-11,
    "encode": 2e-11,
}
"""Seconds a unit of work (`planning.work`); `step alone` where one SAE trains and not many side by side."""
LOADING, REPORT = 8.0, 10.0
FIRST_DATABASE, DATABASE = 40.0, 10.0
"""Seconds. The first database of a process waits for kernels to be compiled."""

Stages = list[ExpectedStage]
"""In order."""


def expected_stages(config: RunConfig, first_tokens: int) -> Stages:
    """The stages of a whole run whose first look reads `first_tokens` (0: it has none, or has had it)."""
    sizes = _sizes(config)
    whole = {work.stage: work.seconds(COSTS) for work in work_of(sizes)}
    return [
        *(first_look_stages(config, first_tokens) if first_tokens else _opening(sizes)),
        _harvest(sizes, config.text.n_tokens - first_tokens),
        ExpectedStage("training ", whole["training"], TRAINING),
        *_features(sizes, min(config.text.n_tokens, FEATURE_TOKENS), DATABASE if first_tokens else FIRST_DATABASE),
        ExpectedStage("reconstruction", whole["reconstruction"], MODEL),
        ExpectedStage("model loss", whole["model loss"], MODEL),
        ExpectedStage("report", REPORT, OTHER),
    ]


def first_look_stages(config: RunConfig, first_tokens: int) -> Stages:
    """The stages of a first look that reads `first_tokens`."""
    sizes = _sizes(config)
    n_rows = first_tokens * config.training.n_passes
    steps = Work("", {"step alone": n_rows * _weights_of_one(sizes)})
    return [
        *_opening(sizes),
        _harvest(sizes, first_tokens),
        ExpectedStage("training the first SAE", steps.seconds(COSTS), TRAINING),
        *_features(sizes, first_tokens, FIRST_DATABASE),
    ]


def _sizes(config: RunConfig) -> Sizes:
    return Sizes(config, SIZE, dict.fromkeys(config.activations.sites, SIZE.d_model))


def _weights_of_one(sizes: Sizes) -> float:
    return max(sizes.widths.values()) * sizes.config.d_sae


def _harvest(sizes: Sizes, n_tokens: int) -> ExpectedStage:
    """The reading of so many tokens, whatever was read before."""
    reading = Work("", {"operation": n_tokens * sizes.read_operations})
    return ExpectedStage("harvest", reading.seconds(COSTS), MODEL, n_tokens)


def _features(sizes: Sizes, n_tokens: int, database_seconds: float) -> Stages:
    reading = Work("", {"encode": n_tokens * _weights_of_one(sizes)})
    return [
        ExpectedStage("features: reading", reading.seconds(COSTS), OTHER),
        ExpectedStage("features: ", database_seconds, OTHER),
    ]


def _opening(sizes: Sizes) -> Stages:
    """What comes before the activations."""
    text = sizes.config.text
    tokens = Work("", {"token": text.n_tokens + text.n_validation_tokens})
    measuring = Work("", {"operation": SAMPLE_TOKENS * sizes.read_operations})
    return [
        ExpectedStage("", LOADING),
        ExpectedStage("tokenise", tokens.seconds(COSTS), OTHER),
        ExpectedStage("", measuring.seconds(COSTS)),
    ]
