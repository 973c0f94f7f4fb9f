"""`monosemy.fit`: a dictionary of any activations in one call."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from monosemy.errors import UserError
from monosemy.rows.dictionary import Dictionary
from monosemy.rows.sources import FileOfRows


def fit(
    X: Any,
    architecture: str = "jumprelu",
    *,
    d_sae: int | None = None,
    l0: float | None = None,
    tensor: str | None = None,
    column: str | None = None,
    run: str | Path | None = None,
    **settings: Any,
) -> Dictionary:
    """Trains a sparse autoencoder on rows X, and returns it as a fitted `Dictionary`.

    X: an array, tensor or DataFrame [rows, columns]; the path of a .npy, .safetensors (with `tensor`) or .parquet file
        (with `column`); or an iterable of batches.
    settings: `groups`, as for `Dictionary.fit`, and the other parameters of `Dictionary`: `seed`, `options`,
        `training`, `validation_fraction`, `device`.
    All else is as in `Dictionary`, which also says the defaults of `d_sae` and `l0`.

    Raises UserError for input that cannot be learnt from.
    """
    groups = settings.pop("groups", None)
    unknown_settings = sorted(set(settings) - set(Dictionary().get_params()))
    if unknown_settings:
        choices = ", ".join([*Dictionary().get_params(), "groups", "run"])
        raise UserError(f"fit has no setting {unknown_settings[0]!r}; choose from {choices}")
    if tensor or column:
        if not isinstance(X, str | os.PathLike):
            raise UserError("tensor and column choose a part of a file; give X as the path of one, or leave them out")
        X = FileOfRows(Path(X), tensor, column)
    return Dictionary(architecture, d_sae=d_sae, l0=l0, **settings).fit(X, groups=groups, run=run)
