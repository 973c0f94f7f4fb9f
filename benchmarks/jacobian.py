"""Plan B for Jacobian SAEs: the λ frontier, seeds, random models, strongest pairs and labels, on a real model.

    python benchmarks/jacobian.py --folder runs/jacobian

One command, resumable: every stage is one `monosemy jacobian …` whose results are kept in the folder. Writes
docs/results/jacobian.json (tables, checks, seconds) and docs/figures/jacobian-*.png.

  frontier   λ = 0 and the others, seed 0, L0 32, 4,608 latents, two passes over 260k tokens around layer 15's MLP, the
             penalty on a random quarter of each batch's tokens
  seeds      λ = 0, the chosen λ and --study-lambda with two more seeds
  whole      --study-lambda once more, its penalty on every token
  random     the three kinds of random model at half, once and twice the L0, λ = 0 and --study-lambda
  pairs, interpret   of the pair of --study-lambda; labels against those of the pair without penalty, which is two TopK
             SAEs of the same L0 trained alone, to the last bit

The chosen λ is the largest that costs at most .02 of the CE score; where that is one whose penalty hardly shows,
--study-lambda (default: the chosen one) names another to look into.

What it checks is said either way, with intervals paired over documents: share of |J| > .01 and its scale-free sibling
down at least 4× at a CE cost of at most .02; shares falling with λ; whether the random share of the tokens changes the
result by less than seeds do; trained against random at matched variance explained, measure by measure; more linear
than without penalty. Evaluation takes most of the time that training does not: --loss-tokens times the number of pairs,
at both ends.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monosemy.cli import main as monosemy
from monosemy.files import read_json, write_json
from monosemy.jacobian.measures import BINS_PER_DECADE, LOWEST
from monosemy.run import machine, read_run, versions

ROOT = Path(__file__).parents[1]
FREE_OF_SCALE = ("scaled_over_0.01", "scaled_over_0.1", "scaled_over_1", "share_of_90", "token_share_of_90")
COMPARED = ("variance_explained_in", "variance_explained_out", "ce_score_in", "ce_score_out", "over_0.01",
            *FREE_OF_SCALE)  # fmt: skip
"""What is held against the spread of seeds."""
PUBLISHED = {"pythia-410m": (0.583, 0.062), "pythia-70m": (0.690, 0.113)}
"""Reported shares of |J| > .01 without and with the penalty (arXiv 2502.18147), on activations of another scale."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--folder", type=Path, default=Path("runs/jacobian"))
    add("--out", type=Path, default=ROOT / "docs" / "results" / "jacobian.json")
    add("--figures", type=Path, default=ROOT / "docs" / "figures")
    add("--lambda", dest="lambdas", nargs="+", default=["0", "0.1", "0.3", "1", "3", "10", "30", "100"])
    add("--layer", default="15")
    add("--l0", type=float, default=32)
    add("--d-sae", default="4608")
    add("--tokens", default="260k")
    add("--passes", default="2")
    add("--batch", default="1024")
    add("--learning-rate", default="4e-3")
    add("--loss-tokens", default="16k", help="validation tokens for the CE score")
    add("--token-share", default="0.25", help="share of each batch that the penalty is measured on")
    add("--study-lambda", type=float, help="λ of stages whole, random, pairs and interpret (default: the chosen one)")
    add("--random-l0", type=float, nargs="+", default=[0.5, 1, 2], help="L0s of the random models, in units of --l0")
    add("--seeds", nargs="+", default=["1", "2"], help="further seeds at λ = 0 and the two others")
    add("--kinds", nargs="+", default=["published", "reinitialised", "matched"])
    add("--device", default="auto")
    add("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    given = parser.parse_args()
    file = given.folder / "seconds.json"
    seconds: dict[str, float] = {}
    for stage in given.stages:
        started = time.perf_counter()
        STAGES[stage](given)
        seconds = dict(read_json(file)) if file.exists() else {}  # read now: another stage may run beside this one
        seconds[stage] = round(seconds.get(stage, 0.0) + time.perf_counter() - started, 1)
        write_json(file, seconds)
    write_json(given.out, collect(given.folder, seconds, studied(given)["name"]))
    for picture in sorted((given.folder / "main" / "figures").glob("jacobian-*.png")):
        given.figures.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, given.figures / picture.name)
    print(f"written: {given.out}")


def train(
    given: argparse.Namespace, name: str, lambdas: Sequence[str], seeds: Sequence[str], token_share: str | None = None
) -> None:
    monosemy(
        ["jacobian", "train", "--run", str(given.folder / name), "--layer", given.layer, "--l0", f"{given.l0:g}",
         "--d-sae", given.d_sae, "--tokens", given.tokens, "--passes", given.passes, "--batch", given.batch,
         "--learning-rate", given.learning_rate, "--loss-tokens", given.loss_tokens, "--device", given.device,
         "--token-share", token_share or given.token_share,
         "--lambda", *lambdas, "--seeds", *seeds]
    )  # fmt: skip


def frontier(given: argparse.Namespace) -> None:
    train(given, "main", given.lambdas, ["0"])


def seeds(given: argparse.Namespace) -> None:
    lambdas = sorted({0.0, chosen(given.folder)["lambda"], studied(given)["lambda"]})
    train(given, "seeds", [f"{coef:g}" for coef in lambdas], given.seeds)


def whole(given: argparse.Namespace) -> None:
    train(given, "whole", [f"{studied(given)['lambda']:g}"], ["0"], "1")


def random(given: argparse.Namespace) -> None:
    levels = [f"{given.l0 * factor:g}" for factor in given.random_l0]
    lambdas = ["0", f"{studied(given)['lambda']:g}"]
    monosemy(["jacobian", "random", str(given.folder / "main"), "--kinds", *given.kinds, "--lambda", *lambdas,
              "--l0", *levels])  # fmt: skip


def pairs(given: argparse.Namespace) -> None:
    monosemy(["jacobian", "pairs", str(given.folder / "main"), "--pair", studied(given)["name"]])


def interpret(given: argparse.Namespace) -> None:
    both = [row["name"] for row in frontier_rows(given.folder) if row["lambda"] in (0, studied(given)["lambda"])]
    monosemy(["jacobian", "interpret", str(given.folder / "main"), "--pair", *both])


STAGES = {
    "frontier": frontier, "seeds": seeds, "whole": whole, "random": random, "pairs": pairs, "interpret": interpret,
}  # fmt: skip


def frontier_rows(folder: Path) -> list[dict[str, Any]]:
    return list(read_json(folder / "main" / "jacobian" / "frontier.json")["rows"])


def chosen(folder: Path) -> dict[str, Any]:
    """The row of the chosen λ; the smallest λ > 0 where every one costs more than .02."""
    name = read_json(folder / "main" / "jacobian" / "frontier.json")["chosen"]
    row = next(row for row in frontier_rows(folder) if row["name"] == name)
    if row["lambda"] > 0:
        return row
    return min((row for row in frontier_rows(folder) if row["lambda"] > 0), key=lambda row: row["lambda"])


def studied(given: argparse.Namespace) -> dict[str, Any]:
    """The row that the later stages look into."""
    if given.study_lambda is None:
        return chosen(given.folder)
    return next(row for row in frontier_rows(given.folder) if row["lambda"] == given.study_lambda)


def collect(folder: Path, seconds: dict[str, float], studied: str) -> dict[str, Any]:
    """Everything measured so far, without the histograms and texts."""
    results = folder / "main" / "jacobian"
    document: dict[str, Any] = {
        "machine": machine(),
        "versions": versions(),
        "seconds": seconds,
        "training_seconds": {},
        "frontier": read_json(results / "frontier.json")["rows"],
        "chosen": chosen(folder)["name"],
        "studied": studied,
    }
    document["published_starts"] = published_starts(results, document["frontier"])
    random = read_json(results / "random.json") if (results / "random.json").exists() else {"folders": {}}
    for name in ("main", "seeds", "whole", *(f"main/jacobian/random/{place}" for place in random["folders"].values())):
        if (folder / name / "run.json").exists():
            document["training_seconds"][name.rsplit("/", 1)[-1]] = read_run(folder / name)[1].get("seconds", {})
    document["config"] = read_json(folder / "main" / "run.json")["config"]
    for name in ("seeds", "whole"):
        if (path := folder / name / "jacobian" / "frontier.json").exists():
            document[name] = read_json(path)["rows"]
    if random["folders"]:
        document["random"], document["random_frontiers"] = random["rows"], random["frontiers"]
    if (path := results / "interpretability.json").exists():
        document["interpretability"] = read_json(path)["rows"]
    document["checks"] = checks(document)
    return document


def published_starts(results: Path, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shares above the size that as many elements exceed at λ = 0 as exceeded .01 in a paper's model.

    .01 is another size on other activations; this is the same place in the distribution. To a bin of the histograms
    (a fortieth of a decade), no intervals.
    """
    counts = {row["name"]: np.array(read_json(results / row["name"] / "measures.json")["histogram"]) for row in rows}
    shares = {name: c[::-1].cumsum()[::-1] / c.sum() for name, c in counts.items()}
    base = shares[next(row["name"] for row in rows if row["lambda"] == 0)]
    found = {}
    for model, (without, reported) in PUBLISHED.items():
        bin_ = int(np.abs(base - without).argmin())
        told = {f"{row['lambda']:g}": float(shares[row["name"]][bin_]) for row in rows}
        size = 10 ** (LOWEST + (bin_ - 1) / BINS_PER_DECADE)
        found[model] = {"size": size, "shares": told, "reported": [without, reported]}
    return found


def checks(document: dict[str, Any]) -> dict[str, Any]:
    """The plan's questions, answered from the tables."""
    rows = document["frontier"]
    row = next(one for one in rows if one["name"] == document["chosen"])
    shares = [one["estimates"]["over_0.01"]["value"] for one in rows]
    other = next(one for one in rows if one["name"] == document["studied"])
    base = next(one for one in rows if one["lambda"] == 0)
    found: dict[str, Any] = {
        "share over .01 falls with every step of λ": bool(np.all(np.diff(shares) <= 0)),
        "λ chosen": row["lambda"],
        "λ studied": other["lambda"],
        "CE cost": row["ce_cost"],
        "CE cost at most .02": _compared(row["ce_cost"], 0.02, "below", "above"),
        "times fewer": {name: row["reduction"][name] for name in ("over_0.01", *FREE_OF_SCALE)},
        "at least 4 times fewer": {
            name: _compared(row["reduction"][name], 4, "no", "yes") for name in ("over_0.01", *FREE_OF_SCALE)
        },
        "linear or flat": [one["linearity"]["linear_or_flat"] for one in (base, row, other)],
        "linear": [one["linearity"]["linear"] for one in (base, row, other)],
        "CE score at the largest λ": [rows[-1][key]["value"] for key in ("ce_score_in", "ce_score_out")],
    }
    if extra := document.get("seeds"):
        found["seeds"] = {
            f"λ = {coef:g}": {
                name: _spread([value for one in (*rows, *extra) if one["lambda"] == coef
                               and (value := _value(one, name)) is not None])
                for name in COMPARED
            }
            for coef in sorted({0.0, row["lambda"], other["lambda"]})
        }  # fmt: skip
        if every := document.get("whole"):
            found["a random share of the tokens against all, and seeds"] = {
                name: _against_seeds(_value(other, name), _value(every[0], name),
                                     found["seeds"][f"λ = {other['lambda']:g}"][name]["sd"])
                for name in COMPARED
            }  # fmt: skip
    if compared := document.get("random"):
        found["trained and random (one draw, one seed)"] = [
            {"kind": one["kind"], "lambda": one["lambda"], "matched": one["matched"]}
            | {name: one["measures"][name]["verdict"] for name in ("over_0.01", *FREE_OF_SCALE)}
            for one in compared
        ]
        more = {"trained below": "random falls more", "random below": "trained falls more"}
        found["reduction by the penalty, trained and random (one draw, one seed)"] = [
            {"kind": one["kind"], "lambda": one["lambda"], "matched": one["reduction_matched"]}
            | {name: more.get(sides["verdict"], sides["verdict"]) for name, sides in one["reduction"].items()}
            for one in compared
            if one["lambda"] > 0 and one["reduction"]
        ]
    return found


def _value(row: dict[str, Any], name: str) -> float | None:
    return (row[name] if name in row else row["estimates"][name])["value"]


def _compared(estimate: dict[str, Any], limit: float, below: str, above: str) -> str:
    """Where an estimate lies, with its interval."""
    if estimate["value"] is None:
        return "not measured"
    side = below if estimate["value"] <= limit else above
    ends = estimate["interval"]
    if ends is None:
        return f"{side}, no interval"
    return f"{side}, interval holds {limit:g}" if ends[0] <= limit <= ends[1] else side


def _against_seeds(share: float | None, whole: float | None, sd: float | None) -> dict[str, Any]:
    """The change by measuring the penalty on a share of the tokens, beside the seeds' standard deviation."""
    change = None if share is None or whole is None else share - whole
    less = None if change is None or sd is None else abs(change) < sd
    return {"change": change, "sd of seeds": sd, "less than seeds": less}


def _spread(values: list[float]) -> dict[str, Any]:
    """Mean and standard deviation over seeds."""
    mean, sd = (float(np.mean(values)), float(np.std(values, ddof=1))) if len(values) > 1 else (None, None)
    return {"mean": mean, "sd": sd, "n": len(values)}


if __name__ == "__main__":
    main()
