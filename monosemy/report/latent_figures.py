"""Figures of how latents fire: histograms of their rates, and strength against rate (the usage plot).

Place on the data's path: from firing statistics to two figures per site. The captions say which latents are drawn and
which are only counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from monosemy.report.canvas import Drawing, margins, render
from monosemy.report.power_law import PowerLaw, UsageLaws
from monosemy.report.read import Evaluated, Key, Latents
from monosemy.report.theme import Style, Theme, label, order, styles
from monosemy.report.units import TOKENS, Unit
from monosemy.support.numbers import count_text, fixed_percent_text, fixed_text, rounded_text, setting_text, value_text

_SHADE_LINES: tuple[object, ...] = ((0, (1, 1)), (0, (4, 1.5)), "-", (0, (5, 1, 1, 1)))
Statistics = Sequence[tuple[Evaluated, Latents]]


def firing_rates(statistics: Statistics, site: str, *, unit: Unit = TOKENS) -> Drawing:
    """Draws histograms of the firing rate: a panel per architecture, a line per L0, with seeds pooled."""
    names_ = order(r.architecture for r, _ in statistics)
    n_tokens = max(latents.n_tokens for _, latents in statistics)
    edges = rate_edges(n_tokens)
    columns = min(3, len(names_))
    rows = math.ceil(len(names_) / columns)

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(10.4 if columns > 1 else 5.6, 0.8 + 2.4 * rows))
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        margins(figure, left=0.62, right=0.12, bottom=0.52, top=0.28, hspace=0.34, wspace=0.16)
        looks = styles(names_, theme)
        for axes, name in zip(panels, names_, strict=False):
            of_architecture = [(r, latents) for r, latents in statistics if r.architecture == name]
            _rate_panel(axes, of_architecture, edges, looks[name], theme=theme)
            axes.set_title(looks[name].label, color=looks[name].colour)
        top = max((axes.dataLim.ymax for axes in panels[: len(names_)]), default=0.0)
        panels[0].set_ylim(0, 1.45 * top if top > 0 else 100)
        for axes in panels[len(names_) :]:
            axes.set_visible(False)
        for number_, axes in enumerate(panels[: len(names_)]):
            if number_ + columns >= len(names_):
                axes.set_xlabel(f"Firing rate (share of {unit.many}, log scale)")
                axes.tick_params(labelbottom=True)
        figure.supylabel("% of latents per decade", fontsize=9, x=0.08 / figure.get_figwidth(), ha="left")
        return figure

    alt = f"Histograms of log10 firing rate of live latents at {site}, one panel each for {_list(names_)}. Table below."
    caption = (
        f"How often latents fire, over {count_text(n_tokens)} validation {unit.many}. Dead latents have no rate: they "
        "are counted in the legends, not drawn, so a curve's area is the live share. Bins hold whole counts and widths "
        f"differ, hence % of latents per decade. Vertical lines: 1% and 10% of {unit.many}."
    )
    return render(f"firing_rates-{site}", alt, caption, draw)


def rate_edges(n_tokens: int) -> np.ndarray:
    """The edges of the bins of firing rates: about 9 bins per decade, with edges half-way between whole counts."""
    decades = max(math.log10(n_tokens), 0.5)
    # Rates are whole counts over n_tokens: edges between counts keep bins from being empty by rounding alone.
    counts = np.unique(np.round(np.geomspace(1, n_tokens, max(int(9 * decades), 4))))
    return np.append(counts - 0.5, n_tokens + 0.5) / n_tokens


def _rate_panel(axes: Axes, statistics: Statistics, edges: np.ndarray, style: Style, *, theme: Theme) -> None:
    """Draws the histograms of one architecture, a line per L0, the sparser ones paler."""
    levels = list(dict.fromkeys(_level(r) for r, _ in sorted(statistics, key=lambda pair: pair[0]["l0"].value)))
    width = np.diff(np.log10(edges))
    axes.set_xscale("log")
    axes.set_xlim(edges[0], 1.5)
    for mark in (0.01, 0.1):
        axes.axvline(mark, color=theme.muted, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)  # type: ignore[arg-type]
    for place, level in enumerate(levels):
        group = [latents for r, latents in statistics if _level(r) == level]
        n_latents = sum(len(g.firing_count) for g in group)
        n_dead = sum(g.n_dead for g in group)
        rates = np.concatenate([g.firing_rate[g.firing_count > 0] for g in group])
        # Divided by the bins' logarithmic widths, which differ at low counts, so that areas are shares of latents.
        height = 100 * np.histogram(rates, edges)[0] / n_latents / width
        fade = 0.5 + 0.5 * (place + 1) / len(levels)
        colour = _blend(style.colour, theme.background, fade)
        axes.stairs(height, edges, fill=True, color=colour, alpha=0.09)
        axes.stairs(
            height,
            edges,
            color=colour,
            linewidth=1.4,
            label=f"{level}: {count_text(n_dead)} dead ({fixed_percent_text(n_dead / n_latents, 1)})",
            linestyle=_SHADE_LINES[place % len(_SHADE_LINES)],  # type: ignore[arg-type]
        )
    axes.xaxis.set_major_locator(LogLocator(base=10, numticks=12))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(loc="upper left", fontsize=7.5, handlelength=2.6, borderaxespad=0.1)


def _level(record: Evaluated) -> str:
    return (
        f"L0 {rounded_text(record['l0'].value)}" if record.target_l0 is None else f"L0 {setting_text(record.target_l0)}"
    )


def _blend(colour: str, background: str, share: float) -> tuple[float, float, float]:
    front, back = np.array(to_rgb(colour)), np.array(to_rgb(background))
    red, green, blue = share * front + (1 - share) * back
    return float(red), float(green), float(blue)


def _list(architectures: Sequence[str]) -> str:
    return ", ".join(label(name) for name in architectures)


def usage(statistics: Statistics, site: str, laws: Mapping[Key, UsageLaws | None], *, unit: Unit = TOKENS) -> Drawing:
    """Draws mean activation when active over firing frequency: a panel per architecture (row) and L0 (column)."""
    # Each panel shows the lowest seed.
    firsts: dict[tuple[str, str], tuple[Evaluated, Latents]] = {}
    for record, latents in sorted(statistics, key=lambda pair: (pair[0]["l0"].value, pair[0].seed)):
        firsts.setdefault((record.architecture, _level(record)), (record, latents))
    rows = order(name for name, _ in firsts)
    levels = _levels(statistics)
    seeds = len({r.seed for r, _ in statistics})
    n_tokens = max(latents.n_tokens for _, latents in statistics)

    def draw(theme: Theme) -> Figure:
        size = (max(10.4 if len(levels) > 1 else 5.6, 2.6 * len(levels)), 0.8 + 2.1 * len(rows))
        figure = Figure(figsize=size)
        panels = figure.subplots(len(rows), len(levels), sharex=True, sharey=True, squeeze=False)
        margins(figure, left=0.78, right=0.12, bottom=0.55, top=0.28, hspace=0.3, wspace=0.14)
        looks = styles(rows, theme)
        for i, name in enumerate(rows):
            for j, level in enumerate(levels):
                axes = panels[i, j]
                if (name, level) not in firsts:
                    axes.set_axis_off()
                    continue
                record, latents = firsts[name, level]
                _usage_panel(axes, latents, laws.get((record.site, record.name)), looks[name], theme=theme)
                axes.set_title(f"{label(name)}, {level}", fontsize=8.5)
        _usage_limits(panels[0, 0], [latents for _, latents in firsts.values()])
        figure.supxlabel(
            f"Firing frequency f (share of {count_text(n_tokens)} {unit.many}, log scale)",
            fontsize=9,
            y=0.1 / size[1],
            va="bottom",
        )
        activations = "rows" if unit.many == "rows" else "site's activations"
        where = {"x": 0.06 / size[0], "ha": "left", "fontsize": 9}
        figure.supylabel(f"Mean activation a when active\n(units of the {activations}, log scale)", **where)
        return figure

    fitted = [
        f"{label(r.architecture)} {_level(r)}: a on f {law_text(both.activation_on_frequency)}, "
        f"f on a {law_text(both.frequency_on_activation)}"
        for r, _ in firsts.values()
        if (both := laws.get((r.site, r.name)))
    ]
    exponents = "; ".join(fitted) or "none could be fitted"
    alt = f"Mean activation a over firing frequency f at {site}, one point per live latent. Exponents: {exponents}."
    caption = (
        "Feature usage: one point per latent that fired at least once; dead latents are counted in the table. Lines: "
        "least squares on the logarithms, fitted both ways. Solid, with band: a = A · f^β (a on f). Dashed: "
        "f = A′ · a^β′ (f on a), with slope 1/β′ on these axes. β β′ = R², so the two agree only where R² is near 1. "
        "Band and brackets: 95% bootstrap over latents (1,000 resamples). Lines describe the cloud and do not prove "
        "a power law. Rare latents line up in columns because counts are whole numbers."
        + (" Points are those of the lowest seed; the table has every seed." if seeds > 1 else "")
    )
    return render(f"usage-{site}", alt, caption, draw)


def law_text(law: PowerLaw) -> str:
    """The exponent of a power law with its interval as text: `−0.42 [−0.45, −0.39]`."""
    low, high = law.interval
    return value_text(law.exponent, (low, high), decimals=2).replace("-", "−")


def _usage_panel(axes: Axes, latents: Latents, laws: UsageLaws | None, style: Style, *, theme: Theme) -> None:
    """Draws the live latents of one SAE as points, with both fitted power laws."""
    live = latents.firing_count > 0
    frequency, activation = latents.firing_rate[live], latents.mean_when_active[live]
    # The more points, the more transparent, so that dense regions still show their density.
    alpha = float(np.clip(600 / max(len(frequency), 1), 0.12, 0.7))
    axes.plot(
        frequency, activation, ".", color=style.colour, markersize=3.4, markeredgewidth=0, alpha=alpha, rasterized=True
    )
    if laws is not None:
        forth, back = laws.activation_on_frequency, laws.frequency_on_activation
        across = np.geomspace(frequency.min(), frequency.max(), 60)
        axes.fill_between(across, *forth.band(across), color=theme.ink, alpha=0.18, linewidth=0)
        axes.plot(across, forth.line(across), color=theme.ink, linewidth=1.3)
        up = np.geomspace(activation.min(), activation.max(), 60)
        axes.plot(back.line(up), up, color=theme.ink, linewidth=1.1, linestyle=(0, (4, 2)))
        text = (
            f"a on f: β = {law_text(forth)}\nf on a: β′ = {law_text(back)}\n"
            f"R² = {fixed_text(forth.r_squared, 2)}, {count_text(forth.n_latents)} latents"
        )
    elif len(frequency):
        text = f"{count_text(len(frequency))} live latents: too few, or too alike, to fit"
    else:
        text = f"no latent fired\n({count_text(len(live))} dead)"
    axes.text(
        0.97,
        0.96,
        text,
        transform=axes.transAxes,
        fontsize=7.5,
        ha="right",
        va="top",
        linespacing=1.35,
        bbox={"facecolor": theme.background, "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
    )


def _usage_limits(axes: Axes, panels: Sequence[Latents]) -> None:
    """Sets the logarithmic limits that all panels share, with room for text at the top."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    activation = np.concatenate([latents.mean_when_active[latents.firing_count > 0] for latents in panels])
    activation = activation[activation > 0]
    low, high = (activation.min() / 1.3, activation.max() * 1.3) if len(activation) else (1.0, 10.0)
    axes.set_ylim(low, high * (high / low) ** 0.4)
    lowest = 0.6 / max(latents.n_tokens for latents in panels)
    axes.set_xlim(lowest, 1.5)
    powers = range(math.floor(math.log10(lowest)) + 1, 1)
    # A label for every other power where there are many: panels are narrow.
    axes.xaxis.set_major_locator(FixedLocator([10.0**power for power in powers if len(powers) < 5 or power % 2 == 0]))
    axes.xaxis.set_minor_locator(NullLocator())


def _levels(statistics: Statistics) -> list[str]:
    """The levels of L0, the sparsest first."""
    ordered = sorted(statistics, key=lambda pair: pair[0].target_l0 or pair[0]["l0"].value)
    return list(dict.fromkeys(_level(record) for record, _ in ordered))
