"""Figures of the circuits benchmark: AUC of every method by model, and the discrete method's sensitivity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monosemy.report.theme import LIGHT, matplotlib_settings
from monosemy.support.files import atomic_path

SETTINGS = {
    "d_sae": "latents",
    "l1_coef": "λ",
    "n_training": "training examples",
    "n_counting": "positives counted, and as many negatives",
}
MARKERS = "osD^vP"
KINDS = ("compiled", "trained", "real", "published")


def write_figures(table: dict[str, Any], parts: dict[str, Any], folder: Path) -> None:
    """circuits_auc.png and circuits_sensitivity.png, where there is something to draw."""
    sensitivity = {
        name.removeprefix("sensitivity-"): p
        for name, p in parts.items()
        if name.startswith("sensitivity") and "d_sae" in p
    }
    with matplotlib.rc_context(matplotlib_settings(LIGHT)):  # type: ignore[arg-type]
        methods = {group: rows["methods"] for group, rows in table.items() if "methods" in rows}
        if methods:
            _save(auc_figure(methods), folder / "circuits_auc.png")
        if sensitivity:
            _save(sensitivity_figure(sensitivity), folder / "circuits_sensitivity.png")


def auc_figure(table: dict[str, Any]) -> Figure:
    """A panel a kind of model, in it one row a method, one mark a model; lines are 95% intervals over heads."""
    methods = list(dict.fromkeys(method for group in table.values() for method in group))
    kinds = [kind for kind in KINDS if any(name.startswith(f"{kind}-") for name in table)]
    tasks = list(dict.fromkeys(name.split("-", 1)[1] for name in table if name.split("-", 1)[0] in kinds))
    figure = Figure(figsize=(2.0 + 2.7 * len(kinds), 0.27 * len(methods) + 1.6))
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for panel, kind in zip(panels, kinds):
        groups = {name.removeprefix(f"{kind}-"): rows for name, rows in table.items() if name.startswith(f"{kind}-")}
        _panel(panel, groups, methods, tasks)
        panel.set_title(kind)
    panels[0].set_yticks(range(1, len(methods) + 1), methods[::-1])
    figure.tight_layout()
    return figure


def _panel(axes: Axes, groups: dict[str, Any], methods: list[str], tasks: list[str]) -> None:
    """`tasks`: of all panels, so that a task looks the same in each."""
    for number, (group, rows) in enumerate(groups.items()):
        look = tasks.index(group)
        colour, marker = LIGHT.series[look % len(LIGHT.series)], MARKERS[look % len(MARKERS)]
        shift = 0.6 * (number / max(1, len(groups) - 1) - 0.5)
        for method, row in rows.items():
            y = len(methods) - methods.index(method) + shift
            if row["interval"] is not None:
                axes.plot(row["interval"], [y, y], color=colour, linewidth=0.9, alpha=0.6)
            axes.plot([row["auc"]], [y], marker=marker, color=colour, markersize=3.8, linestyle="none")
        axes.plot([], [], marker=marker, color=colour, linestyle="none", label=group)
    axes.axvline(0.5, color=LIGHT.muted, linewidth=0.8, linestyle=":")
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("ROC AUC of heads")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.07), fontsize="small")


def sensitivity_figure(rows_by_model: dict[str, Any]) -> Figure:
    """A panel a setting, a line a model; bands from least to largest over seeds (three; two on the real model)."""
    figure = Figure(figsize=(7.2, 5.0))
    axes = figure.subplots(2, 2, sharey=True).ravel()
    for panel, (setting, label) in zip(axes, SETTINGS.items()):
        for number, (where, rows) in enumerate(rows_by_model.items()):
            _line(panel, rows[setting], where, number)
        panel.set_xscale("log")
        panel.set_xlabel(label)
        panel.axhline(0.5, color=LIGHT.muted, linewidth=0.8, linestyle=":")
    axes[0].set_ylabel("AUC of node scores")
    axes[2].set_ylabel("AUC of node scores")
    axes[0].legend()
    figure.tight_layout()
    return figure


def _line(axes: Axes, rows: list[dict[str, Any]], where: str, number: int) -> None:
    measured_rows = [row for row in rows if row["auc"] is not None]
    values, auc = [row["value"] for row in measured_rows], [row["auc"] for row in measured_rows]
    colour = LIGHT.series[number % len(LIGHT.series)]
    axes.plot(values, auc, marker=MARKERS[number], color=colour, markersize=4, label=where)
    if measured_rows and "least" in measured_rows[0]:
        axes.fill_between(
            values, [r["least"] for r in measured_rows], [r["largest"] for r in measured_rows], color=colour, alpha=0.15
        )


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        figure.savefig(file, format="png", dpi=160)
