"""Figures of a run's pairs: what the penalty costs and gains, and how large the Jacobian's elements are.

Place on the data's path: jacobian/*.json (read by report_section.py) → two figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from monosemy.report.canvas import Drawing, margins, render
from monosemy.report.theme import Theme
from monosemy.support.numbers import count_text, exponent_text, fixed_percent_text, percent_text, setting_text

LOWEST, PER_DECADE = -10, 40
"""How `histogram` in measures.json is binned: one bin below 1e-10, then 40 bins per decade."""
COARSE = 4
"""How many bins are drawn as one."""
SERIES = {"over_0.01": "|J| > .01", "scaled_over_0.1": "|J| > .1 of the token's RMS", "share_of_90": "hold 90% of Σ|J|"}
_MARKERS, _LINES = ("o", "s", "^", "D", "v", "P"), ("-", (0, (6, 1.5)), (0, (2, 1)), (0, (4, 1, 1, 1)))


def trade_off(rows: Sequence[Mapping[str, Any]]) -> Drawing:
    """CE score against the share of elements above .01, and the sparsity measures against λ.

    rows: the frontier's rows of one L0 and seed, by λ.
    """
    shares = [row["estimates"]["over_0.01"]["value"] for row in rows]
    scored = [row for row in rows if _score(row) is not None and row["estimates"]["over_0.01"]["value"]]

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(10.4, 4.1))
        left, right = figure.subplots(1, 2)
        margins(figure, left=0.75, right=0.15, bottom=0.55, top=0.35, hspace=0, wspace=0.9)
        _curve(left, scored, theme)
        _measures(right, rows, theme)
        return figure

    first, last = percent_text(shares[0]), percent_text(shares[-1])
    ends = f"from {first} at λ = {setting_text(rows[0]['lambda'])} to {last} at {setting_text(rows[-1]['lambda'])}"
    alt = f"Share of Jacobian elements above .01, {ends}, against the CE score. Table below."
    caption = (
        "Left: what sparsity costs. Each point is a pair of SAEs; CE score is the loss recovered, the lower of the two "
        "SAEs' (1: the model's own loss). Right: share of the elements of active latents, for three measures; the "
        f"second and third do not change when latents are rescaled. Bars: 95% bootstrap over documents; "
        f"{count_text(rows[0]['n_tokens'])} validation tokens."
    )
    return render("jacobian-trade_off", alt, caption, draw)


def _curve(axes: Axes, rows: Sequence[Mapping[str, Any]], theme: Theme) -> None:
    """The left panel: one point per pair, with its intervals in both directions, labelled with λ."""
    colour = theme.series[1]
    points = []
    for row in rows:
        share, score = row["estimates"]["over_0.01"], _score(row)
        assert score is not None
        x, y = 100 * share["value"], score["value"]
        points.append((x, y))
        if share["interval"]:
            axes.plot([100 * end for end in share["interval"]], [y, y], color=colour, linewidth=1)
        if score["interval"]:
            axes.plot([x, x], score["interval"], color=colour, linewidth=1)
        axes.annotate(setting_text(row["lambda"]), (x, y), textcoords="offset points", xytext=(5, 5), fontsize=8)
    if points:
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", linewidth=1.2)
        values = [x for x, _ in points]
        # A logarithmic scale where shares differ much, with round numbers as ticks instead of powers of ten.
        if max(values) > 4 * min(values) > 0:
            axes.set_xscale("log")
            ticks = [
                t
                for t in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
                if min(values) / 1.5 <= t <= max(values) * 1.5
            ]
            axes.xaxis.set_major_locator(FixedLocator(ticks))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlim(min(values) / 1.6, max(values) * 1.6)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent_text(value / 100)))
    axes.set_title("CE score against sparsity (labels: λ)")
    axes.set_xlabel("Share of elements with |J| > .01" + (" (log scale)" if axes.get_xscale() == "log" else ""))
    axes.set_ylabel("CE score (loss recovered)")


def _measures(axes: Axes, rows: Sequence[Mapping[str, Any]], theme: Theme) -> None:
    """The right panel: one line per measure of `SERIES`, the values of λ at equal distances."""
    places = np.arange(len(rows))
    for number, (measure, name) in enumerate(SERIES.items()):
        estimates = [row["estimates"].get(measure, {"value": None, "interval": None}) for row in rows]
        values = [np.nan if estimate["value"] is None else 100 * estimate["value"] for estimate in estimates]
        colour = theme.series[number]
        axes.plot(places, values, color=colour, marker=_MARKERS[number], linestyle=_LINES[number], label=name)  # type: ignore[arg-type]
        for place, estimate in zip(places, estimates, strict=True):
            if estimate["interval"]:
                axes.plot([place, place], [100 * end for end in estimate["interval"]], color=colour, linewidth=1)
    axes.set_ylim(bottom=0)
    axes.set_xticks(places, [setting_text(row["lambda"]) for row in rows])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent_text(value / 100)))
    axes.set_title("Sparsity against λ")
    axes.set_xlabel("λ (steps as trained, not to scale)")
    axes.set_ylabel("Share of elements")
    axes.legend(loc="best", fontsize=8)


def magnitudes(histograms: Sequence[tuple[str, Sequence[int]]]) -> Drawing:
    """The distribution of |J|, one outline per pair; histograms: (name, counts per bin) of each."""
    # Bins 0 and the last are open, so the drawn edges run over the inner bins.
    edges = LOWEST + np.arange(0, len(histograms[0][1]) - 1, COARSE) / PER_DECADE
    heights = {name: _coarse(counts) for name, counts in histograms}
    filled = np.flatnonzero(np.sum(list(heights.values()), axis=0))
    span = (edges[filled[0]], edges[filled[-1] + 1]) if len(filled) else (-6.0, 0.0)
    zero = {name: counts[0] / max(1, sum(counts)) for name, counts in histograms}

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(7.6, 3.9))
        axes = figure.subplots()
        margins(figure, left=0.65, right=0.15, bottom=0.55, top=0.35, hspace=0, wspace=0)
        for number, (name, height) in enumerate(heights.items()):
            axes.stairs(
                height,
                edges,
                color=theme.series[(1, 0, 2, 3, 4, 5)[number % 6]],
                linewidth=1.6,
                linestyle=_LINES[number % len(_LINES)],
                label=name,  # type: ignore[arg-type]
            )
        axes.set_xlim(max(span[0], -7.0), span[1])
        axes.axvline(-2, color=theme.muted, linewidth=0.8, linestyle=(0, (2, 2)))  # type: ignore[arg-type]
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: exponent_text(10.0**value, 0)))
        axes.set_ylim(bottom=0)
        axes.set_title("Size of the Jacobian's elements")
        axes.set_xlabel("|J| between active latents (log scale); dashed: .01")
        axes.set_ylabel("% of elements per decade")
        axes.legend(loc="upper left", fontsize=8)
        return figure

    names = ", ".join(heights)
    below = "; ".join(f"{name}: {fixed_percent_text(share, 1)}" for name, share in zero.items() if share > 0.001)
    caption = (
        "Elements of the Jacobian between active latents, at E‖x‖² = E‖y‖² = 1. A sparse Jacobian has most of its "
        f"elements far to the left. Below 1e-10, not drawn: {below or 'none'}."
    )
    return render("jacobian-magnitudes", f"Histograms of |J| for {names}.", caption, draw)


def _coarse(counts: Sequence[int]) -> np.ndarray:
    """Percent of all elements per decade, COARSE bins drawn as one; the two outermost, open bins are left out."""
    inner = np.array(counts[1:-1], float)
    merged = inner.reshape(-1, COARSE).sum(1)
    return 100 * merged / max(1, sum(counts)) * PER_DECADE / COARSE


def _score(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The lower CE score of the two SAEs."""
    scores = [row[f"ce_score_{side}"] for side in ("in", "out")]
    if any(score["value"] is None for score in scores):
        return None
    return min(scores, key=lambda score: score["value"])
