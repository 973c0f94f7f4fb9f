"""Shapes and types of signatures, checked while the tests run (jaxtyping with beartype).

Imported by conftest before the modules it checks: what is imported later has its functions and dataclasses checked at
every call. `MODULES` are those whose signatures carry shapes; every registered architecture is one. Not among them: the
compiled kernels (numba and Triton translate their functions' source), and modules of which a test may stand in for a
part with a fake.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jaxtyping
from beartype import BeartypeConf, FrozenDict, beartype

from monosemy.saes.registry import ARCHITECTURES

MODULES = (
    "monosemy.activations.harvest",
    "monosemy.activations.shards",
    "monosemy.activations.shuffle_quality",
    "monosemy.activations.store",
    "monosemy.activations.harvested_stream",
    "monosemy.activations.stream",
    "monosemy.circuits.graphs.ablation",
    "monosemy.circuits.graphs.attention_scores",
    "monosemy.circuits.graphs.attribution",
    "monosemy.circuits.graphs.carriers",
    "monosemy.circuits.graphs.controls",
    "monosemy.circuits.graphs.effects",
    "monosemy.circuits.graphs.frozen_attention",
    "monosemy.circuits.graphs.frozen_model",
    "monosemy.circuits.graphs.frozen_norm",
    "monosemy.circuits.graphs.graph",
    "monosemy.circuits.graphs.influence",
    "monosemy.circuits.graphs.prompt",
    "monosemy.circuits.graphs.replacement",
    "monosemy.circuits.graphs.several",
    "monosemy.circuits.graphs.transcoders",
    "monosemy.circuits.heads.agreement",
    "monosemy.circuits.heads.attention_only",
    "monosemy.circuits.heads.attribution",
    "monosemy.circuits.heads.code_scores",
    "monosemy.circuits.heads.combined",
    "monosemy.circuits.heads.contrast",
    "monosemy.circuits.heads.controls",
    "monosemy.circuits.heads.discrete",
    "monosemy.circuits.heads.edges",
    "monosemy.circuits.heads.faithfulness",
    "monosemy.circuits.heads.masks",
    "monosemy.circuits.heads.model_heads",
    "monosemy.circuits.heads.patching",
    "monosemy.circuits.heads.pooled",
    "monosemy.circuits.heads.scores",
    "monosemy.circuits.heads.task",
    "monosemy.circuits.jacobian.ablation",
    "monosemy.circuits.jacobian.activation",
    "monosemy.circuits.jacobian.averages",
    "monosemy.circuits.jacobian.diagonals",
    "monosemy.circuits.jacobian.graph",
    "monosemy.circuits.jacobian.latent_map",
    "monosemy.circuits.jacobian.linearity",
    "monosemy.circuits.jacobian.measures",
    "monosemy.circuits.jacobian.mlp",
    "monosemy.circuits.jacobian.mlp_rows",
    "monosemy.circuits.jacobian.penalty",
    "monosemy.circuits.jacobian.products",
    "monosemy.circuits.jacobian.resamples",
    "monosemy.circuits.jacobian.slices",
    "monosemy.circuits.jacobian.strongest_pairs",
    "monosemy.circuits.jacobian.weights",
    "monosemy.data.build",
    "monosemy.data.documents",
    "monosemy.data.packing",
    "monosemy.data.split",
    "monosemy.evals.controls",
    "monosemy.evals.documents",
    "monosemy.evals.evaluate",
    "monosemy.evals.intervals",
    "monosemy.evals.model_loss",
    "monosemy.evals.splice",
    "monosemy.evals.reconstruction",
    "monosemy.features.building.build",
    "monosemy.features.building.encode_pass",
    "monosemy.features.building.logit_effects",
    "monosemy.features.building.neighbours",
    "monosemy.features.store.activation_codes",
    "monosemy.features.store.compact",
    "monosemy.kernels.dispatch",
    "monosemy.kernels.jacobian",
    "monosemy.kernels.ops",
    "monosemy.kernels.reference",
    "monosemy.latents",
    "monosemy.models.adapter",
    "monosemy.models.checks",
    "monosemy.models.generation",
    "monosemy.models.heads",
    "monosemy.models.padding",
    "monosemy.models.passing",
    "monosemy.saes.base",
    "monosemy.saes.losses",
    "monosemy.steering.control",
    "monosemy.steering.edits",
    "monosemy.steering.measure",
    "monosemy.steering.output_score",
    "monosemy.training.dead",
    "monosemy.training.distributed.losses",
    "monosemy.training.distributed.restart",
    "monosemy.training.distributed.selection",
    "monosemy.training.distributed.start",
    "monosemy.training.outliers",
    "monosemy.training.trainee",
    "research.differences",
    *(entry.path.split(":")[0] for entry in ARCHITECTURES.values()),
)

CHOICES = (Literal["resample", "mean", "zero"], Literal["noise", "denoise"], Literal["mean", "last"])
"""Ablations, directions and poolings. The code itself refuses any other, and tests see that: here any text passes."""

OWN_WORDS = {
    "monosemy.evals.evaluate.evaluate",
    *(
        f"monosemy.models.adapter.LanguageModel.{name}"
        for name in ("activations", "all_activations", "logits", "prefix", "_checked")
    ),
}
"""Functions that refuse tokens and masks of other shapes in words of their own. Tests see that, so nothing here may
refuse them first."""

_check = beartype(
    conf=BeartypeConf(
        is_pep484_tower=True,  # a whole number passes for a float, as it does for a type checker
        hint_overrides=FrozenDict(dict.fromkeys(CHOICES, str)),
    )
)


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its types checked at every call; one of `OWN_WORDS` as it is."""
    return function if f"{function.__module__}.{function.__qualname__}" in OWN_WORDS else _check(function)


jaxtyping.install_import_hook(MODULES, "shape_checks.check")
