"""Reads and checks a run folder for the report.

Place on the data's path: after training and evaluation, before figures and page. It reads `run.json` (configuration and
provenance), `metrics.jsonl` (training curves), `evaluation.json` (one record per SAE and control) and
`saes/<site>/<name>/` (latents.safetensors, the firing statistics; config.json, for SAEs imported from elsewhere). It
reads no weights and needs no torch.

A value that was not measured is NaN, never a guess. An SAE whose training stopped (NaN or infinity in a batch or loss)
has a curve and a reason but no evaluation record; it is kept and shown as stopped.

Limits: everything is held in memory (three numbers per latent and one row per metric record).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from monosemy.config import RunConfig, trains_nothing
from monosemy.errors import UserError
from monosemy.evals.evaluation_file import read_evaluation
from monosemy.evals.latent_statistics import LatentStatistics
from monosemy.layout import RunFiles
from monosemy.ranges import number_name
from monosemy.report.theme import CONTROLS, FROZEN_RANDOM
from monosemy.report.units import ROWS, TOKENS, Unit
from monosemy.run import read_run, read_stages
from monosemy.saes.listing import saved_saes
from monosemy.support.metrics import read_metrics
from monosemy.support.wording import natural_order

MEASURES = (
    "l0",
    "fvu",
    "delta_loss",
    "loss_recovered",
    "kl",
    "dead_fraction",
    "over_1pct_fraction",
    "over_10pct_fraction",
    "gamma",
)
CURVES = ("step", "n_tokens", "loss", "fvu", "l0", "dead_fraction", "learning_rate")


@dataclass(frozen=True)
class Measure:
    """A measured value and the ends of its interval; NaN if it was not measured."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Evaluated:
    """One record of evaluation.json."""

    name: str
    architecture: str
    site: str
    target_l0: float | None
    _: KW_ONLY
    seed: int
    d_sae: int
    control: bool
    n_tokens: int
    n_loss_tokens: int
    measures: Mapping[str, Measure]
    l0_quantiles: Mapping[str, float] = field(default_factory=dict)
    stopped: str | None = None
    """Why its training stopped early; None if it ran to the end, and for controls that are not trained."""

    def __getitem__(self, measure: str) -> Measure:
        return self.measures[measure]


@dataclass(frozen=True)
class Latents:
    """The firing statistics of every latent of one SAE, over `n_tokens` validation tokens."""

    firing_count: np.ndarray
    """int64 [F]: the number of tokens on which the latent is active."""
    mean_when_active: np.ndarray
    """float64 [F]: the mean activation over those tokens, in units of the site's activations; NaN for a dead latent."""
    n_tokens: int

    @property
    def firing_rate(self) -> np.ndarray:
        """float64 [F]: the share of tokens on which the latent is active."""
        return self.firing_count / self.n_tokens

    @property
    def n_dead(self) -> int:
        return int((self.firing_count == 0).sum())


@dataclass(frozen=True)
class Curve:
    """The training record of one SAE: one array per quantity of CURVES, in the order of steps."""

    site: str
    name: str
    architecture: str
    target_l0: float | None
    seed: int
    columns: Mapping[str, np.ndarray]
    stopped: str | None = None
    """Why its training stopped early; None if it ran to the end."""

    def __getitem__(self, column: str) -> np.ndarray:
        return self.columns[column]


Key = tuple[str, str]
"""The (site, name) of an SAE."""


@dataclass(frozen=True)
class ReportInputs:
    """Everything that the report shows."""

    folder: Path
    config: RunConfig
    provenance: Mapping[str, Any]
    stages: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    records: tuple[Evaluated, ...]
    curves: Mapping[Key, Curve]
    latents: Mapping[Key, Latents]
    imported: Mapping[Key, tuple[str, ...]] = field(default_factory=dict)
    """The SAEs that were imported from elsewhere, each with its warnings."""

    @property
    def sites(self) -> list[str]:
        """The sites with records or curves, in the order of every list: layer 2 before layer 10."""
        return sorted({r.site for r in self.records} | {c.site for c in self.curves.values()}, key=natural_order)

    def at(self, site: str) -> list[Evaluated]:
        return [record for record in self.records if record.site == site]

    @property
    def of_rows(self) -> bool:
        """Whether the run was trained on somebody's rows, without a language model."""
        return "rows" in self.provenance

    @property
    def unit(self) -> Unit:
        """The words for what the SAEs read."""
        return ROWS if self.of_rows else TOKENS

    @property
    def stopped(self) -> list[str]:
        """One line per SAE whose training stopped early."""
        curve_messages = [curve.stopped for curve in self.curves.values() if curve.stopped]
        run_messages = [str(message) for message in self.provenance.get("stopped") or []]
        return list(dict.fromkeys(curve_messages + run_messages))

    @property
    def unrecorded(self) -> list[str]:
        """The SAEs that run.json asks for, but that neither metrics nor evaluation mention."""
        recorded = {(c.site, c.architecture, c.target_l0, c.seed) for c in self.curves.values()}
        recorded |= {(r.site, r.architecture, r.target_l0, r.seed) for r in self.records}
        configured = itertools.product(self.sites, self.config.architectures, self.config.l0, self.config.seeds)
        return [
            f"{name}-l0_{number_name(l0)}-s{seed} at {site}"
            for site, name, l0, seed in configured
            if (site, name, l0, seed) not in recorded
        ]


def read_inputs(folder: Path) -> ReportInputs:
    """Reads and checks a run folder.

    Raises UserError, naming the file and the command that makes it, when a folder, file or field is missing, truncated
    or of the wrong kind.
    """
    folder = Path(folder)
    run_files = RunFiles(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a run folder; `monosemy train` makes one, `monosemy demo` a small one")
    try:
        config, provenance = read_run(folder)
    except UserError as error:
        raise UserError(f"{run_files.run_json}: {error}; `monosemy train` writes this file") from None
    except (OSError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{run_files.run_json} is damaged ({error}); `monosemy train` writes it") from None
    evaluation = read_evaluation(folder)
    records = _records(evaluation, run_files.evaluation, f"monosemy evaluate {folder}")
    messages = [str(message) for message in provenance.get("stopped") or []]  # the trainer's, when the run kept them
    curves = (
        {} if trains_nothing(config) else _curves(run_files.metrics, {(r.site, r.name): r for r in records}, messages)
    )
    records = [replace(r, stopped=c.stopped) if (c := curves.get((r.site, r.name))) else r for r in records]
    return ReportInputs(
        folder=folder,
        config=config,
        provenance=provenance,
        stages=_stages(folder),
        evaluation={key: value for key, value in evaluation.items() if key != "records"},
        records=tuple(records),
        curves=curves,
        latents={(r.site, r.name): latents for r in records if (latents := _latents(folder, r)) is not None},
        imported={sae.key: tuple(sae.warnings) for sae in saved_saes(folder) if sae.imported},
    )


def _stages(folder: Path) -> dict[str, Any]:
    """The finished stages. Raises UserError naming the command that writes the file."""
    try:
        return read_stages(folder)
    except UserError as error:
        raise UserError(f"{error}; `monosemy train` writes it") from None
    except OSError as error:
        path = RunFiles(folder).stages
        raise UserError(f"{path} cannot be read ({error.strerror}); `monosemy train` writes it") from None


def _records(evaluation: dict[str, Any], path: Path, command: str) -> list[Evaluated]:
    """The records of evaluation.json. Raises UserError naming the first one that is damaged or doubled."""
    values = evaluation.get("records")
    if not isinstance(values, list):
        raise UserError(f"{path} has no list 'records'; `{command}` writes it anew")
    records = []
    for number, value in enumerate(values):
        try:
            records.append(_record(value))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            fault = f"lacks {error}" if isinstance(error, KeyError) else f"is damaged ({error})"
            raise UserError(f"{path}: record {number} {fault}; `{command}` writes it anew") from None
    # Figures and tables find their SAE by site and name, so that a doubled record would silently hide the other.
    keys = [(record.site, record.name) for record in records]
    for site, name in keys:
        if keys.count((site, name)) > 1:
            raise UserError(f"{path} has two records of {name!r} at {site}; `{command}` writes it anew")
    return records


def _record(value: Mapping[str, Any]) -> Evaluated:
    target = value.get("target_l0")
    return Evaluated(
        name=str(value["name"]),
        architecture=str(value["architecture"]),
        site=str(value["site"]),
        target_l0=None if target is None else float(target),
        seed=int(value.get("seed") or 0),
        d_sae=int(value["d_sae"]),
        control=bool(value.get("control", False)),
        n_tokens=int(value.get("n_tokens") or 0),
        n_loss_tokens=int(value.get("n_loss_tokens") or 0),
        measures={measure: _measure(value, measure) for measure in MEASURES},
        l0_quantiles={str(k): _number(v) for k, v in (value.get("l0_quantiles") or {}).items()},
    )


def _measure(value: Mapping[str, Any], measure: str) -> Measure:
    # Every dictionary has these two; all other measures may be missing.
    if measure in ("l0", "fvu") and measure not in value:
        raise KeyError(measure)
    ends = value.get(f"{measure}_interval")
    low, high = (math.nan, math.nan) if ends is None else ends
    return Measure(_number(value.get(measure)), _number(low), _number(high))


def _number(value: Any) -> float:
    """The value as a float; None (which stands for NaN in JSON) and infinities become NaN."""
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else math.nan


def _curves(path: Path, records: Mapping[Key, Evaluated], messages: list[str]) -> dict[Key, Curve]:
    """Reads the training curves. If a step has several records, as a resumed run may write, the last one counts."""
    command = "`monosemy train` writes it, and continues a run that was interrupted"
    if not path.exists():
        raise UserError(f"{path} does not exist; {command}")
    try:
        lines = read_metrics(path)
    except UserError as error:
        raise UserError(f"{error}; {command}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {command}") from None
    rows: dict[Key, dict[int, dict[str, Any]]] = {}
    for number, value in enumerate(lines, start=1):
        try:
            key, step = (str(value["site"]), str(value["name"])), int(value["step"])
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path}: record {number} lacks a usable site, name or step; {command}") from None
        rows.setdefault(key, {}).setdefault(step, {}).update(value)
    # The last step of any SAE whose loss was finite: one whose records end before it must have stopped.
    try:
        healthy = (n for steps in rows.values() for n, row in steps.items() if not math.isnan(_number(row.get("loss"))))
        last_step = max(healthy, default=0)
        return {key: _curve(key, steps, last_step, records.get(key), messages=messages) for key, steps in rows.items()}
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: a record holds a value of the wrong kind ({error}); {command}") from None


def _curve(
    key: Key, steps: Mapping[int, dict[str, Any]], last_step: int, record: Evaluated | None, *, messages: list[str]
) -> Curve:
    """The curve of one SAE from its records by step."""
    ordered = [steps[step] for step in sorted(steps)]
    last = ordered[-1]
    # A control is trained with the architecture that it is a control for; its name says what it is.
    family = key[1].partition("-l0_")[0]
    target = last.get("target_l0")
    return Curve(
        site=key[0],
        name=key[1],
        architecture=record.architecture if record else family if family in CONTROLS else str(last["architecture"]),
        target_l0=None if target is None else float(target),
        seed=int(last.get("seed") or 0),
        columns={name: np.array([_number(row.get(name)) for row in ordered]) for name in CURVES},
        stopped=_stopped(key, last, last_step, messages),
    )


def _stopped(key: Key, last: Mapping[str, Any], last_step: int, messages: list[str]) -> str | None:
    """Why an SAE stopped: the trainer's message if it was kept, else what the metrics show; None if it did not."""
    step = last["step"]
    for message in [*messages, last.get("stopped")]:
        if isinstance(message, str) and key[1] in message and key[0] in message:
            return message
    if last.get("stopped"):
        return f"{key[1]} at {key[0]} stopped at step {step}: {last['stopped']}"
    if math.isnan(_number(last.get("loss"))):
        return f"{key[1]} at {key[0]} stopped at step {step}: its loss was not finite"
    if step < last_step:
        return f"{key[1]} at {key[0]} stopped after its record of step {step}; others went on to step {last_step}"
    return None


def _latents(folder: Path, record: Evaluated) -> Latents | None:
    """The statistics of one SAE; None for controls other than frozen-random (PCA's components always fire)."""
    if record.control and record.architecture != FROZEN_RANDOM:
        return None
    path = RunFiles(folder).sae(record.site, record.name).latents
    command = f"`monosemy evaluate {folder}` writes it"
    if not path.exists():
        raise UserError(f"{path} does not exist; {command}")
    try:
        statistics = LatentStatistics.load(path)
    except UserError as error:
        raise UserError(f"{error}; {command} anew") from None
    counts, total, n_tokens = statistics.firing_count, statistics.sum, statistics.n_tokens or record.n_tokens
    if counts.shape != (record.d_sae,) or total.shape != (record.d_sae,) or n_tokens <= 0:
        raise UserError(
            f"{path} holds statistics of {counts.shape} latents over {n_tokens} tokens, the record has "
            f"{record.d_sae} latents; {command} anew"
        )
    # Dead latents keep NaN: they have no mean when active.
    active = counts > 0
    mean = np.full(record.d_sae, np.nan)
    mean[active] = total[active].astype(np.float64) / counts[active]
    return Latents(counts.astype(np.int64), mean, n_tokens)
