"""The tables of README.md, from the records in results/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy import ndarray

from monosemy.evals.intervals import percentiles
from research.markdown import markdown

Record = Mapping[str, Any]
FAMILIES = ("capital", "plural", "year")
GRAPHS = {"transcoders": "transcoders", "shuffled": "encoders shuffled (control)", "random": "random (control)"}
SCORES = {
    "replacement": "replacement",
    "completeness": "completeness",
    "free": "agreement, attention answers",
    "frozen": "agreement, attention held",
}
KINDS = {
    "transcoder": "transcoder",
    "jumprelu": "SAE of the output",
    "transcoder_frozen_random": "frozen-random transcoder (control)",
    "linear": "linear map (control)",
}
"""Kinds of dictionary that stand beside each other, in the order of the table."""
N_RESAMPLES = 2000


def tables(records: Mapping[str, Record]) -> dict[str, str]:
    record = records["transcoders"]
    return {
        "quality": quality_table(record["quality"]),
        "scores": score_table(record["prompts"]),
        "together": together_table(record["prompts"]),
        "errors": error_table(record["prompts"], record["n_layers"]),
        "stories": story_table(record["stories"]),
        "beside": beside_table(records["beside"]),
        "ties": ties_table(records["ties"]),
    }


def quality_table(rows: Sequence[Record]) -> str:
    """Every third layer: the transcoder beside the linear map."""
    by_layer: dict[int, dict[str, Record]] = {}
    for row in rows:
        by_layer.setdefault(row["layer"], {})["linear" if row["name"].startswith("linear") else "transcoder"] = row
    body = []
    for layer, members in sorted(by_layer.items()):
        if layer % 3 or "transcoder" not in members:
            continue
        own, linear = members["transcoder"], members.get("linear")
        body.append(
            [
                f"{layer}",
                f"{own['l0']:.1f}",
                half(own, "fvu", 3),
                half(linear, "fvu", 3) if linear else "",
                half(own, "delta_loss", 3),
                f"{100 * own['dead_fraction']:.1f}",
            ]
        )
    return markdown(["layer", "L0", "FVU", "FVU of the linear map", "Δ loss", "dead %"], body)


def half(row: Record, measure: str, digits: int) -> str:
    """`0.160 ±.005`: a measure and half the width of its interval."""
    if measure not in row:
        return ""
    ends = row.get(f"{measure}_interval")
    width = f" ±{(ends[1] - ends[0]) / 2:.{digits}f}".replace("±0", "±") if ends else ""
    return f"{row[measure]:.{digits}f}{width}"


def beside_table(record: Record) -> str:
    """One row for each layer and dictionary; Δ loss of the transcoder minus that of the SAE over the same documents."""
    differences = {row["layer"]: row for row in record["paired"]}
    body = []
    for layer, difference in differences.items():
        members = {row["kind"]: row for row in record["rows"] if row["layer"] == layer}
        low, high = difference["interval"]
        for kind, title in KINDS.items():
            row = members[kind]
            first = kind == next(iter(KINDS))
            against = f"{difference['estimate']:+.3f} [{low:+.3f}, {high:+.3f}]" if first else ""
            cells = [f"{row['l0']:.1f}" if row.get("l0") else "", half(row, "fvu", 3), half(row, "delta_loss", 3)]
            dead = f"{100 * row['dead_fraction']:.1f}" if "dead_fraction" in row else ""
            body.append([f"{layer}" if first else "", title, *cells, dead, against])
    return markdown(["layer", "dictionary", "L0", "FVU", "Δ loss", "dead %", "Δ loss − the SAE's, paired"], body)


def ties_table(record: Record) -> str:
    """One row for each explanation; brackets are intervals over documents."""
    measures = [*(f"above {strength}" for strength in record["strengths"]), "carry the share"]
    heads = [f"ties > {strength}" for strength in record["strengths"]] + [f"ties that carry {record['share']:.0%}"]
    body = []
    for row in record["rows"]:
        low, high = row["delta_loss_interval"]
        cells = [f"{row['delta_loss']:.3f} [{low:.3f}, {high:.3f}]", f"{row['fvu'][0]:.3f}"]
        body.append(
            [
                row["kind"],
                f"{row['l0']:g}",
                f"{row.get('lambda', '')}",
                *cells,
                *(f"{row['ties'][measure][0]:.1f}" for measure in measures),
            ]
        )
    return markdown(["explanation", "L0", "λ", "Δ loss", "FVU of the output", *heads], body)


def score_table(prompts: Sequence[Record]) -> str:
    """Scores and agreement of the graphs and their controls, by family and over all prompts."""
    body = []
    for family in (*FAMILIES, "all"):
        members = [prompt for prompt in prompts if family in ("all", prompt["family"])]
        for graph, title in GRAPHS.items():
            by_score = zip(*(prompt["graphs"][graph] for prompt in members), strict=True)
            cells = [mean_text(values) for values in by_score]
            body.append([family if graph == "transcoders" else "", title, *cells])
    return markdown(["prompts", "graph", *SCORES.values()], body)


def together_table(prompts: Sequence[Record]) -> str:
    """The preference for the right answer, in nats, before and after ablations."""
    body = []
    for family in FAMILIES:
        before, leading, random = np.array([prompt["together"] for prompt in prompts if prompt["family"] == family]).T
        changes = (mean_text(after - before, signed=True) for after in (leading, random))
        body.append([family, mean_text(before), *changes])
    return markdown(["prompts", "as it is", "without the leading nodes", "without random ones"], body)


def error_table(prompts: Sequence[Record], n_layers: int) -> str:
    """The share of the influence that ends in errors, by thirds of the layers."""
    shares = np.array([prompt["errors_by_third"] for prompt in prompts])
    thirds = np.array_split(np.arange(n_layers), 3)
    body = []
    for family in (*FAMILIES, "all"):
        rows = shares[[family in ("all", prompt["family"]) for prompt in prompts]]
        body.append([family, *(mean_text(column.tolist()) for column in rows.T), mean_text(rows.sum(1).tolist())])
    return markdown(["prompts", *(f"layers {third[0]}–{third[-1]}" for third in thirds), "all layers"], body)


def story_table(stories: Mapping[str, Record]) -> str:
    """The leading nodes of the first prompt of each family."""
    body = []
    for story in stories.values():
        for place, node in enumerate(story["leading"]):
            cells = [f"`{node['node']}`", f"“{node['token']}”", f"{node['influence']:.3f}", f"{node['free']:.2f}"]
            body.append([story["text"] if place == 0 else "", *cells])
    return markdown(["prompt", "latent", "token", "influence", "ablated, nats"], body)


def mean_text(values: Sequence[float] | ndarray, *, signed: bool = False) -> str:
    """`0.52 [0.48, 0.57]`: the mean over prompts and its interval."""
    numbers = np.array(values)
    draws = np.random.default_rng(0).integers(0, len(numbers), (N_RESAMPLES, len(numbers)))
    ends = percentiles(numbers[draws].mean(1))
    sign = "+" if signed else ""
    middle = format(float(numbers.mean()), f"{sign}.2f")
    return f"{middle} [{ends[0]:{sign}.2f}, {ends[1]:{sign}.2f}]" if ends else middle
