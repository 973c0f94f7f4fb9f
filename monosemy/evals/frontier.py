"""Joins the results of evaluation: one record per SAE or control for evaluation.json, and a table in the terminal.

Place on the data's path: the end of evaluation. It joins the measurements of reconstruction.py and model_loss.py and
computes nothing itself. evaluation_file.py writes and reads the file, and says what is in it.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeAlias

from rich import box
from rich.console import Console
from rich.table import Table

from monosemy.evals.evaluation_file import FORMAT
from monosemy.evals.model_loss import ModelLosses, ModelLossRecord
from monosemy.evals.reconstruction import ReconstructionRecord
from monosemy.support.numbers import count_text, fixed_text, setting_text

Record: TypeAlias = dict[str, Any]

_PLAIN_WIDTH = 120  # characters per line where the output is not a terminal


@dataclass(frozen=True)
class Column:
    """A column of the terminal table."""

    field: str
    heading: str
    decimals: int = 3
    factor: float = 1
    with_interval: bool = False


_COLUMNS = (
    Column("l0", "L0", 1, with_interval=True),
    Column("fvu", "FVU", with_interval=True),
    Column("delta_loss", "Δ loss", with_interval=True),
    Column("loss_recovered", "recovered", with_interval=True),
    Column("kl", "KL"),
    Column("gamma", "γ"),
    Column("dead_fraction", "dead %", 1, 100),
    Column("over_1pct_fraction", ">1%", 1, 100),
    Column("over_10pct_fraction", ">10%", 1, 100),
)
_LEFT_OUT_FIRST = ("over_1pct_fraction", "gamma", "kl", "over_10pct_fraction", "loss_recovered", "dead_fraction")
_MODEL_LOSS_FIELDS = tuple(f.name for f in dataclasses.fields(ModelLossRecord))


@dataclass(frozen=True)
class Candidate:
    """A dictionary in the comparison: an SAE or a control."""

    name: str
    architecture: str
    """`topk`, …; for controls `frozen_random`, `pca`, `channels`."""
    site: str
    target_l0: float | None
    _: KW_ONLY
    seed: int = 0
    control: bool = False


def build_record(
    candidate: Candidate, reconstruction: ReconstructionRecord, model_loss: ModelLossRecord | None = None
) -> Record:
    """One record of evaluation.json. Without `model_loss`, the fields of the model's loss are null."""
    losses = dict.fromkeys(_MODEL_LOSS_FIELDS) if model_loss is None else dataclasses.asdict(model_loss)
    return _plain({**dataclasses.asdict(candidate), **dataclasses.asdict(reconstruction), **losses})


def sort_key(record: Record) -> tuple[Any, ...]:
    """The order of records: by site, target L0, SAEs before controls, architecture, seed."""
    target = record["target_l0"] if record["target_l0"] is not None else record["l0"]
    return record["site"], target, record["control"], record["architecture"], record["seed"], record["name"]


def build_evaluation(
    records: Iterable[Record],
    losses: Mapping[str, ModelLosses] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of evaluation.json, with `losses` given by site."""
    by_site = dict(losses or {})
    # The clean loss is the model's own and does not depend on the site, so that of the first one is taken.
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


def print_evaluation(records: Iterable[Record], console: Console | None = None, *, of_rows: bool = False) -> None:
    """Prints one table per site to `console`, or to standard output; `of_rows` where a token is somebody's row.

    Rows go by target L0, with controls after the SAEs of the same target; values come with half their interval. Columns
    that do not fit a narrow terminal are left out, the least important first, and named below; nothing is cut off.
    """
    ordered = sorted(records, key=sort_key)
    if console is None:
        console = Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    columns = [column for column in _COLUMNS if any(record[column.field] is not None for record in ordered)]
    by_site: dict[str, list[Record]] = {}
    for record in ordered:
        by_site.setdefault(record["site"], []).append(record)
    # rich never reports a table as wider than the console, so tables are measured on a console without limit.
    unbounded = console.options.update(max_width=10_000)
    hidden = []
    for field in _LEFT_OUT_FIRST:
        tables = [_table(site, of_site, columns) for site, of_site in by_site.items()]
        if all(console.measure(table, options=unbounded).maximum <= console.width for table in tables):
            break
        hidden += [column.heading for column in columns if column.field == field]
        columns = [column for column in columns if column.field != field]
    for site, of_site in by_site.items():
        console.print(_table(site, of_site, columns))
        console.print()
    caption = _caption(ordered, hidden)
    if of_rows:
        caption = caption.replace("token", "row").replace("over documents", "over rows or groups of them")
        caption += "; no language model stands behind the rows, so no loss is measured"
    console.print(caption, style="dim")


def _table(site: str, records: list[Record], columns: list[Column]) -> Table:
    """The table of one site, with a line between target L0s and each target written once."""
    table = Table(
        title=site, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("asked", justify="right", no_wrap=True)
    table.add_column("dictionary", no_wrap=True)
    for column in columns:
        table.add_column(column.heading, justify="right", no_wrap=True)
    previous: float | None = None
    for i, record in enumerate(records):
        target = record["target_l0"]
        last = i + 1 == len(records) or records[i + 1]["target_l0"] != target
        label = record["architecture"] + (f" s{record['seed']}" if record["seed"] else "")
        target_text = "" if target is None or (i and target == previous) else setting_text(target)
        style = "dim" if record["control"] else None
        table.add_row(
            target_text, label, *(format_value(record, column) for column in columns), style=style, end_section=last
        )
        previous = target
    return table


def _caption(records: list[Record], hidden: list[str]) -> str:
    tokens = _range({record["n_tokens"] for record in records})
    loss_tokens = _range({record["n_loss_tokens"] for record in records if record["n_loss_tokens"]})
    return (
        f"{tokens} validation tokens"
        + (f", losses over {loss_tokens} (nats per token)" if loss_tokens else "")
        + "; asked: L0 asked for, or published; ± half the bootstrap interval over documents; "
        "dead, >1%, >10%: per cent of the latents that fire on no token, on more than 1%, on more than 10% of them"
        + (f"; too narrow for {', '.join(hidden)}: see evaluation.json" if hidden else "")
    )


def format_value(record: Record, column: Column) -> str:
    """A value as `0.231 ±.004`; without `±` where there is no interval to show, a dash where there is no value."""
    value, interval = record[column.field], record.get(f"{column.field}_interval")
    if value is None:
        return "–"
    text = fixed_text(value * column.factor, column.decimals)
    if not column.with_interval or interval is None or None in interval:
        return text
    half = fixed_text((interval[1] - interval[0]) / 2 * column.factor, column.decimals)
    return f"{text} ±{half.removeprefix('0')}"


def _range(values: set[int]) -> str:
    """The range of `values` as `4,096` or `4,000–4,096`; empty for none."""
    return "–".join(count_text(value) for value in sorted({min(values), max(values)})) if values else ""


def _plain(value: Any) -> Any:
    """Converts to JSON values: tuples become lists, and numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
