"""The tables of README.md, from the records in results/."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research.frontier import short
from research.frontier.run import oriented, paired_table, table
from research.markdown import interval, markdown

Record = Mapping[str, Any]


SITES = ("layers.4.resid_post", "layers.24.resid_post", "layers.12.attn_heads", "layers.12.mlp_out")
PUBLISHED = {"jumprelu": ("3.3%", "3.9%", "6.0%"), "batch_topk": ("1.4%", "1.7%", "2.6%")}
"""By how much 1 − variance explained is below TopK's in the paper on JumpReLU SAEs (arXiv 2407.14435)."""


def tables(records: Mapping[str, Record]) -> dict[str, str]:
    record = records["frontier"]
    sites = record["sites"]
    middle = sites["layers.12.resid_post"]
    return {
        "middle": "\n".join(table(middle["points"])),
        "middle-paired": "\n".join(paired_table(middle["paired"])),
        "sites": four_sites(sites),
        "sites-paired": four_sites_paired(sites),
        "published": against_published(middle["paired"]),
        "statements": statements(middle, records["demo"]),
        "demo": "\n".join(table([point | {"seeds": [0]} for point in records["demo"]["points"]])),
        "frequency": frequency_table(records["frequency"]),
        "families": families_table(records["families"]),
    }


def statements(long: Record, demo: Record) -> str:
    """Where each statement of the study holds, in its runs and in the demo."""
    holds = [short.holds(site) for site in (long, demo)]
    rows = [[name, *(where(here[name], long["paired"]) for here in holds)] for name in short.STATEMENTS]
    return markdown(["", "longer runs", "the demo"], rows)


def where(levels: list[str], levels_of_study: Record) -> str:
    if len(levels) == len(levels_of_study):
        return "yes"
    return f"at L0 {', '.join(levels)} only" if levels else "no"


def four_sites(sites: Record) -> str:
    """The rows of every site, without the columns of the asked L0 and of the seeds."""
    rows = []
    for site in SITES:
        for i, line in enumerate(table(sites[site]["points"])[2:]):
            _, name, _, *values = (cell.strip() for cell in line.strip("|").split("|"))
            rows.append([f"`{site}`" if i == 0 else "", name, *values])
    return markdown(("site", "dictionary", "L0", "FVU", "Δ loss", "recovered", "γ", "dead %", ">10% %"), rows)


def four_sites_paired(sites: Record) -> str:
    columns = [[line.strip("| ").split(" | ") for line in paired_table(sites[site]["paired"])[2:]] for site in SITES]
    rows = [[cells[0][0], *(row[1] for row in cells)] for cells in zip(*columns, strict=True)]
    return markdown(["", *(f"`{site}`" for site in SITES)], rows)


def against_published(paired: Record) -> str:
    """FVU of JumpReLU and BatchTopK below TopK's, in per cent, with the published figures of another model."""
    rows = []
    for name, published in PUBLISHED.items():
        own = []
        for both in paired.values():
            cells = (oriented(row, True) for row in both["fvu_ratio_minus_1"])
            (estimate,) = (value for first, second, value, *_ in cells if (first, second) == (name, "topk"))
            own.append(f"{-estimate:.1f}%")
        rows.append([name, *own, ", ".join(published)])
    heads = [f"below TopK at L0 {l0}" for l0 in paired]
    return markdown(["", *heads, "published: Gemma-2-2B, 16k latents, 500M tokens, L0 20, 40, 80"], rows)


def frequency_table(record: Record) -> str:
    """JumpReLU by the weight of its penalty on frequent latents, below BatchTopK at the same L0."""
    rows = []
    for row in record["rows"]:
        change, low, high = (100 * value for value in row.get("against", (0, 0, 0)))
        against = f"{change:+.1f}% [{low:+.1f}, {high:+.1f}]" if "against" in row else ""
        coef = f"{row['coef']:g}" if "against" in row else ""
        over = f"{100 * row['over_10pct_fraction']:.1f}"
        rows.append([f"{row['asked']:g}", row["kind"], coef, f"{row['l0']:.1f}", f"{row['fvu']:.4f}", against, over])
    heads = ("asked L0", "architecture", "weight of the penalty", "L0", "FVU", "FVU against batch_topk", ">10% %")
    return markdown(heads, rows)


def families_table(record: Record) -> str:
    """FVU and dead share of every architecture on each of the small models, and JumpReLU against the best other one."""
    kinds = ("jumprelu", "gated", "batch_topk", "topk", "relu")
    rows = []
    for row in record["rows"]:
        change, *ends = row["against"]
        against = f"{interval(change, ends, '+.1f', 100)} ({row['best']})"
        misses = [abs(row["of"][kind][0] / row["l0"] - 1) for kind in kinds]
        cells = [f"{row['of'][kind][1]:.3f}, {100 * row['of'][kind][2]:.1f}" for kind in kinds]
        place = [row["family"], row["tokens"], f"{row['l0']:g}"]
        rows.append([*place, f"{100 * max(misses):.1f}", *cells, against])
    measures = [f"{kind}: FVU, dead %" for kind in kinds]
    heads = (
        "model",
        "tokens",
        "asked L0",
        "largest miss of L0 %",
        *measures,
        "jumprelu's FVU against the best other, %",
    )
    return markdown(heads, rows)
