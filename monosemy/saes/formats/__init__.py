"""The file layouts that SAEs are read from. Adding one takes one file here, one test and one line in `LAYOUTS`.

A layout is a module of three functions. `load_sae` builds the SAE from what they give, and checks every shape:

    recognises(path) -> bool             whether the folder or file is of this layout; cheap, and never an error
    config(path) -> SaeConfig            what kind of SAE it is, without reading its weights
    tensors(path, config) -> mapping     the weights under our names and in our orientation (`saes.storage` lists them),
                                         as tensors or, to save memory, as `stored.StoredTensor`s that are still in
                                         their file. They keep the publisher's units: what the publisher does to inputs
                                         and outputs beside is said in `config.transforms`

The last two raise UserError for a damaged file. Files come from strangers: nothing in them may run. A layout of a
folder names its files in `FILES`, so that the SAE can be given by one of them too, and so that only they are fetched
from the hub. One whose folder may stand for a single file of its has place_of(path) -> Path, and one that reads files
of a whole set or run too lists them in beside(place). A layout that is written too has a function
export(sae) -> exported.Exported, and a line in `WRITERS`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor

from monosemy.errors import UserError, unknown
from monosemy.saes.base import SaeConfig, SparseAutoencoder
from monosemy.saes.formats.exported import Exported
from monosemy.saes.formats.stored import StoredTensor

OWN = "monosemy"
LAYOUTS: dict[str, str] = {
    OWN: "monosemy.saes.formats.own",
    "SAELens": "monosemy.saes.formats.sae_lens",
    "Gemma Scope": "monosemy.saes.formats.gemma_scope",
    "Gemma Scope 2": "monosemy.saes.formats.gemma_scope_2",
    "sparsify": "monosemy.saes.formats.sparsify",
    "dictionary_learning": "monosemy.saes.formats.dictionary_learning",
    "Llama Scope": "monosemy.saes.formats.llama_scope",
    "circuit-tracer": "monosemy.saes.formats.circuit_tracer",
    "torch file": "monosemy.saes.formats.torch_files",
}
"""Layouts by name, each with its module, which is imported when an SAE is read."""

WRITERS: dict[str, str] = {
    "sae-lens": "monosemy.saes.formats.sae_lens",
    "sparsify": "monosemy.saes.formats.sparsify",
    "dictionary-learning": "monosemy.saes.formats.dictionary_learning",
    "gemma-scope-2": "monosemy.saes.formats.gemma_scope_2",
    "circuit-tracer": "monosemy.saes.formats.circuit_tracer",
}
"""Layouts that are written too, by their names on the command line: their modules have a function `export`."""


class Layout(Protocol):
    """The three functions of a layout's module."""

    def recognises(self, path: Path) -> bool: ...

    def config(self, path: Path) -> SaeConfig: ...

    def tensors(self, path: Path, config: SaeConfig) -> Mapping[str, Tensor | StoredTensor]: ...


def export(sae: SparseAutoencoder, layout: str, *, unit_rows: bool = False) -> Exported:
    """The SAE's files in another library's layout, with notes on what was folded and what is lost.

    unit_rows: make decoder rows of length 1, in SAELens' layout, the one that SAEBench reads.

    Raises UserError for a layout that is not one of `WRITERS`, and when it cannot hold this SAE.
    """
    if layout not in WRITERS:
        raise unknown("layout", layout, WRITERS)
    if unit_rows and layout != "sae-lens":
        raise UserError(
            f"--unit-rows is for the layout sae-lens, which SAEBench reads, not for {layout}; leave one of them out"
        )
    writer = importlib.import_module(WRITERS[layout])
    return writer.export(sae, unit_rows=True) if unit_rows else writer.export(sae)


def layout_of(path: Path) -> tuple[Layout, Path]:
    """The layout that recognises the path, and the SAE's folder or file.

    A folder that is none itself stands for the one SAE below it. Where there is none, it is our own layout, whose
    errors say what is missing. Raises UserError, with examples, for a folder of several.
    """
    layout = _recognising(path)
    if layout is None and os.path.isdir(path):  # which a name that is too long does not upset
        below: dict[Path, Layout] = {}
        for place in _places_below(path):
            if place.parent not in below and (inner := _recognising(place)):
                below[place] = inner
        if len(below) > 1:
            examples = ", ".join(str(place) for place in list(below)[:3])
            raise UserError(f"{path} holds {len(below)} SAEs; name one, e.g. {examples}")
        if below:
            place, inner = below.popitem()
            return inner, place
    if layout is None and os.path.isdir(path) and not os.path.isfile(path / "config.json"):
        modules = {name: importlib.import_module(module) for name, module in LAYOUTS.items()}
        sets = [f"{' + '.join(module.FILES)} ({name})" for name, module in modules.items() if hasattr(module, "FILES")]
        raise UserError(
            f"{path} is not a saved SAE; give a folder such as RUN/saes/SITE/NAME, a .pt file, or a folder with "
            f"{', '.join(sets)}"
        )
    layout = layout or importlib.import_module(LAYOUTS[OWN])
    of_folder = path.name in getattr(layout, "FILES", ()) and os.path.isfile(path)
    place = path.parent if of_folder else path
    return layout, layout.place_of(place) if hasattr(layout, "place_of") else place


def files_of(layout: Layout, place: Path) -> dict[str, Path]:
    """Every file that an SAE is read from, by its name: what its content, and so its identity, depends on.

    Beside the layout's own files these are the settings of a whole set or run, and the other half of a cross-layer
    transcoder's layer, which the layout's `beside(place)` lists.
    """
    inside = [place / name for name in getattr(layout, "FILES", ())] if place.is_dir() else [place]
    beside = layout.beside(place) if hasattr(layout, "beside") else []
    return {path.name: path for path in [*beside, *inside] if path.is_file()}


def _recognising(path: Path) -> Layout | None:
    modules = [importlib.import_module(module) for module in LAYOUTS.values()]
    try:
        return next((module for module in modules if module.recognises(path)), None)
    except (OSError, ValueError):  # a name that is too long or has a NUL, or a folder that may not be read
        return None


def _places_below(folder: Path, *, depth: int = 4, n_most: int = 2000) -> Iterator[Path]:
    """Folders, and torch files, below a folder, level by level, up to a bound; links are not followed."""
    level = [folder]
    for _ in range(depth):
        try:
            entries = [entry for parent in level for entry in sorted(parent.iterdir()) if entry.name[0] != "."]
        except OSError:
            return
        n_most -= len(entries)
        if n_most < 0:
            return
        level = [entry for entry in entries if entry.is_dir() and not entry.is_symlink()]
        yield from (entry for entry in entries if entry in level or entry.suffix in (".pt", ".pth"))
