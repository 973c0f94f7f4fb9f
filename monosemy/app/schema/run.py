"""The run's page: its SAEs, what was measured, the model's state, the look of architectures.

Place on the path: as the package says, whose rules hold here too.
"""

from __future__ import annotations

from typing import Literal

from monosemy.app.schema.wire import Interval, Open, Wire


class EvaluationRecord(Open):
    """One evaluated SAE or control, as in evaluation.json.

    Every interval is a 95% bootstrap interval over documents.
    """

    name: str
    architecture: str
    site: str
    target_l0: float | None
    seed: int | None
    control: bool
    n_tokens: int
    n_documents: int
    d_sae: int
    l0: float | None
    l0_interval: Interval | None
    fvu: float | None
    fvu_interval: Interval | None
    dead_fraction: float | None
    over_10pct_fraction: float | None
    delta_loss: float | None
    delta_loss_interval: Interval | None
    loss_recovered: float | None
    loss_recovered_interval: Interval | None
    kl: float | None
    kl_interval: Interval | None


class SaeEntry(Wire):
    """An SAE or control of the run."""

    site: str
    source_site: str | None
    """The site that a transcoder reads, which gives that of `site`; null for an SAE."""
    name: str
    architecture: str
    """What it goes by: of a control "frozen_random", whatever it is trained as."""
    control: bool
    stopped: str
    """Why its training stopped early; empty for one trained to its end."""
    imported: bool
    """Whether it was trained elsewhere, and imported."""
    warnings: list[str]
    """What must be known of its numbers: a first look, or what differs from an imported SAE's publisher's."""
    build_command: str
    """The command that builds the features of this SAE."""
    d_sae: int
    d_in: int
    target_l0: float | None
    seed: int | None
    has_features: bool
    """The SAE whose features were built: it has latent pages, search and neighbours."""
    problem: str
    """Why features that are there cannot be read (damaged, older format); empty when all is well."""
    n_tokens: int | None
    """Tokens behind the columns; null without columns."""
    column_source: Literal["features", "evaluation", "none"]
    """Where a list's and a scatter's numbers come from: a built feature database, or the evaluation's statistics."""
    columns: list[str]
    """Names accepted by `columns`, `latents?sort=` and the filters."""


class ModelStatus(Wire):
    """The run's language model, which is loaded at first need."""

    state: Literal["absent", "loading", "ready", "failed"]
    name: str
    message: str
    """What is happening or why it failed, for the user; empty when there is nothing to say."""
    seconds: float | None
    """Since loading began; null unless loading."""
    chat: bool | None
    """Whether the model's tokenizer has a chat template; null until loaded."""


class SeriesStyle(Wire):
    """How an architecture is drawn (report/theme.py)."""

    label: str
    light: str
    """Colour on a light page."""
    dark: str
    """Colour on a dark page."""
    marker: str
    """By matplotlib's letter."""
    dashes: list[float]
    """Lengths of dashes and gaps in line widths; empty: a solid line."""


class Limits(Wire):
    """Caps that the server enforces; use them for `maxlength` and slider bounds."""

    text_characters: int
    note_characters: int
    new_tokens: int
    edits: int
    sweep_values: int
    page_rows: int


class ClearBound(Wire):
    """Bounds of one column, both inclusive, within which a latent is clear; null: none at that end."""

    column: str
    min: float | None
    max: float | None


class RunInfo(Wire):
    """`GET /api/run`."""

    name: str
    """The folder's own name."""
    path: str
    """The folder's absolute path, for commands, and to tell apart runs of one name."""
    unit: Literal["tokens", "rows"]
    """What the SAEs read: tokens of text, or rows of the user's own, behind which there is no language model."""
    n_rows: int | None
    """Rows of the table; null for a run on text."""
    row_texts: bool
    """Whether the rows were given texts."""
    version: str
    saes: list[SaeEntry]
    """Site by site; controls last."""
    evaluation: list[EvaluationRecord]
    styles: dict[str, SeriesStyle]
    """By architecture or control, in the order of figures and lists."""
    clean_loss: float | None
    model: ModelStatus
    build_command: str
    """The command that builds features of the run's default SAE, for the hint where there are none at all."""
    has_report: bool
    has_graphs: bool
    """Whether it has attribution graphs, or transcoders to make some with."""
    clear: list[ClearBound]
    """What makes a latent clear, for the filter of that name; columns that an SAE lacks are no bound."""
    limits: Limits
