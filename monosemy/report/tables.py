"""The tables beside the figures, with every number that is plotted, for reading, sorting and copying.

Place on the data's path: from records, curves and latent statistics to HTML tables (markup.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from monosemy.report.compare import Point, points, with_interval
from monosemy.report.latent_figures import law_text
from monosemy.report.markup import Cell, Html, table
from monosemy.report.power_law import UsageLaws
from monosemy.report.read import Curve, Evaluated, Key, Latents, Measure, ReportInputs
from monosemy.report.theme import CONTROLS, label, order
from monosemy.support.numbers import count_text, measured_text, percent_text, rounded_text, setting_text

Rows: TypeAlias = list[list[Cell | str]]
FRONTIER = {
    "l0": "Reached L0",
    "fvu": "FVU",
    "delta_loss": "Delta loss (nats/token)",
    "loss_recovered": "Loss recovered",
    "kl": "KL (nats/token)",
    "gamma": "Shrinkage γ",
}
SHARES = {
    "dead_fraction": "Dead",
    "over_1pct_fraction": "Active on > 1% of {units}",
    "over_10pct_fraction": "Active on > 10% of {units}",
}


def _value(measure: Measure, *, percent: bool = False) -> Cell:
    return Cell(with_interval(measure, percent=percent), measure.value)


def _level(target: float | None) -> Cell:
    return Cell("–" if target is None else setting_text(target), math.nan if target is None else target)


def _number(value: float) -> Cell:
    return Cell(measured_text(value), value)


def _share(value: float) -> Cell:
    return Cell(percent_text(value, 2) if math.isfinite(value) else "–", value)


def _count(n: float) -> Cell:
    return Cell(count_text(n), n)


def frontier(run: ReportInputs, site: str) -> Html:
    """The table of everything measured: one row per architecture and target L0, with the spread over several seeds."""
    site_points = points(run.at(site))
    measured = {m: h for m, h in FRONTIER.items() if any(math.isfinite(p[m].value) for p in site_points)}
    several = any(len(p.records) > 1 for p in site_points)
    stopped = [c for c in run.curves.values() if c.site == site and c.stopped]
    spread = [m for m in ("fvu", "delta_loss") if several and m in measured]
    headings = ["Architecture", "Asked L0", *measured.values(), f"L0 of 5% to 95% of {run.unit.many}"]
    headings += ["Seeds", *(f"SD over seeds, {FRONTIER[m]}" for m in spread)] if several else []
    rows: Rows = []
    for p in site_points:
        row: list[Cell | str] = [
            label(p.architecture),
            _level(p.target_l0),
            *(_value(p[m]) for m in measured),
            _quantiles(p),
        ]
        if several:
            row += [_count(len(p.records)), *(_number(p.spread(m)) for m in spread)]
        rows.append(row)
    # SAEs whose training stopped have no results, but must not vanish from the table.
    for c in stopped:
        empty = len(headings) - 3
        rows.append(
            [label(c.architecture), _level(c.target_l0), Cell("stopped", math.nan), *[Cell("–", math.nan)] * empty]
        )
    over = " (of several seeds: lowest to highest end)" if several else ""
    caption = f"Results at {site}; brackets: 95% intervals{over}; controls last"
    return table(caption, headings, rows, muted=[i for i, p in enumerate(site_points) if p.control])


def _quantiles(point: Point) -> Cell:
    """The number of active latents at the 5% and 95% quantiles of tokens, as means over seeds."""
    low = [r.l0_quantiles[k] for r in point.records if math.isfinite(r.l0_quantiles.get((k := "0.05"), math.nan))]
    high = [r.l0_quantiles[k] for r in point.records if math.isfinite(r.l0_quantiles.get((k := "0.95"), math.nan))]
    if not (low and high):
        return Cell("–", math.nan)
    lowest, highest = float(np.mean(low)), float(np.mean(high))
    return Cell(f"{rounded_text(lowest)} to {rounded_text(highest)}", highest - lowest)


def by_seed(run: ReportInputs, site: str) -> Html:
    """The table with one row per SAE, for runs with several seeds."""
    records = _ordered(run.at(site))
    rows: Rows = [
        [r.name, _level(r.target_l0), _count(r.seed), *(_value(r[m]) for m in FRONTIER), r.stopped or "complete"]
        for r in records
    ]
    headings = ["SAE", "Asked L0", "Seed", *FRONTIER.values(), "Training"]
    return table(f"Every SAE at {site}", headings, rows, muted=[i for i, r in enumerate(records) if r.control])


def shares(run: ReportInputs, site: str) -> Html:
    """The table of the shares of dead and over-active latents."""
    dictionaries = [p for p in points(run.at(site)) if not p.control or p.architecture == "frozen_random"]
    rows: Rows = [
        [
            label(p.architecture),
            _level(p.target_l0),
            _count(p.records[0].d_sae),
            *(_value(p[m], percent=True) for m in SHARES),
        ]
        for p in dictionaries
    ]
    caption = f"Dead and over-active latents at {site}: share of all latents, 95% intervals in brackets"
    headings = [
        "Architecture",
        "Asked L0",
        "Latents",
        *(title.format(units=run.unit.many) for title in SHARES.values()),
    ]
    return table(caption, headings, rows, muted=[i for i, p in enumerate(dictionaries) if p.control])


def firing_rates(run: ReportInputs, site: str) -> Html:
    """The table of the counts of dead latents, and of quantiles of the firing rate of live ones."""

    def row(record: Evaluated, latents: Latents) -> list[Cell | str]:
        live = latents.firing_rate[latents.firing_count > 0]
        marks = np.quantile(live, [0.1, 0.5, 0.9]) if len(live) else [math.nan] * 3
        cells: list[Cell | str] = [_count(len(latents.firing_count)), _count(latents.n_dead), _count(len(live))]
        return [*cells, *(_share(float(v)) for v in marks)]

    headings = ["Latents", "Dead", "Live", "Rate, 10th percentile", "Median rate", "Rate, 90th percentile"]
    return _latent_table(run, site, f"Firing rates of live latents at {site}", headings, row=row)


def usage(run: ReportInputs, site: str, laws: Mapping[Key, UsageLaws | None]) -> Html:
    """The table of the power laws fitted in both directions."""

    def row(record: Evaluated, latents: Latents) -> list[Cell | str]:
        both = laws.get((record.site, record.name))
        live = latents.mean_when_active[latents.firing_count > 0]
        typical = _number(float(np.median(live)) if len(live) else math.nan)
        if both is None:
            return [typical, *[Cell("not fitted", math.nan)] * 2, Cell("–", math.nan), _count(len(live))]
        forth, back = both.activation_on_frequency, both.frequency_on_activation
        return [
            typical,
            Cell(law_text(forth), forth.exponent),
            Cell(law_text(back), back.exponent),
            _number(forth.r_squared),
            _count(forth.n_latents),
        ]

    headings = [
        "Median of mean activation",
        "β of activation on frequency [95% interval]",
        "β′ of frequency on activation [95% interval]",
        "R²",
        "Live latents (fitted)",
    ]
    caption = (
        f"Power laws of usage at {site}, by least squares on the logarithms: mean activation = A · frequency^β, and "
        "frequency = A′ · mean activation^β′"
    )
    return _latent_table(run, site, caption, headings, row=row)


def _latent_table(
    run: ReportInputs,
    site: str,
    caption: str,
    headings: Sequence[str],
    *,
    row: Callable[[Evaluated, Latents], list[Cell | str]],
) -> Html:
    """A table with one row per SAE that has latent statistics, with the cells of `row` after its name."""
    records = [r for r in _ordered(run.at(site)) if (r.site, r.name) in run.latents]
    rows: Rows = [
        [label(r.architecture), _level(r.target_l0), _count(r.seed), *row(r, run.latents[r.site, r.name])]
        for r in records
    ]
    muted = [i for i, r in enumerate(records) if r.control]
    return table(caption, ["Architecture", "Asked L0", "Seed", *headings], rows, muted=muted)


def training(run: ReportInputs, site: str) -> Html:
    """The table of the last values of every training curve, and of whether training ran to the end."""
    rank = order(c.architecture for c in run.curves.values())
    curves = sorted(
        (c for c in run.curves.values() if c.site == site),
        key=lambda c: (rank.index(c.architecture), c.target_l0 or 0, c.seed),
    )
    rows: Rows = [
        [
            label(c.architecture),
            _level(c.target_l0),
            _count(c.seed),
            *(_count(_last(c, name)) for name in ("step", "n_tokens")),
            *(_number(_last(c, name)) for name in ("loss", "fvu", "l0")),
            _share(_last(c, "dead_fraction")),
            Cell(rounded_text(_peak(c)), _peak(c)),
            c.stopped or "complete",
        ]
        for c in curves
    ]
    headings = [
        "Architecture",
        "Asked L0",
        "Seed",
        "Steps",
        f"Training {run.unit.many}",
        "Last loss",
        "Last FVU",
        "Last L0",
        "Last dead share",
        "Peak learning rate",
        "Training",
    ]
    caption = f"Training at {site}: last finite values of the metrics, on training batches"
    return table(caption, headings, rows, muted=[i for i, c in enumerate(curves) if c.architecture in CONTROLS])


def _last(curve: Curve, column: str) -> float:
    finite = curve[column][np.isfinite(curve[column])]
    return float(finite[-1]) if len(finite) else math.nan


def _peak(curve: Curve) -> float:
    finite = curve["learning_rate"][np.isfinite(curve["learning_rate"])]
    return float(finite.max()) if len(finite) else math.nan


def _ordered(records: Sequence[Evaluated]) -> list[Evaluated]:
    rank = order(r.architecture for r in records)
    return sorted(records, key=lambda r: (rank.index(r.architecture), r["l0"].value, r.seed))
