"""The flags of `monosemy jacobian train` that set the penalty, and the configuration that all its flags ask for."""

from __future__ import annotations

import argparse

from monosemy.circuits.jacobian.settings import JacobianConfig
from monosemy.config import (
    ActivationsConfig,
    EvaluationConfig,
    ModelConfig,
    RunConfig,
    TextConfig,
    TrainingConfig,
    with_room,
)
from monosemy.ranges import range_of
from monosemy.support.arguments import real, whole


def add_penalty(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the penalty and of the model's randomisation."""
    add = parser.add_argument
    add(
        "--at",
        choices=("input", "reconstruction"),
        default="input",
        help="Where the MLP's slopes are taken: at its true input, as published, or at the reconstruction.",
    )
    add(
        "--token-share",
        type=real(range_of(JacobianConfig, "token_share")),
        default=1.0,
        help="Share of each batch on which the penalty is measured.",
    )
    add(
        "--mlp-error",
        type=real(range_of(JacobianConfig, "mlp_error_coef")),
        default=JacobianConfig.mlp_error_coef,
        help="Weight of the input SAE's error as it arrives at the MLP's output, where λ > 0.",
    )
    add(
        "--memory",
        type=whole(range_of(JacobianConfig, "max_memory_mb")),
        default=2048,
        metavar="MB",
        help="Largest memory for the penalty's temporary arrays.",
    )
    add(
        "--randomise",
        choices=("none", "published", "reinitialised", "matched"),
        default="none",
        help="Train on the model with redrawn weights; `monosemy jacobian random` does that and compares.",
    )


def run_config(arguments: argparse.Namespace) -> RunConfig:
    """The configuration of the run that the flags ask for."""
    layer = arguments.layer
    if layer is None:
        from monosemy.models.sources import model_size

        layer = model_size(arguments.model)[0].n_layers // 2
    settings = JacobianConfig(
        lambdas=tuple(arguments.lambdas),
        layer=layer,
        architecture=arguments.architecture,
        at=arguments.at,
        token_share=arguments.token_share,
        mlp_error_coef=arguments.mlp_error,
        max_memory_mb=arguments.memory,
    )
    config = RunConfig(
        recipe="jacobian",
        model=ModelConfig(source=arguments.model, device=arguments.device, randomise=arguments.randomise),
        text=TextConfig(
            source=arguments.text,
            context_length=arguments.context,
            n_tokens=arguments.tokens,
            n_validation_tokens=arguments.validation_tokens,
        ),
        activations=ActivationsConfig(sites=(f"layers.{layer}.mlp_in", f"layers.{layer}.mlp_out")),
        architectures=(),
        l0=tuple(arguments.l0),
        d_sae=arguments.d_sae,
        seeds=tuple(arguments.seeds),
        training=TrainingConfig(
            batch_tokens=arguments.batch, n_passes=arguments.passes, learning_rate=arguments.learning_rate
        ),
        evaluation=EvaluationConfig(n_loss_tokens=arguments.loss_tokens, frozen_random=False, pca=False),
    )
    return with_room(config, settings)
