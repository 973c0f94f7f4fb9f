"""Second look: does a gradient after a finite step find the members that the gradient at the prompt misses, and at what
cost?

Every method runs on the prompts that it has in `research.heads.run`, and its ranking is scored against the circuits of
that study's record (exhaustive ablation on prompts that no method sees); on compiled models against what was compiled.
Cost: passes over the prompts with the two of reading, over those of exhaustive patching with the same two.

The step (a quarter of the way) and the share of the prompts that read it (half) were chosen on other draws of the
prompts of induction, IOI and greater-than (seed 1; here it is seed 0), and on no docstring.

Run: python -m research.heads.second_look [--only induction] (about 6 minutes on one free core)
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from monosemy.circuits.heads.agreement import agreement, labels_of
from monosemy.circuits.heads.contrast import all_heads, passes_of
from monosemy.circuits.heads.methods import METHODS, Bench
from monosemy.circuits.heads.model_heads import as_heads
from research.common import save
from research.heads.compiled import CIRCUITS, compile_circuit
from research.heads.run import SEEDS, Sizes, real_data_bench
from research.records import record_path, records_of

COMPARED = ("eap", "eap-step", "combined", "combined-step")
N_READING = 2
"""Passes of reading: prompts and counterparts."""


def rows_of(bench: Bench, labels: ndarray, names: Sequence[str] = COMPARED) -> dict[str, Any]:
    """Every method's AUC against the labels, and its cost as a share of exhaustive patching's."""
    exhaustive = N_READING + passes_of(bench.heads, all_heads(bench.heads))
    method_rows = {}
    for name in names:
        scores = METHODS[name](bench)
        judgement = agreement(scores.importance, labels)
        method_rows[name] = {
            "auc": judgement.auc,
            "interval": judgement.auc_interval,
            "n_passes": scores.n_passes,
            "cost": (N_READING + scores.n_passes) / exhaustive,
            "n_checked": None if scores.checked is None else len(scores.checked),
            "seconds": scores.total_seconds,
        }
    return {"n_members": int(labels.sum()), "n_prompts": bench.n_prompts, "methods": method_rows}


def recorded_labels(part: Mapping[str, Any], bench: Bench) -> ndarray:
    """The reference circuit of a recorded piece, such as `5.6`, as labels of all heads."""
    pairs = (name.split(".") for name in part["members"])
    members = [(int(layer), int(head)) for layer, head in pairs]
    return labels_of(members, bench.heads.n_layers, bench.heads.n_heads)


def measured(parts: Mapping[str, Any], only: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(model, its rows) of the real model on every task with a recorded reference, and of every compiled model."""
    for piece, part in parts.items():
        if piece.startswith("real-") and "members" in part and only in piece:
            bench = real_data_bench(piece.removeprefix("real-"))
            yield piece, rows_of(bench, recorded_labels(part, bench))
    for name in CIRCUITS:
        for seed in SEEDS:
            if only in (piece := f"compiled-{name}-{seed}"):
                circuit = compile_circuit(name, seed, n_examples=Sizes().n_examples)
                bench = Bench(as_heads(circuit.model), circuit.data, Sizes().n_prompts, seed=seed)
                labels = labels_of(circuit.heads, circuit.model.n_layers, circuit.model.n_heads)
                yield piece, rows_of(bench, labels)


def over_seeds(pieces: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The pieces with those of one compiled circuit as their mean; intervals are kept for single models only."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, piece in pieces.items():
        groups.setdefault(name.rsplit("-", 1)[0] if name.startswith("compiled-") else name, []).append(piece)
    table = {}
    for name, group in groups.items():
        table[name] = dict(group[0])
        if len(group) > 1:
            each = [piece["methods"] for piece in group]
            table[name]["methods"] = {
                method: {
                    key: float(np.mean([rows[method][key] for rows in each])) for key in ("auc", "n_passes", "cost")
                }
                for method in each[0]
            }
        table[name]["n"] = len(group)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="models whose name has this in it, such as real-ioi")
    parser.add_argument("--out", type=Path, default=record_path("heads", "second_look"))
    arguments = parser.parse_args()
    pieces: dict[str, dict[str, Any]] = {}
    for name, piece in measured(records_of("heads")["heads"]["parts"], arguments.only):
        pieces[name] = piece
        print(name, {method: (round(row["auc"], 4), round(row["cost"], 3)) for method, row in piece["methods"].items()})
        save(arguments.out, {"models": over_seeds(pieces)})  # after each, so that a run broken off leaves what it has


if __name__ == "__main__":
    main()
