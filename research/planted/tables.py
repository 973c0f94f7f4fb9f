"""The tables of README.md, from results/groups.json, results/scale.json, results/kinds.json and
results/nested.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research.markdown import markdown
from research.planted import nested
from research.planted.scale import table

Record = Mapping[str, Any]


def tables(records: Mapping[str, Record]) -> dict[str, str]:
    groups, scale = records["groups"], records["scale"]
    sizes = {name: scale[name] for name in ("small", "large")}
    return {
        "groups": groups_table(groups["results"]),
        **{name: table(size) for name, size in sizes.items()},
        "l0-choice": choice_table(sizes),
        "kinds": kinds_table(records["kinds"]["results"]),
        "nested": nested.table(records["nested"]["results"]),
    }


def kinds_table(results: Record) -> str:
    """The recipe now, and before where it was measured, by kind of data, length and architecture: means over seeds."""
    before, after = results["before"], results["after"]

    def cells(scores: list[Record]) -> list[str]:
        means = {key: sum(score[key] for score in scores) / len(scores) for key in ("dead", "fvu", "mcc", "f1")}
        return [f"{100 * means['dead']:.1f}", f"{means['fvu']:.3f}", f"{means['mcc']:.3f}", f"{means['f1']:.2f}"]

    rows = []
    for kind in ("even", "hierarchical", "dominated"):
        for n_rows in sorted(after, key=int):
            for architecture, scores in after[n_rows].get(kind, {}).items():
                earlier = before.get(n_rows, {}).get(kind, {}).get(architecture)
                old = cells(earlier) if earlier else [""] * 4
                rows.append([kind, f"{int(n_rows):,}", architecture, *old, *cells(scores)])
    measured = ["dead %", "FVU", "MCC", "F1"]
    columns = [f"{when} {name}" for when in ("before:", "now:") for name in measured]
    return markdown(["data", "rows", "dictionary", *columns], rows)


def groups_table(results: Record) -> str:
    def cells(name: str) -> list[str]:
        cosines = [score["mean_max_cosine"] for score in results[name]]
        f1 = sum(score["f1"] for score in results[name]) / len(cosines)
        return [f"{sum(cosines) / len(cosines):.3f} ({min(cosines):.3f}–{max(cosines):.3f})", f"{f1:.3f}"]

    order = ("gated", "jumprelu", "batch_topk", "topk", "relu")
    rows = [[name, *cells(f"{name} 256"), *cells(f"{name} 512")] for name in order]
    rows.append(["random directions (control)", *cells("random (control)"), "", ""])
    return markdown(["", "mean max cosine, 256 latents", "F1", "mean max cosine, 512 latents", "F1"], rows)


def choice_table(sizes: Record) -> str:
    """How often the diagnostic's minimum lies at the end of the L0s tried, and where F1 is highest."""
    rows = []
    for name, results in sizes.items():
        for n in sorted({choice["n"] for choice in results["choices"]}):
            choices = [choice for choice in results["choices"] if choice["n"] == n]
            picked_l0s = sorted({choice["chosen_l0"] for choice in choices})
            at_edge = sum(choice["at_edge"] for choice in choices)
            right = sum(choice["chosen_l0"] == choice["best_f1_l0"] for choice in choices)
            picked = ", ".join(f"{l0:g}" for l0 in picked_l0s)
            rows.append([name, f"{n}", f"{len(choices)}", picked, f"{at_edge}", f"{right}"])
    return markdown(["", "n", "SAEs' series", "L0s it picks", "at an end of the range", "where F1 is highest"], rows)
