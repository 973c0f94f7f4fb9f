"""Shows studies of pairs as tables and texts in the terminal.

Place on the path: rows of frontier.py and strongest_pairs.py → [rich renderables] → standard output.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from monosemy.circuits.jacobian.frontier import short_notes
from monosemy.support.numbers import (
    DASH,
    count_text,
    fixed_percent_text,
    fixed_text,
    percent_margin_text,
    setting_text,
    value_text,
)
from monosemy.support.visible import visible

_PLAIN_WIDTH = 160
MEASURES = (("over_0.01", "|J|>.01"), ("scaled_over_0.1", ">.1 RMS"), ("share_of_90", "90% in"))
"""The measures that the terminal compares, with their headings."""
_LEVELS = ("", "on color(194)", "on color(157)", "on color(120)", "on color(83)")
"""Background styles from weak to strong; the text on them is black."""


def frontier_tables(rows: Sequence[Mapping[str, Any]]) -> Group:
    """Three tables with one line per pair: what it explains and costs, how sparse its Jacobian is, how it behaves."""
    headings = ["λ", "L0", "seed", "VE in", "VE out", "CE in", "CE out", "CE cost"]
    first = _table("Pairs: variance explained, CE score (loss recovered) and what it costs", headings)
    headings = ["λ", "L0", "seed", "|J|>.01", "fewer by", ">.1 RMS", "fewer by", "90% in"]
    second = _table("Share of the elements of J between active latents, against λ = 0", headings)
    headings = ["λ", "L0", "seed", "kurtosis", "linear", "jump", "flat", "other", "ablation ρ", "R²", "pairs > .01"]
    third = _table(
        "Their Jacobian: shapes of curves, J·s against ablation, averages over all pairs of latents", headings
    )
    for row in rows:
        estimates, fewer, shapes = row["estimates"], row["reduction"], row["linearity"]
        pair_cells = (setting_text(row["lambda"]), setting_text(row["l0"]), str(row["seed"]))
        sides = ("variance_explained_in", "variance_explained_out", "ce_score_in", "ce_score_out")
        first.add_row(*pair_cells, *(number(row[side]) for side in sides), spanned(row["ce_cost"]))
        second.add_row(
            *pair_cells,
            percent(estimates["over_0.01"]),
            factor(fewer.get("over_0.01")),
            percent(estimates["scaled_over_0.1"]),
            factor(fewer.get("scaled_over_0.1")),
            percent(estimates["share_of_90"]),
        )
        third.add_row(
            *pair_cells,
            number(estimates["kurtosis"], 1),
            *(percent(shapes[shape]) for shape in ("linear", "jumprelu", "flat", "other")),
            number(row["ablation"]["rank_correlation"]),
            number(row["ablation"]["r_squared"]),
            percent(row["average_over"]["0.01"]),
        )
    return Group(first, second, third, *(Text(note) for note in short_notes(rows)))


def comparison_tables(rows: Sequence[Mapping[str, Any]]) -> Group:
    """Trained against randomised models at matched variance explained: the match, the measures, the reductions."""
    headings = ["random model", "λ", "its L0", "matched", "VE in", "random", "VE out", "random"]
    first = _table("Trained against randomised, matched on the mean variance explained (VE) of both SAEs", headings)
    headings = ["random model", "λ", "matched", "measure", "trained", "random", ""]
    second = _table("The same measures, one random draw and one seed each", headings)
    headings = ["random model", "λ", "matched", "times fewer than at λ = 0", "trained", "random", ""]
    third = _table("What the penalty does to each", headings)
    for row in rows:
        model_cells = (row["kind"], setting_text(row["lambda"]))
        sides = [row["explained"][side] for side in ("in", "out")]
        levels = " to ".join(setting_text(l0) for l0 in row["l0_random"])
        matched = "yes" if row["matched"] else f"no: {fixed_text(row['variance_explained'], 3)}, {_random_ve(row)}"
        first.add_row(
            *model_cells,
            levels,
            matched,
            *(fixed_text(measure[model], 3) for measure in sides for model in ("trained", "random")),
        )
        matched_text = "yes" if row["matched"] else "no"
        for name, heading in (*MEASURES, ("kurtosis", "kurtosis")):
            measure = row["measures"][name]
            values = [
                number(measure[model], 1) if name == "kurtosis" else percent(measure[model])
                for model in ("trained", "random")
            ]
            second.add_row(*model_cells, matched_text, heading, *values, measure["verdict"])
        matched_at_both = "yes" if row["reduction_matched"] else "no"
        for name, heading in MEASURES if row["lambda"] > 0 and row["reduction"] else ():
            measure = row["reduction"][name]
            # Reductions: the model with the smaller factor is "below", so the other one's measure falls more.
            falls_more = {"trained below": "random falls more", "random below": "trained falls more"}
            third.add_row(
                *model_cells,
                matched_at_both,
                heading,
                *(factor(measure[model]) for model in ("trained", "random")),
                falls_more.get(measure["verdict"], measure["verdict"]),
            )
    return Group(first, second, third)


def _random_ve(row: Mapping[str, Any]) -> str:
    return f"random {fixed_text(row['variance_explained_random'], 3)}"


def scores_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Label scores of latents, one line per SAE."""
    headings = ["λ", "site", "scored", "label AUROC", "> .8", "with hidden state", "> .8", "top token alone"]
    table = _table("How well automatic labels tell where latents fire (held-out AUROC)", headings)
    for row in rows:
        table.add_row(
            setting_text(row["lambda"]),
            row["site"],
            str(row["n_label"]),
            number(row["label_auroc"]),
            percent(row["label_good"]),
            number(row["combined_auroc"]),
            percent(row["combined_good"]),
            number(row["top_token_auroc"]),
        )
    return table


def pairs_page(document: Mapping[str, Any], n_examples: int = 2) -> RenderableType:
    """Output latents with their strongest input latents, and texts coloured by the input latent's activation."""
    extent = (
        f"averaged over {count_text(document['n_average_tokens'])} training tokens, "
        f"texts out of {count_text(document['n_tokens'])}"
    )
    parts: list[RenderableType] = [Text(f"{document['name']}: {extent}", style="dim")]
    for output in document["outputs"]:
        parts.append(Text(f"\noutput latent {output['latent']}{_label(output)}", style="bold"))
        for record in output["inputs"]:
            parts.append(
                Text(
                    f"  ← input latent {record['latent']}, {fixed_percent_text(record['share'])} of its effect, both "
                    f"active on {record['n_tokens']} of them{_label(record)}"
                )
            )
            parts += [_context(example) for example in record["examples"][:n_examples]]
    return Group(*parts)


def _label(record: Mapping[str, Any]) -> str:
    return f": {record['label']}" if record.get("label") else ""


def _context(example: Mapping[str, Any]) -> Text:
    """The tokens of an example, shaded by s_j, with the token of the hit underlined."""
    line = Text(f"      J s = {fixed_text(example['effect'], 2, signed=True)}  ", style="dim")
    top = max(example["in_values"]) or 1.0
    for place, (token, value) in enumerate(zip(example["tokens"], example["in_values"], strict=True)):
        level = round(value / top * (len(_LEVELS) - 1))
        style = f"black {_LEVELS[level]}" if level else ""
        if place == example["at"]:
            style += " underline bold"
        line.append(visible(token), style=style.strip() or "not dim")
    return line


def number(estimate: Mapping[str, Any], decimals: int = 3) -> str:
    """The value alone; a dash where it is not known."""
    return value_text(estimate["value"], decimals=decimals)


def percent(estimate: Mapping[str, Any]) -> str:
    """The value as a percentage with half the width of its interval, such as `6.2 ±0.2%`."""
    return percent_margin_text(estimate["value"], estimate.get("interval"))


def spanned(estimate: Mapping[str, Any], decimals: int = 3) -> str:
    """The value with its interval, such as `0.012 [0.009, 0.016]`."""
    return value_text(estimate["value"], estimate.get("interval"), decimals=decimals)


def factor(estimate: Mapping[str, Any] | None) -> str:
    """A factor with its interval, such as `4.1× [3.8, 4.4]`."""
    return value_text(estimate["value"], estimate.get("interval"), digits=2, unit="×") if estimate else DASH


def _table(title: str, headings: Iterable[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE, title_justify="left", pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def show(page: RenderableType) -> None:
    """Prints a page to standard output; wide and without colour where that is not a terminal.

    Tables are never cut: where the terminal is too narrow for one, its lines wrap.
    """
    if sys.stdout.isatty():
        console = Console(highlight=False)
        console.width = max(console.width, needed_width(page))
        console.print(page)
        return
    # Rich pads lines to the full width; captured, they can be stripped.
    console = Console(file=sys.stdout, width=max(_PLAIN_WIDTH, needed_width(page)), highlight=False)
    with console.capture() as captured:
        console.print(page)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def needed_width(page: RenderableType) -> int:
    """The width of the widest table on the page, in characters."""
    if isinstance(page, Group):
        return max((needed_width(part) for part in page.renderables), default=0)
    if not isinstance(page, Table):
        return 0
    console = Console(width=10_000)
    return console.measure(page).maximum
