"""The names of an SAE's latents, for commands that show a latent's number: its label, where features were built.

Place on the path: feature database → [names] → terminal. Rooms that know nothing of features load it by name.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from monosemy.errors import UserError
from monosemy.features.store.database import open_current
from monosemy.layout import SaeFiles


def latent_names(sae_folder: Path, latents: Iterable[int]) -> dict[int, str]:
    """The labels of some latents of an SAE by number; empty where it lies in no run or has no features of its
    present weights that can be read."""
    sae = SaeFiles(sae_folder)
    numbers = sorted(set(latents))
    if sae.run is None:
        return {}
    try:
        database = open_current(sae.run.folder, sae.site, sae.name)
    except UserError:
        return {}
    return {latent: label for latent, label in zip(numbers, database.labels(numbers), strict=True) if label}
