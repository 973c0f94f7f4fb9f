"""Rows of the circuits benchmark: one method against one truth, pairs of methods on the same heads, means over seeds.

A part (one model, one seed) keeps every method's importances and the truth. Intervals resample each seed's heads
(members and others apart). Trained models differ from seed to seed: AUCs are averaged draw by draw, the interval is
that of the mean over these models (it does not say how models differ; least and largest do). Compiled models are the
same but for the places of heads and the prompts: draws of all seeds lie in one heap, the interval is that of one model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy import ndarray
from torch import Tensor

from monosemy.circuits.heads.agreement import agreement, can_resample, checked_scores, resampled_auc, roc_auc
from monosemy.circuits.heads.contrast import Contrast
from monosemy.circuits.heads.methods import METHODS, NEEDS_NEGATIVES, Bench
from monosemy.circuits.heads.scores import EdgeScores, HeadScores
from monosemy.evals.intervals import Interval, percentiles
from research.heads.faithfulness import completeness, faithfulness

Entry = tuple[Callable[[], HeadScores], int]
"""What makes a row, and the prompts that it uses (positives and negatives for methods that count both)."""
BASELINES = ("eap", "eap-ig", "hisp", "acdc", "sp", "patching", "patching-mean", "patching-zero", "restoring")
DIFFERENCES = (
    ("combined", "combined-no-codes"),
    ("codes", "kmeans"),
    ("codes-paper", "kmeans-paper"),
    ("codes", "codes-paper"),
    ("codes-paper", "shuffled"),
    *((codes, control) for codes in ("codes", "codes-paper") for control in ("mean-difference", "probe", "distinct")),
)
"""Pairs whose AUCs are subtracted, on the same resamples; besides `combined` minus every method."""
MEMBERS = (2, 2)
"""A ranking is scored where at least so many are in the circuit, and outside it."""


def entries(bench: Bench, names: Sequence[str], suffix: str = "") -> dict[str, Entry]:
    """Rows of these methods on a bench."""

    def n_prompts(name: str) -> int:
        if name == "random":
            return 0
        return len(bench.data.positives) + len(bench.data.negatives) if name in NEEDS_NEGATIVES else bench.n_prompts

    return {f"{name}{suffix}": (lambda name=name: METHODS[name](bench), n_prompts(name)) for name in names}


def enough(labels: np.ndarray) -> bool:
    return bool(MEMBERS[0] <= labels.sum() <= len(labels) - MEMBERS[1])


def judged(scores: HeadScores, labels: np.ndarray, n_prompts: int) -> dict[str, Any]:
    judgement = agreement(scores.importance, labels)
    return {
        "auc": judgement.auc,
        "auc_interval": judgement.auc_interval,
        "average_precision": judgement.average_precision,
        "precision_at_c": judgement.precision,
        "seconds": scores.seconds,
        "reading_seconds": scores.reading_seconds,
        "n_passes": scores.n_passes,
        "n_prompts": n_prompts,
        "n_checked": None if scores.checked is None else len(scores.checked),
        "n_heads": len(labels),
        "importance": _short(scores.importance),
    }


def compare(
    bench: Bench,
    labels: np.ndarray,
    rows: Mapping[str, Entry],
    unseen: Contrast,
    *,
    others: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Every method's agreement, time and faithfulness; `unseen`: prompts that faithfulness and completeness are
    measured on (nine passes a method); `others`: further truths, for their AUC alone."""
    method_rows, scores = {}, {}
    for name, (method, n_prompts) in rows.items():
        scores[name] = method()
        method_rows[name] = judged(scores[name], labels, n_prompts)
        for other, truth in (others or {}).items():
            method_rows[name][f"auc_{other}"] = roc_auc(scores[name].importance, truth) if enough(truth) else None
        curve = faithfulness(unseen, scores[name].importance, bench.ablation)
        method_rows[name] |= {"cpr": curve.cpr, "cpr_interval": curve.cpr_interval, "cmd": curve.cmd}
        method_rows[name] |= {"cmd_interval": curve.cmd_interval, "kept": curve.sizes, "faithfulness": curve.values}
    best = scores["combined"].importance.argsort(descending=True, stable=True)[: int(labels.sum())].tolist()
    differences = {}
    for first, second in pairs_of(list(scores)):
        value, interval = auc_difference(scores[first].importance, scores[second].importance, labels)
        differences[f"{first} − {second}"] = {"difference": value, "interval": interval}
    return {
        "n_heads": len(labels),
        "n_members": int(labels.sum()),
        "n_faithful": unseen.n_examples,
        "labels": labels.astype(int).tolist(),
        "methods": method_rows,
        "differences": differences,
        "completeness_of_combined": dataclasses.asdict(completeness(unseen, best)),
        "combined_seconds_of_patching": of_patching(method_rows),
    }


def auc_difference(
    first: Tensor | ndarray, second: Tensor | ndarray, labels: ndarray, n_resamples: int = 1000, *, seed: int = 0
) -> tuple[float, Interval]:
    """AUC of `first` minus AUC of `second`, with an interval that uses the same resamples of heads for both."""
    first_scores, second_scores = checked_scores(first, labels), checked_scores(second, labels)
    difference = roc_auc(first_scores, labels) - roc_auc(second_scores, labels)
    if not can_resample(labels):
        return difference, None
    resampled = [resampled_auc(scores, labels, n_resamples, seed) for scores in (first_scores, second_scores)]
    return difference, percentiles(resampled[0] - resampled[1])


def of_patching(rows: Mapping[str, dict[str, Any]]) -> dict[str, float]:
    """The combined method's seconds over those of exhaustive patching on the same prompts, reading counted for both."""

    def total(name: str) -> float:
        return float(rows[name]["seconds"] + rows[name]["reading_seconds"])

    twins = [(name, name.replace("combined", "patching")) for name in rows if name.startswith("combined")]
    return {name: total(name) / total(twin) for name, twin in twins if twin in rows}


def pairs_of(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs to subtract among these methods, names with a suffix (the number of prompts) among themselves."""
    pairs = [(a, b) for a, b in DIFFERENCES if a in names and b in names]
    for name in names:
        against = f"combined-{name.rsplit('-', 1)[1]}" if name.rsplit("-", 1)[-1].isdigit() else "combined"
        if against in names and name != against and (against, name) not in pairs:
            pairs.append((against, name))
    return pairs


def edge_rows(timed_scores: Mapping[str, tuple[Any, float, int]], truth: np.ndarray) -> dict[str, Any]:
    """Agreement of edges' importances (with their seconds and prompts) with the true ones; said why where none can be
    told."""
    counts = {"n_edges": len(truth), "n_true": int(truth.sum()), "labels": truth.astype(int).tolist()}
    if not enough(truth):
        return counts | {"skipped": f"{int(truth.sum())} of {len(truth)} edges are true: no ranking to score"}
    rows = {}
    for name, (importance, seconds, n_prompts) in timed_scores.items():
        agreed = agreement(importance, truth, 200)
        rows[name] = {
            "auc": agreed.auc,
            "auc_interval": agreed.auc_interval,
            "average_precision": agreed.average_precision,
            "precision_at_c": agreed.precision,
            "seconds": seconds,
            "n_prompts": n_prompts,
            "importance": _short(importance),
        }
    return counts | {"methods": rows}


def timed(scores: EdgeScores, edge_mask: np.ndarray, contrast: Contrast) -> tuple[Any, float, int]:
    """A row of `edge_rows`; `contrast`: what the method had."""
    return scores.importance.numpy()[edge_mask], scores.seconds + scores.reading_seconds, contrast.n_examples


def _short(values: Any) -> list[float]:
    """Seven digits: enough to rank by, and a tie stays one."""
    return [float(f"{float(value):.7g}") for value in values]


# --- over seeds -------------------------------------------------------------------------------------------------------


def grouped(parts: Mapping[str, Any], key: str = "") -> dict[str, list[dict[str, Any]]]:
    """Parts (or what is under `key` in them) that have rows, by model; those of the real one stand alone."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for file, part in parts.items():
        section = part.get(key, {}) if key else part
        if isinstance(section, dict) and "methods" in section:
            name = file if file.startswith(("real-", "published-")) else file.rsplit("-", 1)[0]
            groups.setdefault(name, []).append(section)
    return groups


def mean_row(group: Sequence[dict[str, Any]], method: str, one_model: bool) -> dict[str, Any]:
    """One method over the seeds of a model."""
    with_it = [(seed, part) for seed, part in enumerate(group) if method in part["methods"]]
    rows = [part["methods"][method] for _, part in with_it]
    draws = _over_seeds([_draws(part, method, seed) for seed, part in with_it], one_model)
    row = {"auc": _mean(rows, "auc"), "interval": percentiles(draws), "n": len(rows)}
    row |= {"least": min(r["auc"] for r in rows), "largest": max(r["auc"] for r in rows)}
    row |= {name: _mean(rows, name) for name in ("average_precision", "precision_at_c")}
    row["seconds"] = float(np.mean([r["seconds"] + r.get("reading_seconds", 0.0) for r in rows]))
    for name in ("n_prompts", "n_checked", "n_heads", "n_passes", "cpr", "cmd"):
        if rows[0].get(name) is not None:
            row[name] = _mean(rows, name)
    if len(rows) == 1:
        row |= {name: rows[0][name] for name in ("cpr_interval", "cmd_interval") if name in rows[0]}
        row |= {name: value for name, value in rows[0].items() if name.startswith("auc_") and name != "auc_interval"}
    return row


def mean_difference(group: Sequence[dict[str, Any]], first: str, second: str, one_model: bool) -> dict[str, Any]:
    """AUC of one method minus another's over the seeds, both on the same resamples of heads."""
    both = [(seed, part) for seed, part in enumerate(group) if {first, second} <= set(part["methods"])]
    gaps = [part["methods"][first]["auc"] - part["methods"][second]["auc"] for _, part in both]
    draws = _over_seeds([_draws(part, first, seed) - _draws(part, second, seed) for seed, part in both], one_model)
    return {"difference": float(np.mean(gaps)), "interval": percentiles(draws)}


def _over_seeds(draws: Sequence[np.ndarray], one_model: bool) -> np.ndarray:
    """Of the mean over models, or, where all seeds are of one model, of any one of them."""
    return np.concatenate(draws) if one_model else np.mean(draws, axis=0)


def _draws(part: dict[str, Any], method: str, seed: int) -> np.ndarray:
    """Resampled AUCs; the seed of the resamples is that of the model, so that they are independent between models."""
    importance = np.array(part["methods"][method]["importance"])
    return resampled_auc(importance, np.array(part["labels"], dtype=bool), 1000, 10 * seed)


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def summary(parts: Mapping[str, Any]) -> dict[str, Any]:
    """By model: every method's row, the differences of pairs, the best baseline beside `combined`; edges and pairs."""
    table: dict[str, Any] = {}
    for group, group_parts in grouped(parts).items():
        names = list(dict.fromkeys(name for part in group_parts for name in part["methods"]))
        one_model = group.startswith("compiled-")
        rows = {name: mean_row(group_parts, name, one_model) for name in names}
        mean_differences = {f"{a} − {b}": mean_difference(group_parts, a, b, one_model) for a, b in pairs_of(names)}
        table[group] = {"methods": rows, "differences": mean_differences, "best_baselines": best_baselines(rows)}
    for key in ("edges", "head_pairs"):
        for group, group_parts in grouped(parts, key).items():
            names = list(dict.fromkeys(name for part in group_parts for name in part["methods"]))
            one_model = group.startswith("compiled-")
            table.setdefault(group, {})[key] = {name: mean_row(group_parts, name, one_model) for name in names}
    return table


def best_baselines(rows: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """The baseline of the largest AUC, by the suffix of methods with fewer prompts ("" for the usual number)."""
    best: dict[str, str] = {}
    for name in rows:
        plain, _, suffix = name.rpartition("-") if name.rsplit("-", 1)[-1].isdigit() else (name, "", "")
        if plain in BASELINES and (suffix not in best or rows[name]["auc"] > rows[best[suffix]]["auc"]):
            best[suffix] = name
    return best


def print_table(table: Mapping[str, Any]) -> None:
    for group, sections in table.items():
        for key in ("methods", "edges", "head_pairs"):
            if key in sections:
                print(f"\n{group}, {key}: AUC (95%), average precision, CPR, CMD, seconds, prompts, heads checked")
                for name, row in sections[key].items():
                    print(_line(name, row))
        for name, row in sections.get("differences", {}).items():
            print(f"  {name:<34} {row['difference']:+.3f}{_ends(row['interval'])}")


def _line(name: str, row: Mapping[str, Any]) -> str:
    extra = [f"{row[key]:.2f}" if key in row else "–" for key in ("cpr", "cmd")]
    checked = f"{row['n_checked']:.0f}/{row['n_heads']:.0f}" if "n_checked" in row else "–"
    prompts = f"{row['n_prompts']:.0f}" if "n_prompts" in row else "–"
    cells = [f"{row['average_precision']:.2f}", *extra, f"{row['seconds']:.1f} s", prompts, checked]
    return f"  {name:<22} {row['auc']:.3f}{_ends(row['interval']):<18} " + " ".join(f"{cell:>9}" for cell in cells)


def _ends(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"
