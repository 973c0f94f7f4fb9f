"""The tables of README.md, from results/stability.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research.markdown import CONTROLS, bare, interval, markdown

Record = Mapping[str, Any]


def tables(records: Mapping[str, Record]) -> dict[str, str]:
    record = records["stability"]
    return {"twins": twin_table(record), "by-rate": rate_table(record["architectures"])}


def twin_table(record: Record) -> str:
    rows = []
    for name in ("relu", "gated", "topk", "jumprelu", "batch_topk", "frozen_random"):
        estimates = record["architectures"][name]
        share = estimates["share_0.7"]
        others = [estimates[measure]["mean"] for measure in ("share_0.9", "mutual_0.7", "one_to_one_0.7", "cosine")]
        if name == "frozen_random":
            rows.append([CONTROLS[name], f"{share['mean']:.0f}", "one pair", *(f"{v:.3g}" for v in others), ""])
            continue
        chance = record["chance"][name]
        pairs = " ".join(map(bare, share["by_pair"]))
        cells = [interval(share["mean"], share["interval_latents"]), pairs, *(f"{v:.3f}" for v in others)]
        rows.append([name, *cells, f"{chance['share_0.7']['mean']:.0f}, {chance['cosine']['mean']:.3f}"])
    header = ["", "≥ 0.7", "the three pairs", "≥ 0.9", "mutual, ≥ 0.7", "one to one, ≥ 0.7", "mean cosine"]
    return markdown([*header, "chance: ≥ 0.7, mean cosine"], rows)


def rate_table(architectures: Record) -> str:
    """Share with a twin by fifths of the firing rate, the rarest first."""
    rows = [
        [name, *(bare(fifth["share_0.7"]) for fifth in architectures[name]["by_rate"])]
        for name in ("relu", "gated", "topk", "jumprelu", "batch_topk")
    ]
    return markdown(["≥ 0.7, by fifths of the firing rate", "rarest", "2nd", "3rd", "4th", "most frequent"], rows)
