"""The drawing of a circuit: layers from bottom to top, heads side by side, edges between them.

Place on the path: `Circuit` → [matplotlib figure] → SVG and PNG in the page.

Every head of the model is a dot. Heads of the circuit are discs named layer.head: the stronger the larger, filled when
they support the behaviour and ringed when they work against it, so that colour is never the only sign. Lines are edges:
the stronger the thicker, dashed when negative. Edges below a tenth of the strongest are left out (of edges that codes
give, all but the strongest 20), and the caption says how many are drawn.

Limits: in models with many layers the lines cross; the table beside the drawing has every number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.patheffects import withStroke

from monosemy.circuits.heads.circuit import MAX_EDGE_HEADS, Circuit
from monosemy.circuits.heads.task import INPUT, OUTPUT, Edge

LEAST_EDGE = 0.1
"""Share of the strongest edge's score below which an edge is not drawn."""
MOST_CODE_EDGES = 20
"""How many of the edges that codes give are drawn at most; nearly every pair of heads has one."""
Place = tuple[float, float]


@dataclass(frozen=True)
class Palette:
    """Colours of one theme."""

    background: str = "#ffffff"
    ink: str = "#1b1f24"
    muted: str = "#636b74"
    grid: str = "#e3e6ea"
    supports: str = "#1C4ED8"
    opposes: str = "#E8590C"


def edges_to_draw(circuit: Circuit) -> list[tuple[Edge, float]]:
    """The edges that the drawing shows, weakest first; the channels of one pair of nodes are added up."""
    edges = circuit.best_edges
    if edges is None:
        return []
    total: dict[tuple, float] = {}
    for edge, score in zip(edges.edges, edges.scores.tolist()):
        total[edge.ends] = total.get(edge.ends, 0.0) + score
    strongest = max((abs(score) for score in total.values()), default=0.0)
    pairs = [(Edge(*ends), score) for ends, score in total.items() if abs(score) >= LEAST_EDGE * strongest > 0]
    pairs = sorted(pairs, key=lambda pair: abs(pair[1]))
    return pairs if circuit.edges is not None else pairs[-MOST_CODE_EDGES:]


def draw_circuit(circuit: Circuit, palette: Palette | None = None) -> Figure:
    """The drawing as a figure; write it with `figure.savefig` as SVG or PNG."""
    palette = palette or Palette()
    layers, heads = circuit.n_layers, circuit.n_heads
    edges = edges_to_draw(circuit)
    ends = {end for edge, _ in edges for end in edge.ends}
    height = min(9.0, max(3.4, 0.36 * layers + 1.6))
    width = min(11.0, max(4.6, 0.62 * heads + 1.8))
    figure = Figure(figsize=(width, height), facecolor=palette.background)
    left, bottom, top = 0.6 / width, 0.5 / height, 0.35 / height
    axes = figure.add_axes((left, bottom, 0.98 - left, 1 - bottom - top), facecolor=palette.background)
    places: dict[object, Place] = {
        (layer, head): (float(head), float(layer)) for layer in range(layers) for head in range(heads)
    }
    places[INPUT], places[OUTPUT] = ((heads - 1) / 2, -1.4), ((heads - 1) / 2, layers + 0.4)
    _grid(axes, layers, heads, palette)
    _lines(axes, edges, places, palette)
    _discs(axes, circuit, places, palette)
    for end in (INPUT, OUTPUT):
        if end in ends:
            box = {"boxstyle": "round,pad=0.3", "facecolor": palette.background, "edgecolor": palette.muted}
            axes.text(*places[end], end, ha="center", va="center", fontsize=8, color=palette.ink, bbox=box, zorder=6)
    low = -2.0 if INPUT in ends else -0.8
    high = layers + 0.9 if OUTPUT in ends else layers - 0.2
    axes.set_xlim(-0.7, heads - 0.3)
    axes.set_ylim(low, high)
    axes.set_title(f"{circuit.task.name} in {circuit.model}", fontsize=9.5, color=palette.ink, loc="left")
    return figure


def _grid(axes: Axes, layers: int, heads: int, palette: Palette) -> None:
    """Draws a faint dot for every head, and the axes."""
    across, up = np.meshgrid(np.arange(heads), np.arange(layers))
    axes.scatter(across.ravel(), up.ravel(), s=9, color=palette.grid, zorder=1, linewidths=0)
    step = max(1, round(layers / 15))
    axes.set_yticks(range(0, layers, step))
    axes.set_xticks(range(heads))
    axes.set_ylabel("layer", color=palette.ink, fontsize=8.5)
    axes.set_xlabel("head", color=palette.ink, fontsize=8.5, labelpad=1)
    axes.tick_params(colors=palette.muted, labelsize=7.5, length=0)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _lines(axes: Axes, edges: list[tuple[Edge, float]], places: dict[object, Place], palette: Palette) -> None:
    """Draws the edges; being sorted, the strongest are drawn last, on top."""
    strongest = abs(edges[-1][1]) if edges else 1.0
    for edge, score in edges:
        share = abs(score) / strongest
        start, stop = (places[end] for end in edge.ends)
        bend = 0.0 if start[0] != stop[0] else 0.25  # between heads in one column, curve around those in between
        axes.add_patch(
            FancyArrowPatch(
                start,
                stop,
                arrowstyle="-|>",
                mutation_scale=6 + 4 * share,
                linewidth=0.5 + 2.2 * share,
                linestyle="-" if score > 0 else (0, (3, 2)),
                color=palette.supports if score > 0 else palette.opposes,
                alpha=0.35 + 0.5 * share,
                shrinkA=7,
                shrinkB=8,
                zorder=3,
                connectionstyle=f"arc3,rad={bend}",
            )
        )


def _discs(axes: Axes, circuit: Circuit, places: dict[object, Place], palette: Palette) -> None:
    """Draws the circuit's heads or, where the method names no members, the most important heads."""
    indices = circuit.members or [i for i in circuit.ranked()[:MAX_EDGE_HEADS] if circuit.heads.importance[i] > 0]
    strongest = max((float(circuit.heads.importance[i]) for i in indices), default=1.0)
    halo = [withStroke(linewidth=2, foreground=palette.background)]
    for index in reversed(indices):
        score = float(circuit.heads.scores[index])
        x, y = places[divmod(index, circuit.n_heads)]
        against = circuit.heads.signed and score < 0
        axes.scatter(
            [x],
            [y],
            s=60 + 230 * abs(score) / strongest,
            zorder=4,
            linewidths=1.6,
            facecolor=palette.background if against else palette.supports,
            edgecolor=palette.opposes if against else palette.supports,
        )
        axes.annotate(
            circuit.name_of(index),
            (x, y),
            xytext=(0, -10),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=6.5,
            color=palette.ink,
            zorder=5,
            path_effects=halo,
        )
