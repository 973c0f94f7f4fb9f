"""What the measured pairs say together: the λ frontier, the chosen λ, trained against randomised models.

Place on the path: a pair's measures (measures.py and its siblings) and evaluation.json → [tables] → terminal, report.
Plain JSON values in and out; an *estimate* is {"value": v, "interval": [low, high] or null}.

Frontier: one row a pair, every seed its own; beside each sparsity measure the factor by which it is below that of the
pair with λ = 0 of the same L0 and seed.

Chosen λ: the largest whose CE score (loss recovered, the lower of the two SAEs') is at most `MAX_COST` below λ = 0's.

Trained against randomised, at matched variance explained: SAEs of a random model explain another share of the variance
at the same L0, and a denser code has another Jacobian. So the random model's pairs are trained at several L0s, and for
each λ its measure is interpolated (logarithm of the measure, linear in the variance explained, the mean of both SAEs)
to where it explains as much as the trained model's pair. Where no two L0s enclose that, the nearest one is taken and
`matched` is false.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from monosemy.errors import UserError

Row = dict[str, Any]
MAX_COST = 0.02
SPARSITY = ("over_0.005", "over_0.01", "over_0.02", "scaled_over_0.01", "scaled_over_0.1", "scaled_over_1",
            "share_of_90", "token_share_of_90")  # fmt: skip
"""Measures that fall as the Jacobian becomes sparser."""
COMPARED = (*SPARSITY, "kurtosis", "scaled_kurtosis")


def frontier(measured: Iterable[Mapping[str, Any]], records: Iterable[Mapping[str, Any]]) -> list[Row]:
    """One row a pair, by L0, seed and λ: its measures, what evaluation.json says of its two SAEs, and the reductions.

    measured: the contents of measures.json of each pair; records: those of evaluation.json. A pair that was not
    evaluated has null for variance explained and CE score.
    """
    known = {(r["site"], r["name"]): r for r in records}
    rows: list[Row] = []
    for one in measured:
        row: Row = {key: one[key] for key in ("name", "lambda", "l0", "seed", "layer", "at", "sites")}
        for side, site in zip(("in", "out"), one["sites"], strict=True):
            record = known.get((site, one["name"]), {})
            row[f"variance_explained_{side}"] = _explained(record)
            row[f"ce_score_{side}"] = _estimate(record, "loss_recovered")
            row[f"l0_{side}"] = _estimate(record, "l0")
            row[f"dead_fraction_{side}"] = _estimate(record, "dead_fraction")
        row |= {"estimates": one["estimates"], "average_over": one["average_over"]}
        row |= {"linearity": one["linearity"]["shares"], "ablation": one["ablation"]}
        row |= {key: one[key] for key in ("n_tokens", "n_documents")}
        rows.append(row)
    rows.sort(key=lambda row: (row["l0"], row["seed"], row["lambda"]))
    for row in rows:
        base = baseline(rows, row)
        row["reduction"] = {m: _factor(base, row, m) for m in SPARSITY} if base else {}
        row["ce_cost"] = ce_cost(base, row) if base else None
    return rows


def baseline(rows: Iterable[Row], row: Row) -> Row | None:
    """The pair with λ = 0 of the same L0 and seed."""
    return next((r for r in rows if r["lambda"] == 0 and (r["l0"], r["seed"]) == (row["l0"], row["seed"])), None)


def ce_cost(base: Row, row: Row) -> float | None:
    """How far the CE score is below that of `base`, for the SAE that loses more; None when not evaluated."""
    pairs = [(base[key]["value"], row[key]["value"]) for key in ("ce_score_in", "ce_score_out")]
    if any(value is None for pair in pairs for value in pair):
        return None
    return max(before - after for before, after in pairs)


def choose(rows: Sequence[Row], max_cost: float = MAX_COST) -> Row:
    """The pair with the largest λ that costs at most `max_cost` of the CE score, among the first L0 and seed.

    Raises UserError without a pair with λ = 0, or where CE scores are missing.
    """
    if not any(row["lambda"] == 0 for row in rows):
        raise UserError("no pair with λ = 0, which the others are compared with; train it too: --lambda 0 …")
    first = next(row for row in rows if row["lambda"] == 0)
    mine = [row for row in rows if (row["l0"], row["seed"]) == (first["l0"], first["seed"])]
    if any(row["ce_cost"] is None for row in mine):
        raise UserError("the CE scores of some pairs were not measured; run the evaluation again")
    return max((row for row in mine if row["ce_cost"] <= max_cost), key=lambda row: row["lambda"])


def compare(trained: Sequence[Row], randomised: Mapping[str, Sequence[Row]]) -> list[Row]:
    """For every pair of the trained model and kind of random model: each measure of both at matched variance explained.

    Rows: {kind, lambda, l0, seed, variance_explained, matched, variance_explained_random, l0_random, measures: {name:
    {"trained": estimate, "random": estimate}}}, with the factors by which λ reduces each under "reduction" where λ = 0
    is there for both.
    """
    rows: list[Row] = []
    for kind, others in randomised.items():
        for one in trained:
            at_lambda = [row for row in others if row["lambda"] == one["lambda"]]
            if not at_lambda or explained(one) is None:
                continue
            rows.append({"kind": kind, **_matched(one, at_lambda)})
    for row in rows:
        same = (row["kind"], row["l0"], row["seed"])
        base = next((r for r in rows if r["lambda"] == 0 and (r["kind"], r["l0"], r["seed"]) == same), None)
        row["reduction"] = _reductions(base, row) if base else {}
    return rows


def explained(row: Row) -> float | None:
    """Variance explained, the mean of the two SAEs."""
    values = [row[f"variance_explained_{side}"]["value"] for side in ("in", "out")]
    return None if None in values else float(np.mean(values))


def _matched(one: Row, others: Sequence[Row]) -> Row:
    target = explained(one)
    assert target is not None
    ranked = sorted(((value, row) for row in others if (value := explained(row)) is not None), key=lambda p: p[0])
    if not ranked:
        raise UserError("the random model's pairs were not evaluated; run the evaluation again")
    values = [value for value, _ in ranked]
    above = int(np.searchsorted(values, target))
    matched = 0 < above < len(values) or target in values
    low, high = max(above - 1, 0), min(above, len(values) - 1)
    span = values[high] - values[low]
    share = (target - values[low]) / span if matched and span > 0 else float(target >= values[high])
    pair = (ranked[low][1], ranked[high][1])
    return {
        "lambda": one["lambda"],
        "l0": one["l0"],
        "seed": one["seed"],
        "variance_explained": target,
        "matched": matched,
        "variance_explained_random": target if matched else values[high] if share else values[low],
        "l0_random": [row["l0"] for row in pair] if 0 < share < 1 else [pair[round(share)]["l0"]],
        "measures": {
            name: {"trained": one["estimates"][name], "random": _between(pair, name, share)}
            for name in COMPARED
            if name in one["estimates"]
        },
    }


def _between(pair: tuple[Row, Row], name: str, share: float) -> dict[str, Any]:
    """An estimate between two rows, on a logarithmic scale where all are positive; the interval's ends likewise."""
    first, second = (row["estimates"][name] for row in pair)

    def mixed(a: float | None, b: float | None) -> float | None:
        if share in (0.0, 1.0):
            return b if share else a
        if a is None or b is None:
            return None
        if a > 0 and b > 0:
            return math.exp((1 - share) * math.log(a) + share * math.log(b))
        return (1 - share) * a + share * b

    ends = [one["interval"] or (None, None) for one in (first, second)]
    low, high = (mixed(ends[0][side], ends[1][side]) for side in (0, 1))
    return {"value": mixed(first["value"], second["value"]), "interval": None if low is None else [low, high]}


def _reductions(base: Row, row: Row) -> dict[str, dict[str, float | None]]:
    return {
        name: {side: _ratio(base["measures"][name][side]["value"], found[side]["value"]) for side in found}
        for name, found in row["measures"].items()
        if name in SPARSITY
    }


def _factor(base: Row, row: Row, measure: str) -> float | None:
    return _ratio(base["estimates"][measure]["value"], row["estimates"][measure]["value"])


def _ratio(before: float | None, after: float | None) -> float | None:
    return before / after if before is not None and after else None


def _estimate(record: Mapping[str, Any], field: str) -> dict[str, Any]:
    return {"value": record.get(field), "interval": record.get(f"{field}_interval")}


def _explained(record: Mapping[str, Any]) -> dict[str, Any]:
    """1 − FVU."""
    fvu, ends = record.get("fvu"), record.get("fvu_interval")
    return {"value": None if fvu is None else 1 - fvu, "interval": [1 - ends[1], 1 - ends[0]] if ends else None}
