"""The architectures there are. A new one is one file, one test and one line here.

None is imported until it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from monosemy.errors import unknown

if TYPE_CHECKING:
    from monosemy.saes.base import SaeConfig, SparseAutoencoder

ARCHITECTURES: dict[str, str] = {
    "relu": "monosemy.saes.relu:Relu",
    "topk": "monosemy.saes.topk:TopK",
    "batch_topk": "monosemy.saes.batch_topk:BatchTopK",
    "gated": "monosemy.saes.gated:Gated",
    "jumprelu": "monosemy.saes.jumprelu:JumpRelu",
}


def architecture(name: str) -> type[SparseAutoencoder]:
    """The class of an architecture. Raises UserError, with near matches, for a name that is not registered."""
    if name not in ARCHITECTURES:
        raise unknown("architecture", name, ARCHITECTURES)
    module, attribute = ARCHITECTURES[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def build_sae(config: SaeConfig) -> SparseAutoencoder:
    """A freshly initialised SAE of `config.architecture`, its weights drawn from `config.seed`."""
    return architecture(config.architecture)(config)
