"""A latent's page in the terminal: `monosemy show RUN LATENT`.

Place on the data's path: a reader of the feature database. Shades of one colour show how strongly the latent fires on a
token. The page can be read without colour too: a small digit behind a token is the activation in ninths of the latent's
maximum (₉ is the strongest), and the peak stands in «marks», with its value at the start of the line. Rich leaves out
colours when the output is not a terminal or NO_COLOR is set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from monosemy.features.store.database import FeatureDatabase
from monosemy.features.view.excerpt import Excerpt, by_group, excerpt, level, quoted
from monosemy.features.view.facts import (
    Neighbour,
    built_from,
    column_text,
    explanation,
    fired,
    hints,
    neighbours,
    score_text,
    scored_on,
    scores,
    stats,
    title,
)
from monosemy.features.view.words import GROUPS, Words, words_of
from monosemy.support.numbers import activation_text, fixed_text, signed_text
from monosemy.support.visible import visible

SHADES = ("#dbe7fb", "#c3d7f8", "#a9c6f5", "#8fb4f1", "#759fec", "#5b8ae6", "#4375dd", "#2f61cf", "#1d4db8")
"""Backgrounds of levels 1 to 9: one hue, from light to dark."""
DIGITS = "₀₁₂₃₄₅₆₇₈₉"
BARS = "▁▂▃▄▅▆▇█"


def latent_page(
    database: FeatureDatabase, latent: int, *, n: int = 6, groups: Sequence[str] = tuple(GROUPS), whole: bool = False
) -> Group:
    """The whole page of a latent, which rich can print.

    It shows at most `n` of the strongest examples and a third as many of every other group (`n` if only one group is
    asked for). `groups` are the groups of examples in the order to show them; `whole` leaves contexts uncut.
    """
    parts: list[Text | Table | Padding] = [_head(database, latent)]
    if fired(database, latent):
        parts += [_histogram(database, latent)]
    parts.append(_scores(database, latent))
    if not database.of_rows:
        parts.append(_outputs(database, latent))
    parts.append(_neighbours(database, latent))
    maximum = stats(database, latent).get("max") or 0.0
    words = words_of(database.info)
    examples = by_group(database, latent, groups)
    for group, group_examples in examples.items():
        # -(-n // 3) is n / 3 rounded up
        first_examples = group_examples[: n if group == "top" or len(groups) == 1 else -(-n // 3)]
        parts.append(Text(f"\n{words.groups[group]}", style="bold"))
        cut = (None, None) if whole else (24, 10)
        excerpts = [excerpt(database, example, *cut) for example in first_examples]
        parts.append(_rows(excerpts) if database.of_rows else _examples(excerpts, maximum))
    if examples:
        parts.append(Text(f"\n{words.legend}", style="dim"))
    return Group(*parts)


def _head(database: FeatureDatabase, latent: int) -> Text:
    info, values, label = database.info, stats(database, latent), database.label(latent)
    text = Text(f"{info['site']}/{info['name']} · latent {latent}\n", style="dim")
    text.append(f"{title(database, latent)}\n", style="bold")
    if remarks := hints(database, latent):
        text.append(f"{'; '.join(remarks)}\n")
    if explanation_text := explanation(label):
        text.append(f"a chat model's explanation: {explanation_text}\n", style="italic")
    if fired(database, latent):
        text.append(_firing(values, words_of(info)))
    text.append(f"measured on {built_from(info)}", style="dim")
    return text


def _firing(values: Mapping[str, float | None], words: Words) -> str:
    """Two lines that say when the latent fires; numbers that were not measured are left out."""
    lines = (
        (("firing_rate", "fires on"), ("n_fired", "in all"), ("mean", "mean"), ("max", "maximum")),
        (("first_share", "first token of a document"), ("last_share", "last"), ("token_entropy", "token at its peaks")),
    )
    text_lines = [
        " · ".join(
            f"{heading} {column_text(name, values[name], words)}"
            for name, heading in line
            if values.get(name) is not None
        )
        for line in lines
    ]
    return "".join(f"{line}\n" for line in text_lines if line)


def _scores(database: FeatureDatabase, latent: int) -> Table:
    """A table with one row per score."""
    table = Table.grid(padding=(0, 1))
    measured = scores(database, latent)
    if measured:
        table.add_row(
            Text(f"\nTold from{scored_on(measured, words_of(database.info))}", style="bold"),
            Text("\nAUROC (95%)"),
            Text("\nstrongest quarter"),
        )
    for score in measured:
        strong = "–" if score.strong is None else fixed_text(score.strong, 2)
        table.add_row(Text(score.way), Text(score_text(score)), Text(strong))
    return table


def _histogram(database: FeatureDatabase, latent: int) -> Text:
    edges, counts = database.histogram(latent)
    highest = max(int(counts.max()), 1)
    bars = "".join(" " if count == 0 else BARS[min(7, int(8 * count / highest))] for count in counts)
    text = Text("\nActivations when it fires  ", style="bold")
    text.append(f"{activation_text(float(edges[0]))} ▏{bars}▕ {activation_text(float(edges[-1]))}", style="not bold")
    levels, values = database.quantiles(latent)
    # levels are float32, in which 0.25, 0.5 and 0.75 are exact
    quartiles = [(q, v) for q, v in zip(levels, values, strict=True) if q in (0.25, 0.5, 0.75)]
    if quartiles:
        text.append("   quartiles " + " · ".join(activation_text(float(v)) for _, v in quartiles), style="not bold dim")
    return text


def _outputs(database: FeatureDatabase, latent: int) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_row("", "")
    for name, tokens in zip(("Raises", "Lowers"), database.output_tokens(latent), strict=True):
        token_texts = [f"{quoted(database.tokens.text(i))} {signed_text(value)}" for i, value in tokens[:8]]
        lines = ["   ".join(token_texts[i : i + 4]) for i in range(0, len(token_texts), 4)]
        table.add_row(Text(name, style="bold"), Text("\n".join(lines) or "–"))
    return table


def _neighbours(database: FeatureDatabase, latent: int) -> Table:
    table = Table.grid(padding=(0, 1))
    names = {"decoder": "Nearest directions", "coactivation": "Fire together"}
    for kind, pairs in neighbours(database, latent).items():
        text = "\n".join(_neighbour(neighbour) for neighbour in pairs[:5])
        table.add_row(Text(names.get(kind, kind), style="bold"), Text(text or "–", overflow="ellipsis", no_wrap=True))
    return table


def _neighbour(neighbour: Neighbour) -> str:
    return f"{signed_text(neighbour.value)}  {neighbour.latent}  {neighbour.label}"


def _examples(excerpts: list[Excerpt], maximum: float) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for item in excerpts:
        table.add_row(Text(activation_text(item.value), style="bold"), context_text(item, maximum))
    return table


def _rows(excerpts: list[Excerpt]) -> Table:
    """Rows that stand in no text, each with its activation."""
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for item in excerpts:
        text = Text("".join(visible(piece) for piece in item.pieces))
        if item.source:
            text.append(f"  ({item.source})", style="dim italic")
        table.add_row(Text(activation_text(item.value), style="bold"), text)
    return table


def context_text(excerpt: Excerpt, maximum: float) -> Text:
    """A context as one line of shaded tokens, readable without colour. Runs of spaces are shortened to one."""
    text = Text("…" if excerpt.cut[0] else "")
    for i, piece in enumerate(excerpt.pieces):
        shade = level(excerpt.activations[i], maximum)
        text_of_piece, firing = re.sub(" +", " ", visible(piece)), excerpt.activations[i] > 0
        core = text_of_piece.lstrip(" ")
        lead = " " if len(core) < len(text_of_piece) else ""
        if firing and not core:  # a token of spaces alone would be invisible
            lead, core = "", "␣"
        if i == excerpt.peak and excerpt.value > 0:
            core = f"«{core}»"
        text.append(lead)
        if shade:
            ink = "#0b1220" if shade <= 5 else "#ffffff"
            text.append(core, style=f"{ink} on {SHADES[shade - 1]}")
            text.append(DIGITS[shade], style="dim")
        else:
            text.append(core, style="dim" if excerpt.special[i] else "")
    if excerpt.cut[1]:
        text.append("…")
    if excerpt.source:
        text.append(f"  ({excerpt.source})", style="dim italic")
    return text
