"""Shapes and types of signatures, checked while the tests run (jaxtyping with beartype).

Imported by conftest before the modules it checks: what is imported later has its functions and dataclasses checked at
every call. `MODULES` are those whose signatures carry shapes; every registered architecture is one. Not among them: the
compiled kernels (numba and Triton translate their functions' source), and modules of which a test may stand in for a
part with a fake.
"""

from __future__ import annotations

from typing import Literal

import jaxtyping
from beartype import BeartypeConf, FrozenDict, beartype

from monosemy.saes.registry import ARCHITECTURES

MODULES = (
    "monosemy.latents",
    "monosemy.kernels.reference",
    "monosemy.kernels.dispatch",
    "monosemy.kernels.ops",
    "monosemy.saes.base",
    "monosemy.saes.losses",
    "monosemy.training.dead",
    "monosemy.training.outliers",
    "monosemy.training.trainee",
    "monosemy.activations.harvest",
    "monosemy.activations.shards",
    "monosemy.activations.shuffle_quality",
    "monosemy.activations.store",
    "monosemy.activations.stream",
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
    "monosemy.circuits.jacobian.averages",
    "monosemy.circuits.jacobian.graph",
    "monosemy.circuits.jacobian.latent_map",
    "monosemy.circuits.jacobian.linearity",
    "monosemy.circuits.jacobian.measures",
    "monosemy.circuits.jacobian.mlp_rows",
    "monosemy.circuits.jacobian.resamples",
    "monosemy.circuits.jacobian.strongest_pairs",
    "monosemy.evals.controls",
    "monosemy.evals.documents",
    "monosemy.evals.intervals",
    "monosemy.evals.model_loss",
    "monosemy.evals.reconstruction",
    "monosemy.models.padding",
    "research.differences",
    *(entry.path.split(":")[0] for entry in ARCHITECTURES.values()),
)

CHOICES = (Literal["resample", "mean", "zero"], Literal["noise", "denoise"], Literal["mean", "last"])
"""Ablations, directions and poolings. The code itself refuses any other, and tests see that: here any text passes."""

check = beartype(
    conf=BeartypeConf(
        is_pep484_tower=True,  # a whole number passes for a float, as it does for a type checker
        hint_overrides=FrozenDict(dict.fromkeys(CHOICES, str)),
    )
)

jaxtyping.install_import_hook(MODULES, "shape_checks.check")
