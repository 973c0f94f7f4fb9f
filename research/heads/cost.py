"""What the combined method costs beside exhaustive patching, both in turn, so that a slow minute hits both."""

from __future__ import annotations

from typing import Any

import numpy as np

from monosemy.circuits.heads.combined import CombinedConfig, combined_circuit
from monosemy.circuits.heads.contrast import read_contrast
from monosemy.circuits.heads.methods import Bench
from monosemy.circuits.heads.model_heads import n_all
from monosemy.circuits.heads.patching import exhaustive_patching

ROUNDS = 5


def cost_part(bench: Bench, n_rounds: int = ROUNDS) -> dict[str, Any]:
    """Every round reads the prompts, patches every `n_rounds`-th head and runs the combined method (and without
    codes). Seconds: medians of the rounds, of patching the sum; reading counted on both sides. The range: a round's
    combined seconds over patching's whole."""
    n = n_all(bench.heads)
    rows: dict[str, list[float]] = {"reading": [], "patching": [], "combined": [], "combined-no-codes": []}
    passes: dict[str, float] = {}
    for first in range(n_rounds):
        contrast = read_contrast(bench.heads, bench.data.positives[: bench.n_prompts], bench.data.metric)
        rows["reading"].append(contrast.seconds)
        part = exhaustive_patching(contrast, bench.ablation, indices=range(first, n, n_rounds))
        rows["patching"].append(part.seconds)
        passes["patching"] = passes.get("patching", 0.0) + part.n_passes
        for name, share in (("combined", CombinedConfig().code_share), ("combined-no-codes", 0.0)):
            config = CombinedConfig(code_share=share, codes=bench.config("fast"))
            scores = combined_circuit(contrast, config, bench.ablation).heads
            rows[name].append(scores.seconds)
            passes[name] = scores.n_passes
    reading = float(np.median(rows["reading"]))
    whole = reading + sum(rows["patching"])
    costs: dict[str, Any] = {"n_prompts": contrast.n_examples, "seconds_of_rounds": rows, "n_passes": passes}
    costs["patching_seconds"] = whole
    for name in ("combined", "combined-no-codes"):
        seconds = [reading + round_seconds for round_seconds in rows[name]]
        costs[name] = {"seconds": float(np.median(seconds)), "share": float(np.median(seconds)) / whole}
        costs[name]["range"] = [min(seconds) / whole, max(seconds) / whole]
    return costs
