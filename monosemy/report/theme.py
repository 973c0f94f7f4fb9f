"""How series look: one colour, marker, line style and label per architecture, on light and on dark.

Place on the data's path: between the numbers and the drawings. Identity never rests on colour alone (marker and
line style differ too); the colours of one theme differ by at least ΔE 14 (CIE76) in normal, protan, deutan and
tritan vision and stand out from the background by at least 3:1. Controls are grey, dotted and hollow.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

LABELS = {
    "relu": "ReLU + L1",
    "topk": "TopK",
    "batch_topk": "BatchTopK",
    "gated": "Gated",
    "jumprelu": "JumpReLU",
    "matryoshka": "Matryoshka",
    "frozen_random": "Frozen random",
    "pca": "PCA",
    "channels": "Channels",
}
FROZEN_RANDOM = "frozen_random"
CONTROLS = (FROZEN_RANDOM, "pca", "channels")
_CONTROL_LINES: tuple[object, ...] = ((0, (1, 1.6)), (0, (5, 2.5)), (0, (3, 1.5, 1, 1.5)))
_CONTROL_MARKERS = ("X", "h", "p")
_SLOTS = ("relu", "topk", "batch_topk", "gated", "jumprelu", "matryoshka")
_MARKERS = ("v", "o", "s", "D", "^", "P")
_LINES: tuple[object, ...] = ("-", "-", (0, (6, 1.5)), (0, (4, 1.2, 1, 1.2)), (0, (2.2, 1)), (0, (1, 1)))


@dataclass(frozen=True)
class Theme:
    """Colours of one rendering."""

    name: str
    background: str
    ink: str
    muted: str
    """Controls and secondary text."""
    grid: str
    series: tuple[str, ...]
    """One colour per slot of `_SLOTS`."""


LIGHT = Theme(
    name="light",
    background="#ffffff",
    ink="#1b1f24",
    muted="#636b74",
    grid="#e3e6ea",
    series=("#E8590C", "#1C4ED8", "#0B9A82", "#7A0C1E", "#D04BD4", "#3B0764"),
)
DARK = Theme(
    name="dark",
    background="#15181d",
    ink="#e8eaed",
    muted="#9aa3ad",
    grid="#2c323a",
    series=("#D9822B", "#5B7BFF", "#4FF0D0", "#F5E663", "#FF4FB5", "#FFFFFF"),
)


@dataclass(frozen=True)
class Style:
    """How one architecture is drawn in one theme."""

    label: str
    colour: str
    marker: str
    line: object
    control: bool


def label(architecture: str) -> str:
    """The name readers know: `batch_topk` → `BatchTopK`; an unlisted architecture keeps its own."""
    if architecture.startswith("jsae_"):
        return f"Pair, λ = {architecture.removeprefix('jsae_')}"
    return LABELS.get(architecture, architecture.replace("_", " "))


def order(architectures: Iterable[str]) -> list[str]:
    """Distinct architectures in the one order of every figure and table: known, others by name, controls last."""
    rank = {name: number for number, name in enumerate(LABELS)}

    def place(name: str) -> tuple[bool, int, str]:
        return name in CONTROLS, rank.get(name, len(rank)), name

    return sorted(set(architectures), key=place)


def styles(architectures: Iterable[str], theme: Theme) -> dict[str, Style]:
    """The style of each architecture; unlisted ones take the slots that are free, then share them in turn."""
    names = order(architectures)
    free = [slot for slot, name in enumerate(_SLOTS) if name not in names] or list(range(len(_SLOTS)))
    found: dict[str, Style] = {}
    n_unlisted = 0
    for name in names:
        if name in CONTROLS:
            slot = CONTROLS.index(name)
            text = f"{label(name)} (control)"
            found[name] = Style(text, theme.muted, _CONTROL_MARKERS[slot], _CONTROL_LINES[slot], True)
            continue
        if name in _SLOTS:
            slot = _SLOTS.index(name)
        else:
            slot = free[n_unlisted % len(free)]
            n_unlisted += 1
        found[name] = Style(label(name), theme.series[slot], _MARKERS[slot], _LINES[slot], False)
    return found


def matplotlib_settings(theme: Theme) -> dict[str, object]:
    """rcParams of a theme; the font is the one that matplotlib carries, so figures look alike everywhere."""
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
