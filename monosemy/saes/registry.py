"""The registry of architectures. Adding one takes one file, one test and one line here.

An architecture's module is imported when the architecture is first used.
"""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from monosemy.errors import unknown

if TYPE_CHECKING:
    from monosemy.saes.base import SaeConfig, SparseAutoencoder


@dataclass(frozen=True)
class Entry:
    """An architecture's line in the registry."""

    path: str
    """`module:Class`, imported when first needed."""
    label: str
    """The architecture's name in figures, tables and pages."""


# The order is that of every figure and list, and decides the colours (report/theme.py): append new ones at the end.
ARCHITECTURES: dict[str, Entry] = {
    "relu": Entry("monosemy.saes.relu:Relu", label="ReLU + L1"),
    "topk": Entry("monosemy.saes.topk:TopK", label="TopK"),
    "batch_topk": Entry("monosemy.saes.batch_topk:BatchTopK", label="BatchTopK"),
    "gated": Entry("monosemy.saes.gated:Gated", label="Gated"),
    "jumprelu": Entry("monosemy.saes.jumprelu:JumpRelu", label="JumpReLU"),
    "matryoshka_batch_topk": Entry("monosemy.saes.batch_topk:BatchTopK", label="Matryoshka BatchTopK"),
    "matryoshka_jumprelu": Entry("monosemy.saes.jumprelu:JumpRelu", label="Matryoshka JumpReLU"),
}


_ELSEWHERE = {"standard": "what SAELens calls standard is relu here", "vanilla": "a vanilla SAE is relu here"}


def architecture(name: str) -> type[SparseAutoencoder]:
    """The class of an architecture. Raises UserError, with similar names, for a name that is not registered."""
    if name not in ARCHITECTURES:
        raise unknown("architecture", name, ARCHITECTURES, fix=_ELSEWHERE.get(name, ""))
    module, attribute = ARCHITECTURES[name].path.split(":")
    return getattr(importlib.import_module(module), attribute)


def build_sae(config: SaeConfig) -> SparseAutoencoder:
    """Builds an untrained SAE of `config.architecture`, with weights drawn from `config.seed`.

    Where the configuration has transforms or a transcoder's output width, they are around an SAE of the architecture.
    """
    from monosemy.saes.transformed import TransformedSae
    from monosemy.saes.transforms import NO_TRANSFORMS

    if config.transforms == NO_TRANSFORMS and config.d_out is None:
        return architecture(config.architecture)(config)
    inner = dataclasses.replace(config, transforms=NO_TRANSFORMS, d_out=None, site_out="")
    return TransformedSae(config, architecture(config.architecture)(inner))
