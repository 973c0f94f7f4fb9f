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
    return tables | {"bias": bias_table(record["bias"]["changed"]), "ablation": ablation_table(records["ablation"])}


def ablation_table(record: Record) -> str:
    """How often each behaviour comes, per cent of the judged prompts, unsteered, silenced, and with random latents."""
    rows = []
    for name, row in record["behaviours"].items():
        random = ", ".join(f"{100 * control['mean']:.0f}" for control in row["random"])
        latents = "; ".join(f"{entry['latent']} ({entry['label'] or 'no label'})" for entry in row["latents"])
        cells = [interval(row[when]["mean"], row[when]["interval"], ".0f", 100) for when in ("before", "after")]
        fluent = " → ".join(f"{100 * share:.0f}" for share in row["fluent"])
        rows.append([name, latents, *cells, random, fluent])
    heads = ["what the model does", "latents silenced", "unsteered", "silenced", "random latents", "fluent"]
    return markdown(heads, rows)


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
