"""Drawing tools that all figures share: rendering in two themes, L0 axes, labels at the ends of lines.

Place on the data's path: between matplotlib and `figures.py`. It uses matplotlib's Agg canvas without pyplot, so that
no global state changes and no display is needed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from PIL import Image

from monosemy.report.theme import DARK, LIGHT, Style, Theme, matplotlib_settings
from monosemy.support.numbers import magnitude_text, setting_text

DPI = 200
Draw = Callable[[Theme], Figure]


@dataclass(frozen=True)
class Drawing:
    """A figure in both themes, with its texts."""

    file: str
    """Its name under figures/, without extension."""
    alt: str
    """A description of the picture for readers who cannot see it."""
    caption: str
    width: float
    """Its width in inches; the page shows 100 CSS pixels per inch."""
    _: KW_ONLY
    light: bytes
    dark: bytes
    """Both pictures are PNG."""


def render(file: str, alt: str, caption: str, draw: Draw) -> Drawing:
    """Draws a figure in both themes."""
    pictures = {}
    for theme in (LIGHT, DARK):
        with matplotlib.rc_context(matplotlib_settings(theme)):  # type: ignore[arg-type]
            figure = draw(theme)
            pictures[theme.name] = _png(figure)
            width = float(figure.get_size_inches()[0])
    return Drawing(file, alt, caption, width, light=pictures["light"], dark=pictures["dark"])


def _png(figure: Figure) -> bytes:
    """The figure as PNG with a palette of 256 colours: a third of the size, without a visible difference."""
    # Drawn on a canvas of its own, without pyplot, whose global list would keep the figure alive.
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).quantize(256, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", dpi=(DPI, DPI))
    return buffer.getvalue()


def l0_axis(axes: Axes, values: Sequence[float], ticks: Sequence[float]) -> None:
    """Makes the x axis a logarithmic L0 axis around `values`, with ticks only at `ticks`, the target L0s."""
    low, high = min(values), max(values)
    # 8% of the axis on either side, in logarithms, and some room even around a single value.
    margin = max((high / low) ** 0.08, 1.12)
    axes.set_xscale("log", base=2)
    axes.set_xlim(low / margin, high * margin)
    thinned = thin_ticks(sorted(set(ticks)), high * margin / (low / margin))
    axes.xaxis.set_major_locator(FixedLocator(thinned))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: setting_text(value)))


def thin_ticks(ticks: Sequence[float], span: float) -> list[float]:
    """The ticks, from the first on, that keep at least 7% of the logarithmic axis between neighbours."""
    thinned: list[float] = []
    for tick in ticks:
        if not thinned or np.log(tick / thinned[-1]) >= 0.07 * np.log(span):
            thinned.append(tick)
    return thinned


def value_axis(axes: Axes, values: Sequence[float], ends: Sequence[float]) -> None:
    """Makes the y axis logarithmic if all values are positive and span more than a factor of 4, else linear from 0.

    `ends` are the ends of intervals. They widen the axis, except that on a logarithmic axis those far below the values
    do not.
    """
    finite = np.array([v for v in values if np.isfinite(v)])
    finite_with_ends = np.array([v for v in [*finite, *ends] if np.isfinite(v)])
    if len(finite) and finite.min() > 0 and finite.max() > 4 * finite.min():
        # An interval that nearly reaches zero would stretch a logarithmic axis over many empty decades.
        positive = finite_with_ends[finite_with_ends > finite.min() / 4]
        axes.set_yscale("log")
        axes.set_ylim(positive.min() / 1.18, positive.max() * 1.18)
        decades = np.log10(positive.max() / positive.min())
        subs = (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=subs, numticks=20))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: setting_text(value)))
        return
    low, high = (finite_with_ends.min(), finite_with_ends.max()) if len(finite_with_ends) else (0.0, 1.0)
    axes.set_ylim(min(low * 1.08, 0.0), high * 1.08 if high > 0 else 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(6))


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, Style]], *, gap: float = 0.062) -> None:
    """Writes each series' name at the right of the axes, at the height of its last point, without overlaps.

    `ends` holds (x, y) of each last point, in data units, and the style. `gap` is the least distance of two labels, as
    a share of the axes' height. A thin line connects each label with its point.
    """
    if not ends:
        return
    # Label heights are compared in shares of the axes' height, whatever the scale of the data.
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = np.array([to_axes.transform((x, y))[1] for x, y, _ in ends])
    placed = spread_apart(heights, gap)
    for (x, y, style), height in zip(ends, placed, strict=True):
        axes.annotate(
            style.label,
            xy=(x, y),
            xycoords="data",
            xytext=(1.035, height),
            textcoords="axes fraction",
            va="center",
            fontsize=8.5,
            color=style.colour,
            fontweight="normal" if style.control else "bold",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": style.colour,
                "linewidth": 0.6,
                "alpha": 0.55,
                "shrinkA": 1,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )


def spread_apart(heights: np.ndarray, gap: float) -> np.ndarray:
    """Moves heights as little as needed so that neighbours are at least `gap` apart.

    Labels that would overlap form a cluster that is spaced evenly around the mean of their heights; clusters that come
    to overlap are merged, until none do.
    """
    by_height = np.argsort(heights, kind="stable")
    # Each cluster holds the wished heights of its members; clusters go from bottom to top.
    clusters = [[float(heights[i])] for i in by_height]
    merged = True
    while merged:
        merged = False
        for i in range(len(clusters) - 1):
            below, above = clusters[i], clusters[i + 1]
            top = np.mean(below) + gap * (len(below) - 1) / 2
            bottom = np.mean(above) - gap * (len(above) - 1) / 2
            if bottom - top < gap - 1e-9:
                clusters[i : i + 2] = [below + above]
                merged = True
                break
    placed = np.concatenate([np.mean(c) + gap * (np.arange(len(c)) - (len(c) - 1) / 2) for c in clusters])
    result = np.empty_like(heights, dtype=float)
    result[by_height] = placed
    return result


def margins(
    figure: Figure, *, left: float, right: float, bottom: float, top: float, hspace: float, wspace: float
) -> None:
    """Sets the room around and between panels, in inches."""
    # matplotlib takes margins as shares of the figure, and gaps as shares of a panel.
    width, height = figure.get_size_inches()
    rows, columns = figure.axes[0].get_gridspec().get_geometry()  # type: ignore[union-attr]
    inner_height = (height - bottom - top - hspace * (rows - 1)) / rows
    inner_width = (width - left - right - wspace * (columns - 1)) / columns
    figure.subplots_adjust(
        left=left / width,
        right=1 - right / width,
        bottom=bottom / height,
        top=1 - top / height,
        hspace=hspace / inner_height,
        wspace=wspace / inner_width,
    )


def legend_row(figure: Figure, styles: Sequence[Style], *, y: float, lines: bool = True, columns: int = 8) -> None:
    """Adds one legend for the whole figure, in a row at height `y` (a share of the figure)."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=s.colour,
            marker=s.marker,
            linestyle=s.line if lines else "none",  # type: ignore[arg-type]
            label=s.label,
            **face(s, figure),
        )
        for s in styles
    ]
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.005, y),
        ncols=min(columns, len(handles) or 1),
        handlelength=3.4,
        columnspacing=1.4,
        borderaxespad=0,
    )


def face(style: Style, figure: Figure) -> dict[str, Any]:
    """The colours of a marker, which is hollow for controls."""
    background = figure.get_facecolor()
    return {"markerfacecolor": background if style.control else style.colour, "markeredgecolor": style.colour}


def tokens_axis(axes: Axes) -> None:
    """Makes the x axis one of training tokens, with k, M or B."""
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: magnitude_text(value)))
