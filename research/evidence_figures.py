"""Figures of the comparisons of trained SAEs: interpretability, stability, sparse probing (light theme, PNG)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monosemy.report.canvas import Draw, render
from monosemy.report.theme import CONTROLS, Style, Theme, order, styles
from monosemy.saes.registry import ARCHITECTURES
from monosemy.support.files import atomic_path

OWN_UNITS = {"neurons": "MLP neurons", "residual": "Residual channels", "pca": "PCA", "random": "Random latents"}
_UNIT_LINES: tuple[Any, ...] = ("-", (0, (7, 2, 1, 2)), (0, (3, 2)))  # no dots: those are the frozen control's
_UNIT_MARKERS = ("*", "d", "<")


def looks(kinds: Sequence[str], theme: Theme) -> dict[str, Style]:
    """Architectures and controls as in every report; the model's own units in grey."""
    report_kinds = [kind for kind in kinds if kind in ARCHITECTURES or kind in CONTROLS]
    styled = styles(report_kinds, theme)
    for number, kind in enumerate(kind for kind in kinds if kind not in report_kinds):
        line = _UNIT_LINES[number % len(_UNIT_LINES)]
        styled[kind] = Style(
            OWN_UNITS.get(kind, kind), theme.muted, _UNIT_MARKERS[number % len(_UNIT_MARKERS)], line, control=True
        )
    return {
        kind: styled[kind] for kind in [*order(report_kinds), *(kind for kind in kinds if kind not in report_kinds)]
    }


def save(folder: Path, name: str, draw: Draw) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / f"{name}.png") as temporary:
        temporary.write_bytes(render(name, "", "", draw).light)


def bars(
    axes: Axes, rows: Sequence[tuple[str, float, tuple[float, float] | None]], styled: Mapping[str, Style]
) -> None:
    """One point with its interval a row, names on the left, the first on top."""
    for place, (kind, value, interval) in enumerate(rows):
        style = styled[kind]
        if interval is not None:
            axes.plot(interval, [place, place], color=style.colour, linewidth=2, solid_capstyle="butt")
        face = "none" if style.control else style.colour
        axes.plot([value], [place], marker=style.marker, color=style.colour, markerfacecolor=face, linestyle="none")
    axes.set_yticks(range(len(rows)), [styled[kind].label for kind, _, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)


def handle(style: Style) -> Any:
    """The legend's entry: line and marker as in the panels, controls hollow."""
    from matplotlib.lines import Line2D

    return Line2D(
        [],
        [],
        color=style.colour,
        marker=style.marker,
        linestyle=style.line,  # type: ignore[arg-type]
        label=style.label,
        markerfacecolor="none" if style.control else style.colour,
    )


def interpretability(folder: Path, scored: Mapping[str, Mapping[int, Mapping[str, Any]]], results: Any) -> None:
    """Means with intervals for all windows and for the strongest quarter, and the distribution over latents."""

    def draw(theme: Theme) -> Figure:
        styled = looks(list(scored), theme)
        figure = Figure(figsize=(9.6, 4.2), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        for axes, measure, title in ((left, "label", "All firing"), (middle, "label_strong", "Strongest quarter")):
            means = results["measures"][measure]["means"]
            bars(axes, [(kind, means[kind]["mean"], means[kind]["interval"]) for kind in styled], styled)
            axes.set_title(title)
            axes.set_xlabel("mean AUROC of the label, held out")
        middle.set_yticks(range(len(styled)), [""] * len(styled))
        for kind, style in styled.items():
            values = np.concatenate([columns["label_strong"] for columns in scored[kind].values()])
            values = np.sort(values[np.isfinite(values)])
            right.plot(values, np.linspace(0, 1, len(values)), color=style.colour, linestyle=style.line, linewidth=1.4)  # type: ignore[arg-type]
        right.set_title("Distribution, strongest quarter")
        right.set_xlabel("AUROC of the label, held out")
        right.set_ylabel("share of latents below")
        right.set_xlim(0.3, 1)
        figure.legend(handles=[handle(style) for style in styled.values()], loc="outside lower center", ncols=4)
        return figure

    save(folder, "interpretability", draw)


def stability(folder: Path, curves: Mapping[str, np.ndarray], chance: Mapping[str, np.ndarray], results: Any) -> None:
    """Distribution of the nearest cosine, with the range of all chance curves; share of twins by firing rate."""

    def draw(theme: Theme) -> Figure:
        styled = looks(list(curves), theme)
        figure = Figure(figsize=(9.6, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        for kind, style in styled.items():
            values = np.sort(curves[kind])
            above = 1 - np.linspace(0, 1, len(values))
            left.plot(values, above, color=style.colour, linestyle=style.line, label=style.label, linewidth=1.4)  # type: ignore[arg-type]
        above = np.linspace(1, 0, 400)
        chance_quantiles = np.array([np.quantile(values, 1 - above) for values in chance.values()])
        band = left.fill_betweenx(
            above,
            chance_quantiles.min(0),
            chance_quantiles.max(0),
            color=theme.muted,
            alpha=0.4,
            linewidth=0.8,
            label=f"Chance, of the {len(chance)} architectures",
        )
        for threshold in (0.7, 0.9):
            left.axvline(threshold, color=theme.grid, linewidth=1.2, zorder=0)
        left.set_title("Nearest latent of another seed")
        left.set_xlabel("cosine of decoder rows")
        left.set_ylabel("share of living latents above")
        left.set_xlim(0, 1)
        handles = [handle(style) for style in styled.values()]
        figure.legend(handles=[*handles, band], loc="outside lower center", ncols=4)
        for kind, style in styled.items():
            rows = results["architectures"][kind]["by_rate"]
            shares = np.array([row["share_0.7"] for row in rows])
            ends = np.array([row["interval_latents"] for row in rows]).T
            right.errorbar(
                [row["median_rate"] for row in rows],
                shares,
                np.abs(ends - shares),
                color=style.colour,
                linestyle=style.line,  # type: ignore[arg-type]
                marker=style.marker,
                elinewidth=1,
                markerfacecolor="none" if style.control else style.colour,
            )
        right.set_xscale("log")
        right.set_title("Twins (cosine ≥ 0.7) by firing rate")
        right.set_xlabel("firing rate (median of a fifth of the latents)")
        right.set_ylabel("share with a twin")
        return figure

    save(folder, "stability", draw)


def probing(folder: Path, results: Any) -> None:
    """Balanced accuracy with 1, 2 and 5 features, by family of tasks and over all."""
    families = [*results["families"], "all"]

    def draw(theme: Theme) -> Figure:
        styled = looks(list(results["summary"]), theme)
        figure = Figure(figsize=(10.6, 6.2), layout="constrained")
        panels = figure.subplots(2, 3, sharex=True).flatten()
        for axes, family in zip(panels, families):
            for number, (kind, style) in enumerate(styled.items()):
                estimates = results["summary"][kind][family]
                ks = [k for k in ("1", "2", "5") if k in estimates]
                aside = 0.045 * (number - (len(styled) - 1) / 2)  # intervals side by side, not on each other
                places = np.arange(len(ks)) + aside
                means = np.array([estimates[k]["mean"] for k in ks])
                ends = np.array([estimates[k]["interval"] for k in ks]).T
                face = "none" if style.control else style.colour
                axes.errorbar(
                    places,
                    means,
                    np.abs(ends - means),
                    color=style.colour,
                    linestyle=style.line,  # type: ignore[arg-type]
                    linewidth=1,
                    elinewidth=0.9,
                    marker=style.marker,
                    markerfacecolor=face,
                    markersize=4,
                )
            full = axes.axhline(
                results["full_probe"][family]["mean"], color=theme.ink, linewidth=1, label="Full logistic probe"
            )
            axes.set_title(f"{family} ({results['n_tasks'][family]} tasks)")
            axes.set_xticks(range(3), ["1", "2", "5"])
        for axes in panels[3:]:
            axes.set_xlabel("features of the probe")
        for axes in (panels[0], panels[3]):
            axes.set_ylabel("balanced accuracy")
        for axes in panels[len(families) :]:
            axes.set_visible(False)
        handles = [handle(style) for style in styled.values()]
        figure.legend(handles=[*handles, full], loc="outside lower center", ncols=6)
        return figure

    save(folder, "probing", draw)
