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
from research.records import record_path, write_record
from research.transcoders.run import quality
from research.transcoders.tables import beside_table

BEGINNINGS = ("transcoder_frozen_random", "transcoder", "linear", "jumprelu")
"""How the names of the kinds of dictionary begin (`tables.KINDS`), the longer beginnings first."""


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
    print(beside_table(record))


def kind_of(name: str) -> str:
    """The kind of a dictionary, one of `BEGINNINGS`."""
    return next(kind for kind in BEGINNINGS if name.startswith(kind))


def paired(run: Path, layer: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Δ loss of the layer's transcoder minus that of its SAE, nats per token, over the same documents."""
    names = {row["kind"]: row["name"] for row in rows if row["layer"] == layer}
    sums = load_documents(RunFiles(run).documents)[f"layers.{layer}.mlp_out"]["delta_loss"]
    groups = {kind: [names[kind]] for kind in ("transcoder", "jumprelu")}
    (difference,) = paired_differences(sums, groups)
    return {"layer": layer, "estimate": difference.estimate, "interval": [difference.low, difference.high]}


if __name__ == "__main__":
    main()
