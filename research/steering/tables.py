"""The tables of docs/steering.md, from results/steering.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research.markdown import interval, markdown

Record = Mapping[str, Any]


def tables(records: Mapping[str, Record]) -> dict[str, str]:
    record = records["steering"]
    tables = {"topic": wish_table(record["topic"]["judged"], "mentions the topic")}
    for kind in ("technical", "plain"):
        tables[kind] = wish_table(record["tone"][kind]["judged"], "words of three and more syllables")
    return tables | {"bias": bias_table(record["bias"]["changed"])}


def bias_table(changed: Record) -> str:
    rows = []
    for n, case in changed.items():
        silenced = sum(factor == 0 for _, factor in case["changes"])
        gap, cost = case["judged"]["gap"], case["cost"]
        random = case["random"]
        rows.append(
            [
                f"{n} ({silenced} silenced, {int(n) - silenced} tripled)",
                interval(gap["mean"], gap["interval"], ".2f"),
                ", ".join(f"{control['judged']['gap']['mean']:.2f}" for control in random),
                interval(cost["loss_change"], cost["interval"], "+.3f"),
                ", ".join(f"{control['cost']['loss_change']:+.3f}" for control in random),
            ]
        )
    return markdown(["latents changed", "gap, nats", "random latents instead", "loss, nats per token", "random"], rows)


def wish_table(judged: Record, score: str) -> str:
    rows = []
    for name, summary in judged.items():
        cells = [
            interval(summary[measure]["mean"], summary[measure]["interval"], *how)
            for measure, how in (
                ("score", (".0f", 100)),
                ("fluent", (".0f", 100)),
                ("perplexity", (".1f",)),
                ("distinct_2", (".0f", 100)),
            )
        ]
        rows.append([name.replace("random ", "random latent "), *cells])
    return markdown(["", score, "fluent", "perplexity", "distinct pairs"], rows)
