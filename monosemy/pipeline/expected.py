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


def expected_stages(config: RunConfig, first_tokens: int) -> list[tuple[str, float]]:
    """(beginning of the stage's name, expected seconds) of a run whose first look reads `first_tokens` (0: none)."""
    text, training, evaluation = config.text, config.training, config.evaluation
    width = config.d_sae / demo().d_sae
    targets = len(config.l0) * len(config.seeds) * len(config.activations.sites)
    n_trained = (len(config.architectures) + evaluation.frozen_random) * targets
    n_measured = n_trained + evaluation.pca * targets
    stages = [
        ("", LOADING),
        ("tokenise", TOKENISE * (text.n_tokens + text.n_validation_tokens)),
        ("", MEASURING),
    ]
    if first_tokens:
        stages += [
            ("harvest", HARVEST * first_tokens),
            ("training the first SAE", FIRST_STEP * first_tokens * training.n_passes * width),
            ("features: reading", READ * first_tokens),
            ("features: ", DATABASE),
        ]
    steps = text.n_tokens * training.n_passes * n_trained
    return [
        *stages,
        ("harvest", HARVEST * (text.n_tokens - first_tokens)),
        ("training ", STEP * steps * width),
        ("features: reading", READ * min(text.n_tokens, FEATURE_TOKENS)),
        ("features: ", DATABASE),
        ("reconstruction", text.n_validation_tokens * (HARVEST + RECONSTRUCT * n_measured * width)),
        ("model loss", LOSS * evaluation.n_loss_tokens * (n_measured + 2)),
        ("report", REPORT),
    ]
