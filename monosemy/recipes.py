"""Recipes, the named configurations. Each is a function that returns a complete `RunConfig` and opens no file."""

from __future__ import annotations

from collections.abc import Callable

from monosemy.config import ActivationsConfig, EvaluationConfig, RunConfig, TextConfig, TrainingConfig
from monosemy.errors import unknown


def demo() -> RunConfig:
    """Five architectures at L0 16, 32 and 64 on the residual stream of SmolLM2-135M, 12 to 25 minutes on two cores."""
    return RunConfig(
        recipe="demo",
        text=TextConfig(n_tokens=300_000, n_validation_tokens=32_768),
        training=TrainingConfig(batch_tokens=512, n_passes=2),
        evaluation=EvaluationConfig(n_loss_tokens=4_096),  # 20 passes of the model: a third of the demo's time at 8,192
    )


def quick() -> RunConfig:
    """Two architectures at one L0 on 40,000 tokens: a look at the whole path in about a minute."""
    return RunConfig(
        recipe="quick",
        text=TextConfig(n_tokens=40_000, n_validation_tokens=8_192),
        activations=ActivationsConfig(sites=("layers.6.resid_post",)),
        architectures=("topk", "jumprelu"),
        l0=(32.0,),
        d_sae=1152,
        training=TrainingConfig(batch_tokens=256, n_passes=2, checkpoint_tokens=20_000, log_tokens=2_000),
        evaluation=EvaluationConfig(n_loss_tokens=1_024, n_bootstrap=200),
    )


RECIPES: dict[str, Callable[[], RunConfig]] = {"demo": demo, "quick": quick}


def recipe(name: str) -> RunConfig:
    """The configuration of a recipe. Raises UserError, with similar names, for an unknown one."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES, fix="or give the path of a run.json")
    return RECIPES[name]()
