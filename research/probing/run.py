"""Sparse probing: what do the best 1, 2 and 5 latents tell of a text, against channels, components and random latents?

Run: python -m research.probing.run RUN [RUN …] [--out FILE] [--figures FOLDER]

Method of SAEBench's sparse probing (`evals.probing`) on labelled text of the embedded corpus that the SAEs were not
trained on (`probing_tasks`): one pass of the model, kept on disk; then each dictionary's features of every text (mean
over its tokens; the token's own activation for tasks on words), the k features that differ most between the classes on
the training half, a logistic regression on them, balanced accuracy on the other half.

    SAEs             every architecture and seed of one L0; frozen_random as the control
    residual         the channels of the residual stream that the SAEs read
    pca              all principal components of the training half's rows, of which the k best are taken likewise
    random           k random living latents of the trained SAEs (five draws a SAE)
    full probe       logistic regression on all channels, its penalty chosen inside the training half

k features are chosen by the difference of class means, as SAEBench does, and a second time by the difference in
standard deviations, which is kinder to channels and components; `--rule` says which the table shows, the file has both.

Intervals: 95%, over documents of the test half, the same resamples for all dictionaries and tasks, so that differences
are paired; differences between architectures hold together (max-t), and those against channels family by family. Seeds
are averaged; the intervals know nothing of their spread, so `by_seed` gives each SAE's mean and each seed's difference.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monosemy.config import fingerprint
from monosemy.saes.registry import ARCHITECTURES
from monosemy.support import progress
from monosemy.support.files import atomic_path, cache_folder
from research import common, run_folders
from research.probing.material import Material
from research.probing.probes import (
    best_features,
    fit_probe,
    full_probe,
)
from research.probing.table import KS, RULES, Predictions, summarise
from research.probing.tasks import FAMILIES, LENGTH

N_DRAWS = 5


def probe_all(material: Material, features: tuple[np.ndarray, np.ndarray]) -> Predictions:
    """The k best features on every task, by both rules."""
    predictions: Predictions = {}
    for task in material.tasks:
        x = material.of_task(features, task)
        train, test, labels = x[task.train], x[~task.train], task.labels[task.train]
        for rule in RULES:
            best = best_features(train, labels, max(KS), standardise=rule == "standardised")
            for k in KS:
                answers = fit_probe(train[:, best[:k]], labels, test[:, best[:k]])
                predictions[f"{task.name}/{k}/{rule}"] = answers[None]
    return predictions


def probe_random(material: Material, features: tuple[np.ndarray, np.ndarray], seed: int) -> Predictions:
    """k random features among those that are ever active on the training half."""
    random = np.random.default_rng(seed)
    predictions: Predictions = {}
    for task in material.tasks:
        x = material.of_task(features, task)
        train, test, labels = x[task.train], x[~task.train], task.labels[task.train]
        living = np.flatnonzero(train.any(0))
        for k in KS:
            drawn = [random.choice(living, k, replace=False) for _ in range(N_DRAWS)]
            predictions[f"{task.name}/{k}"] = np.stack([fit_probe(train[:, d], labels, test[:, d]) for d in drawn])
    return predictions


def probe_full(material: Material, features: tuple[np.ndarray, np.ndarray]) -> Predictions:
    predictions: Predictions = {}
    for task in material.tasks:
        x = material.of_task(features, task)
        snippet = task.examples // LENGTH if task.on_tokens else task.examples
        documents = material.document[snippet[task.train]]
        predictions[task.name] = full_probe(x[task.train], task.labels[task.train], documents, x[~task.train])[0][None]
    return predictions


def measured(folder: Path, name: str, work: Any) -> Predictions:
    """The kept answers of `name`, or those of `work()`, kept from now on."""
    path = folder / f"{name}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **work())
    with np.load(path, allow_pickle=False) as kept_answers:
        return dict(kept_answers)


def ask_all(
    material: Material, entries: Sequence[run_folders.Entry]
) -> tuple[dict[str, dict[str, Predictions]], dict[str, Predictions], Predictions]:
    """(kind → name → answers, random latents by SAE, the full probe's)."""
    folder = cache_folder() / "benchmarks" / f"probing-{fingerprint([material.store.fingerprint, VERSION])}"
    by_kind: dict[str, dict[str, Predictions]] = {}
    random: dict[str, Predictions] = {}
    with progress.stage("probes", len(entries) + 3, "dictionaries") as bar:
        for entry in entries:
            own = run_folders.identity([entry])
            cache: list[tuple[np.ndarray, np.ndarray]] = []

            def features(entry: run_folders.Entry = entry, cache: list[Any] = cache) -> tuple[np.ndarray, np.ndarray]:
                if not cache:
                    with torch.no_grad():
                        cache.append(material.features(entry.load()))
                return cache[0]

            name = f"{entry.name}-{own}"
            answers = measured(folder, name, lambda f=features: probe_all(material, f()))
            by_kind.setdefault(entry.kind, {})[entry.name] = answers
            if entry.kind in ARCHITECTURES:
                draw = lambda f=features, seed=entry.seed: probe_random(material, f(), seed)  # noqa: E731
                random[entry.name] = measured(folder, f"random-{name}", draw)
            bar.advance(1)
        for name, features_of in (("residual", material.residual), ("pca", material.components)):
            by_kind[name] = {name: measured(folder, name, lambda f=features_of: probe_all(material, f()))}
            bar.advance(1)
        full = measured(folder, "full", lambda: probe_full(material, material.residual()))
        bar.advance(1)
    return by_kind, random, full


VERSION = 1
"""Raised when the same texts would get other answers."""


def main() -> None:
    parser = run_folders.arguments("probing", __doc__)
    parser.add_argument("--rule", choices=RULES, default=RULES[0], help="how the k features of the table are chosen")
    parser.add_argument("--share", type=float, default=1, help="of the usual amount of text, to try the script out")
    arguments = parser.parse_args()
    entries = run_folders.gather(arguments.runs, arguments.site, arguments.l0)
    started = time.perf_counter()
    material = Material(arguments.runs, entries[0].site, arguments.share)
    by_kind, random, full = ask_all(material, entries)
    summary = summarise(material, by_kind, random, full)
    results = {
        **run_folders.provenance(arguments.runs, entries),
        "n_snippets": len(material.snippets),
        "n_documents": material.n_documents,
        "n_rows": material.store.n_rows,
        "examples": {
            task.name: {
                "family": task.family,
                "train": int(task.train.sum()),
                "test": int((~task.train).sum()),
                "positives": int(task.labels.sum()),
            }
            for task in material.tasks
        },
        "n_tasks": {f: sum(t.family == f for t in material.tasks) for f in FAMILIES} | {"all": len(material.tasks)},
        "families": [f for f in FAMILIES if any(t.family == f for t in material.tasks)],
        "shown_rule": arguments.rule,
        "seconds": round(time.perf_counter() - started, 1),
        **summary,
    }
    show(results, arguments.rule)
    common.save(arguments.out, results, without=("rules/*/tasks", "full_probe_tasks"))
    if arguments.figures:
        from research.evidence_figures import probing

        probing(arguments.figures, results | results["rules"][arguments.rule])


def show(results: Mapping[str, Any], rule: str) -> None:
    families = [*results["families"], "all"]
    print(f"\nbalanced accuracy with 1 / 2 / 5 features chosen by {rule}")
    print(" " * 15 + "".join(f"{family:>20s}" for family in families))
    for kind, estimates in results["rules"][rule]["summary"].items():
        cells = [" ".join(f"{estimates[f][str(k)]['mean']:.3f}" for k in KS) for f in families]
        low, high = estimates["all"][str(KS[-1])]["interval"]
        print(f"{kind:15s}" + "".join(f"{cell:>20s}" for cell in cells) + f"   [{low:.3f}, {high:.3f}]")
    print(f"{'full probe':15s}" + "".join(f"{results['full_probe'][f]['mean']:>20.3f}" for f in families))
    for k, differences in results["rules"][rule]["differences"].items():
        for d in differences["architectures"]:
            seeds = f"  by seed {np.round(d['by_seed'], 3)}" if "by_seed" in d else ""
            interval = f"{d['estimate']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}]"
            print(f"  k = {k}, {d['first']} − {d['second']}: {interval}{seeds}")


if __name__ == "__main__":
    run_folders.run(main)
