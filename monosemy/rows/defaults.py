"""The settings that suit a table of rows, from its size alone, where its owner asks for none.

    d_sae      8 · width, but at most a quarter of the training rows, and at least 4 · l0 and 2
    l0         32, but at most d_sae / 8, and at least 1
    batch      a sixteenth of the training rows, from 32 to 1,024, but at most half of them
    passes     as many as make 2,000 steps, at most 200

A latent needs rows to learn from, hence the quarter; small tables are read many times, large ones once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monosemy.activations.tables import Table, table_size
from monosemy.config import EvaluationConfig, ModelConfig, RunConfig, TrainingConfig, from_json, to_json, with_room
from monosemy.errors import UserError
from monosemy.ranges import check_ranges, number_name
from monosemy.rows.settings import RowsConfig
from monosemy.support.flags import flag_of

STEPS, MOST_PASSES = 2_000, 200


@dataclass(frozen=True)
class Size:
    """The size of a table, as far as defaults depend on it."""

    width: int
    n_train: int

    @staticmethod
    def of(n_rows: int, width: int, rows: RowsConfig) -> Size:
        """The size of a table that is split as the settings say."""
        n_validation = min(rows.max_validation_rows, round(rows.validation_fraction * n_rows))
        return Size(width, max(1, n_rows - n_validation))


def default_d_sae(size: Size, l0: float | None = None) -> int:
    """The number of latents where none is asked for."""
    return max(min(8 * size.width, size.n_train // 4), 2, math.ceil(4 * (l0 or 0)))


def default_l0(d_sae: int) -> float:
    """The L0 where none is asked for."""
    return float(max(1, min(32, d_sae // 8)))


def default_training(size: Size, given: Mapping[str, Any] | None = None) -> TrainingConfig:
    """The training settings for a table, with those in `given` in place of the rules.

    Raises UserError for an unknown setting and a value of another type.
    """
    values = dict(given or {})
    batch = values.get("batch_tokens", max(1, min(size.n_train // 2, max(32, min(1_024, size.n_train // 16)))))
    if isinstance(batch, int) and "n_passes" not in values:
        steps_a_pass = max(1, size.n_train // max(1, batch))
        # Rows that outliers take away must not leave a single pass shorter than one batch.
        values["n_passes"] = max(1, min(MOST_PASSES, math.ceil(STEPS / steps_a_pass)))
    return from_json(TrainingConfig, {**to_json(TrainingConfig()), **values, "batch_tokens": batch}, "training")


@dataclass(frozen=True)
class Wishes:
    """What the owner of the rows asks for; None leaves it to the rules."""

    architectures: tuple[str, ...]
    d_sae: int | None = None
    l0: tuple[float, ...] | None = None
    seed: int = 0
    options: Mapping[str, Any] | None = None
    """Options of the architecture, such as `{"bandwidth_relative": 0.3}`; for one architecture alone."""
    training: Mapping[str, Any] | None = None
    """Settings of `config.TrainingConfig`."""
    device: str = "auto"
    controls: bool = True
    """Whether to train a control with a frozen random decoder for each L0, and to measure PCA."""


def rows_config(table: Table, wishes: Wishes, rows: RowsConfig) -> RunConfig:
    """The configuration of a run on this table. Raises UserError for wishes that cannot be met."""
    size = Size.of(table.n_rows, table.width, rows)
    d_sae = wishes.d_sae or default_d_sae(size, max(wishes.l0 or (0,)))
    l0 = wishes.l0 or (default_l0(d_sae),)
    (first, *_) = wishes.architectures
    config = RunConfig(
        recipe="rows",
        model=ModelConfig(device=wishes.device),
        architectures=wishes.architectures,
        l0=tuple(float(value) for value in l0),
        d_sae=d_sae,
        seeds=(wishes.seed,),
        options={f"{first}.{name}": value for name, value in (wishes.options or {}).items()},
        training=default_training(size, wishes.training),
        evaluation=EvaluationConfig(frozen_random=wishes.controls, pca=wishes.controls),
    )
    return with_room(config, rows)


def frontier_config(values: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run on a file of rows where `values`, settings by dotted name, leave out the sizes.

    It compares all architectures at half the default L0, at it and at twice it. Raises UserError for a file that
    cannot be read.
    """
    prefix = "rows."
    rows = from_json(RowsConfig, {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)})
    check_ranges(rows, lambda name: flag_of(prefix + name))
    assert rows.source is not None, "frontier_config is for runs on a file"
    n_rows, width = table_size(Path(rows.source), rows.tensor, rows.column)
    size = Size.of(n_rows, width, rows)
    d_sae = values.get("d_sae") or default_d_sae(size, max(values.get("l0") or (0,)))
    middle = default_l0(d_sae)
    given = {k.removeprefix("training."): v for k, v in values.items() if k.startswith("training.")}
    config = RunConfig(
        recipe="rows",
        l0=tuple(sorted({max(1.0, middle // 2), middle, min(float(d_sae), 2 * middle)})),
        d_sae=d_sae,
        training=default_training(size, given),
    )
    return with_room(config, rows)


def check_sizes(d_sae: Any, l0: Any) -> None:
    """Raises UserError for a d_sae or an L0 of the wrong type, out of range, or that do not fit together."""
    if d_sae is not None and (isinstance(d_sae, bool) or not hasattr(d_sae, "__index__") or d_sae < 1):
        raise UserError(f"d_sae {d_sae!r} must be a whole number of latents, at least 1; e.g. d_sae=512, or None")
    if l0 is not None and (isinstance(l0, bool) or not hasattr(l0, "__float__") or not 0 < float(l0) < math.inf):
        raise UserError(f"l0 {l0!r} must be a number above 0, the active latents per row; e.g. l0=32, or None")
    if d_sae is not None and l0 is not None and l0 > d_sae:
        raise UserError(f"l0 {number_name(l0)} must be at most d_sae {d_sae}; lower l0 or raise d_sae")
