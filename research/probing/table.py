"""What the probes predicted, as balanced accuracy by task, family and seed, with intervals and differences.

Every estimate comes with its resamples over documents, the same for all, so that any two are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from monosemy.evals.intervals import bootstrap_weights, percentiles
from monosemy.saes.registry import ARCHITECTURES
from research.differences import simultaneous
from research.probing.material import Material
from research.probing.probes import Answers
from research.probing.tasks import FAMILIES, Task

KS = (1, 2, 5)
RULES = ("difference", "standardised")
MOST_SEEDS = 10
"""Up to so many draws are listed one by one."""
Predictions = dict[str, np.ndarray]
"""`task/k/rule` → bool [draws, test examples]."""


class Table:
    """Balanced accuracy of every kind on every task, as estimates and as resamples over documents."""

    def __init__(self, material: Material, n_resamples: int = 1000) -> None:
        self.material = material
        self.weights = bootstrap_weights(material.n_documents, n_resamples)

    def task(self, task: Task, predictions: Sequence[np.ndarray]) -> tuple[float, np.ndarray, list[float]]:
        """(estimate, resamples, by draw) of one task; predictions: [draws, n] each. Draws and seeds are averaged."""
        all_answers = [self.material.answers(row, task) for rows in predictions for row in rows]
        together = Answers(*(np.sum([getattr(a, f) for a in all_answers], 0) for f in vars(all_answers[0])))
        return together.balanced_accuracy, together.resampled(self.weights), [a.balanced_accuracy for a in all_answers]

    def kind(self, answers: Sequence[Predictions], key: str) -> dict[str, tuple[float, np.ndarray, list[float]]]:
        """Task → the above. key: how a task's answers are called, with {} for its name."""
        return {
            task.name: self.task(task, [predictions[key.format(task.name)] for predictions in answers])
            for task in self.material.tasks
        }


def averaged(tasks: Sequence[Task], estimates: Mapping[str, tuple[float, np.ndarray, list[float]]]) -> dict[str, Any]:
    """Family, and `all` (the mean over families) → (mean, resamples, by draw)."""
    means: dict[str, Any] = {}
    for family in FAMILIES:
        names = [task.name for task in tasks if task.family == family]
        if names:
            means[family] = tuple(np.mean([np.asarray(estimates[n][i]) for n in names], 0) for i in range(3))
    return means | {"all": tuple(np.mean([estimate[i] for estimate in means.values()], 0) for i in range(3))}


def summarise(
    material: Material,
    by_kind: Mapping[str, Mapping[str, Predictions]],
    random: Mapping[str, Predictions],
    full: Predictions,
) -> dict[str, Any]:
    table, tasks = Table(material), material.tasks
    out: dict[str, Any] = {"rules": {}}
    for rule in RULES:
        cells = {
            kind: {k: table.kind(list(named.values()), f"{{}}/{k}/{rule}") for k in KS}
            for kind, named in by_kind.items()
        }
        cells["random"] = {k: table.kind(list(random.values()), f"{{}}/{k}") for k in KS}
        means = {kind: {k: averaged(tasks, estimates) for k, estimates in by_k.items()} for kind, by_k in cells.items()}
        out["rules"][rule] = {
            "summary": {
                kind: {family: {str(k): row(by_k[k][family]) for k in KS} for family in by_k[KS[0]]}
                for kind, by_k in means.items()
            },
            "tasks": {
                task.name: {kind: {str(k): row(by_k[k][task.name]) for k in KS} for kind, by_k in cells.items()}
                for task in tasks
            },
            "differences": differences(means),
            "against_channels": against_channels(means),
        }
    whole = table.kind([full], "{}")
    out["full_probe"] = {family: row(estimate) for family, estimate in averaged(tasks, whole).items()}
    out["full_probe_tasks"] = {name: row(estimate) for name, estimate in whole.items()}
    return out


def row(estimate: Sequence[Any]) -> dict[str, Any]:
    return {"mean": float(estimate[0]), "interval": percentiles(estimate[1])} | (
        {"by_seed": [float(value) for value in estimate[2]]} if len(estimate[2]) <= MOST_SEEDS else {}
    )


def differences(means: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> dict[str, Any]:
    """Of the mean over families: architectures among themselves, and each against residual, PCA, random and frozen."""
    trained = [kind for kind in means if kind in ARCHITECTURES]
    others = [kind for kind in means if kind not in ARCHITECTURES]
    against = [(kind, other) for other in others for kind in trained]
    result: dict[str, Any] = {}
    for k in KS:
        estimate = {kind: float(by_k[k]["all"][0]) for kind, by_k in means.items()}
        resampled = {kind: by_k[k]["all"][1] for kind, by_k in means.items()}
        own = simultaneous(estimate, resampled, list(combinations(trained, 2))) if len(trained) > 1 else []
        by_seed = {kind: means[kind][k]["all"][2] for kind in trained}
        result[str(k)] = {
            "architectures": [asdict(d) | seed_by_seed(by_seed[d.first], by_seed[d.second]) for d in own],
            "controls": [asdict(d) for d in simultaneous(estimate, resampled, against)],
        }
    return result


def seed_by_seed(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """The difference at each seed, where both have as many."""
    return {"by_seed": (first - second).tolist()} if len(first) == len(second) else {}


def against_channels(means: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> dict[str, Any]:
    """Family → k → each architecture's lead over the residual channels; intervals hold together within a cell."""
    trained = [kind for kind in means if kind in ARCHITECTURES]
    leads: dict[str, Any] = {}
    for family in means["residual"][KS[0]]:
        for k in KS:
            estimate = {kind: float(by_k[k][family][0]) for kind, by_k in means.items()}
            resampled = {kind: by_k[k][family][1] for kind, by_k in means.items()}
            cell = simultaneous(estimate, resampled, [(kind, "residual") for kind in trained]) if trained else []
            leads.setdefault(family, {})[str(k)] = [asdict(d) for d in cell]
    return leads
