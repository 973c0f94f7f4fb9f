"""The references that circuit methods are scored against: small trained models, and a real one by exhaustive ablation.

    trained    induction and symbolic IOI at five seeds: accuracy, the heads that matter alone or in pairs (all heads
               and all pairs replaced, 64 prompts); weights are left in the cache
    real       SmolLM2-135M on four tasks: accuracy, every head replaced by its counterpart's output (resample) and by
               the mean over counterparts, 64 prompts, bootstrap intervals, one task after the other; what is done is
               kept in the results file and not done again

Time on two cores: trained, a minute a model, with its pairs; real, about 6 minutes for each task and
ablation of 15 tokens (270 heads × 64 prompts × half a pass).

Run: python benchmarks/circuits_truth.py [--only trained real] [--tasks ioi …] [--out docs/results/circuits-truth.json]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from common import save

from monosemy import files
from monosemy.circuits.contrast import read_contrast
from monosemy.circuits.heads import AttentionOnlyHeads, Heads, LanguageModelHeads, head_name
from monosemy.circuits.reference import SHARE, Reference, find_reference
from monosemy.circuits.task import TaskData, clean_tokens
from monosemy.circuits.tasks import build_task, task_accuracy
from monosemy.circuits.trained import RECIPES, trained_model

SEEDS = range(5)
N_PROMPTS = 64
REAL_TASKS = ("ioi", "docstring", "greater-than-units", "induction")
ABLATIONS = ("resample", "mean")


def measure(heads: Heads, data: TaskData, ablation: str, *, pairs: bool) -> dict[str, Any]:
    """The reference of one model and task, as JSON."""
    began = time.perf_counter()
    contrast = read_contrast(heads, data.positives, data.metric)
    accuracy = task_accuracy(heads.logits(clean_tokens(data.positives)), data.positives)
    reference = find_reference(contrast, ablation, pairs=pairs)
    print(f"{heads.name}, {data.name}, {ablation}: {accuracy}; {described(heads, reference)}", flush=True)
    single = reference.single
    return {
        "accuracy": accuracy.share,
        "accuracy_interval": accuracy.interval,
        "top1": accuracy.top1,
        "n_prompts": len(data.positives),
        "m_clean": float(contrast.m_clean.mean()),
        "m_corrupt": float(contrast.m_corrupt.mean()),
        "share": SHARE,
        "alone": names(heads, reference.alone),
        "together": names(heads, reference.together),
        "effects": single.scores.tolist(),
        "intervals": single.intervals.tolist() if single.intervals is not None else None,
        "seconds": time.perf_counter() - began,
    }


def names(heads: Heads, chosen: Any) -> list[str]:
    return [head_name(heads, index) for index in chosen.nonzero()[0].tolist()]


def described(heads: Heads, reference: Reference) -> str:
    alone, all_of_them = names(heads, reference.alone), names(heads, reference.labels)
    together = [name for name in all_of_them if name not in alone]
    return f"alone {' '.join(alone) or 'none'}; only in pairs {' '.join(together) or 'none'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("trained", "real"), default=("trained", "real"))
    parser.add_argument("--tasks", nargs="+", default=REAL_TASKS)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    results: dict[str, Any] = files.read_json(chosen.out) if chosen.out and chosen.out.exists() else {}
    done: dict[str, Any] = results.get("references", {})

    def keep(key: str, heads: Heads, data: TaskData, ablation: str, *, pairs: bool) -> None:
        if key not in done:
            done[key] = measure(heads, data, ablation, pairs=pairs)
            save(chosen.out, {"references": done})

    if "trained" in chosen.only:
        for task in RECIPES:
            for seed in SEEDS:
                trained = trained_model(task, seed, N_PROMPTS)
                keep(f"trained {task} {seed}", AttentionOnlyHeads(trained.model), trained.data, "resample", pairs=True)
    if "real" in chosen.only:
        from monosemy.models.sources import load_model

        model = load_model("embedded", device="cpu", checks=False)
        heads = LanguageModelHeads(model)
        for task in chosen.tasks:
            data = build_task(task, model, N_PROMPTS)
            for ablation in ABLATIONS:
                keep(f"{model.name} {task} {ablation}", heads, data, ablation, pairs=False)


if __name__ == "__main__":
    main()
