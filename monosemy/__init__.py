"""monosemy: sparse autoencoders of language models, from text to compared dictionaries."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "load_model": "monosemy.models.sources",
    "load_sae": "monosemy.saes.storage",
    "save_sae": "monosemy.saes.storage",
    "WideSae": "monosemy.saes.wide",
    "SparseLatents": "monosemy.latents",
    "SaeConfig": "monosemy.saes.base",
    "build_sae": "monosemy.saes.registry",
    "fit": "monosemy.rows.fitting",
    "Dictionary": "monosemy.rows.dictionary",
    "open_run": "monosemy.pipeline.finished",
    "RunConfig": "monosemy.config",
    "UserError": "monosemy.errors",
    "splice": "monosemy.evals.splice",
    "evaluate": "monosemy.evals.evaluate",
    "evaluate_reconstruction": "monosemy.evals.reconstruction",
    "evaluate_model_loss": "monosemy.evals.model_loss",
    "whole_run": "monosemy.pipeline",
    "recipe": "monosemy.recipes",
    "steer": "monosemy.steering.generate",
    "SteeringRequest": "monosemy.steering.request",
    "Edit": "monosemy.steering.request",
    "find_circuit": "monosemy.circuits.heads.circuit",
    "attribute": "monosemy.circuits.graphs.attribution",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use, so that `import monosemy` is fast."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'monosemy' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, for `dir` and completion; none of them is imported by that."""
    return sorted(__all__)
