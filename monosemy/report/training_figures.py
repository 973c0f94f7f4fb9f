"""Draws training curves: loss, FVU, L0, dead share and learning rate against training tokens.

Place on the data's path: from metrics.jsonl to one figure per site. There is one column per target L0, so that a panel
has few lines. The curve of an SAE whose training stopped ends in a cross.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from monosemy.report.canvas import Drawing, legend_row, margins, render, tokens_axis
from monosemy.report.read import Curve
from monosemy.report.theme import Style, Theme, label, styles
from monosemy.report.units import TOKENS, Unit
from monosemy.support.numbers import percent_text, setting_text

PANELS = {
    "loss": "Training loss\n(each its own, log)",
    "fvu": "FVU (log)",
    "l0": "L0 (log)",
    "dead_fraction": "Dead latents",
    "learning_rate": "Learning rate",
}
_LOGARITHMIC = ("loss", "fvu", "l0")


def training(curves: Sequence[Curve], site: str, *, unit: Unit = TOKENS) -> Drawing:
    """Draws the curves of one site: a row per quantity, a column per target L0, a line per SAE."""
    # 0 stands for SAEs without a target L0.
    targets = sorted({curve.target_l0 or 0.0 for curve in curves})
    rows = [name for name in PANELS if any(np.isfinite(curve[name]).any() for curve in curves)]
    stopped = [curve for curve in curves if curve.stopped]

    def draw(theme: Theme) -> Figure:
        size = (max(10.4 if len(targets) > 1 else 6.4, 2.6 * len(targets)), 1.1 + 1.65 * max(len(rows), 1))
        figure = Figure(figsize=size)
        looks = styles([curve.architecture for curve in curves], theme)
        panels = figure.subplots(max(len(rows), 1), len(targets), sharex=True, sharey="row", squeeze=False)
        margins(figure, left=0.95, right=0.12, bottom=0.5, top=0.72, hspace=0.19, wspace=0.18)
        for i, quantity in enumerate(rows):
            for j, target in enumerate(targets):
                panel_curves = [curve for curve in curves if (curve.target_l0 or 0.0) == target]
                _panel(panels[i, j], panel_curves, quantity, target, looks=looks, theme=theme)
            panels[i, 0].set_ylabel(PANELS[quantity])
            if quantity in _LOGARITHMIC:
                panels[i, 0].set_ylim(*_limits(curves, quantity))
        figure.align_ylabels(panels[:, 0])
        for j, target in enumerate(targets):
            panels[0, j].set_title(f"asked L0 {setting_text(target)}" if target else "no asked L0")
            panels[-1, j].set_xlabel(f"Training {unit.many}")
            tokens_axis(panels[-1, j])
        legend_row(figure, list(looks.values()), y=1 - 0.06 / size[1])
        return figure

    ends = "; ".join(
        f"{label(c.architecture)} L0 {setting_text(c.target_l0 or 0)} seed {c.seed}: {c.stopped}" for c in stopped
    )
    alt = (
        f"Training curves of {len(curves)} SAEs at {site}. "
        + (f"Stopped: {ends}. " if stopped else "")
        + "Table below."
    )
    caption = (
        "Training curves. Losses of different architectures are different sums and cannot be compared; FVU and L0 can. "
        "Dashed lines: asked L0. FVU, L0 and dead share here are those of training batches, the results above those of "
        f"{unit.held_out}." + (f" A cross marks training that stopped early ({ends})." if stopped else "")
    )
    return render(f"training-{site}", alt, caption, draw)


def _limits(curves: Sequence[Curve], quantity: str) -> tuple[float, float]:
    """The logarithmic limits around all positive values of a row, at least a factor of 1.5 apart."""
    values = np.concatenate([curve[quantity] for curve in curves])
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        return 0.1, 1.0
    margin = max((values.max() / values.min()) ** 0.06, 1.25)
    return float(values.min() / margin), float(values.max() * margin)


def _panel(
    axes: Axes, curves: Sequence[Curve], quantity: str, target: float, *, looks: dict[str, Style], theme: Theme
) -> None:
    """Draws one quantity of the SAEs of one target L0."""
    if quantity in _LOGARITHMIC:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=12))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: setting_text(value)))
    elif quantity == "dead_fraction":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent_text(value)))
        axes.yaxis.set_major_locator(MaxNLocator(4))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: setting_text(value)))
    if quantity == "l0" and target:
        axes.axhline(target, color=theme.ink, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)  # type: ignore[arg-type]
    for curve in curves:
        style, x, y = looks[curve.architecture], curve["n_tokens"], curve[quantity]
        usable = np.isfinite(x) & np.isfinite(y)
        if quantity in _LOGARITHMIC:
            usable &= y > 0
        if not usable.any():
            continue
        x, y = x[usable], y[usable]
        # Markers start at a different place on each curve, so that they do not cover each other where curves coincide.
        stagger = 0.03 + 0.16 * list(looks).index(curve.architecture) / max(len(looks), 1)
        axes.plot(
            x,
            y,
            color=style.colour,
            linestyle=style.line,  # type: ignore[arg-type]
            linewidth=1.3,
            marker=style.marker,
            markersize=3.5,
            markevery=(int(stagger * len(x)), max(math.ceil(len(x) / 5), 1)),
            markerfacecolor=_face(style, theme),
        )
        if curve.stopped:
            axes.add_line(
                Line2D([x[-1]], [y[-1]], marker="x", color=theme.ink, markersize=8, markeredgewidth=2, zorder=6)
            )


def _face(style: Style, theme: Theme) -> str:
    return theme.background if style.control else style.colour
