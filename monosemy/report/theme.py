"""The look of each architecture in light and dark figures and pages: colour, marker, line style and label.

Place on the data's path: between the numbers and the drawings, for the report's figures as well as the browser's pages.
An architecture's label and place come from the registry (saes/registry.py); the palette gives each place its look.

Architectures never differ by colour alone, but by marker and line style as well. The colours of one theme differ by at
least ΔE 14 (CIE76) in normal, protan, deutan and tritan vision. Their contrast with the background is at least 3:1, and
at least 4.5:1 in the pages, where names are written in them. Controls are grey, dotted and hollow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass

from monosemy.rooms import rooms
from monosemy.saes.registry import ARCHITECTURES

FROZEN_RANDOM = "frozen_random"
CONTROLS = {
    FROZEN_RANDOM: "Frozen random",
    "pca": "PCA",
    "channels": "Channels",
    "transcoder_frozen_random": "Transcoder, frozen random",
    "skip_transcoder_frozen_random": "Skip transcoder, frozen random",
    "linear_map": "Linear map",
}
"""The labels of the controls."""


@dataclass(frozen=True)
class Look:
    """The look of one place of the palette."""

    light: str
    dark: str
    page_light: str
    page_dark: str
    """The colours in the figures (`light`, `dark`) and in the browser's pages."""
    _: KW_ONLY
    marker: str
    """The marker as matplotlib's letter."""
    dashes: tuple[float, ...] = ()
    """The lengths of dashes and gaps, in line widths; empty for a solid line."""


PALETTE = (
    Look("#E8590C", "#D9822B", "#C94A04", "#E59A4B", marker="v"),
    Look("#1C4ED8", "#5B7BFF", "#1C4ED8", "#7C97FF", marker="o"),
    Look("#0B9A82", "#4FF0D0", "#087F6B", "#4FF0D0", marker="s", dashes=(6, 1.5)),
    Look("#7A0C1E", "#F5E663", "#7A0C1E", "#F5E663", marker="D", dashes=(4, 1.2, 1, 1.2)),
    Look("#D04BD4", "#FF4FB5", "#B52FB9", "#FF6CC2", marker="^", dashes=(2.2, 1)),
    Look("#3B0764", "#FFFFFF", "#3B0764", "#FFFFFF", marker="P", dashes=(1, 1)),
    Look("#4D0033", "#A68059", "#4D0033", "#A68059", marker="<", dashes=(8, 1.5, 1, 1.5)),
    Look("#B30000", "#B1F5A3", "#B30000", "#B1F5A3", marker="*", dashes=(3, 1, 3, 2.5)),
    Look("#000099", "#FFB3FF", "#000099", "#FFB3FF", marker=">", dashes=(1.5, 1.5)),
)
"""One look per line of the registry; the rest serve architectures that are not in the registry."""
_CONTROL_LOOKS = (
    ("X", (1, 1.6)),
    ("h", (5, 2.5)),
    ("p", (3, 1.5, 1, 1.5)),
    ("<", (1, 3)),
    ("*", (5, 1.5, 1, 1.5)),
    (">", (2, 2)),
)


@dataclass(frozen=True)
class Theme:
    """The colours of one version of a figure, light or dark."""

    name: str
    background: str
    ink: str
    muted: str
    """The colour of controls and secondary text."""
    grid: str
    series: tuple[str, ...]
    """The colours of the figures, one per place of `PALETTE`."""
    page_series: tuple[str, ...]
    """The same for the browser's pages."""


LIGHT = Theme(
    name="light",
    background="#ffffff",
    ink="#1b1f24",
    muted="#636b74",
    grid="#e3e6ea",
    series=tuple(look.light for look in PALETTE),
    page_series=tuple(look.page_light for look in PALETTE),
)
DARK = Theme(
    name="dark",
    background="#15181d",
    ink="#e8eaed",
    muted="#9aa3ad",
    grid="#2c323a",
    series=tuple(look.dark for look in PALETTE),
    page_series=tuple(look.page_dark for look in PALETTE),
)


@dataclass(frozen=True)
class Style:
    """The style of one architecture in matplotlib, in one theme."""

    label: str
    colour: str
    marker: str
    line: object
    _: KW_ONLY
    control: bool


@dataclass(frozen=True)
class PageStyle:
    """The style of one architecture in the browser (SeriesStyle in web/src/types.ts)."""

    label: str
    light: str
    dark: str
    marker: str
    _: KW_ONLY
    dashes: tuple[float, ...]


def label(architecture: str) -> str:
    """The name for readers: `batch_topk` → `BatchTopK`, `published_topk` → `published TopK`; others keep their own."""
    for room in rooms():
        for prefix, readable in room.labels.items():
            if architecture.startswith(prefix):
                return readable + label(architecture.removeprefix(prefix))
    if architecture in ARCHITECTURES:
        return ARCHITECTURES[architecture].label
    if match := re.fullmatch(r"published_([a-z_]+?)(?:_(\d+))?", architecture):
        return f"published {label(match[1])}" + (f" {match[2]}" if match[2] else "")
    return CONTROLS.get(architecture, architecture.replace("_", " "))


def order(architectures: Iterable[str]) -> list[str]:
    """The distinct architectures in the order of every figure and table: registered ones, others by name, controls."""
    rank = {name: number for number, name in enumerate([*ARCHITECTURES, *CONTROLS])}

    def place(name: str) -> tuple[bool, int, str]:
        return name in CONTROLS, rank.get(name, len(rank)), name

    return sorted(set(architectures), key=place)


def styles(architectures: Iterable[str], theme: Theme) -> dict[str, Style]:
    """The style of each architecture in the figures of one theme."""
    drawn: dict[str, Style] = {}
    for name, (slot, marker, dashes) in _looks(architectures).items():
        line = (0, dashes) if dashes else "-"
        if slot is None:
            drawn[name] = Style(f"{label(name)} (control)", theme.muted, marker, line, control=True)
        else:
            drawn[name] = Style(label(name), theme.series[slot], marker, line, control=False)
    return drawn


def page_styles(architectures: Iterable[str]) -> dict[str, PageStyle]:
    """The style of each architecture in the browser's pages, with the markers and dashes of the figures."""
    drawn: dict[str, PageStyle] = {}
    for name, (slot, marker, dashes) in _looks(architectures).items():
        light, dark = (theme.muted if slot is None else theme.page_series[slot] for theme in (LIGHT, DARK))
        drawn[name] = PageStyle(label(name), light, dark, marker, dashes=dashes)
    return drawn


def _looks(architectures: Iterable[str]) -> dict[str, tuple[int | None, str, tuple[float, ...]]]:
    """The place in the palette (None for controls), marker and dashes of each architecture, in their order.

    Registered architectures have their own places. Others take the places that none of these architectures has. When
    all are taken, they share a colour and differ by marker.
    """
    names = order(architectures)
    own = {name: slot for slot, name in enumerate(ARCHITECTURES) if slot < len(PALETTE)}
    free = [slot for slot in range(len(PALETTE)) if slot not in {own.get(name) for name in names}]
    free = free or list(range(len(PALETTE)))
    looks: dict[str, tuple[int | None, str, tuple[float, ...]]] = {}
    n_others = 0
    for name in names:
        if name in CONTROLS:
            looks[name] = None, *_CONTROL_LOOKS[list(CONTROLS).index(name)]
            continue
        slot, turn = own.get(name, -1), 0
        if name not in own:
            # Each further round through the free places moves on to another marker.
            turn, index = divmod(n_others, len(free))
            slot, n_others = free[index], n_others + 1
        looks[name] = slot, PALETTE[(slot + turn) % len(PALETTE)].marker, PALETTE[slot].dashes
    return looks


def matplotlib_settings(theme: Theme) -> dict[str, object]:
    """The rcParams of a theme. The font is the one that comes with matplotlib, so figures look the same everywhere."""
    return {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 9,
        "axes.facecolor": theme.background,
        "figure.facecolor": theme.background,
        "savefig.facecolor": theme.background,
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.titlecolor": theme.ink,
        "axes.edgecolor": theme.muted,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelcolor": theme.ink,
        "ytick.labelcolor": theme.ink,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.8,
        "lines.linewidth": 1.6,
        "lines.markersize": 5.5,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "axes.formatter.useoffset": False,
    }
