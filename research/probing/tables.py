"""The tables of README.md, from results/probing.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research.markdown import bare, interval, markdown, minus

Record = Mapping[str, Any]


def tables(records: Mapping[str, Record]) -> dict[str, str]:
    record = records["probing"]
    return {"accuracy": accuracy_table(record), "leads": lead_table(record["rules"])}


def accuracy_table(record: Record) -> str:
    families = [*record["families"], "all"]
    titles = {
        "residual": "residual channels",
        "pca": "PCA",
        "frozen_random": "frozen random",
        "random": "random latents",
    }
    rows = []
    for name, estimates in record["rules"][record["shown_rule"]]["summary"].items():
        cells = [" ".join(bare(estimates[family][n]["mean"]) for n in ("1", "2", "5")) for family in families]
        low, high = estimates["all"]["5"]["interval"]
        rows.append([titles.get(name, name), *cells, f"[{bare(low)}, {bare(high)}]"])
    full = record["full_probe"]
    low, high = full["all"]["interval"]
    last = f"{bare(full['all']['mean'])} [{bare(low)}, {bare(high)}]"
    rows.append(["full logistic probe", *(bare(full[family]["mean"]) for family in families[:-1]), "", last])
    return markdown(["1 / 2 / 5 features", *families[:-1], "all (mean of families)", "5, interval"], rows)


def lead_table(rules: Record) -> str:
    """How much more a SAE's features tell than as many residual channels, by both rules of choosing features."""
    titles = {"difference": "by class means", "standardised": "by standard deviations"}
    columns: dict[str, dict[str, str]] = {}
    for rule, title in titles.items():
        for k, differences in rules[rule]["differences"].items():
            name = f"{title}, {k} feature{'s' if k != '1' else ''}"
            columns[name] = {
                row["first"]: minus(interval(row["estimate"], (row["low"], row["high"]), "+.3f"))
                for row in differences["controls"]
                if row["second"] == "residual"
            }
    names = ("topk", "batch_topk", "jumprelu", "relu", "gated")
    return markdown(["", *columns], [[name, *(column[name] for column in columns.values())] for name in names])
