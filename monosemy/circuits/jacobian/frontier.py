"""The results of all measured pairs together: the λ frontier, the chosen λ, trained against randomised models.

Place on the path: a pair's measures (measures.py and its siblings) and evaluation.json → [tables] → terminal, report.
Plain JSON values in and out; an *estimate* is {"value": v, "interval": [low, high] or null}.

Frontier: one row per pair; seeds are not averaged. Beside each sparsity measure stands the factor by which it is lower
than that of the pair with λ = 0 and the same L0 and seed, and what the pair costs in CE score (costs.py). Both compare
the pairs document by document.

Chosen λ: the largest that costs at most `MAX_COST` of the CE score (loss recovered; cost as in costs.py).

Trained against randomised, at matched variance explained: at the same L0, SAEs of a random model explain another share
of the variance, and a denser code has another Jacobian. The random model's pairs are therefore trained at several L0s.
For each λ, their measure is interpolated to the point at which they explain as much variance (the mean over both SAEs)
as the trained model's pair: the logarithm of the measure is taken as linear in the variance explained. Where no two L0s
enclose that point, the nearest L0 is used and `matched` is false. Only the mean is matched; the row says what each SAE
explains. Intervals resample documents at that mixture (resamples.py). A row rests on one random draw of the weights and
one seed; how much other draws and seeds differ is in no interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from monosemy.circuits.jacobian.loss_cost import Losses, ce_cost
from monosemy.circuits.jacobian.resamples import Draws, interval, ratio
from monosemy.errors import UserError
from monosemy.support.numbers import fixed_percent_text, setting_text

Row = dict[str, Any]
MAX_COST = 0.02
SPARSITY = (
    "over_0.005",
    "over_0.01",
    "over_0.02",
    "over_0.05",
    "scaled_over_0.01",
    "scaled_over_0.1",
    "scaled_over_1",
    "share_of_90",
    "token_share_of_90",
)
"""Measures that fall as the Jacobian becomes sparser."""
COMPARED = (*SPARSITY, "kurtosis", "scaled_kurtosis")
SIDES = ("in", "out")
MANY_SHORT = 0.01
"""Share of tokens with fewer than k active latents above which a note says so."""
UNKNOWN: Mapping[str, None] = {"value": None, "interval": None}


def frontier(
    measured: Iterable[Mapping[str, Any]],
    records: Iterable[Mapping[str, Any]],
    draws: Mapping[str, Draws] | None = None,
    losses: Losses | None = None,
) -> list[Row]:
    """One row per pair, sorted by L0, seed and λ: its measures, its two SAEs' evaluation, reductions and CE cost.

    measured: each pair's measures.json; records: those of evaluation.json. Without `draws` (by pair) and `losses`,
    reductions and costs have no intervals. A pair that was not evaluated has null for variance explained and CE score.
    """
    draws = draws or {}
    records_by_sae = {(r["site"], r["name"]): r for r in records}
    rows: list[Row] = []
    for pair in measured:
        row: Row = {key: pair[key] for key in ("name", "lambda", "l0", "seed", "layer", "at", "sites")}
        for side, site in zip(SIDES, pair["sites"], strict=True):
            record = records_by_sae.get((site, pair["name"]), {})
            row[f"variance_explained_{side}"] = _explained(record)
            row[f"ce_score_{side}"] = _estimate(record, "loss_recovered")
            row[f"l0_{side}"] = _estimate(record, "l0")
            row[f"dead_fraction_{side}"] = _estimate(record, "dead_fraction")
        row |= {"estimates": pair["estimates"], "average_over": pair["average_over"]}
        row |= {"linearity": pair["linearity"]["shares"], "ablation": pair["ablation"]}
        row |= {key: pair[key] for key in ("n_tokens", "n_documents")}
        rows.append(row)
    # Reductions and costs compare with the pair without penalty, so all rows must be there first.
    rows.sort(key=lambda row: (row["l0"], row["seed"], row["lambda"]))
    for row in rows:
        base = baseline(rows, row)
        row["reduction"] = {m: _factor(base, row, m, draws) for m in SPARSITY} if base else {}
        row["ce_cost"] = ce_cost(base, row, losses) if base else dict(UNKNOWN)
    return rows


def baseline(rows: Iterable[Row], row: Row) -> Row | None:
    """The row of the pair with λ = 0 and the same L0 and seed; None where there is none."""
    return next((r for r in rows if r["lambda"] == 0 and (r["l0"], r["seed"]) == (row["l0"], row["seed"])), None)


def short_notes(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """A sentence for each pair that has fewer than k active latents on many tokens, on either side."""
    notes = []
    for row in rows:
        shares = {side: (row["estimates"].get(f"short_{side}") or UNKNOWN)["value"] or 0.0 for side in SIDES}
        if max(shares.values()) > MANY_SHORT:
            notes.append(
                f"{row['name']}: {fixed_percent_text(shares['in'], 1)} of the tokens have fewer than "
                f"{setting_text(row['l0'])} positive input latents and {fixed_percent_text(shares['out'], 1)} fewer "
                "output latents; their J is smaller, and is exact on what is active"
            )
    return notes


def choose(rows: Sequence[Row], max_cost: float = MAX_COST) -> Row:
    """The pair with the largest λ that costs at most `max_cost` of the CE score.

    Considered are the pairs with the L0 and seed of the first row with λ = 0. Raises UserError where no pair has λ = 0,
    or where CE scores are missing.
    """
    if not any(row["lambda"] == 0 for row in rows):
        raise UserError("no pair with λ = 0, which the others are compared with; train it too: --lambda 0 …")
    first = next(row for row in rows if row["lambda"] == 0)
    candidates = [row for row in rows if (row["l0"], row["seed"]) == (first["l0"], first["seed"])]
    if any(row["ce_cost"]["value"] is None for row in candidates):
        raise UserError("the CE scores of some pairs were not measured; run the evaluation again")
    return max((row for row in candidates if row["ce_cost"]["value"] <= max_cost), key=lambda row: row["lambda"])


def compare(
    trained: Sequence[Row],
    randomised: Mapping[str, Sequence[Row]],
    trained_draws: Mapping[str, Draws] | None = None,
    random_draws: Mapping[str, Mapping[str, Draws]] | None = None,
) -> list[Row]:
    """Compares every pair of the trained model with each kind of random model at matched variance explained.

    Returns rows {kind, lambda, l0, seed, variance_explained, matched, variance_explained_random, explained: {side:
    {"trained", "random"}}, l0_random, measures: {name: {"trained": estimate, "random": estimate, "verdict": see
    `verdict`}}}. Where both models have pairs with λ = 0, "reduction" holds in the same form the factors by which λ
    reduces each measure, and "reduction_matched" says whether both values of λ were matched.

    randomised: kind → frontier rows. Draws are by pair, those of random models by kind and pair; without them the
    interpolated numbers have no intervals.
    """
    rows: list[Row] = []
    draws_of_rows: list[dict[str, dict[str, Any]]] = []
    for kind, random_rows in randomised.items():
        draws_of_kind = (random_draws or {}).get(kind, {})
        for pair in trained:
            at_lambda = [row for row in random_rows if row["lambda"] == pair["lambda"]]
            if not at_lambda or explained(pair) is None:
                continue
            row, mixed = _matched(pair, at_lambda, draws_of_kind)
            rows.append({"kind": kind, **row})
            draws_of_rows.append({"trained": dict((trained_draws or {}).get(pair["name"], {})), "random": mixed})
    # Reductions need each row's λ = 0 in the same comparison, so they come after all rows are there.
    for row, row_draws in zip(rows, draws_of_rows, strict=True):
        same = (row["kind"], row["l0"], row["seed"])
        bases = (z for z, r in enumerate(rows) if r["lambda"] == 0 and (r["kind"], r["l0"], r["seed"]) == same)
        base = next(bases, None)
        row["reduction"] = {} if base is None else _reductions(rows[base], row, draws_of_rows[base], row_draws)
        row["reduction_matched"] = base is not None and rows[base]["matched"] and row["matched"]
    return rows


def explained(row: Row) -> float | None:
    """The mean variance explained of the two SAEs; None where either was not evaluated."""
    values = [row[f"variance_explained_{side}"]["value"] for side in SIDES]
    return None if None in values else float(np.mean(values))


def verdict(trained: Mapping[str, Any], random: Mapping[str, Any]) -> str:
    """Which estimate is lower: `trained below`, `random below` or `intervals overlap`; `unknown` without intervals."""
    ends = trained["interval"], random["interval"]
    if None in ends:
        return "unknown"
    if ends[0][1] < ends[1][0]:
        return "trained below"
    return "random below" if ends[1][1] < ends[0][0] else "intervals overlap"


def _matched(pair: Row, candidates: Sequence[Row], draws: Mapping[str, Draws]) -> tuple[Row, dict[str, Any]]:
    """A comparison row without its kind, and the random model's measures on every resample.

    `pair` is the trained model's; `candidates` are the random model's pairs with the same λ at several L0s.
    """
    target = explained(pair)
    assert target is not None
    ranked = sorted(((value, row) for row in candidates if (value := explained(row)) is not None), key=lambda p: p[0])
    if not ranked:
        raise UserError("the random model's pairs were not evaluated; run the evaluation again")
    # The two L0s that enclose the target, and how far between them it lies; outside their range, the nearest L0 alone.
    values = [value for value, _ in ranked]
    above = int(np.searchsorted(values, target))
    matched = 0 < above < len(values) or target in values
    low, high = max(above - 1, 0), min(above, len(values) - 1)
    span = values[high] - values[low]
    share = (target - values[low]) / span if matched and span > 0 else float(target >= values[high])
    bracket = (ranked[low][1], ranked[high][1])
    # Every measure of the random model at that point, beside the trained one's.
    measures, resamples = {}, {}
    for name in (name for name in COMPARED if name in pair["estimates"]):
        trained_estimate = pair["estimates"][name]
        random_estimate, resamples[name] = _between(bracket, name, share, draws)
        measures[name] = {
            "trained": trained_estimate,
            "random": random_estimate,
            "verdict": verdict(trained_estimate, random_estimate),
        }
    sides = {}
    for side in SIDES:
        ends = [row[f"variance_explained_{side}"]["value"] for row in bracket]
        random_value = (1 - share) * ends[0] + share * ends[1]
        sides[side] = {"trained": pair[f"variance_explained_{side}"]["value"], "random": random_value}
    return {
        "lambda": pair["lambda"],
        "l0": pair["l0"],
        "seed": pair["seed"],
        "variance_explained": target,
        "matched": matched,
        "variance_explained_random": target if matched else values[high] if share else values[low],
        "explained": sides,
        "l0_random": [row["l0"] for row in bracket] if 0 < share < 1 else [bracket[round(share)]["l0"]],
        "measures": measures,
    }, resamples


def _between(pair: tuple[Row, Row], name: str, share: float, draws: Mapping[str, Draws]) -> tuple[dict[str, Any], Any]:
    """An estimate interpolated between two rows, and its resamples; these are None where either row has none."""
    resamples = [draws.get(row["name"], {}).get(name) for row in pair]
    if share in (0.0, 1.0):
        return pair[int(share)]["estimates"][name], resamples[int(share)]
    low, high = (row["estimates"][name]["value"] for row in pair)
    value = None if None in (low, high) else float(_mixed(np.array([low]), np.array([high]), share)[0])
    between_resamples = (
        None if resamples[0] is None or resamples[1] is None else _mixed(resamples[0], resamples[1], share)
    )
    return {"value": value, "interval": interval(between_resamples)}, between_resamples


def _mixed(a: Any, b: Any, share: float) -> Any:
    """(1 − share) a + share b, taken of the logarithms where both are positive."""
    n = min(len(a), len(b))
    a, b = a[:n], b[:n]
    # Both forms are computed everywhere and chosen from at the end, hence the silenced warnings for log(0).
    positive = (a > 0) & (b > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithmic = np.exp((1 - share) * np.log(a) + share * np.log(b))
    return np.where(positive, logarithmic, (1 - share) * a + share * b)


def _reductions(base: Row, row: Row, base_draws: Mapping[str, Any], draws: Mapping[str, Any]) -> dict[str, Any]:
    """For each sparsity measure, how many times lower it is at λ than at λ = 0, in both models, with a verdict."""
    reductions: dict[str, Any] = {}
    for name in (name for name in row["measures"] if name in SPARSITY):
        reductions[name] = {}
        for side in ("trained", "random"):
            value = _ratio(base["measures"][name][side]["value"], row["measures"][name][side]["value"])
            resamples = ratio(base_draws[side].get(name), draws[side].get(name))
            reductions[name][side] = {"value": value, "interval": interval(resamples)}
        reductions[name]["verdict"] = verdict(reductions[name]["trained"], reductions[name]["random"])
    return reductions


def _factor(base: Row, row: Row, measure: str, draws: Mapping[str, Draws]) -> dict[str, Any]:
    """How many times lower the measure is than that of the pair without penalty, `base`."""
    value = _ratio(base["estimates"][measure]["value"], row["estimates"][measure]["value"])
    before, after = (draws.get(pair["name"], {}).get(measure) for pair in (base, row))
    return {"value": value, "interval": None if value is None else interval(ratio(before, after))}


def _ratio(before: float | None, after: float | None) -> float | None:
    return before / after if before is not None and after else None


def _estimate(record: Mapping[str, Any], field: str) -> dict[str, Any]:
    return {"value": record.get(field), "interval": record.get(f"{field}_interval")}


def _explained(record: Mapping[str, Any]) -> dict[str, Any]:
    """Variance explained, 1 − FVU, as an estimate; the interval's ends change places."""
    fvu, ends = record.get("fvu"), record.get("fvu_interval")
    return {"value": None if fvu is None else 1 - fvu, "interval": [1 - ends[1], 1 - ends[0]] if ends else None}
