"""Draws the figures of each site: frontiers, shares of dead and over-active latents, firing rates, usage, training.

Place on the data's path: from `ReportInputs` to pictures. `site_figures` yields them all; `write_figures` writes the
PNG files. Every drawing has an alternative text and a caption that says what was measured, on how many tokens, and how
the data were changed for display.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from monosemy.layout import RunFiles
from monosemy.report.canvas import Drawing, face, l0_axis, label_ends, legend_row, margins, render, value_axis
from monosemy.report.compare import Point, names, points, verdicts, with_interval
from monosemy.report.latent_figures import firing_rates, usage
from monosemy.report.power_law import UsageLaws
from monosemy.report.read import Key, ReportInputs
from monosemy.report.theme import FROZEN_RANDOM, Style, Theme, label, styles
from monosemy.report.training_figures import training
from monosemy.report.units import TOKENS, Unit
from monosemy.support.files import atomic_path
from monosemy.support.numbers import count_text, percent_text, rounded_text, setting_text

INTERVAL = "95% bootstrap interval"
FRONTIERS = {
    "delta_loss": ("Delta loss", "Delta loss (nats per token)"),
    "fvu": ("FVU", "Fraction of variance unexplained"),
}
SHARES = {
    "dead_fraction": "Dead (never active)",
    "over_1pct_fraction": "Active on > 1% of {units}",
    "over_10pct_fraction": "Active on > 10% of {units}",
}


def site_figures(run: ReportInputs, site: str, laws: dict[Key, UsageLaws | None]) -> Iterator[tuple[str, Drawing]]:
    """Yields (kind, drawing) for one site, of those that have data: delta_loss, fvu, shares, firing_rates, usage and
    training."""
    site_points = [p for p in points(run.at(site)) if p["l0"].value > 0]
    for measure in FRONTIERS:
        if any(math.isfinite(p[measure].value) for p in site_points):
            yield measure, frontier(site_points, site, measure, unit=run.unit)
    if dictionaries(site_points):
        yield "shares", shares(site_points, site, unit=run.unit)
    statistics = [(r, run.latents[r.site, r.name]) for r in run.at(site) if (r.site, r.name) in run.latents]
    if statistics:
        yield "firing_rates", firing_rates(statistics, site, unit=run.unit)
        yield "usage", usage(statistics, site, laws, unit=run.unit)
    if curves := [curve for curve in run.curves.values() if curve.site == site]:
        yield "training", training(curves, site, unit=run.unit)


def write_figures(folder: Path, drawings: Sequence[Drawing]) -> None:
    """Writes figures/<file>.png, in the light theme. Raises UserError when the folder cannot be written to."""
    for drawing in drawings:
        with atomic_path(RunFiles(folder).figure(drawing.file)) as temporary:
            temporary.write_bytes(drawing.light)


def frontier(site_points: Sequence[Point], site: str, measure: str, *, unit: Unit = TOKENS) -> Drawing:
    """Draws one measure against the reached L0: a line per architecture, bars for intervals, controls in grey."""
    short, axis = FRONTIERS[measure]
    drawn = [p for p in site_points if math.isfinite(p[measure].value)]

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(5.4, 4.1))
        axes = figure.add_axes((0.125, 0.125, 0.56, 0.775))
        looks = styles([p.architecture for p in drawn], theme)
        value_axis(axes, [p[measure].value for p in drawn], [e for p in drawn for e in _ends(p, measure)])
        l0_axis(axes, [p["l0"].value for p in drawn], _l0_ticks(drawn))
        ends = [_series(axes, drawn, name, measure, looks=looks) for name in looks]
        axes.set_title(f"{short} at {site}")
        axes.set_xlabel(f"L0 (active latents per {unit.one}, log scale)")
        axes.set_ylabel(axis + (", log scale" if axes.get_yscale() == "log" else ""))
        label_ends(axes, ends)
        return figure

    # The alternative text carries the picture's message, for readers who cannot see it.
    best = "; ".join(
        f"at L0 {setting_text(v.target_l0)} the lowest is {names([v.best])} with {with_interval(v.best[measure])}"
        for v in verdicts(drawn, measure)
        if v.best
    )
    seeds = max(len(p.records) for p in drawn)
    bars = f"Bars: {INTERVAL} over validation {unit.groups}"
    if seeds > 1:
        bars += (
            f"; lines join means over up to {seeds} seeds, small dots are single seeds, and bars reach from the lowest "
            "to the highest end of the seeds' intervals"
        )
    tokens = max(r.n_loss_tokens if measure == "delta_loss" else r.n_tokens for p in drawn for r in p.records)
    caption = (
        f"{short} against L0, lower is better; {count_text(tokens)} validation {unit.many}. {bars}. Points lie at the "
        "reached L0, moved sideways by at most 5% so that bars do not hide each other; ticks mark the asked L0. Grey: "
        "controls."
    )
    alt = f"{axis} against L0 at {site} for {names(drawn)}; {best or 'no SAE reached its asked L0'}. Table below."
    return render(f"{measure}-{site}", alt, caption, draw)


def _series(
    axes: Axes, drawn: Sequence[Point], name: str, measure: str, *, looks: dict[str, Style]
) -> tuple[float, float, Style]:
    """Draws one architecture, and returns its last point and its style."""
    style, figure = looks[name], axes.figure
    assert isinstance(figure, Figure)
    series = sorted((p for p in drawn if p.architecture == name), key=lambda p: p["l0"].value)
    n, place = len(looks), list(looks).index(name)
    # Architectures are spread from −5% to +5% sideways, so that their bars do not hide each other.
    shift = 1.05 ** (2 * place / (n - 1) - 1) if n > 1 else 1.0
    x = np.array([p["l0"].value for p in series]) * shift
    y = np.array([p[measure].value for p in series])
    bottom = axes.get_ylim()[0]
    for position, point in zip(x, series, strict=True):
        low, high = _ends(point, measure)
        # A bar may reach below the axis; it is then cut there and has no lower cap.
        if math.isfinite(low) and math.isfinite(high):
            axes.plot([position] * 2, [max(low, bottom), high], color=style.colour, linewidth=1.1, zorder=2)
            axes.plot([position], [high], marker="_", color=style.colour, markersize=5, zorder=2)
            if low > bottom:
                axes.plot([position], [low], marker="_", color=style.colour, markersize=5, zorder=2)
        if len(point.records) > 1:
            single = [r[measure].value for r in point.records]
            axes.plot([position] * len(single), single, ".", color=style.colour, markersize=3, alpha=0.6, zorder=2)
    axes.plot(
        x,
        y,
        color=style.colour,
        linestyle=style.line,  # type: ignore[arg-type]
        marker=style.marker,
        zorder=3 if style.control else 4,
        **face(style, figure),  # type: ignore[arg-type]
    )
    return float(x[-1]), float(y[-1]), style


def _ends(point: Point, measure: str) -> tuple[float, float]:
    return point[measure].low, point[measure].high


def _l0_ticks(drawn: Sequence[Point]) -> list[float]:
    """The target L0s, or the reached ones if there are no targets."""
    targets = {p.target_l0 for p in drawn if p.target_l0}
    return sorted(targets) if targets else sorted({float(rounded_text(p["l0"].value, 2)) for p in drawn})


def dictionaries(site_points: Sequence[Point]) -> list[Point]:
    """The points with shares to show: SAEs and the frozen-random control. PCA's components always fire."""
    able = [p for p in site_points if not p.control or p.architecture == FROZEN_RANDOM]
    return [p for p in able if any(math.isfinite(p[s].value) for s in SHARES)]


def shares(site_points: Sequence[Point], site: str, *, unit: Unit = TOKENS) -> Drawing:
    """Draws the shares of dead and over-active latents against L0, one panel each."""
    drawn = dictionaries(site_points)

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(10.4, 3.7))
        looks = styles([p.architecture for p in drawn], theme)
        panels = figure.subplots(1, len(SHARES))
        margins(figure, left=0.74, right=0.1, bottom=0.52, top=0.72, hspace=0, wspace=0.55)
        for axes, (measure, title) in zip(panels, SHARES.items(), strict=True):
            here = [p for p in drawn if math.isfinite(p[measure].value)]
            if here:
                ends = [e for p in here for e in _ends(p, measure)]
                # At least 1%, so that a panel in which nothing is dead does not magnify noise.
                high = max([e for e in ends if math.isfinite(e)] + [p[measure].value for p in here] + [0.01])
                axes.set_ylim(-0.02 * high, min(1.08 * high, 1.02))
                l0_axis(axes, [p["l0"].value for p in drawn], _l0_ticks(drawn))
                for name in looks:
                    if any(p.architecture == name for p in here):
                        _series(axes, here, name, measure, looks=looks)
            axes.set_title(title.format(units=unit.many))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent_text(value)))
            axes.set_xlabel("L0 (log scale)")
        panels[0].set_ylabel("Share of latents")
        legend_row(figure, list(looks.values()), y=0.985)
        return figure

    worst = max(drawn, key=lambda p: p["dead_fraction"].value if math.isfinite(p["dead_fraction"].value) else -1)
    alt = (
        f"Shares of dead and over-active latents against L0 at {site}. Largest dead share: {label(worst.architecture)} "
        f"at L0 {rounded_text(worst['l0'].value)}, {with_interval(worst['dead_fraction'], percent=True)}. Table below."
    )
    tokens = max(r.n_tokens for p in drawn for r in p.records)
    caption = (
        f"Wasted latents, lower is better. Dead: not active once in {count_text(tokens)} validation {unit.many} (a "
        f"latent rarer than that counts as dead too). Latents active on more than 10% of {unit.many} seldom stand for "
        f"one thing. Bars where measured: {INTERVAL}. The three panels have scales of their own."
    )
    return render(f"shares-{site}", alt, caption, draw)
