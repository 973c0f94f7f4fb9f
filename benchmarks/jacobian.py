"""Plan B for Jacobian SAEs: the λ frontier, seeds, random models, strongest pairs and labels, on a real model.

    python benchmarks/jacobian.py --folder runs/jacobian

One command, resumable: every stage is one `monosemy jacobian …` whose results are kept in the folder. Writes
docs/results/jacobian.json (tables, checks, seconds) and docs/figures/jacobian-*.png.

  frontier   λ = 0 and the others, seed 0, L0 32, 4,608 latents, two passes over 500k tokens around layer 15's MLP
  seeds      λ = 0 and the chosen λ with two more seeds
  random     the three kinds of random model at half, once and twice the L0, λ = 0 and the chosen one
  pairs, interpret   of the chosen pair; labels against those of the pair without penalty, which is two TopK SAEs of
             the same L0 trained alone, to the last bit

What it checks is said either way: share of |J| > .01 and its scale-free sibling down at least 4× at a CE cost of at
most .02; shares falling with λ; trained sparser than random on measures without scale; more linear than without
penalty.
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
from monosemy.run import machine, read_run, versions

ROOT = Path(__file__).parents[1]
FREE_OF_SCALE = ("scaled_over_0.1", "scaled_over_1", "share_of_90", "token_share_of_90")


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
    add("--tokens", default="500k")
    add("--passes", default="2")
    add("--batch", default="2048")
    add("--seeds", nargs="+", default=["1", "2"], help="further seeds at λ = 0 and the chosen λ")
    add("--kinds", nargs="+", default=["published", "reinitialised", "matched"])
    add("--device", default="auto")
    add("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    given = parser.parse_args()
    seconds = dict(read_json(given.folder / "seconds.json")) if (given.folder / "seconds.json").exists() else {}
    for stage in given.stages:
        started = time.perf_counter()
        STAGES[stage](given)
        seconds[stage] = round(seconds.get(stage, 0.0) + time.perf_counter() - started, 1)
        write_json(given.folder / "seconds.json", seconds)
    write_json(given.out, collect(given.folder, seconds))
    for picture in sorted((given.folder / "main" / "figures").glob("jacobian-*.png")):
        given.figures.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, given.figures / picture.name)
    print(f"written: {given.out}")


def train(given: argparse.Namespace, name: str, lambdas: Sequence[str], seeds: Sequence[str]) -> None:
    monosemy(
        ["jacobian", "train", "--run", str(given.folder / name), "--layer", given.layer, "--l0", f"{given.l0:g}",
         "--d-sae", given.d_sae, "--tokens", given.tokens, "--passes", given.passes, "--batch", given.batch,
         "--device", given.device, "--lambda", *lambdas, "--seeds", *seeds]
    )  # fmt: skip


def frontier(given: argparse.Namespace) -> None:
    train(given, "main", given.lambdas, ["0"])


def seeds(given: argparse.Namespace) -> None:
    train(given, "seeds", ["0", f"{chosen(given.folder)['lambda']:g}"], given.seeds)


def random(given: argparse.Namespace) -> None:
    levels = [f"{given.l0 * factor:g}" for factor in (0.5, 1, 2)]
    lambdas = ["0", f"{chosen(given.folder)['lambda']:g}"]
    monosemy(["jacobian", "random", str(given.folder / "main"), "--kinds", *given.kinds, "--lambda", *lambdas,
              "--l0", *levels])  # fmt: skip


def pairs(given: argparse.Namespace) -> None:
    monosemy(["jacobian", "pairs", str(given.folder / "main"), "--pair", chosen(given.folder)["name"]])


def interpret(given: argparse.Namespace) -> None:
    monosemy(["jacobian", "interpret", str(given.folder / "main")])


STAGES = {"frontier": frontier, "seeds": seeds, "random": random, "pairs": pairs, "interpret": interpret}


def chosen(folder: Path) -> dict[str, Any]:
    """The row of the chosen λ; the smallest λ > 0 where every one costs more than .02."""
    found = read_json(folder / "main" / "jacobian" / "frontier.json")
    row = next(row for row in found["rows"] if row["name"] == found["chosen"])
    if row["lambda"] > 0:
        return row
    return min((row for row in found["rows"] if row["lambda"] > 0), key=lambda row: row["lambda"])


def collect(folder: Path, seconds: dict[str, float]) -> dict[str, Any]:
    """Everything measured so far, without the histograms and texts."""
    results = folder / "main" / "jacobian"
    document: dict[str, Any] = {
        "machine": machine(),
        "versions": versions(),
        "seconds": seconds,
        "training_seconds": {},
        "frontier": read_json(results / "frontier.json")["rows"],
        "chosen": chosen(folder)["name"],
    }
    random = read_json(results / "random.json") if (results / "random.json").exists() else {"folders": {}}
    for name in ("main", "seeds", *(f"main/jacobian/random/{place}" for place in random["folders"].values())):
        if (folder / name / "run.json").exists():
            document["training_seconds"][name.rsplit("/", 1)[-1]] = read_run(folder / name)[1].get("seconds", {})
    document["config"] = read_json(folder / "main" / "run.json")["config"]
    if (path := folder / "seeds" / "jacobian" / "frontier.json").exists():
        document["seeds"] = read_json(path)["rows"]
    if random["folders"]:
        document["random"], document["random_frontiers"] = random["rows"], random["frontiers"]
    if (path := results / "interpretability.json").exists():
        document["interpretability"] = read_json(path)["rows"]
    document["checks"] = checks(document)
    return document


def checks(document: dict[str, Any]) -> dict[str, Any]:
    """The plan's questions, answered from the tables."""
    rows = document["frontier"]
    row = next(one for one in rows if one["name"] == document["chosen"])
    shares = [one["estimates"]["over_0.01"]["value"] for one in rows]
    base = next(one for one in rows if one["lambda"] == 0)
    affordable = row["ce_cost"] is not None and row["ce_cost"] <= 0.02
    found: dict[str, Any] = {
        "share over .01 falls with every step of λ": bool(np.all(np.diff(shares) <= 0)),
        "λ chosen": row["lambda"],
        "CE cost": row["ce_cost"],
        "times fewer over .01": row["reduction"]["over_0.01"],
        "times fewer, free of scale": {name: row["reduction"][name] for name in FREE_OF_SCALE},
        "at least 4 times fewer over .01 at a cost of at most .02": affordable
        and (row["reduction"]["over_0.01"] or 0) >= 4,
        "at least 4 times fewer over .1 RMS": affordable and (row["reduction"]["scaled_over_0.1"] or 0) >= 4,
        "linear or flat": [one["linearity"]["linear_or_flat"] for one in (base, row)],
        "linear": [one["linearity"]["linear"] for one in (base, row)],
        "CE score at the largest λ": [rows[-1][key]["value"] for key in ("ce_score_in", "ce_score_out")],
    }
    if extra := document.get("seeds"):
        found["seeds"] = {
            f"λ = {coef:g}": {
                name: _spread([one["estimates"][name]["value"] for one in (*rows, *extra) if one["lambda"] == coef])
                for name in ("over_0.01", "scaled_over_0.1", "share_of_90")
            }
            for coef in (0.0, row["lambda"])
        }
    if compared := document.get("random"):
        found["trained sparser than random"] = {
            f"{one['kind']}, λ = {one['lambda']:g}, {'matched' if one['matched'] else 'not matched'}": {
                name: one["measures"][name]["trained"]["value"] < one["measures"][name]["random"]["value"]
                for name in ("over_0.01", *FREE_OF_SCALE)
            }
            for one in compared
        }
        found["reduced by a larger factor than random"] = {
            one["kind"]: {name: sides["trained"] > sides["random"] for name, sides in one["reduction"].items()
                          if sides["trained"] and sides["random"]}
            for one in compared if one["lambda"] > 0
        }  # fmt: skip
    return found


def _spread(values: list[float]) -> dict[str, Any]:
    """Mean and standard deviation over seeds."""
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "n": len(values)}  # fmt: skip


if __name__ == "__main__":
    main()
