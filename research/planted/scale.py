"""Planted dictionaries at scale, hierarchical and correlated: what does each architecture find, at which L0?

Data: x = Σ_i a_i u_i + noise with unit directions u_i in random position. Features come in groups of 32: four parents
with seven children each. A group switches on with a Zipf-tailed rate, then every parent fires with probability ½ (so
parents of a group are correlated) and, only where its parent fires, every child with probability 0.2. Amplitudes are
|N(1, 0.3)|, so a child adds a direction of its own to its parent's.

  1,024 features in 256 dimensions, SAEs of 1,024 latents; 16,384 in 768, SAEs of 4,096 (the truth is wider than the
  SAE, as it is in a language model); all SAEs of a size and seed train side by side on one generated stream.

Each architecture is asked for half, one and two times the true mean L0; with --far, in a further run of the small
size's first seed, on the same rows, for four times. Scores, over the d_sae most frequent features (all of them at the
small size):
  mean max cosine  largest cosine of a true direction with any decoder row, mean
  recall           share of true directions with a cosine of at least 0.9 to a decoder row
  precision        share of decoder rows with a cosine of at least 0.9 to any true direction
  F1               harmonic mean of the two
  uniqueness       share of decoder rows that are the best match of exactly one true feature (random: about 1/e)
Intervals: bootstrap over features and latents of all seeds together; how seeds differ is not in them, it is in
`by_seed`. Control: a random dictionary.
The L0-choice diagnostic (`l0_choice`) runs on fresh rows for every SAE; for one architecture on a finer grid.

Run (about half an hour of one core; every size and seed is kept with the threads and seconds it took, so that the
script can be stopped and started again):
  python -m research.planted.scale [--sizes small large] [--far] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosemy.config import TrainingConfig
from monosemy.errors import UserError
from monosemy.evals.intervals import bootstrap_weights, percentiles
from monosemy.evals.reconstruction import evaluate_reconstruction
from monosemy.kernels import dispatch
from monosemy.kernels.reference import Pattern
from monosemy.run import machine
from monosemy.saes.base import SaeConfig, calibrate
from monosemy.saes.registry import ARCHITECTURES, build_sae
from monosemy.support.files import read_json, write_json
from monosemy.support.progress import stage
from monosemy.training.trainee import Trainee
from monosemy.training.workers import Workers
from research import common, run_folders
from research.markdown import markdown
from research.planted.l0_choice import TailProjection, choose_l0, tail_projection
from research.records import record_path

PARENTS, CHILDREN = 4, 7
GROUP = PARENTS * (1 + CHILDREN)
MATCH_COSINE = 0.9
FACTORS = (0.5, 1.0, 2.0)
FINE, FINE_FACTORS = "batch_topk", (0.7, 1.4)
FAR = {"small-0": (4.0,)}
"""--far: factors of a further run of a size and seed, for the diagnostic beyond the grid that all seeds share."""
COST = ("seed", "seconds", "processor_seconds", "threads", "machine")
"""What a run records of itself; null where a file of an earlier version lacks it."""
SCORES = ("mean_max_cosine", "recall", "precision", "f1", "uniqueness")


@dataclass(frozen=True)
class Size:
    """`top_rate`: how often the most frequent group is on; the rate of rank r is top_rate · r^−0.7."""

    n_true: int
    d_in: int
    d_sae: int
    top_rate: float
    n_steps: int
    n_seeds: int
    learning_rate: float
    fine: bool = True
    """Further L0s of one architecture for the diagnostic."""
    batch: int = 512


SIZES = {
    "small": Size(1024, 256, 1024, 0.5, n_steps=1500, n_seeds=3, learning_rate=4e-3),
    "large": Size(16_384, 768, 4096, 0.35, n_steps=800, n_seeds=1, learning_rate=4e-3, fine=False),
}


class Planted:
    """The generator: true directions [n_true, d_in] and batches at E‖x‖² = 1."""

    def __init__(self, size: Size, seed: int) -> None:
        self.size = size
        self.generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(size.n_true, size.d_in, generator=self.generator)
        self.directions = torch.nn.functional.normalize(directions, dim=1)
        ranks = torch.arange(1, size.n_true // GROUP + 1, dtype=torch.float32)
        self.group_rates = size.top_rate * ranks**-0.7
        member = torch.tensor([0.5] + [0.1] * CHILDREN).repeat(PARENTS)
        self.rates = (self.group_rates[:, None] * member).flatten()
        self.l0 = float(self.rates.sum())
        self.scale = 1.0
        self.scale = float(self.batch(32_768).square().sum(1).mean().sqrt())

    def codes(self, n: int) -> tuple[Pattern, Tensor]:
        """Which features fire on each of n rows, and how strongly."""
        random = partial(torch.rand, generator=self.generator)
        row, group = (random(n, len(self.group_rates)) < self.group_rates).nonzero(as_tuple=True)
        parents = random(len(row), PARENTS, 1) < 0.5
        children = parents & (random(len(row), PARENTS, CHILDREN) < 0.2)
        pair, member = torch.cat([parents, children], dim=2).flatten(1).nonzero(as_tuple=True)
        amplitudes = (1 + 0.3 * torch.randn(len(pair), generator=self.generator)).abs()
        offsets = torch.zeros(n + 1, dtype=torch.int64)
        torch.cumsum(torch.bincount(row[pair], minlength=n), 0, out=offsets[1:])
        return Pattern(offsets, (group[pair] * GROUP + member).to(torch.int32)), amplitudes

    def batch(self, n: int) -> Tensor:
        pattern, amplitudes = self.codes(n)
        noise = 0.02 * torch.randn(n, self.size.d_in, generator=self.generator)
        return (
            dispatch.decode(pattern, amplitudes, self.directions, noise.new_zeros(self.size.d_in)) + noise
        ) / self.scale


def best_matches(truth: Tensor, learned: Tensor, n_targets: int) -> dict[str, Tensor]:
    """Cosines of unit rows: each target's best with a latent and which one; each latent's best with any truth."""
    learned = torch.nn.functional.normalize(learned, dim=1)
    best, best_latent = (truth[:n_targets] @ learned.T).max(1)
    of_latent = torch.cat([(part @ truth.T).max(1).values for part in learned.split(1024)])
    return {"target": best, "which": best_latent, "latent": of_latent}


def scores(matches: list[dict[str, Tensor]], n_resamples: int = 500) -> dict[str, Any]:
    """The scores of the module's docstring with their 95% intervals; `matches` holds one entry per seed."""
    target = torch.cat([m["target"] for m in matches])
    latent = torch.cat([m["latent"] for m in matches])
    times = torch.cat([torch.bincount(m["which"], minlength=len(m["latent"])) for m in matches])

    def at(target_weights: Tensor, latent_weights: Tensor) -> dict[str, Tensor]:
        def share(values: Tensor, weights: Tensor) -> Tensor:
            return (weights @ values.double()) / weights.sum(-1)

        recall, precision = share(target >= MATCH_COSINE, target_weights), share(latent >= MATCH_COSINE, latent_weights)
        return {
            "mean_max_cosine": share(target, target_weights),
            "recall": recall,
            "precision": precision,
            "f1": 2 * precision * recall / (precision + recall).clamp_min(1e-12),
            "uniqueness": share(times == 1, latent_weights),
        }

    values = at(torch.ones(len(target)).double(), torch.ones(len(latent)).double())
    weights = [torch.from_numpy(bootstrap_weights(len(v), n_resamples, seed=i)) for i, v in enumerate((target, latent))]
    resampled = at(*weights)
    estimates: dict[str, Any] = {name: float(value) for name, value in values.items()}
    return estimates | {f"{name}_interval": percentiles(value.numpy()) for name, value in resampled.items()}


def target_l0s(
    name: str, true_l0: float, fine: bool, factors: Sequence[float] = ()
) -> dict[str, tuple[str, float, float]]:
    """{label: (architecture, factor, L0)} of one architecture; without `factors`, the grid of all seeds."""
    factors = factors or sorted({*FACTORS, *(FINE_FACTORS if fine and name == FINE else ())})
    return {f"{name} {factor:g}": (name, factor, float(max(1, round(factor * true_l0)))) for factor in factors}


def by_frequency(data: Planted) -> Tensor:
    """Feature numbers, most frequent first."""
    return data.rates.argsort(descending=True, stable=True)


def run(size: Size, seed: int, factors: Sequence[float] = ()) -> dict[str, Any]:
    """Trains every SAE of a size on one stream, the same for all `factors`; returns its records and matches."""
    data = Planted(size, seed)
    settings = {
        key: value for name in ARCHITECTURES for key, value in target_l0s(name, data.l0, size.fine, factors).items()
    }
    config = TrainingConfig(batch_tokens=size.batch, learning_rate=size.learning_rate)
    held_in = data.batch(8192)
    trainees: dict[str, Trainee] = {}
    for key, (architecture, _, l0) in settings.items():
        sae = build_sae(SaeConfig(architecture, size.d_in, size.d_sae, l0, seed=seed + 1000))
        trainees[key] = Trainee(sae, config, size.n_steps, size.n_steps * size.batch)
        trainees[key].initialise(held_in[:4096])
    started, used = time.perf_counter(), time.process_time()
    with (
        stage(f"{size.n_true} features, seed {seed}", total=size.n_steps, unit="steps") as bar,
        Workers(len(trainees), torch.device("cpu")) as workers,
    ):
        for index in range(size.n_steps):
            x = data.batch(size.batch)
            workers.run([partial(trainee.step, x, index) for trainee in trainees.values()])
            bar.advance()
    cost = {
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - used,
        "threads": torch.get_num_threads(),
        "machine": machine(),
    }
    for trainee in trainees.values():
        calibrate(trainee.sae, list(held_in.split(4096)))
    saes = {key: trainee.sae for key, trainee in trainees.items()}
    fresh = data.batch(8192)
    blocks = torch.arange(len(fresh)) // 64
    measured = evaluate_reconstruction(saes, [(fresh, blocks)], n_bootstrap=100)
    truth = data.directions[by_frequency(data)]
    ranks = [n for n in (round(4 * data.l0), round(8 * data.l0), size.d_sae // 4, size.d_sae // 2) if n < size.d_sae]
    records: dict[str, Any] = {}
    for key, (architecture, factor, l0) in settings.items():
        record = measured[key].record
        tails = [asdict(tail_projection(saes[key], fresh[:4096], n, l0=l0)) for n in ranks if n > l0]
        matches = best_matches(truth, saes[key].W_dec.detach(), size.d_sae)
        records[key] = {
            "architecture": architecture,
            "factor": factor,
            "asked_l0": l0,
            "l0": record.l0,
            "fvu": record.fvu,
            "dead_fraction": record.dead_fraction,
            "tails": tails,
            "matches": {name: values.tolist() for name, values in matches.items()},
        }
    random = torch.randn(size.d_sae, size.d_in, generator=torch.Generator().manual_seed(seed + 2000))
    control = {name: values.tolist() for name, values in best_matches(truth, random, size.d_sae).items()}
    return {"seed": seed, "true_l0": data.l0, **cost, "saes": records, "random": control}


def scored(matches: Sequence[Mapping[str, list[float]]], n_resamples: int = 500) -> dict[str, Any]:
    return scores([{name: torch.tensor(values) for name, values in m.items()} for m in matches], n_resamples)


def together(runs: Sequence[dict[str, Any]], far: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """Scores over all seeds of a size, each seed's own, what every run took, and what the diagnostic says.

    `far`: further runs of some of the seeds, at other factors.
    """
    rows: dict[str, Any] = {}
    for group in (runs, far):
        for key in group[0]["saes"] if group else ():
            rows[key] = row({seed_run["seed"]: seed_run["saes"][key] for seed_run in group})
    took = [
        {name: seed_run.get(name) for name in COST}
        | {"factors": sorted({s["factor"] for s in seed_run["saes"].values()})}
        for seed_run in (*runs, *far)
    ]
    further = {seed_run["seed"]: seed_run["saes"] for seed_run in far}
    whole = [seed_run | {"saes": seed_run["saes"] | further.get(seed_run["seed"], {})} for seed_run in runs]
    return {
        "true_l0": runs[0]["true_l0"],
        "runs": took,
        "saes": rows,
        "random": scored([seed_run["random"] for seed_run in runs]),
        "choices": [c for seed_run in whole for c in choices(seed_run)],
    }


def row(by_seed: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """One dictionary over its seeds: means, pooled scores with intervals, and single seeds."""
    same = list(by_seed.values())
    plain = ("asked_l0", "l0", "fvu", "dead_fraction")
    means = {name: sum(s[name] for s in same) / len(same) for name in plain}
    single = []
    for seed, sae in by_seed.items():
        own = scored([sae["matches"]], 1)
        single.append({"seed": seed} | {name: sae[name] for name in plain[1:]} | {name: own[name] for name in SCORES})
    about = {"architecture": same[0]["architecture"], "factor": same[0]["factor"]}
    return about | means | scored([s["matches"] for s in same]) | {"by_seed": single}


def choices(seed_run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For every architecture and rank n: s_n against L0, and the L0 with the lowest."""
    rows = []
    for architecture in ARCHITECTURES:
        saes = [s for s in seed_run["saes"].values() if s["architecture"] == architecture]
        by_f1 = max(saes, key=lambda s: scored([s["matches"]], 1)["f1"])
        for n in sorted({tail["n"] for s in saes for tail in s["tails"]}):
            tails = [TailProjection(**tail) for s in saes for tail in s["tails"] if tail["n"] == n]
            choice = choose_l0(tails)
            rows.append(
                {
                    "seed": seed_run["seed"],
                    "architecture": architecture,
                    "n": tails[0].n,
                    "chosen_l0": choice.l0,
                    "at_edge": choice.at_edge,
                    "not_told_apart": choice.not_told_apart,
                    "best_f1_l0": by_f1["asked_l0"],
                    "values": [[t.l0, t.value] for t in sorted(tails, key=lambda t: t.l0)],
                }
            )
    return rows


def cells(record: Mapping[str, Any], measure: str) -> str:
    """`0.275 [0.263, 0.286], .252–.301`: pooled, its interval, single seeds from lowest to highest."""
    low, high = record[f"{measure}_interval"]
    text = f"{record[measure]:.3f} [{low:.3f}, {high:.3f}]"
    each = [seed_scores[measure] for seed_scores in record.get("by_seed", ())]
    return text + (f", {min(each):.3f}–{max(each):.3f}" if len(each) > 1 else "")


def table(results: Mapping[str, Any]) -> str:
    """The scores of one size, in Markdown."""
    rows = [
        (
            f"{row['asked_l0']:g}",
            row["architecture"],
            f"{row['l0']:.1f}",
            f"{row['fvu']:.3f}",
            cells(row, "mean_max_cosine"),
            cells(row, "f1"),
            f"{row['uniqueness']:.3f}",
            f"{100 * row['dead_fraction']:.0f}",
        )
        for row in sorted(results["saes"].values(), key=lambda row: row["factor"])
    ]
    random = results["random"]
    control = (
        "",
        "random directions (control)",
        "",
        "",
        cells(random, "mean_max_cosine"),
        f"{random['f1']:.3g}",
        f"{random['uniqueness']:.3f}",
        "",
    )
    heads = ("asked", "dictionary", "L0", "FVU", "mean max cosine", "F1", "uniqueness", "dead %")
    return markdown(heads, [*rows, control])


def show(name: str, size: Size, results: Mapping[str, Any]) -> None:
    """The table of README.md, and the diagnostic line by line."""
    print(
        f"\n{name}: {size.n_true} features in {size.d_in} dimensions, {size.d_sae} latents, true L0 "
        f"{results['true_l0']:.1f}; {json.dumps(results['runs'])}\n"
    )
    print(table(results))
    for choice in results["choices"]:
        values = "  ".join(f"{l0:g}: {value:.4f}" for l0, value in choice["values"])
        print(
            f"seed {choice['seed']} {choice['architecture']:11s} n {choice['n']:5d}  lowest at L0 "
            f"{choice['chosen_l0']:g}{' (edge)' if choice['at_edge'] else ''}; best F1 at {choice['best_f1_l0']:g}; "
            f"{values}"
        )


def load_or_train(folder: Path, name: str, seed: int, factors: Sequence[float] = ()) -> dict[str, Any]:
    """The run of a size and seed, from its file or trained now. Raises UserError for a file of other settings."""
    size = SIZES[name]
    path = folder / f"{name}-{seed}{'-far' if factors else ''}.json"
    if not path.exists():
        write_json(path, {"size": asdict(size), **run(size, seed, factors)})
    stored: dict[str, Any] = read_json(path)
    if stored["size"] != asdict(size):
        raise UserError(f"{path} is of other settings; delete it")
    return stored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=list(SIZES))
    parser.add_argument("--folder", type=Path, default=Path("runs/planted_scale"), help="finished sizes and seeds")
    parser.add_argument("--far", action="store_true", help="with the further run at four times the true L0")
    parser.add_argument("--out", type=Path, default=record_path("planted", "scale"))
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    for name in arguments.sizes:
        size = SIZES[name]
        seeds = range(size.n_seeds)
        runs = [load_or_train(arguments.folder, name, seed) for seed in seeds]
        keys = [f"{name}-{seed}" for seed in seeds] if arguments.far else []
        far = [load_or_train(arguments.folder, name, seed, FAR[key]) for seed, key in enumerate(keys) if key in FAR]
        results[name] = {"size": asdict(size), **together(runs, far)}
        show(name, size, results[name])
    common.save(arguments.out, {"found_from": MATCH_COSINE, **results})


if __name__ == "__main__":
    run_folders.run(main)
