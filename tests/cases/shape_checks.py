"""Shapes and types of signatures, checked while the tests run (jaxtyping with beartype).

Imported by conftest before the modules it checks: what is imported later has its functions and dataclasses checked at
every call. `MODULES` are those whose signatures carry shapes; every registered architecture is one. Not among them: the
compiled kernels (numba and Triton translate their functions' source), and modules of which a test may stand in for a
part with a fake.
"""

from __future__ import annotations

import jaxtyping
from beartype import BeartypeConf, beartype

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
    "monosemy.evals.controls",
    "monosemy.evals.documents",
    "monosemy.evals.intervals",
    "monosemy.evals.model_loss",
    "monosemy.evals.reconstruction",
    "monosemy.models.padding",
    "research.differences",
    *(entry.path.split(":")[0] for entry in ARCHITECTURES.values()),
)

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""A whole number passes for a float, as it does for a type checker."""

jaxtyping.install_import_hook(MODULES, "shape_checks.check")
