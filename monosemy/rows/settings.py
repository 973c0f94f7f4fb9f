"""The settings of activations that people bring along: the section `rows` of a run's configuration.

This module is loaded with every configuration, so it imports nothing slow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from monosemy.ranges import Range

SITE = "rows"
"""The name of the site in runs on a table of rows."""


@dataclass(frozen=True)
class RowsConfig:
    """Activations of your own, one row each, in place of a model and a text.

    Whatever needs a language model (delta loss, KL, labels of tokens, steering) is left out. In the report of such a
    run, a token is a row, and a document is a row or a group of rows.
    """

    source: str | None = None
    """File with the rows: .npy, .safetensors or .parquet. None trains on a model and a text."""
    tensor: str | None = None
    """Name of the tensor in a .safetensors file; may be left out where only one has two dimensions."""
    column: str | None = None
    """Name of the column of lists in a .parquet file; may be left out where there is only one."""
    text: str | None = None
    """What the pages show for each row: a column of the Parquet file, or a file with one text for each row:
    titles.txt, titles.jsonl:FIELD or titles.parquet:COLUMN."""
    image: str | None = None
    """The picture of each row: a column (or a file, as for the texts) of paths, or of the pictures themselves."""
    image_folder: str | None = None
    """Folder that holds the pictures; no others are read. None takes the folder of the file that names them."""
    validation_fraction: Annotated[float, Range(0, 1, example=0.1, above_low=True, below_high=True)] = 0.1
    """Share of the rows that training never sees and that everything is measured on."""
    max_validation_rows: Annotated[int, Range(2, example=65_536)] = 65_536
    """Largest number of validation rows."""
    outlier_multiple: Annotated[float, Range(1, example=6, above_low=True, or_zero="keeps all")] = 6.0
    """Leave out rows that are farther from the centre than this multiple of the median distance; 0 keeps all."""
    seed: Annotated[int, Range(0, 2**63 - 1, example=0)] = 0
    """Seed for the choice of validation rows and the order of training rows."""
