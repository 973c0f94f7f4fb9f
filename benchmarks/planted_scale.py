"""Planted dictionaries at scale, hierarchical and correlated: what does each architecture find, at which L0?

Data: x = Σ_i a_i u_i + noise with unit directions u_i in random position. Features come in groups of 32: four parents
with seven children each. A group switches on with a Zipf-tailed rate, then every parent fires with probability ½ (so
parents of a group are correlated) and, only where its parent fires, every child with probability 0.2. Amplitudes are
|N(1, 0.3)|, so a child adds a direction of its own to its parent's.

  1,024 features in 256 dimensions, SAEs of 1,024 latents; 16,384 in 768, SAEs of 4,096 (the truth is wider than the
  SAE, as it is in a language model); all SAEs of a size and seed train side by side on one generated stream.

Each architecture is asked for half, one and two times the true mean L0. Scores, over the d_sae most frequent features
(all of them at the small size):
  mean max cosine  largest cosine of a true direction with any decoder row, mean
  recall           share of true directions with a cosine of at least 0.9 to a decoder row
  precision        share of decoder rows with a cosine of at least 0.9 to any true direction
  F1               harmonic mean of the two
  uniqueness       share of decoder rows that are the best match of exactly one true feature (random: about 1/e)
Intervals: bootstrap over features and latents of all seeds together. Control: a random dictionary.
The L0-choice diagnostic (`evals.l0_choice`) runs on fresh rows for every SAE; for one architecture on a finer grid.

Run (about half an hour on two quiet cores; every size and seed is kept, so that it can be stopped and started again):
  python benchmarks/planted_scale.py [--sizes small large] [--out docs/results/planted_scale.json]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import common
import torch
from torch import Tensor

from monosemy.config import TrainingConfig
from monosemy.evals.intervals import bootstrap_weights, percentiles
from monosemy.evals.l0_choice import choose_l0, tail_projection
from monosemy.evals.reconstruction import evaluate_reconstruction
from monosemy.files import read_json, write_json
from monosemy.kernels import dispatch
from monosemy.kernels.reference import Pattern
from monosemy.progress import stage
from monosemy.saes.base import SaeConfig, calibrate
from monosemy.saes.registry import ARCHITECTURES, build_sae
from monosemy.training.trainee import Trainee
from monosemy.training.workers import Workers

PARENTS, CHILDREN = 4, 7
GROUP = PARENTS * (1 + CHILDREN)
FOUND = 0.9
FACTORS = (0.5, 1.0, 2.0)
FINE, FINE_FACTORS = "batch_topk", (0.7, 1.4)


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
    best, which = (truth[:n_targets] @ learned.T).max(1)
    of_latent = torch.cat([(part @ truth.T).max(1).values for part in learned.split(1024)])
    return {"target": best, "which": which, "latent": of_latent}


def scores(matches: list[dict[str, Tensor]], n_resamples: int = 500) -> dict[str, Any]:
    """The scores of the module's docstring with their 95% intervals; `matches` holds one entry per seed."""
    target = torch.cat([m["target"] for m in matches])
    latent = torch.cat([m["latent"] for m in matches])
    times = torch.cat([torch.bincount(m["which"], minlength=len(m["latent"])) for m in matches])

    def at(target_weights: Tensor, latent_weights: Tensor) -> dict[str, Tensor]:
        def share(values: Tensor, weights: Tensor) -> Tensor:
            return (weights @ values.double()) / weights.sum(-1)

        recall, precision = share(target >= FOUND, target_weights), share(latent >= FOUND, latent_weights)
        return {
            "mean_max_cosine": share(target, target_weights), "recall": recall, "precision": precision,
            "f1": 2 * precision * recall / (precision + recall).clamp_min(1e-12),
            "uniqueness": share(times == 1, latent_weights),
        }  # fmt: skip

    values = at(torch.ones(len(target)).double(), torch.ones(len(latent)).double())
    weights = [torch.from_numpy(bootstrap_weights(len(v), n_resamples, seed=i)) for i, v in enumerate((target, latent))]
    resampled = at(*weights)
    found: dict[str, Any] = {name: float(value) for name, value in values.items()}
    return found | {f"{name}_interval": percentiles(value.numpy()) for name, value in resampled.items()}


def asked(name: str, true_l0: float, fine: bool) -> dict[str, tuple[str, float, float]]:
    """{label: (architecture, factor, L0)} of one architecture."""
    factors = sorted({*FACTORS, *(FINE_FACTORS if fine and name == FINE else ())})
    return {f"{name} {factor:g}": (name, factor, float(max(1, round(factor * true_l0)))) for factor in factors}


def by_frequency(data: Planted) -> Tensor:
    """Feature numbers, most frequent first."""
    return data.rates.argsort(descending=True, stable=True)


def run(size: Size, seed: int) -> dict[str, Any]:
    """Trains every SAE of a size on one stream; returns its records and matches."""
    data = Planted(size, seed)
    wanted = {key: value for name in ARCHITECTURES for key, value in asked(name, data.l0, size.fine).items()}
    config = TrainingConfig(batch_tokens=size.batch, learning_rate=size.learning_rate)
    held_in = data.batch(8192)
    trainees: dict[str, Trainee] = {}
    for key, (architecture, _, l0) in wanted.items():
        sae = build_sae(SaeConfig(architecture, size.d_in, size.d_sae, l0, seed=seed + 1000))
        trainees[key] = Trainee(sae, config, size.n_steps, size.n_steps * size.batch)
        sae.initialise(held_in[:4096], trainees[key].target_l0(0.0))
    started = time.perf_counter()
    with (
        stage(f"{size.n_true} features, seed {seed}", total=size.n_steps, unit="steps") as bar,
        Workers(len(trainees), torch.device("cpu")) as workers,
    ):
        for index in range(size.n_steps):
            x = data.batch(size.batch)
            workers.run([partial(trainee.step, x, index) for trainee in trainees.values()])
            bar.advance()
    seconds = time.perf_counter() - started
    for trainee in trainees.values():
        calibrate(trainee.sae, list(held_in.split(4096)))
    saes = {key: trainee.sae for key, trainee in trainees.items()}
    fresh = data.batch(8192)
    blocks = torch.arange(len(fresh)) // 64
    measured = evaluate_reconstruction(saes, [(fresh, blocks)], n_bootstrap=100)
    truth = data.directions[by_frequency(data)]
    ranks = [n for n in (round(4 * data.l0), round(8 * data.l0), size.d_sae // 4, size.d_sae // 2) if n < size.d_sae]
    records: dict[str, Any] = {}
    for key, (architecture, factor, l0) in wanted.items():
        found = measured[key].record
        tails = [asdict(tail_projection(saes[key], fresh[:4096], n, l0=l0)) for n in ranks]
        matches = best_matches(truth, saes[key].W_dec.detach(), size.d_sae)
        records[key] = {
            "architecture": architecture, "factor": factor, "asked_l0": l0, "l0": found.l0, "fvu": found.fvu,
            "dead_fraction": found.dead_fraction, "tails": tails,
            "matches": {name: values.tolist() for name, values in matches.items()},
        }  # fmt: skip
    random = torch.randn(size.d_sae, size.d_in, generator=torch.Generator().manual_seed(seed + 2000))
    control = {name: values.tolist() for name, values in best_matches(truth, random, size.d_sae).items()}
    return {"seed": seed, "true_l0": data.l0, "seconds": seconds, "saes": records, "random": control}


def together(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Scores over all seeds of a size, and what the diagnostic says."""

    def scored(matches: list[Mapping[str, list[float]]]) -> dict[str, Any]:
        return scores([{name: torch.tensor(values) for name, values in m.items()} for m in matches])

    rows = {}
    for key, first in runs[0]["saes"].items():
        same = [one["saes"][key] for one in runs]
        means = {name: sum(s[name] for s in same) / len(same) for name in ("asked_l0", "l0", "fvu", "dead_fraction")}
        about = {"architecture": first["architecture"], "factor": first["factor"]}
        rows[key] = about | means | scored([s["matches"] for s in same])
    return {
        "true_l0": runs[0]["true_l0"], "seconds": [one["seconds"] for one in runs], "saes": rows,
        "random": scored([one["random"] for one in runs]), "choices": [c for one in runs for c in choices(one)],
    }  # fmt: skip


def choices(one: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For every architecture and rank n: s_n against L0, and the L0 with the lowest."""
    from monosemy.evals.l0_choice import TailProjection

    found = []
    for architecture in ARCHITECTURES:
        saes = [s for s in one["saes"].values() if s["architecture"] == architecture]
        for place in range(len(saes[0]["tails"])):
            tails = [TailProjection(**s["tails"][place]) for s in saes]
            choice = choose_l0(tails)
            by_f1 = max(saes, key=lambda s: scores([{k: torch.tensor(v) for k, v in s["matches"].items()}], 1)["f1"])
            found.append({
                "seed": one["seed"], "architecture": architecture, "n": tails[0].n, "chosen_l0": choice.l0,
                "at_edge": choice.at_edge, "not_told_apart": choice.not_told_apart, "best_f1_l0": by_f1["asked_l0"],
                "values": [[t.l0, t.value] for t in tails],
            })  # fmt: skip
    return found


def show(name: str, size: Size, found: Mapping[str, Any]) -> None:
    print(f"\n{name}: {size.n_true} features in {size.d_in} dimensions, {size.d_sae} latents, true L0 "
          f"{found['true_l0']:.1f}")  # fmt: skip
    print(
        f"{'dictionary':18s} L0 asked/reached  FVU     dead    mean max cosine       F1                    uniqueness"
    )
    for key, row in [*found["saes"].items(), ("random (control)", found["random"])]:
        line = f"{key:18s} "
        line += " " * 32
        if "l0" in row:
            line = f"{key:18s} {row['asked_l0']:5.0f}/{row['l0']:6.2f}     {row['fvu']:.4f}  {row['dead_fraction']:.3f}"
        for measure in ("mean_max_cosine", "f1", "uniqueness"):
            low, high = row[f"{measure}_interval"]
            line += f"   {row[measure]:.3f} [{low:.3f}, {high:.3f}]"
        print(line)
    for choice in found["choices"]:
        values = "  ".join(f"{l0:g}: {value:.4f}" for l0, value in choice["values"])
        print(f"seed {choice['seed']} {choice['architecture']:11s} n {choice['n']:5d}  lowest at L0 "
              f"{choice['chosen_l0']:g}{' (edge)' if choice['at_edge'] else ''}; best F1 at {choice['best_f1_l0']:g}; "
              f"{values}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=list(SIZES))
    parser.add_argument("--folder", type=Path, default=Path("runs/planted_scale"), help="finished sizes and seeds")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    results: dict[str, Any] = {}
    for name in chosen.sizes:
        size, runs = SIZES[name], []
        for seed in range(size.n_seeds):
            path = chosen.folder / f"{name}-{seed}.json"
            if not path.exists():
                write_json(path, {"size": asdict(size), **run(size, seed)})
            one = read_json(path)
            if one["size"] != asdict(size):
                raise SystemExit(f"{path} is of other settings; delete it")
            runs.append(one)
        results[name] = {"size": asdict(size), **together(runs)}
        show(name, size, results[name])
    common.save(chosen.out, {"found_from": FOUND, **results})


if __name__ == "__main__":
    main()
