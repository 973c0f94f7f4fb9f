"""What the stages of a run with a first look should cost, so that the time left can be told from the first minute on.

Place on the path: configuration → [expected seconds of every stage, in order] → `progress.together`. The costs are CPU
seconds of the demo on one core without fast 8-bit products, with its model and widths. Only their proportions count:
`support.outlook` carries them over to the machine at hand. Limits: for another model the share of what the model does
(harvest, losses) is off, and the time left with it, until training has begun.
"""

from __future__ import annotations

from monosemy.config import RunConfig
from monosemy.pipeline.feature_source import N_TOKENS as FEATURE_TOKENS
from monosemy.recipes import demo

LOADING, MEASURING, REPORT = 8.0, 11.0, 10.0
TOKENISE = 8e-6
HARVEST = 1.23e-3
STEP, FIRST_STEP = 6.6e-5, 1.4e-4
"""Per token and SAE, for many SAEs side by side and for one alone."""
READ, DATABASE = 6e-5, 25.0
RECONSTRUCT = 6e-5
LOSS = 2.6e-3
"""Per token and pass."""


Stages = list[tuple[str, float]]
"""(beginning of the stage's name, expected seconds), in order; see `outlook.Outlook`."""


def expected_stages(config: RunConfig, first_tokens: int) -> Stages:
    """The stages of a whole run whose first look reads `first_tokens` (0: it has none, or has had it)."""
    text, training, evaluation = config.text, config.training, config.evaluation
    targets = len(config.l0) * len(config.seeds) * len(config.activations.sites)
    n_trained = (len(config.architectures) + evaluation.frozen_random) * targets
    n_measured = n_trained + evaluation.pca * targets
    steps = text.n_tokens * training.n_passes * n_trained
    return [
        *(first_look_stages(config, first_tokens) if first_tokens else _opening(config)),
        ("harvest", HARVEST * (text.n_tokens - first_tokens)),
        ("training ", STEP * steps * _width(config)),
        ("features: reading", READ * min(text.n_tokens, FEATURE_TOKENS)),
        ("features: ", DATABASE),
        ("reconstruction", text.n_validation_tokens * (HARVEST + RECONSTRUCT * n_measured * _width(config))),
        ("model loss", LOSS * evaluation.n_loss_tokens * (n_measured + 2)),
        ("report", REPORT),
    ]


def first_look_stages(config: RunConfig, first_tokens: int) -> Stages:
    """The stages of a first look that reads `first_tokens`."""
    return [
        *_opening(config),
        ("harvest", HARVEST * first_tokens),
        ("training the first SAE", FIRST_STEP * first_tokens * config.training.n_passes * _width(config)),
        ("features: reading", READ * first_tokens),
        ("features: ", DATABASE),
    ]


def _opening(config: RunConfig) -> Stages:
    """What comes before the activations."""
    n_tokens = config.text.n_tokens + config.text.n_validation_tokens
    return [("", LOADING), ("tokenise", TOKENISE * n_tokens), ("", MEASURING)]


def _width(config: RunConfig) -> float:
    """The number of latents, in those of the demo."""
    return config.d_sae / demo().d_sae
