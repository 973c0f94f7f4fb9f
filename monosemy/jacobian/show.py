"""Studies of pairs as tables and texts in the terminal.

Place on the path: rows of studies.py and pairs.py → [rich renderables] → standard output.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

_PLAIN_WIDTH = 160
_LEVELS = ("", "on color(194)", "on color(157)", "on color(120)", "on color(83)")
"""Backgrounds from weak to strong; the text is black on them."""


def frontier_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line a pair: what it explains, what it costs, how sparse its Jacobian is."""
    headings = ["λ", "L0", "seed", "VE in", "VE out", "CE in", "CE out", "CE cost", "|J|>.01", "÷", "scaled >.1", "÷",
                "90% in", "kurtosis", "linear+flat", "abl. ρ", "R²"]  # fmt: skip
    table = _table("Pairs: λ against what is explained and how sparse the Jacobian is", headings)
    for row in rows:
        found, reduction = row["estimates"], row["reduction"]
        table.add_row(
            f"{row['lambda']:g}", f"{row['l0']:g}", str(row["seed"]),
            number(row["variance_explained_in"]), number(row["variance_explained_out"]),
            number(row["ce_score_in"]), number(row["ce_score_out"]), number({"value": row["ce_cost"]}),
            percent(found["over_0.01"]), factor(reduction.get("over_0.01")),
            percent(found["scaled_over_0.1"]), factor(reduction.get("scaled_over_0.1")),
            percent(found["share_of_90"]), number(found["kurtosis"], 1),
            percent(row["linearity"].get("linear_or_flat", {"value": None})),
            number(row["ablation"]["rank_correlation"]), number(row["ablation"]["r_squared"]),
        )  # fmt: skip
    return table


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Trained against randomised models at matched variance explained."""
    headings = ["random model", "λ", "VE", "its L0", "matched"]
    headings += ["|J|>.01 trained", "random", "scaled >.1 trained", "random", "90% in, trained", "random"]
    headings += ["kurtosis trained", "random"]
    table = _table("Trained against randomised, at the same variance explained", headings)
    for row in rows:
        shares = [
            percent(row["measures"][name][side])
            for name in ("over_0.01", "scaled_over_0.1", "share_of_90")
            for side in ("trained", "random")
        ]
        kurtoses = [number(row["measures"]["kurtosis"][side], 1) for side in ("trained", "random")]
        levels = " to ".join(f"{l0:g}" for l0 in row["l0_random"])
        table.add_row(
            row["kind"], f"{row['lambda']:g}", f"{row['variance_explained']:.3f}", levels,
            "yes" if row["matched"] else f"no: {row['variance_explained_random']:.3f}", *shares, *kurtoses,
        )  # fmt: skip
    return table


def scores_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Label scores of latents, one line a SAE."""
    headings = ["λ", "site", "scored", "label AUROC", "> .8", "with hidden state", "> .8", "top token alone"]
    table = _table("How well automatic labels tell where latents fire (held-out AUROC)", headings)
    for row in rows:
        table.add_row(
            f"{row['lambda']:g}", row["site"], str(row["n_label"]), number(row["label_auroc"]),
            percent(row["label_good"]), number(row["combined_auroc"]), percent(row["combined_good"]),
            number(row["top_token_auroc"]),
        )  # fmt: skip
    return table


def pairs_page(document: Mapping[str, Any], n_examples: int = 2) -> RenderableType:
    """Output latents, their strongest inputs, and texts coloured by the input latent's activation."""
    parts: list[RenderableType] = []
    for output in document["outputs"]:
        parts.append(Text(f"\noutput latent {output['latent']}{_label(output)}", style="bold"))
        for one in output["inputs"]:
            parts.append(
                Text(
                    f"  ← input latent {one['latent']}{_label(one)}: {one['share']:.0%} of its effect, mean |J| s "
                    f"{one['mean_effect']:.2g}, both active on {one['n_tokens']} tokens"
                )
            )
            parts += [_context(example) for example in one["examples"][:n_examples]]
    return Group(*parts)


def _label(one: Mapping[str, Any]) -> str:
    return f" “{one['label']}”" if one.get("label") else ""


def _context(example: Mapping[str, Any]) -> Text:
    """The tokens, shaded by s_j; the token of the hit underlined."""
    line = Text(f"      J s = {example['effect']:+.2f}  ", style="dim")
    top = max(example["in_values"]) or 1.0
    for place, (token, value) in enumerate(zip(example["tokens"], example["in_values"], strict=True)):
        level = round(value / top * (len(_LEVELS) - 1))
        style = f"black {_LEVELS[level]}" if level else ""
        if place == example["at"]:
            style += " underline bold"
        line.append(token.replace("\n", "⏎"), style=style.strip() or "not dim")
    return line


def number(estimate: Mapping[str, Any], decimals: int = 3) -> str:
    return "–" if estimate["value"] is None else f"{estimate['value']:.{decimals}f}"


def percent(estimate: Mapping[str, Any]) -> str:
    """`6.2% [5.9, 6.4]`."""
    if estimate["value"] is None:
        return "–"
    ends = estimate.get("interval")
    shown = f"{100 * estimate['value']:.3g}%"
    return shown if not ends else f"{shown} [{100 * ends[0]:.3g}, {100 * ends[1]:.3g}]"


def factor(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}×"


def _table(title: str, headings: Iterable[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE, title_justify="left", pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def show(page: RenderableType) -> None:
    """To standard output; wide and without colour where that is no terminal."""
    if sys.stdout.isatty():
        Console(highlight=False).print(page)
        return
    console = Console(file=sys.stdout, width=_PLAIN_WIDTH, highlight=False)
    with console.capture() as captured:
        console.print(page)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))
