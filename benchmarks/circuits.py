"""Circuits: every method against known circuits, trained models and a real one; the discrete method's sensitivity.

    compiled      three hand-compiled models, exact truth, 5 seeds (places of heads, prompts)
    trained       attention-only models trained on induction and IOI, 5 seeds; truth: exhaustive ablation, also of pairs
    real          SmolLM2-135M on four tasks; agreement with exhaustive resample ablation on 64 prompts no method saw
    sensitivity   the discrete method over width, λ, training and counting examples, on trained models and one real task
    speed         the discrete presets on 270 heads × 500 examples of 576 dimensions, beyond the model's passes

Written part by part to --work, so that a run broken off continues; put together in --out, with figures beside.
On two free cores about 15 minutes for compiled, 20 for trained (and minutes to train each model first), 15 for
sensitivity, 30 for each real task and 75 for docstring, whose prompts are longer.

Run: python benchmarks/circuits.py [--parts compiled trained …] [--out docs/results/circuits.json]
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from circuits_figures import write_figures
from common import save

from monosemy import progress
from monosemy.circuits.code_scores import node_scores
from monosemy.circuits.compiled import CIRCUITS, compile_circuit
from monosemy.circuits.contrast import HeadScores, read_contrast
from monosemy.circuits.discrete import PRESETS, Codes, DiscreteConfig, discrete_codes, preset
from monosemy.circuits.edges import acdc_edges, attribute_edges, integrate_edges, patch_edges, probe_edges
from monosemy.circuits.heads import as_heads
from monosemy.circuits.masks import acdc, subnetwork_probing
from monosemy.circuits.methods import METHODS, Bench
from monosemy.circuits.patching import exhaustive_patching
from monosemy.circuits.pooled import PooledHeads
from monosemy.circuits.reference import find_reference
from monosemy.circuits.scores import agreement, auc_difference, completeness, faithfulness, labels_of
from monosemy.circuits.tasks import build_task, task_accuracy
from monosemy.circuits.trained import trained_model
from monosemy.errors import UserError
from monosemy.files import read_json, write_json

SEEDS = range(5)
TRAINED = ("induction", "ioi")
REAL = ("ioi", "docstring", "greater-than-units", "induction")
FAITHFUL = ("combined", "patching-resample", "patching", "eap", "eap-ig", "codes", "codes-paper", "random")
"""Methods whose faithfulness curve is measured: ten passes each."""
SEARCH_THRESHOLDS = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1)
"""ACDC's on the real model."""
N_REFERENCE, N_PROMPTS, N_FEW, N_SEARCH = 64, 64, 16, 16
WIDTHS = (50, 100, 200, 400, 800, 1600)
LAMBDAS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
N_TRAINING = (2, 5, 10, 25, 50, 100)
N_COUNTING = (5, 10, 25, 50, 100, 250)
SENSITIVITY_TASK = "greater-than-units"


def judged(scores: HeadScores, labels: np.ndarray) -> dict[str, Any]:
    found = agreement(scores.importance, labels)
    return {
        "auc": found.auc,
        "auc_interval": found.auc_interval,
        "average_precision": found.average_precision,
        "precision_at_c": found.precision,
        "seconds": scores.seconds,
        "reading_seconds": scores.reading_seconds,
        "n_passes": scores.n_passes,
    }


def compare(
    bench: Bench, labels: np.ndarray, methods: dict[str, Callable[[], HeadScores]], faithful: Sequence[str] = FAITHFUL
) -> dict[str, Any]:
    """Every method's agreement, time and (of some) faithfulness, each beside the combined one's AUC."""
    rows, scores = {}, {}
    for name, method in methods.items():
        scores[name] = method()
        rows[name] = judged(scores[name], labels)
    for name, found in scores.items():
        difference, interval = auc_difference(scores["combined"].importance, found.importance, labels)
        rows[name] |= {"combined_minus_this": difference, "combined_minus_this_interval": interval}
        if name in faithful:
            curve = faithfulness(bench.contrast, found.importance, bench.ablation)
            rows[name] |= {"cpr": curve.cpr, "cpr_interval": curve.cpr_interval, "cmd": curve.cmd}
            rows[name] |= {"cmd_interval": curve.cmd_interval, "kept": curve.kept, "faithfulness": curve.values}
    best = scores["combined"].importance.argsort(descending=True, stable=True)[: int(labels.sum())].tolist()
    missed = completeness(bench.contrast, best)
    return {
        "n_heads": len(labels),
        "n_members": int(labels.sum()),
        "methods": rows,
        "completeness_of_combined": dataclasses.asdict(missed),
    }


def small_edges(bench: Bench, truth: np.ndarray | None) -> dict[str, Any]:
    """Edge methods; without `truth` the exact patching of other prompts is it (5% of the metric's difference)."""
    contrast = read_contrast(bench.heads, bench.data.positives[:16], bench.data.metric)
    exact = patch_edges(contrast)
    if truth is None:
        other = patch_edges(read_contrast(bench.heads, bench.data.positives[16:32], bench.data.metric))
        truth = (other.importance >= 0.05 * float((contrast.m_clean - contrast.m_corrupt).mean())).numpy()
    found = [exact, attribute_edges(contrast), integrate_edges(contrast)]
    found += [acdc_edges(contrast, (0.01, 0.1)), probe_edges(contrast)]
    return {
        "n_edges": len(truth),
        "n_true": int(truth.sum()),
        "methods": {
            scores.method: {
                **dataclasses.asdict(agreement(scores.importance, truth, 200)),
                "seconds": scores.seconds + scores.reading_seconds,
            }
            for scores in found
        },
    }


def compiled_part(name: str, seed: int) -> dict[str, Any]:
    circuit = compile_circuit(name, seed, n_examples=250)
    bench = Bench(as_heads(circuit.model), circuit.data, 64, seed=seed)
    labels = labels_of(circuit.heads, circuit.model.n_layers, circuit.model.n_heads)
    found = compare(bench, labels, {name: _of(name, bench) for name in METHODS if name != "patching"}, ())
    edges = attribute_edges(bench.contrast).edges
    counted = [edge not in circuit.constant_edges for edge in edges]
    truth = np.array([edge in circuit.edges for edge in edges])
    found["edges"] = small_edges(bench, truth)
    found["edges"]["n_neither"] = len(edges) - sum(counted)
    return found


def trained_part(task: str, seed: int) -> dict[str, Any]:
    trained = trained_model(task, seed, n_examples=250)
    heads = as_heads(trained.model)
    reference = find_reference(read_contrast(heads, trained.data.positives[64:128], trained.data.metric))
    bench = Bench(heads, trained.data, 64, seed=seed)
    found = compare(bench, reference.labels, {name: _of(name, bench) for name in METHODS if name != "patching"})
    return found | {"difference": reference.difference, "edges": small_edges(bench, None)}


@cache
def real_model() -> Any:
    from monosemy.models.sources import load_model

    return load_model("embedded")


@cache
def real_bench(task: str) -> tuple[Bench, np.ndarray, dict[str, Any]]:
    """The bench of a task, the reference circuit, and what the reference cost."""
    model = real_model()
    data = build_task(task, model, 250)
    heads = as_heads(model)
    contrast = read_contrast(heads, data.positives[-N_REFERENCE:], data.metric)
    reference = find_reference(contrast, pairs=False)
    examples = tuple(e for batch in contrast.batches for e in batch.examples)
    accuracy = task_accuracy(torch.cat([batch.clean.logits for batch in contrast.batches]), examples)
    told = {
        "accuracy": dataclasses.asdict(accuracy),
        "difference": reference.difference,
        "members": [f"{layer}.{head}" for layer, head in sorted(reference.heads)],
        "reference_seconds": reference.single.total_seconds,
        "n_prompts": N_REFERENCE,
        "n_tokens": data.n_tokens,
    }
    return Bench(heads, data, N_PROMPTS), reference.labels, told


def real_part(task: str) -> dict[str, Any]:
    bench, labels, told = real_bench(task)
    if not 2 <= labels.sum() <= len(labels) - 2:
        return told | {"skipped": f"the reference circuit has {int(labels.sum())} heads"}
    few, search = (read_contrast(bench.heads, bench.data.positives[:n], bench.data.metric) for n in (N_FEW, N_SEARCH))
    chosen = {name: _of(name, bench) for name in METHODS if not name.startswith(("patching", "acdc", "sp", "rest"))}
    chosen |= {
        "patching": lambda: exhaustive_patching(few),
        "patching-mean": lambda: exhaustive_patching(few, "mean"),
        "patching-zero": lambda: exhaustive_patching(few, "zero"),
        "restoring": lambda: exhaustive_patching(few, direction="denoise"),
        "acdc": lambda: acdc(search, SEARCH_THRESHOLDS),
        "sp": lambda: subnetwork_probing(search),
    }
    found = told | compare(bench, labels, chosen)
    seconds = {name: row["seconds"] + row["reading_seconds"] for name, row in found["methods"].items()}
    found["combined_seconds_of_reference"] = seconds["combined"] / told["reference_seconds"]
    return found


def sensitivity_part(where: str) -> dict[str, Any]:
    """AUC of the discrete method's node scores, preset `paper` with one setting changed at a time."""
    if where in TRAINED:
        trained = trained_model(where, 0, n_examples=500)
        heads = as_heads(trained.model)
        kept = {kind: getattr(trained.data, kind)[:250] for kind in ("positives", "negatives")}
        data = dataclasses.replace(trained.data, **kept)
        labels = find_reference(read_contrast(heads, trained.data.positives[400:464], data.metric)).labels
        bench = Bench(heads, data, 64)
    else:
        bench, labels, _ = real_bench(where)
    pooled = bench.pooled
    paper = preset("paper", where)
    rows: dict[str, list[dict[str, Any]]] = {}
    settings = (
        [("d_sae", v) for v in WIDTHS] + [("l1_coef", v) for v in LAMBDAS] + [("n_training", v) for v in N_TRAINING]
    )
    for setting, value in settings:
        rows.setdefault(setting, []).append({"value": value, **_auc(pooled, labels, paper, **{setting: value})})
    codes = discrete_codes(pooled, paper)
    for n in N_COUNTING:
        subset = _first(codes, n)
        rows.setdefault("n_counting", []).append({"value": n, "auc": agreement(node_scores(subset), labels, 2).auc})
    for name in PRESETS:
        rows.setdefault("preset", []).append({"value": name, **_auc(pooled, labels, preset(name, where))})
    for fix in ("dead_code", "break_ties", "equal_sizes", "held_out"):
        rows.setdefault("fix", []).append({"value": fix, **_auc(pooled, labels, paper, **{fix: True})})
    rows["fix"].append({"value": "last token", **_auc(pooled, labels, paper, pooling="last")})
    return rows


def _auc(pooled: PooledHeads, labels: np.ndarray, config: DiscreteConfig, **changes: Any) -> dict[str, Any]:
    """Over three seeds: mean, least and largest AUC."""
    found = []
    for seed in range(3):
        settings = dataclasses.replace(config, seed=seed, **changes)
        try:
            codes = discrete_codes(pooled, settings)
        except UserError as error:
            return {"auc": None, "why": str(error)}
        found.append(agreement(node_scores(codes, break_ties=settings.break_ties), labels, 2).auc)
    return {"auc": float(np.mean(found)), "least": min(found), "largest": max(found)}


def _first(codes: Codes, n: int) -> Codes:
    """The first n positives and n negatives."""
    rows = torch.cat([codes.positive.nonzero()[:n, 0], (~codes.positive).nonzero()[:n, 0]])
    return Codes(codes.codes[rows], codes.positive[rows], codes.n_codes)


def speed_part() -> dict[str, Any]:
    """Seconds of the presets with values [500, 270, 64] and W_O [270, 64, 576] of random numbers: nothing of the time
    depends on what the numbers are, but on how many latents are active, which random data has more of."""
    generator = torch.Generator().manual_seed(0)
    heads = _Synthetic(torch.randn(270, 64, 576, generator=generator) / 24)
    values = torch.randn(500, 270, 64, generator=generator)
    pooled = PooledHeads(heads, {"mean": values}, torch.ones(500), torch.ones(500), 250, 0.0)  # type: ignore[arg-type]
    rows = {}
    for name in PRESETS:
        began = time.perf_counter()
        node_scores(discrete_codes(pooled, preset(name)), break_ties=PRESETS[name].break_ties)
        rows[name] = {"seconds": time.perf_counter() - began}
    return rows | {"threads": {"n": torch.get_num_threads()}}


class _Synthetic:
    """The one thing that codes need of a model."""

    def __init__(self, W_O: torch.Tensor) -> None:
        self.W_O = W_O

    def outputs(self, values: torch.Tensor) -> torch.Tensor:
        return torch.einsum("xne,ned->xnd", values, self.W_O)


def _of(name: str, bench: Bench) -> Callable[[], HeadScores]:
    return lambda: METHODS[name](bench)


def all_parts() -> Iterator[tuple[str, str, Callable[[], dict[str, Any]]]]:
    """(part, name of its file, what makes it)."""
    yield "speed", "speed", speed_part
    for name in CIRCUITS:
        for seed in SEEDS:
            yield "compiled", f"compiled-{name}-{seed}", lambda n=name, s=seed: compiled_part(n, s)
    for task in TRAINED:
        for seed in SEEDS:
            yield "trained", f"trained-{task}-{seed}", lambda t=task, s=seed: trained_part(t, s)
    for where in (*TRAINED, SENSITIVITY_TASK):
        yield "sensitivity", f"sensitivity-{where}", lambda w=where: sensitivity_part(w)
    for task in REAL:
        yield "real", f"real-{task}", lambda t=task: real_part(t)


def summary(parts: dict[str, Any]) -> dict[str, Any]:
    """Mean, least and largest AUC of every method over the seeds of a model; of the real one, its own row."""
    groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for file, found in parts.items():
        if "methods" in found:
            group = file if file.startswith("real-") else file.rsplit("-", 1)[0]
            for method, row in found["methods"].items():
                groups.setdefault(group, {}).setdefault(method, []).append(row)
    return {
        group: {
            method: {
                "auc": float(np.mean([r["auc"] for r in rows])),
                "least": min(r["auc"] for r in rows),
                "largest": max(r["auc"] for r in rows),
                "interval": rows[0]["auc_interval"] if len(rows) == 1 else None,
                "average_precision": float(np.mean([r["average_precision"] for r in rows])),
                "precision_at_c": float(np.mean([r["precision_at_c"] for r in rows])),
                "seconds": float(np.mean([r["seconds"] + r["reading_seconds"] for r in rows])),
                "n": len(rows),
            }
            for method, rows in methods.items()
        }
        for group, methods in groups.items()
    }


def print_table(table: dict[str, Any]) -> None:
    groups = list(table)
    methods = list(dict.fromkeys(method for group in table.values() for method in group))
    print("AUC (seconds)".ljust(20) + "".join(group.rjust(30) for group in groups))
    for method in methods:
        cells = [table[group].get(method) for group in groups]
        shown = [f"{c['auc']:.3f} ({c['seconds']:.1f})".rjust(30) if c else " " * 30 for c in cells]
        print(method.ljust(20) + "".join(shown))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["speed", "compiled", "trained", "sensitivity", "real"])
    parser.add_argument("--work", type=Path, default=Path("runs/bench/circuits"), help="finished parts")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figures", type=Path, default=Path("docs/figures"))
    chosen = parser.parse_args()
    parts: dict[str, Any] = {}
    listed = [entry for entry in all_parts() if entry[0] in chosen.parts]
    with progress.stage("circuits", total=len(listed), unit="parts") as bar:
        for _, name, make in listed:
            path = chosen.work / f"{name}.json"
            if not path.is_file():
                write_json(path, make())
            parts[name] = read_json(path)
            bar.advance()
    table = summary(parts)
    print_table(table)
    save(chosen.out, {"summary": table, "parts": parts})
    if chosen.out:
        write_figures(table, parts, chosen.figures)


if __name__ == "__main__":
    main()
