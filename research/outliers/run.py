"""Long rows and what they do to training: which rows, at which steps, and the curves of finished runs.

Run: python -m research.outliers.run RUN [RUN …] [--out FILE]

The runs share the stored activations (of the first run's first site; still in the cache) and differ in learning rate or
`training.outlier_error`. Nothing is trained: their metrics.jsonl, written every 10,000 tokens, are read.

  rows   the longest rows of the store, as multiples of the median norm, with the steps (from 1) that read them
  runs   per SAE: FVU and dead share at the last logged step, the rows that steps had left out by each logged step, and
         `after`: FVU at the first logged step from each reading of a row of three medians, and at the one before
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monosemy.activations.store import ActivationStore
from monosemy.activations.stream import StoredStream
from monosemy.errors import UserError
from monosemy.layout import RunFiles
from monosemy.run import read_run
from monosemy.support.files import cache_folder
from monosemy.support.metrics import read_metrics
from research import common, run_folders
from research.records import record_path

LONG = 3.0
"""Medians from which on a row counts as long."""
N_LONGEST = 8
PART = 16_384


def longest(folder: Path) -> dict[str, Any]:
    """The longest rows of the store behind a run, and when its stream reads them."""
    config, provenance = read_run(folder)
    stream = provenance.get("shuffle", {})
    if stream.get("storage") != "disk":
        raise UserError(f"{folder} has no stored activations on record; give a run trained from disk")
    store, site = ActivationStore.open(cache_folder() / "activations" / stream["fingerprint"]), stream["sites"][0]
    parts = [slice(start, min(start + PART, store.n_rows)) for start in range(0, store.n_rows, PART)]
    norms = np.concatenate([store.rows(site, part).norm(dim=1).numpy() for part in parts])
    norms /= np.median(norms)
    top = np.argsort(-norms)[:N_LONGEST]
    reader = StoredStream(store, [site], batch_tokens=config.training.batch_tokens, n_passes=config.training.n_passes)
    order = np.concatenate([reader._indices(step) for step in range(reader.n_steps)])
    steps = {int(row): 1 + np.flatnonzero(order == row) // config.training.batch_tokens for row in top}
    return {
        "n_rows": store.n_rows,
        "n_above": {f"{multiple:g}": int((norms > multiple).sum()) for multiple in (1.7, 2, LONG)},
        "longest": [{"medians": float(norms[row]), "steps": read.tolist()} for row, read in steps.items()],
    }


def curves(folder: Path, readings: Sequence[int]) -> dict[str, Any]:
    """One run's SAEs; `readings`: steps with a long row."""
    config, _ = read_run(folder)
    by_name: dict[str, list[dict[str, Any]]] = {}
    for record in read_metrics(RunFiles(folder).metrics):
        by_name.setdefault(record["name"], []).append(record)
    saes = {}
    for name, records in by_name.items():
        left, before = [], 0
        for record in records:
            if (now := record.get("rows_left_out", 0)) > before:
                left.append([record["step"], now - before])
            before = now
        last = records[-1]
        saes[name] = {
            "step": last["step"],
            "fvu": last["fvu"],
            "dead_fraction": last["dead_fraction"],
            "left_out_by_step": left,
            "after": around(records, readings),
        }
    # Runs from before the option have no count of rows, whatever their configuration is read as.
    counted = any("rows_left_out" in record for records in by_name.values() for record in records)
    peak = max(record["learning_rate"] for records in by_name.values() for record in records)
    return {"learning_rate": peak, "outlier_error": config.training.outlier_error if counted else 0.0, "saes": saes}


def around(records: Sequence[dict[str, Any]], readings: Sequence[int]) -> list[dict[str, Any]]:
    rows = []
    for reading in readings:
        after = [r for r in records if r["step"] >= reading][:1]
        before = [r for r in records if r["step"] < reading][-1:]
        if after and before:
            rows.append(
                {
                    "read_at": reading,
                    "logged_at": after[0]["step"],
                    "fvu": after[0]["fvu"],
                    "fvu_before": before[0]["fvu"],
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=record_path("outliers"))
    arguments = parser.parse_args()
    rows = longest(arguments.runs[0])
    readings = sorted(step for row in rows["longest"] if row["medians"] >= LONG for step in row["steps"])
    for row in rows["longest"]:
        print(f"{row['medians']:.2f} medians, read at steps {row['steps']}")
    runs = {folder.name: curves(folder, readings) for folder in arguments.runs}
    for name, run in runs.items():
        print(f"\n{name}: learning rate {run['learning_rate']:g}, outlier_error {run['outlier_error']:g}")
        for sae, curve in run["saes"].items():
            left = " ".join(f"{step}:{n}" for step, n in curve["left_out_by_step"])
            print(
                f"  {sae:20s} step {curve['step']}  FVU {curve['fvu']:.4f}  dead {curve['dead_fraction']:.3f}  {left}"
            )
            pairs = [f"{a['logged_at']}: {a['fvu_before']:.3f} → {a['fvu']:.3f}" for a in curve["after"]]
            print(f"    {'  '.join(pairs)}")
    common.save(arguments.out, {"rows": rows, "runs": runs})


if __name__ == "__main__":
    run_folders.run(main)
