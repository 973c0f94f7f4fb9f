"""The comparison: one record per dictionary, controls beside, as evaluation.json and as a table in the terminal.

Place on the data's path: the end of evaluation; joins what reconstruction.py and model_loss.py measured. The report
reads the file. Nothing is computed here but the matching of SAEs with their controls.

Format 1 of evaluation.json: {"format": 1, "records": […], "clean_loss": nats per token, "clean_loss_interval": pair,
"zero_loss": {site: nats per token}, "zero_loss_interval": {site: pair}, "provenance": {…}}; a quantity that was not
measured, or has no finite value, is null.

Limits: `compare_to_control` calls two values apart only when their intervals don't overlap, which is stricter than
a paired test: both rest on the same documents.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from rich.table import Table

from monosemy.errors import UserError
from monosemy.evals.model_loss import ModelLosses, ModelLossRecord
from monosemy.evals.reconstruction import ReconstructionRecord
from monosemy.files import read_json, write_json

FORMAT = 1
Record: TypeAlias = dict[str, Any]

_COLUMNS = (  # field, heading, decimals, factor
    ("l0", "L0", 1, 1),
    ("fvu", "FVU", 3, 1),
    ("delta_loss", "Δ loss", 3, 1),
    ("loss_recovered", "recovered", 3, 1),
    ("kl", "KL", 3, 1),
    ("gamma", "γ", 3, 1),
    ("dead_fraction", "dead %", 1, 100),
    ("over_1pct_fraction", ">1% %", 1, 100),
    ("over_10pct_fraction", ">10% %", 1, 100),
)
_MODEL_LOSS_FIELDS = tuple(f.name for f in dataclasses.fields(ModelLossRecord))


@dataclass(frozen=True)
class Candidate:
    """What is compared: a SAE or a control."""

    name: str
    architecture: str
    """`topk`, …; of controls `frozen_random`, `pca`, `channels`."""
    site: str
    target_l0: float | None
    seed: int = 0
    control: bool = False


def build_record(
    candidate: Candidate, reconstruction: ReconstructionRecord, model_loss: ModelLossRecord | None = None
) -> Record:
    """One record of evaluation.json; without `model_loss` its fields are null."""
    losses = dict.fromkeys(_MODEL_LOSS_FIELDS) if model_loss is None else dataclasses.asdict(model_loss)
    return _plain({**dataclasses.asdict(candidate), **dataclasses.asdict(reconstruction), **losses})


def sort_key(record: Record) -> tuple[Any, ...]:
    """By site, asked L0, SAEs before controls, architecture, seed."""
    target = record["target_l0"] if record["target_l0"] is not None else record["l0"]
    return record["site"], target, record["control"], record["architecture"], record["seed"], record["name"]


def build_evaluation(
    records: Iterable[Record],
    losses: Mapping[str, ModelLosses] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of evaluation.json. `losses` by site; the clean loss is the model's own, so the first site's."""
    by_site = dict(losses or {})
    first = next(iter(by_site.values()), None)
    return _plain(
        {
            "format": FORMAT,
            "records": sorted(records, key=sort_key),
            "clean_loss": first.clean_loss if first else None,
            "clean_loss_interval": first.clean_loss_interval if first else None,
            "zero_loss": {site: loss.zero_loss for site, loss in by_site.items()},
            "zero_loss_interval": {site: loss.zero_loss_interval for site, loss in by_site.items()},
            "provenance": dict(provenance or {}),
        }
    )


def write_evaluation(path: Path, evaluation: Mapping[str, Any]) -> None:
    """Writes evaluation.json durably."""
    write_json(path, evaluation)


def read_evaluation(path: Path) -> dict[str, Any]:
    """Reads evaluation.json; raises UserError for a missing, damaged or foreign file."""
    evaluation = read_json(path)
    if not isinstance(evaluation, dict) or evaluation.get("format") != FORMAT:
        raise UserError(f"{path} is not an evaluation of format {FORMAT}; run `monosemy evaluate` to write it again")
    return evaluation


def compare_to_control(
    records: Iterable[Record], control: str = "frozen_random", measure: str = "fvu"
) -> list[dict[str, Any]]:
    """Each SAE beside the control asked for the same L0 at the same site (of several seeds the best one).

    One entry per SAE that has such a control: site, name, architecture, target_l0, control (its name), value,
    control_value, difference (SAE − control, negative is better for fvu, delta_loss and kl), l0_ratio (SAE's reached
    L0 / control's), better, and apart (better or worse with intervals that don't overlap). `measure` is one where
    less is better. A SAE without a finite value is left out.
    """
    if measure not in ("fvu", "delta_loss", "kl"):
        raise UserError(f"cannot compare by {measure!r}; choose fvu, delta_loss or kl")
    all_records = [r for r in records if r[measure] is not None]
    controls: dict[tuple[Any, Any], Record] = {}
    for record in all_records:
        key = (record["site"], record["target_l0"])
        matches = record["control"] and record["architecture"] == control
        if matches and (key not in controls or record[measure] < controls[key][measure]):
            controls[key] = record
    return [
        _compare(record, controls[key], measure)
        for record in sorted(all_records, key=sort_key)
        if not record["control"] and (key := (record["site"], record["target_l0"])) in controls
    ]


def _compare(record: Record, control: Record, measure: str) -> dict[str, Any]:
    mine, other = record[f"{measure}_interval"], control[f"{measure}_interval"]
    return {
        **{field: record[field] for field in ("site", "name", "architecture", "target_l0")},
        "control": control["name"],
        "value": record[measure],
        "control_value": control[measure],
        "difference": record[measure] - control[measure],
        "l0_ratio": record["l0"] / control["l0"] if control["l0"] else None,
        "better": record[measure] < control[measure],
        "apart": bool(mine and other and (mine[1] < other[0] or other[1] < mine[0])),
    }


def evaluation_table(records: Iterable[Record]) -> Table:
    """A rich table: site by site, L0 by L0, controls after the SAEs of their L0, each value ± half its interval."""
    ordered = sorted(records, key=sort_key)
    tokens = sorted({record["n_tokens"] for record in ordered})
    loss_tokens = sorted({record["n_loss_tokens"] for record in ordered if record["n_loss_tokens"]})
    counted = f"{_range(tokens)} validation tokens" + (f", losses over {_range(loss_tokens)}" if loss_tokens else "")
    caption = f"{counted}; ± half the 95% bootstrap interval over documents; losses in nats per token"
    shown = [c for c in _COLUMNS if any(record[c[0]] is not None for record in ordered)]
    table = Table(title="Dictionaries and controls", caption=caption, title_justify="left", caption_justify="left")
    table.add_column("site · asked L0", no_wrap=True)
    table.add_column("dictionary", no_wrap=True)
    for _, heading, _, _ in shown:
        table.add_column(heading, justify="right", no_wrap=True)
    previous = None
    for i, record in enumerate(ordered):
        group = (record["site"], record["target_l0"])
        last = i + 1 == len(ordered) or (ordered[i + 1]["site"], ordered[i + 1]["target_l0"]) != group
        label = record["architecture"] + (f" s{record['seed']}" if record["seed"] else "")
        where = "" if group == previous else f"{group[0]} · {_number(group[1], 0)}"
        cells = [format_value(record, *column) for column in shown]
        table.add_row(where, label, *cells, style="dim" if record["control"] else None, end_section=last)
        previous = group
    return table


def format_value(record: Record, field: str, heading: str, decimals: int, factor: float) -> str:
    """`0.231 ±.004`; the value alone without an interval, a dash without a value."""
    value, interval = record[field], record.get(f"{field}_interval")
    if value is None:
        return "–"
    text = _number(value * factor, decimals)
    if not interval:
        return text
    half = _number((interval[1] - interval[0]) / 2 * factor, decimals)
    return f"{text} ±{half.removeprefix('0') if half.startswith('0.') else half}"


def _number(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value:.{decimals}f}"


def _range(values: list[int]) -> str:
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,}–{values[-1]:,}" if values else "no"


def _plain(value: Any) -> Any:
    """JSON values only: tuples become lists, numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
