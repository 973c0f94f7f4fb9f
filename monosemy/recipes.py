"""Recipes, the named configurations. Each is a function that returns a complete `RunConfig` and opens no file."""

from __future__ import annotations

from collections.abc import Callable

from monosemy.config import ActivationsConfig, EvaluationConfig, RunConfig, TextConfig, TrainingConfig, with_section
from monosemy.errors import unknown


def demo() -> RunConfig:
    """Five architectures at L0 16, 32 and 64 with 3 controls, on the residual stream of SmolLM2-135M: 15 SAEs."""
    return RunConfig(
        recipe="demo",
        text=TextConfig(n_tokens=200_000, n_validation_tokens=32_768),
        training=TrainingConfig(batch_tokens=512, n_passes=2),
        evaluation=EvaluationConfig(n_loss_tokens=3_072),  # 23 passes of the model: a sixth of the demo
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


def transcoders() -> RunConfig:
    """A JumpReLU transcoder for each of the 30 MLPs of SmolLM2-135M, from one pass over 600,000 tokens."""
    sites = tuple(f"layers.{layer}.{end}" for layer in range(30) for end in ("mlp_in", "mlp_out"))
    config = RunConfig(
        recipe="transcoders",
        text=TextConfig(n_tokens=600_000, n_validation_tokens=32_768),
        # Kept on disk, 60 sites would take 69 KB a token; the buffer of a stream takes twice that in memory.
        activations=ActivationsConfig(sites=sites, storage="stream", buffer_tokens=16_384),
        architectures=(),
        l0=(32.0,),
        d_sae=2304,
        training=TrainingConfig(checkpoint_tokens=100_000),
        evaluation=EvaluationConfig(n_loss_tokens=4_096, frozen_random=False, pca=False),
    )
    # At 30 layers, what is compared with would take as long as what is trained: one layer of a run of its own shows it.
    settings = {"architectures": ("jumprelu",), "compare_saes": False, "frozen_random": False}
    return with_section(config, "transcoders", **settings)


RECIPES: dict[str, Callable[[], RunConfig]] = {"demo": demo, "quick": quick, "transcoders": transcoders}


def recipe(name: str) -> RunConfig:
    """The configuration of a recipe. Raises UserError, with similar names, for an unknown one."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES, fix="or give the path of a run.json")
    return RECIPES[name]()
