"""Every try of `run.py`, FVU against the L0 reached, one panel per architecture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from monosemy.report.canvas import render
from monosemy.report.theme import Theme, label
from monosemy.support.files import atomic_path

LOOKS = {"monosemy": ("o", 1), "sae-lens": ("v", 0), "dictionary-learning": ("s", 2), "eai-sparsify": ("D", 4)}
"""Marker and colour slot of each library."""
TICKS = (8, 16, 32, 64, 128, 256, 512, 1024)


def write(path: Path, results: Mapping[str, Any]) -> None:
    """Writes the PNG. Hollow: tries, on the first draw; filled: the chosen settings on the second, bars 95% over
    documents and seeds; ours also at each L0 that a peer reached."""
    groups = {("monosemy", name): (record["tries"], record) for name, record in results["ours"].items()}
    groups |= {(row["library"], row["architecture"]): (row["tries"], row) for row in results["peers"]}

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(11.0, 3.1))
        panels = figure.subplots(1, len(results["ours"]), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, results["ours"], strict=True):
            for (library, architecture), (tries, row) in groups.items():
                if architecture != name:
                    continue
                marker, slot = LOOKS[library]
                colour = theme.series[slot]
                axes.plot(
                    [t["l0"] for t in tries],
                    [t["fvu"] for t in tries],
                    marker,
                    color=colour,
                    markerfacecolor=theme.background,
                    markersize=4,
                    linestyle="none",
                )
                low, high = row["fvu_interval"]
                bars = [[row["fvu"] - low], [high - row["fvu"]]]
                axes.errorbar([row["l0"]], [row["fvu"]], bars, fmt=marker, color=colour, markersize=6)
                if "ours" in row:
                    marker, slot = LOOKS["monosemy"]
                    axes.plot([row["ours"]["l0"]], [row["ours"]["fvu"]], marker, color=theme.series[slot])
            axes.axvline(results["l0"], color=theme.muted, linewidth=0.8, linestyle=":")
            reached = [t["l0"] for (_, other), (tries, _) in groups.items() if other == name for t in tries]
            axes.set_xscale("log", base=2)
            axes.set_xlim(0.9 * min(26, *reached), 1.1 * max(40, *reached))
            axes.set_yscale("log")
            axes.xaxis.set_major_locator(FixedLocator(TICKS))
            axes.yaxis.set_major_locator(FixedLocator((0.1, 0.15, 0.2, 0.3, 0.5, 1.0)))
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_minor_locator(NullLocator())
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.set_title(label(name))
            axes.set_xlabel("L0 reached")
        panels[0].set_ylabel("FVU (log scale)")
        handles = [
            Line2D([], [], marker=marker, color=theme.series[slot], linestyle="none", label=library)
            for library, (marker, slot) in LOOKS.items()
        ]
        figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.05, 1.0), ncols=len(handles))
        figure.subplots_adjust(left=0.06, right=0.995, bottom=0.16, top=0.82, wspace=0.08)
        return figure

    picture = render("peers_quality", "FVU against L0 for every try of every library", "", draw).light
    with atomic_path(path) as temporary:
        temporary.write_bytes(picture)
