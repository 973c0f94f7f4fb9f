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

What it checks (`collect.py`) is said either way. Evaluation takes most of the time that training does not:
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
from monosemy.layout import RunFiles
from monosemy.support.files import read_json, write_json
from research.jacobian.collect import AGAINST_RANDOM, WHOLE, collect, frontier_rows, largest_affordable, smallest
from research.records import figures_folder, record_path, write_record

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--folder", type=Path, default=Path("runs/jacobian"))
    add("--out", type=Path, default=record_path("jacobian"))
    add("--figures", type=Path, default=figures_folder("jacobian"))
    add("--lambda", dest="lambdas", nargs="+", default=["0", "0.02", "0.06", "0.2", "0.6", "2", "6"])
    add("--layer", default="15")
    add("--l0", type=float, default=32)
    add("--d-sae", default="4608")
    add("--tokens", default="260k")
    add("--passes", default="2")
    add("--batch", default="1024")
    add("--learning-rate", help="peak learning rate (default: the architecture's own)")
    add("--loss-tokens", default="16k", help="validation tokens for the CE score")
    add("--token-share", default="0.25", help="share of each batch that the penalty is measured on")
    add("--mlp-error", default="0", help="weight μ of the input SAE's error through the MLP")
    add("--study-lambda", type=float, help="λ of stages whole, random, pairs and interpret (default: the chosen one)")
    add("--trained-l0", type=float, default=0.5, help="L0 of the pairs compared with random ones, in units of --l0")
    add("--random-l0", type=float, nargs="+", default=[1, 2], help="L0s of the random models, in units of --l0")
    add("--seeds", nargs="+", default=["1", "2"], help="further seeds at λ = 0 and the two others")
    add("--kinds", nargs="+", default=["published", "reinitialised", "matched"])
    add("--device", default="auto")
    add("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    arguments = parser.parse_args()
    file = arguments.folder / "seconds.json"
    seconds: dict[str, float] = {}
    for stage in arguments.stages:
        started = time.perf_counter()
        STAGES[stage](arguments)
        seconds = dict(read_json(file)) if file.exists() else {}  # read now: another stage may run beside this one
        seconds[stage] = round(seconds.get(stage, 0.0) + time.perf_counter() - started, 1)
        write_json(file, seconds)
    write_record(
        arguments.out, collect(arguments.folder, seconds, studied(arguments)["name"]), without=("seeds", "whole")
    )
    pictures = {"trade_off": "main", "magnitudes": AGAINST_RANDOM}
    for name, run in pictures.items():
        picture = RunFiles(arguments.folder / run).figure(f"jacobian-{name}")
        if picture.exists():
            arguments.figures.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, arguments.figures / picture.name)
    print(f"written: {arguments.out}")


def train(
    arguments: argparse.Namespace,
    name: str,
    lambdas: Sequence[str],
    seeds: Sequence[str],
    *,
    token_share: str | None = None,
    l0: float = 1,
) -> None:
    """One run. l0: in units of --l0."""
    options = {
        "--run": str(arguments.folder / name),
        "--layer": arguments.layer,
        "--l0": f"{l0 * arguments.l0:g}",
        "--d-sae": arguments.d_sae,
        "--tokens": arguments.tokens,
        "--passes": arguments.passes,
        "--batch": arguments.batch,
        "--loss-tokens": arguments.loss_tokens,
        "--device": arguments.device,
        "--mlp-error": arguments.mlp_error,
        "--token-share": token_share or arguments.token_share,
    }
    if arguments.learning_rate:
        options["--learning-rate"] = arguments.learning_rate
    words = [word for option in options.items() for word in option]
    monosemy(["jacobian", "train", *words, "--lambda", *lambdas, "--seeds", *seeds])


def frontier(arguments: argparse.Namespace) -> None:
    train(arguments, "main", arguments.lambdas, ["0"])


def seeds(arguments: argparse.Namespace) -> None:
    row = studied(arguments)
    largest = largest_affordable(arguments.folder) or row
    lambdas = sorted({0.0, largest["lambda"], row["lambda"]})
    train(arguments, "seeds", [f"{coef:g}" for coef in lambdas], arguments.seeds)


def whole(arguments: argparse.Namespace) -> None:
    for name, some in zip(WHOLE, (["0"], arguments.seeds), strict=True):
        train(arguments, name, [f"{studied(arguments)['lambda']:g}"], some, token_share="1")


def random(arguments: argparse.Namespace) -> None:
    levels = [f"{arguments.l0 * factor:g}" for factor in arguments.random_l0]
    lambdas = ["0", f"{studied(arguments)['lambda']:g}"]
    train(arguments, AGAINST_RANDOM, lambdas, ["0"], l0=arguments.trained_l0)
    options = ["--kinds", *arguments.kinds, "--lambda", *lambdas, "--l0", *levels]
    monosemy(["jacobian", "random", str(arguments.folder / AGAINST_RANDOM), *options])


def pairs(arguments: argparse.Namespace) -> None:
    monosemy(["jacobian", "pairs", str(arguments.folder / "main"), "--pair", studied(arguments)["name"]])


def interpret(arguments: argparse.Namespace) -> None:
    both = [
        row["name"] for row in frontier_rows(arguments.folder) if row["lambda"] in (0, studied(arguments)["lambda"])
    ]
    monosemy(["jacobian", "interpret", str(arguments.folder / "main"), "--pair", *both])


STAGES = {
    "frontier": frontier,
    "seeds": seeds,
    "whole": whole,
    "random": random,
    "pairs": pairs,
    "interpret": interpret,
}


def studied(arguments: argparse.Namespace) -> dict[str, Any]:
    """The row that the later stages look into."""
    if arguments.study_lambda is None:
        return largest_affordable(arguments.folder) or smallest(arguments.folder)
    rows = {row["lambda"]: row for row in frontier_rows(arguments.folder)}
    if arguments.study_lambda not in rows:
        raise SystemExit(
            f"--study-lambda {arguments.study_lambda:g} is not on the frontier; there are "
            + ", ".join(f"{coef:g}" for coef in rows)
        )
    return rows[arguments.study_lambda]


if __name__ == "__main__":
    main()
