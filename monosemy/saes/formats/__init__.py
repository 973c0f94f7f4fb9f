"""The file layouts that SAEs are read from. Adding one takes one file here, one test and one line in `LAYOUTS`.

A layout is a module of three functions. `load_sae` builds the SAE from what they give, and checks every shape:

    recognises(path) -> bool                    whether the folder or file is of this layout; cheap, and never an error
    config(path) -> SaeConfig                   what kind of SAE it is, without reading its weights
    tensors(path, config) -> dict[str, Tensor]  the weights under our names, in our orientation and units
                                                (`saes.storage` lists them)

The last two raise UserError for a damaged file. Files come from strangers: nothing in them may run.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor

from monosemy.saes.base import SaeConfig

OWN = "monosemy"
LAYOUTS: dict[str, str] = {
    OWN: "monosemy.saes.formats.own",
}
"""Layouts by name, each with its module, which is imported when an SAE is read."""


class Layout(Protocol):
    """The three functions of a layout's module."""

    def recognises(self, path: Path) -> bool: ...

    def config(self, path: Path) -> SaeConfig: ...

    def tensors(self, path: Path, config: SaeConfig) -> Mapping[str, Tensor]: ...


def layout_of(path: Path) -> Layout:
    """The layout that recognises the path; our own where none does, whose errors say what is missing."""
    modules = [importlib.import_module(module) for module in LAYOUTS.values()]
    own = importlib.import_module(LAYOUTS[OWN])
    return next((module for module in modules if module.recognises(path)), own)
