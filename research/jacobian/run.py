"""Jacobian SAEs: the λ frontier, seeds, random models, strongest pairs and labels, on a real model.

    python -m research.jacobian.run --folder runs/jacobian

One command, resumable: every stage is one `monosemy jacobian …` whose results are kept in the folder. Writes
results/jacobian.json (tables, checks, seconds) and figures/jacobian-*.png, beside this file.

  frontier   λ = 0 and the others, seed 0, L0 32, 4,608 latents, two passes over 260k tokens around layer 15's MLP, the
             penalty on a random quarter of each batch's tokens
  seeds      λ = 0, the chosen λ and --study-lambda with two more seeds
  whole      --study-lambda once more at all these seeds, its penalty on every token
  random     the trained model at half the L0 and the three kinds of random model at once and twice the L0, where they
             explain about as much: λ = 0 and --study-lambda
  pairs, interpret   of the pair of --study-lambda; labels against those of the pair without penalty, which is two TopK
             SAEs of the same L0 trained alone, to the last bit

The chosen λ is the largest that costs at most .02 of the CE score; where that is one whose penalty hardly shows,
--study-lambda (default: the chosen one) names another to look into.

What it checks (jacobian_results.py) is said either way. Evaluation takes most of the time that training does not:
--loss-tokens times the number of pairs, at both ends.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monosemy.cli import main as monosemy
from monosemy.support.files import read_json, write_json
from research.jacobian.collect import AGAINST_RANDOM, WHOLE, chosen, collect, frontier_rows, smallest
from research.records import figures_folder, record_path, write_record

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--folder", type=Path, default=Path("runs/jacobian"))
    add("--out", type=Path, default=record_path("jacobian"))
    add("--figures", type=Path, default=figures_folder("jacobian"))
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
    add("--trained-l0", type=float, default=0.5, help="L0 of the pairs compared with random ones, in units of --l0")
    add("--random-l0", type=float, nargs="+", default=[1, 2], help="L0s of the random models, in units of --l0")
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
    write_record(given.out, collect(given.folder, seconds, studied(given)["name"]), without=("seeds", "whole"))
    pictures = {"trade_off": "main", "magnitudes": AGAINST_RANDOM}
    for name, run in pictures.items():
        picture = given.folder / run / "figures" / f"jacobian-{name}.png"
        if picture.exists():
            given.figures.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, given.figures / picture.name)
    print(f"written: {given.out}")


def train(
    given: argparse.Namespace,
    name: str,
    lambdas: Sequence[str],
    seeds: Sequence[str],
    token_share: str | None = None,
    l0: float = 1,
) -> None:
    """One run. l0: in units of --l0."""
    monosemy(
        ["jacobian", "train", "--run", str(given.folder / name), "--layer", given.layer, "--l0", f"{l0 * given.l0:g}",
         "--d-sae", given.d_sae, "--tokens", given.tokens, "--passes", given.passes, "--batch", given.batch,
         "--learning-rate", given.learning_rate, "--loss-tokens", given.loss_tokens, "--device", given.device,
         "--token-share", token_share or given.token_share,
         "--lambda", *lambdas, "--seeds", *seeds]
    )  # fmt: skip


def frontier(given: argparse.Namespace) -> None:
    train(given, "main", given.lambdas, ["0"])


def seeds(given: argparse.Namespace) -> None:
    lambdas = sorted({0.0, (chosen(given.folder) or studied(given))["lambda"], studied(given)["lambda"]})
    train(given, "seeds", [f"{coef:g}" for coef in lambdas], given.seeds)


def whole(given: argparse.Namespace) -> None:
    for name, some in zip(WHOLE, (["0"], given.seeds), strict=True):
        train(given, name, [f"{studied(given)['lambda']:g}"], some, "1")


def random(given: argparse.Namespace) -> None:
    levels = [f"{given.l0 * factor:g}" for factor in given.random_l0]
    lambdas = ["0", f"{studied(given)['lambda']:g}"]
    train(given, AGAINST_RANDOM, lambdas, ["0"], l0=given.trained_l0)
    monosemy(["jacobian", "random", str(given.folder / AGAINST_RANDOM), "--kinds", *given.kinds, "--lambda", *lambdas,
              "--l0", *levels])  # fmt: skip


def pairs(given: argparse.Namespace) -> None:
    monosemy(["jacobian", "pairs", str(given.folder / "main"), "--pair", studied(given)["name"]])


def interpret(given: argparse.Namespace) -> None:
    both = [row["name"] for row in frontier_rows(given.folder) if row["lambda"] in (0, studied(given)["lambda"])]
    monosemy(["jacobian", "interpret", str(given.folder / "main"), "--pair", *both])


STAGES = {
    "frontier": frontier, "seeds": seeds, "whole": whole, "random": random, "pairs": pairs, "interpret": interpret,
}  # fmt: skip


def studied(given: argparse.Namespace) -> dict[str, Any]:
    """The row that the later stages look into."""
    if given.study_lambda is None:
        return chosen(given.folder) or smallest(given.folder)
    rows = {row["lambda"]: row for row in frontier_rows(given.folder)}
    if given.study_lambda not in rows:
        raise SystemExit(f"--study-lambda {given.study_lambda:g} is not on the frontier; there are "
                         + ", ".join(f"{coef:g}" for coef in rows))  # fmt: skip
    return rows[given.study_lambda]


if __name__ == "__main__":
    main()
