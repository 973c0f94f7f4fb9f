"""The table of README.md, from results/interpretability.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research.markdown import CONTROLS, interval, markdown, minus

Record = Mapping[str, Any]


def tables(records: Mapping[str, Record]) -> dict[str, str]:
    record = records["interpretability"]
    return {
        "auroc": auroc_table(record),
        "differences": difference_table(record["measures"]),
        "passes": pass_table(record),
        "meaning": meaning_table(records["meaning"]),
        "concepts": concept_table(records["meaning"]),
    }


def meaning_table(record: Record) -> str:
    """Searches that succeed and hits that fit, of the search by meaning, of labels' words, and of the two controls."""
    by_meaning, close, exact = (record[kind] for kind in ("meaning", "close", "exact"))
    n = record["n_hits"]
    rows = [
        ["search by meaning", per_cent(by_meaning["success"]), per_cent(by_meaning["share"])],
        ["the same, close words alone counted", per_cent(close["success"]), per_cent(close["share"])],
        ["words of labels", per_cent(exact["success"]), per_cent(exact["share"])],
        ["random latents (control)", per_cent(by_meaning["random_success"]), per_cent(by_meaning["random_share"])],
        [
            "other concepts' hits (control)",
            per_cent(by_meaning["others_success"]),
            per_cent(by_meaning["others_share"]),
        ],
    ]
    return markdown(["", f"one of the first {n} fits, %", f"of the first {n} fit, %"], rows)


def per_cent(value: Record) -> str:
    return interval(value["mean"], value["interval"], ".0f", 100)


def concept_table(record: Record) -> str:
    """The concepts by how many of the first hits fit; in brackets those without a fitting latent in the dictionary."""
    rows = []
    for n in range(record["n_hits"], -1, -1):
        names = [
            f"({name})" if not row["fitting"] else name for name, row in record["concepts"].items() if row["hits"] == n
        ]
        rows.append([f"{n} of {record['n_hits']}", f"{len(names)}", ", ".join(names) or "–"])
    return markdown(["fit", "concepts", ""], rows)


def pass_table(record: Record) -> str:
    """AUROC over all firing after one pass over the text, three seeds, and after two, one seed."""
    once, twice = record["measures"]["label"]["means"], record["two_passes"]["label"]
    rows = [
        [CONTROLS.get(name, name), *(interval(means[name]["mean"], means[name]["interval"]) for means in (once, twice))]
        for name in ("topk", "jumprelu", "gated", "frozen_random")
    ]
    return markdown(["label, all firing", "one pass", "two passes, one seed"], rows)


def auroc_table(record: Record) -> str:
    measures, drawn = record["measures"], record["dictionaries"]
    rows = []
    for name in ("topk", "jumprelu", "batch_topk", "gated", "relu", "frozen_random", "neurons", "channels"):
        cells = [f"{sum(entry['drawn'] for key, entry in drawn.items() if key.split('-')[0] == name):,}"]
        for measure in ("label", "label_strong"):
            comparison = measures[measure]
            chance = comparison["with_unscored_at_chance"]["means"][name]
            mean = comparison["means"][name]
            cells += [
                interval(mean["mean"], mean["interval"]),
                f"{comparison['n_scored'][name]:,}",
                interval(chance["mean"], chance["interval"]),
            ]
        cells += [f"{measures[measure]['means'][name]['mean']:.3f}" for measure in ("top_token", "hidden")]
        rows.append([CONTROLS.get(name, name), *cells])
    half = ("scored", "unscored at 0.5")
    header = ["", "drawn", "label, all firing", *half, "label, strongest quarter", *half]
    return markdown([*header, "commonest token alone", "linear reader"], rows)


VIEWS = {
    "label": {
        "all firing": ("against_controls",),
        "the same, at equal firing rates": ("matched_control",),
        "the same, unscored at chance": ("with_unscored_at_chance", "against_controls"),
    },
    "label_strong": {
        "strongest quarter": ("against_controls",),
        "the same, at equal rates": ("matched_control",),
    },
}


def difference_table(measures: Record) -> str:
    """AUROC of every architecture less that of the frozen random decoders, counted in several ways."""
    columns: dict[str, dict[str, str]] = {}
    for measure, views in VIEWS.items():
        for title, keys in views.items():
            rows = measures[measure]
            for key in keys:
                rows = rows[key]
            columns[title] = {
                row["first"]: minus(interval(row["estimate"], (row["low"], row["high"]), "+.3f"))
                for row in rows
                if row["second"] == "frozen_random"
            }
    names = ("topk", "jumprelu", "batch_topk", "gated", "relu")
    return markdown(["", *columns], [[name, *(column[name] for column in columns.values())] for name in names])
