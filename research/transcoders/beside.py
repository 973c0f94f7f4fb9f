"""Is a transcoder as good as an SAE of the MLP's output at equal L0, and what do controls reach?

    monosemy train transcoders --run runs/layers --sites layers.3.mlp_in layers.3.mlp_out … \\
        --transcoders.compare-saes --transcoders.frozen-random
    python -m research.transcoders.beside runs/layers

Every dictionary of a layer takes the place of the MLP's output: the transcoder by what it predicts from the MLP's
input, the SAE by its reconstruction of the output itself, the linear map and the frozen-random transcoder by their
predictions. An SAE sees what it has to give back, so that it has the easier task. FVU and Δ loss come from the run's
evaluation; the differences transcoder − SAE are paired over the same documents, with 95% intervals.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monosemy.evals.documents import load_documents
from monosemy.layout import RunFiles
from monosemy.run import read_run
from research.frontier.paired import paired_differences
from research.markdown import markdown
from research.records import record_path, write_record
from research.transcoders.run import quality
from research.transcoders.tables import half

KINDS = {
    "transcoder_frozen_random": "frozen-random transcoder (control)",
    "transcoder": "transcoder",
    "linear": "linear map (control)",
    "jumprelu": "SAE of the output",
}
"""Kinds of dictionary by how their names begin, the longer beginnings first."""
ORDER = ("transcoder", "jumprelu", "transcoder_frozen_random", "linear")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run with transcoders, SAEs of their outputs and controls")
    parser.add_argument("--out", type=Path, default=record_path("transcoders", "beside"))
    options = parser.parse_args()
    config, _ = read_run(options.run)
    rows = [row | {"kind": kind_of(row["name"])} for row in quality(options.run)]
    record = {
        "tokens": config.text.n_tokens,
        "d_sae": config.d_sae,
        "l0": config.l0[0],
        "rows": rows,
        "paired": [paired(options.run, layer, rows) for layer in sorted({row["layer"] for row in rows})],
    }
    write_record(options.out, record)
    print(table(record))


def kind_of(name: str) -> str:
    """The kind of a dictionary, one of `KINDS`."""
    return next(kind for kind in KINDS if name.startswith(kind))


def paired(run: Path, layer: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Δ loss of the layer's transcoder minus that of its SAE, nats per token, over the same documents."""
    names = {row["kind"]: row["name"] for row in rows if row["layer"] == layer}
    sums = load_documents(RunFiles(run).documents)[f"layers.{layer}.mlp_out"]["delta_loss"]
    groups = {kind: [names[kind]] for kind in ("transcoder", "jumprelu")}
    (difference,) = paired_differences(sums, groups)
    return {"layer": layer, "estimate": difference.estimate, "interval": [difference.low, difference.high]}


def table(record: Mapping[str, Any]) -> str:
    """One row for each layer and dictionary."""
    differences = {row["layer"]: row for row in record["paired"]}
    body = []
    for layer, difference in differences.items():
        members = {row["kind"]: row for row in record["rows"] if row["layer"] == layer}
        for kind in ORDER:
            row = members[kind]
            cells = [f"{row['l0']:.1f}", half(row, "fvu", 3), half(row, "delta_loss", 3)]
            dead = f"{100 * row['dead_fraction']:.1f}" if "dead_fraction" in row else ""
            low, high = difference["interval"]
            against = f"{difference['estimate']:+.3f} [{low:+.3f}, {high:+.3f}]" if kind == "transcoder" else ""
            body.append([f"{layer}" if kind == ORDER[0] else "", KINDS[kind], *cells, dead, against])
    return markdown(["layer", "dictionary", "L0", "FVU", "Δ loss", "dead %", "Δ loss − the SAE's, paired"], body)


if __name__ == "__main__":
    main()
