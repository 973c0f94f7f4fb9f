"""A pair's measures on every resample of the documents, saved so that pairs can be compared on the same resamples.

Place on the path: measures.py → [draws] (draws.safetensors beside measures.json) → frontier.py.

Two pairs measured on the same validation text share their documents, and resample r draws the same documents for both
(evals/intervals.py). The interval of a ratio of their measures therefore consists of percentiles of the ratios taken
resample by resample. On different texts, or where a model drops other documents, the resamples are unrelated and the
interval is that of two independent samples: too wide if anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from monosemy.evals.intervals import percentiles
from monosemy.support.files import atomic_path
from monosemy.support.tensor_rows import read_arrays
from monosemy.support.tensors import save_tensors

Draws = Mapping[str, Float[ndarray, " resample"]]
"""Measure → its value on each resample."""


def save_draws(path: Path, draws: Draws) -> None:
    """Writes draws.safetensors durably; a crash never leaves half a file."""
    with atomic_path(path) as temporary:
        save_tensors(temporary, {name: torch.from_numpy(np.asarray(values)) for name, values in draws.items()})


def load_draws(path: Path) -> dict[str, Float[ndarray, " resample"]]:
    """Reads draws.safetensors. Raises UserError for a missing or damaged file."""
    return read_arrays(path, "resampled measures", "measure the run again").arrays


def interval(values: Float[ndarray, " resample"] | None) -> list[float] | None:
    """The central 95% of the resamples as [low, high], ready for JSON; None without resamples."""
    ends = None if values is None else percentiles(values)
    return None if ends is None else list(ends)


def ratio(
    before: Float[ndarray, " resample"] | None, after: Float[ndarray, " resample"] | None
) -> Float[ndarray, " resample"] | None:
    """before / after, resample by resample; None where either was not saved."""
    if before is None or after is None:
        return None
    # Runs may have been measured with different numbers of resamples; the first ones still belong together.
    n = min(len(before), len(after))
    with np.errstate(divide="ignore", invalid="ignore"):
        return before[:n] / after[:n]
