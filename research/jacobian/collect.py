"""The results of all stages of `run.py` in one document: tables, and the plan's questions answered from them.

Questions: is the share of |J| > .01, and of its siblings free of scale, down at least 4 times at a CE cost of at most
.02; do shares fall with λ; does measuring the penalty on a random share of the tokens change the result by less than
two seeds differ; are trained models' Jacobians sparser than random ones at matched variance explained; more linear;
are labels as good. Intervals are paired over documents where both sides were measured on the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monosemy.circuits.jacobian.layout import StudyFiles
from monosemy.circuits.jacobian.measures import BINS_PER_DECADE, LOWEST
from monosemy.circuits.jacobian.study_file import read_study
from monosemy.config import to_json
from monosemy.evals.evaluation_file import read_evaluation
from monosemy.layout import RunFiles
from monosemy.run import machine, read_run, read_stages, versions

FREE_OF_SCALE = ("scaled_over_0.01", "scaled_over_0.1", "scaled_over_1", "share_of_90", "token_share_of_90")
COMPARED = (
    "variance_explained_in",
    "variance_explained_out",
    "ce_score_in",
    "ce_score_out",
    "over_0.01",
    *FREE_OF_SCALE,
)
"""What is held against the spread of seeds."""
PUBLISHED = {
    "pythia-410m": {"shares": (0.583, 0.062), "lambda": 0.5},
    "pythia-70m": {"shares": (0.690, 0.113), "lambda": 1.0},
}
"""Reported shares of |J| > .01 without and with the penalty (arXiv 2502.18147), on activations of another scale."""
AGAINST_RANDOM = "against-random"
"""The run whose pairs are compared with those of random models."""
WHOLE = ("whole", "whole-seeds")
"""Runs whose penalty is measured on every token: seed 0, the further seeds."""
N_OUTPUTS = 5
"""Output latents whose strongest inputs are kept in the document."""
N_AROUND = 6
"""Tokens shown on each side of an example's strongest one."""


def frontier_rows(folder: Path) -> list[dict[str, Any]]:
    return list(read_study(StudyFiles.of_run(folder / "main").frontier)["rows"])


def largest_affordable(folder: Path) -> dict[str, Any] | None:
    """The row of the largest λ that costs at most .02; None where none above 0 does."""
    name = read_study(StudyFiles.of_run(folder / "main").frontier)["chosen"]
    row = next(row for row in frontier_rows(folder) if row["name"] == name)
    return row if row["lambda"] > 0 else None


def smallest(folder: Path) -> dict[str, Any]:
    return min((row for row in frontier_rows(folder) if row["lambda"] > 0), key=lambda row: row["lambda"])


def collect(folder: Path, seconds: Mapping[str, float], studied: str) -> dict[str, Any]:
    """Everything measured so far, without histograms and with few texts."""
    files = StudyFiles.of_run(folder / "main")
    affordable = largest_affordable(folder)
    document: dict[str, Any] = {
        "machine": machine(),
        "versions": versions(),
        "seconds": dict(seconds),
        "config": to_json(read_run(folder / "main")[0]),
        "counts": counts(folder / "main"),
        "frontier": frontier_rows(folder),
        "chosen": None if affordable is None else affordable["name"],
        "studied": studied,
    }
    document["published_starts"] = published_starts(files, document["frontier"])
    against_random = StudyFiles.of_run(folder / AGAINST_RANDOM)
    random = read_study(against_random.random) if against_random.random.exists() else {"folders": {}}
    runs = [folder / name for name in ("main", "seeds", *WHOLE, AGAINST_RANDOM)]
    runs += [against_random.random_run(name) for name in random["folders"].values()]
    document["training_seconds"] = {
        run.name: read_run(run)[1].get("seconds", {}) for run in runs if RunFiles(run).run_json.exists()
    }
    for key, names in (("seeds", ("seeds",)), ("whole", WHOLE)):
        frontiers = [path for name in names if (path := StudyFiles.of_run(folder / name).frontier).exists()]
        if frontiers:
            document[key] = [row for path in frontiers for row in read_study(path)["rows"]]
    if random["folders"]:
        document["random"], document["random_frontiers"] = random["rows"], random["frontiers"]
        document["against_random"] = read_study(against_random.frontier)["rows"]
    if files.interpretability.exists():
        document["interpretability"] = read_study(files.interpretability)["rows"]
    if (pairs := files.pair(studied).pairs).exists():
        document["pairs"] = strongest(read_study(pairs))
    document["checks"] = checks(document)
    return document


def counts(run: Path) -> dict[str, Any]:
    """Tokens and documents behind the numbers."""
    record = read_evaluation(run)["records"][0]
    training = read_stages(run)["training"]["record"]
    return {
        "training_tokens": training["n_tokens"],
        **{name: record[name] for name in ("n_tokens", "n_documents", "n_loss_tokens")},
    }


def strongest(document: Mapping[str, Any]) -> dict[str, Any]:
    """The first outputs with their inputs, each with the tokens around its strongest one."""
    outputs = [
        {
            **output,
            "inputs": [{**pair, "examples": [around(e) for e in pair["examples"][:1]]} for pair in output["inputs"]],
        }
        for output in document["outputs"][:N_OUTPUTS]
    ]
    return {"name": document["name"], "n_tokens": document["n_tokens"], "outputs": outputs}


def around(example: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens that a table shows of an example, `at` counted from the first of them."""
    first = max(0, example["at"] - N_AROUND)
    return {"at": example["at"] - first, "tokens": example["tokens"][first : example["at"] + N_AROUND + 1]}


def published_starts(files: StudyFiles, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Shares above the size that as many elements exceed at λ = 0 as exceeded .01 in a paper's model.

    .01 is another size on other activations; this is the same place in the distribution. To a bin of the histograms
    (a fortieth of a decade), no intervals.
    """
    bins = {row["name"]: np.array(read_study(files.pair(row["name"]).measures)["histogram"]) for row in rows}
    shares = {name: c[::-1].cumsum()[::-1] / c.sum() for name, c in bins.items()}
    base = shares[next(row["name"] for row in rows if row["lambda"] == 0)]
    starts = {}
    for model, reported in PUBLISHED.items():
        place = int(np.abs(base - reported["shares"][0]).argmin())
        shares_by_lambda = {f"{row['lambda']:g}": float(shares[row["name"]][place]) for row in rows}
        size = 10 ** (LOWEST + (place - 1) / BINS_PER_DECADE)
        starts[model] = {
            "size": size,
            "shares": shares_by_lambda,
            "reported": reported["shares"],
            "lambda": reported["lambda"],
        }
    return starts


def checks(document: Mapping[str, Any]) -> dict[str, Any]:
    """The plan's questions, answered from the tables."""
    rows = document["frontier"]
    answers: dict[str, Any] = {
        "share over .01 falls with every step of λ": bool(
            np.all(np.diff([row["estimates"]["over_0.01"]["value"] for row in rows]) < 0)
        ),
        "by λ": {f"{row['lambda']:g}": affordable(row) for row in rows if row["lambda"] > 0},
        "shapes of curves by λ": {f"{row['lambda']:g}": shapes(row) for row in rows},
    }
    if "seeds" in document:
        answers["seeds"] = seeds(document)
    if "whole" in document:
        answers["a random share of the tokens against all"] = share_against_whole(document)
    if compared := document.get("random"):
        answers["trained and random (one draw, one seed)"] = [
            {"kind": row["kind"], "lambda": row["lambda"], "matched": row["matched"]}
            | {name: row["measures"][name]["verdict"] for name in ("over_0.01", *FREE_OF_SCALE)}
            for row in compared
        ]
        more = {"trained below": "random falls more", "random below": "trained falls more"}
        answers["reduction by the penalty, trained and random (one draw, one seed)"] = [
            {"kind": row["kind"], "lambda": row["lambda"], "matched": row["reduction_matched"]}
            | {name: more.get(sides["verdict"], sides["verdict"]) for name, sides in row["reduction"].items()}
            for row in compared
            if row["lambda"] > 0 and row["reduction"]
        ]
    if rows := document.get("interpretability"):
        answers["labels with the penalty less those without"] = labels(rows)
    return answers


def affordable(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a λ costs, and whether each share is down at least 4 times."""
    reductions = {name: row["reduction"][name] for name in ("over_0.01", *FREE_OF_SCALE)}
    return {
        "CE cost": row["ce_cost"],
        "CE cost at most .02": _compared(row["ce_cost"], 0.02, "yes", "no"),
        "times fewer": reductions,
        "at least 4 times fewer": {
            name: _compared(reduction, 4, "no", "yes") for name, reduction in reductions.items()
        },
    }


def shapes(row: Mapping[str, Any]) -> dict[str, float]:
    """Linear, linear or flat, and linear among the curves that are not flat."""
    linear, flat = (row["linearity"][shape]["value"] for shape in ("linear", "flat"))
    return {"linear": linear, "linear or flat": linear + flat, "linear of those not flat": linear / (1 - flat)}


def seeds(document: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of every λ that has several."""
    rows = [*document["frontier"], *document["seeds"]]
    lambdas = sorted({row["lambda"] for row in document["seeds"]})
    return {
        f"λ = {coef:g}": {
            name: _spread([value for row in rows if row["lambda"] == coef and (value := _value(row, name)) is not None])
            for name in COMPARED
        }
        for coef in lambdas
    }


def share_against_whole(document: Mapping[str, Any]) -> dict[str, Any]:
    """The change by measuring the penalty on a share of the tokens: mean over seeds of the difference of two runs of
    the same seed, with its standard error; beside it the root mean square difference of two seeds (√2 standard
    deviations), which is what a user sees who runs once."""
    coef = document["whole"][0]["lambda"]
    whole_rows = {row["seed"]: row for row in document["whole"]}
    rows = {row["seed"]: row for row in [*document["frontier"], *document.get("seeds", [])] if row["lambda"] == coef}
    spread = seeds(document).get(f"λ = {coef:g}", {}) if document.get("seeds") else {}
    changes: dict[str, Any] = {}
    for name in COMPARED:
        shared = sorted(rows.keys() & whole_rows.keys())
        both = [(_value(rows[seed], name), _value(whole_rows[seed], name)) for seed in shared]
        change = _spread([share - whole for share, whole in both if share is not None and whole is not None])
        sd = spread.get(name, {}).get("sd")
        typical = None if sd is None else 2**0.5 * sd
        changes[name] = {
            "change": change["mean"],
            "standard error": None if change["sd"] is None else change["sd"] / change["n"] ** 0.5,
            "seeds": change["n"],
            "difference of two seeds": typical,
            "less than seeds": None if change["mean"] is None or typical is None else abs(change["mean"]) < typical,
        }
    return changes


def labels(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean AUROC of labels with the penalty less that without, by site. The latents of two SAEs are other latents:
    half widths of the two intervals are added in squares."""
    differences = []
    for base in (row for row in rows if row["lambda"] == 0):
        for row in (row for row in rows if row["lambda"] > 0 and row["site"] == base["site"]):
            for key in ("label_auroc", "combined_auroc"):
                value = row[key]["value"] - base[key]["value"]
                half = float(
                    np.hypot(*((side[key]["interval"][1] - side[key]["interval"][0]) / 2 for side in (row, base)))
                )
                ends = [value - half, value + half]
                differences.append(
                    {
                        "site": row["site"],
                        "lambda": row["lambda"],
                        "measure": key,
                        "difference": {"value": value, "interval": ends},
                    }
                )
    return differences


def _value(row: Mapping[str, Any], name: str) -> float | None:
    return (row[name] if name in row else row["estimates"][name])["value"]


def _compared(estimate: Mapping[str, Any], limit: float, below: str, above: str) -> str:
    """Where an estimate lies, with its interval."""
    if estimate["value"] is None:
        return "not measured"
    side = below if estimate["value"] <= limit else above
    ends = estimate["interval"]
    if ends is None:
        return f"{side}, no interval"
    return f"{side}, interval holds {limit:g}" if ends[0] <= limit <= ends[1] else side


def _spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean and standard deviation over seeds."""
    mean = float(np.mean(values)) if len(values) else None
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": mean, "sd": sd, "n": len(values)}
