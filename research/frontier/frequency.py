"""What JumpReLU's penalty on latents that fire often costs, and what it removes.

    for c in 0 0.03; do monosemy train demo --run runs/frequency-$c $C --architectures jumprelu --l0 32 64 \\
        --jumprelu.frequency-coef $c; done                     # C as in README.md
    python -m research.frontier.frequency runs/frontier runs/seed0 runs/frequency-0 runs/frequency-0.03

The first runs have BatchTopK and JumpReLU with its default penalty. The change of FVU against BatchTopK is paired over
the same documents, with simultaneous 95% intervals over the weights at one L0. One seed, one site.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from monosemy.evals.documents import load_documents
from monosemy.evals.evaluation_file import read_evaluation
from monosemy.layout import RunFiles
from monosemy.run import read_run
from monosemy.saes.jumprelu import JumpReluOptions
from research.frontier.paired import joined, paired_ratios
from research.frontier.tables import frequency_table
from research.records import record_path, write_record

SITE = "layers.12.resid_post"
REFERENCE = "batch_topk"
KINDS = (REFERENCE, "jumprelu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=record_path("frontier", "frequency"))
    options = parser.parse_args()
    rows, sums = [], []
    for run in options.runs:
        config, _ = read_run(run)
        coef = config.options.get("jumprelu.frequency_coef", JumpReluOptions().frequency_coef)
        errors = load_documents(RunFiles(run).documents)[SITE]["error"]
        records = [row for row in read_evaluation(run)["records"] if row["site"] == SITE]
        own = [row for row in records if row.get("architecture") in KINDS and row.get("seed") == 0]
        names = {row["name"]: f"{row['name']} {coef:g}" for row in own}
        rows += [described(row, coef) | {"name": names[row["name"]]} for row in own]
        sums.append(replace(errors, sums={label: errors.sums[name] for name, label in names.items()}))
    evaluation = joined(sums)
    for row in (row for row in rows if row["kind"] != REFERENCE):
        same = [other["name"] for other in rows if other["asked"] == row["asked"] and other["kind"] == REFERENCE]
        (ratio,) = paired_ratios(evaluation, {row["name"]: [row["name"]], REFERENCE: same})
        row["against"] = [ratio.estimate, ratio.low, ratio.high]
    record = {"rows": sorted(rows, key=lambda row: (row["asked"], row["kind"], row["coef"]))}
    write_record(options.out, record)
    print(frequency_table(record))


def described(row: dict[str, Any], coef: float) -> dict[str, Any]:
    measures = ("l0", "fvu", "dead_fraction", "over_10pct_fraction")
    return {"kind": row["architecture"], "asked": row["target_l0"], "coef": coef} | {
        name: row[name] for name in measures
    }


if __name__ == "__main__":
    main()
