"""`monosemy show RUN LATENT`: a latent's page in the terminal.

Place on the data's path: a reader of the feature database. Shades of one colour mark how strongly a token fires; the
same can be read without any colour: a small digit behind a token is its activation in ninths of the latent's maximum
(₉ is the strongest), and the peak stands in «marks» with its value at the line's start. Rich leaves colours out
when the output is no terminal or NO_COLOR is set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from monosemy.features.store.database import FeatureDatabase
from monosemy.features.view.excerpt import GROUPS, Excerpt, by_group, excerpt, level, quoted
from monosemy.features.view.facts import (
    Neighbour,
    built_from,
    explanation,
    fired,
    hints,
    neighbours,
    scored_on,
    scores,
    shown_score,
    shown_value,
    signed,
    stats,
    title,
)
from monosemy.support.numbers import activation_text
from monosemy.support.visible import visible

SHADES = ("#dbe7fb", "#c3d7f8", "#a9c6f5", "#8fb4f1", "#759fec", "#5b8ae6", "#4375dd", "#2f61cf", "#1d4db8")
"""Backgrounds of levels 1 to 9: one hue, from light to dark."""
DIGITS = "₀₁₂₃₄₅₆₇₈₉"
BARS = "▁▂▃▄▅▆▇█"


def latent_page(
    database: FeatureDatabase, latent: int, *, n: int = 6, groups: Sequence[str] = tuple(GROUPS), whole: bool = False
) -> Group:
    """Everything the database knows of a latent, as something rich can print.

    `n`: strongest examples at most, and a third as many of every other group (`n` when one group is asked for).
    `whole`: contexts uncut. `groups`: which groups of examples, in their order.
    """
    parts: list[Text | Table | Padding] = [_head(database, latent)]
    if fired(database, latent):
        parts += [_histogram(database, latent)]
    parts += [_scores(database, latent), _outputs(database, latent), _neighbours(database, latent)]
    maximum = stats(database, latent).get("max") or 0.0
    examples = by_group(database, latent, groups)
    for group, found in examples.items():
        kept = found[: n if group == "top" or len(groups) == 1 else -(-n // 3)]
        parts.append(Text(f"\n{GROUPS[group]}", style="bold"))
        cut = (None, None) if whole else (24, 10)
        parts.append(_examples([excerpt(database, example, *cut) for example in kept], maximum))
    if examples:
        parts.append(_legend())
    return Group(*parts)


def _head(database: FeatureDatabase, latent: int) -> Text:
    info, values, label = database.info, stats(database, latent), database.label(latent)
    text = Text(f"{info['site']}/{info['name']} · latent {latent}\n", style="dim")
    text.append(f"{title(database, latent)}\n", style="bold")
    if said := hints(database, latent):
        text.append(f"{'; '.join(said)}\n")
    if told := explanation(label):
        text.append(f"a chat model's explanation: {told}\n", style="italic")
    if fired(database, latent):
        text.append(_firing(values))
    text.append(f"measured on {built_from(info)}", style="dim")
    return text


def _firing(values: Mapping[str, float | None]) -> str:
    """When it fires, in two lines; what was not measured is left out."""
    lines = (
        (("firing_rate", "fires on"), ("n_fired", "in all"), ("mean", "mean"), ("max", "maximum")),
        (("first_share", "first token of a document"), ("last_share", "last"), ("token_entropy", "token at its peaks")),
    )
    shown = [
        " · ".join(f"{what} {shown_value(name, values[name])}" for name, what in line if values.get(name) is not None)
        for line in lines
    ]
    return "".join(f"{line}\n" for line in shown if line)


def _scores(database: FeatureDatabase, latent: int) -> Table:
    """One line for each thing that firing is told from."""
    table = Table.grid(padding=(0, 1))
    found = scores(database, latent)
    if found:
        table.add_row(
            Text(f"\nTold from{scored_on(found)}", style="bold"), Text("\nAUROC (95%)"), Text("\nstrongest quarter")
        )
    for score in found:
        strong = "–" if score.strong is None else f"{score.strong:.2f}"
        table.add_row(Text(score.way), Text(shown_score(score)), Text(strong))
    return table


def _histogram(database: FeatureDatabase, latent: int) -> Text:
    edges, counts = database.histogram(latent)
    highest = max(int(counts.max()), 1)
    bars = "".join(" " if count == 0 else BARS[min(7, int(8 * count / highest))] for count in counts)
    text = Text("\nActivations when it fires  ", style="bold")
    text.append(f"{activation_text(float(edges[0]))} ▏{bars}▕ {activation_text(float(edges[-1]))}", style="not bold")
    levels, values = database.quantiles(latent)
    chosen = [(q, v) for q, v in zip(levels, values, strict=True) if q in (0.25, 0.5, 0.75)]
    if chosen:
        text.append("   quartiles " + " · ".join(activation_text(float(v)) for _, v in chosen), style="not bold dim")
    return text


def _outputs(database: FeatureDatabase, latent: int) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_row("", "")
    for name, tokens in zip(("Raises", "Lowers"), database.output_tokens(latent), strict=True):
        listed = [f"{quoted(database.tokens.text(i))} {signed(value)}" for i, value in tokens[:8]]
        lines = ["   ".join(listed[i : i + 4]) for i in range(0, len(listed), 4)]
        table.add_row(Text(name, style="bold"), Text("\n".join(lines) or "–"))
    return table


def _neighbours(database: FeatureDatabase, latent: int) -> Table:
    table = Table.grid(padding=(0, 1))
    names = {"decoder": "Nearest directions", "coactivation": "Fire together"}
    for kind, found in neighbours(database, latent).items():
        listed = "\n".join(_neighbour(other) for other in found[:5])
        table.add_row(Text(names.get(kind, kind), style="bold"), Text(listed or "–", overflow="ellipsis", no_wrap=True))
    return table


def _neighbour(other: Neighbour) -> str:
    return f"{signed(other.value)}  {other.latent}  {other.label}"


def _examples(found: list[Excerpt], maximum: float) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for one in found:
        table.add_row(Text(activation_text(one.value), style="bold"), context_text(one, maximum))
    return table


def context_text(one: Excerpt, maximum: float) -> Text:
    """A context as one line of shaded tokens; reads the same without colour. Runs of spaces are shortened to one."""
    text = Text("…" if one.cut[0] else "")
    for i, piece in enumerate(one.pieces):
        shade = level(one.activations[i], maximum)
        shown, firing = re.sub(" +", " ", visible(piece)), one.activations[i] > 0
        core = shown.lstrip(" ")
        lead = " " if len(core) < len(shown) else ""
        if firing and not core:  # a token of spaces alone would not be seen
            lead, core = "", "␣"
        if i == one.peak and one.value > 0:
            core = f"«{core}»"
        text.append(lead)
        if shade:
            ink = "#0b1220" if shade <= 5 else "#ffffff"
            text.append(core, style=f"{ink} on {SHADES[shade - 1]}")
            text.append(DIGITS[shade], style="dim")
        else:
            text.append(core, style="dim" if one.special[i] else "")
    if one.cut[1]:
        text.append("…")
    if one.source:
        text.append(f"  ({one.source})", style="dim italic")
    return text


def _legend() -> Text:
    words = "«peak»; small digits: activation in ninths of the latent's maximum; ↵ line break, ␣ space"
    return Text(f"\n{words}", style="dim")
