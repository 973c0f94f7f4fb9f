"""Planted dictionary: does each architecture find known directions? Mean max cosine and F1 over three seeds.

Data: x = Σ_i a_i u_i + noise, d_in 128, 256 unit directions u_i in random position (so they overlap). Feature i
belongs to one of 32 groups of 8; a group switches on with a Zipf-tailed probability and then each member fires with
probability ½, so firing is correlated inside groups and spread over two orders of magnitude; amplitudes are
|N(1, 0.3)|. SAEs have d_sae 256 (as many
latents as features) and 512, and are asked for the true mean L0, rounded.

Mean max cosine: over true directions, the largest cosine with a decoder row. F1: a true direction counts as found, and
a learned one as true, from cosine 0.9 on. Control: a random dictionary.

Run: python -m research.planted.run [--steps 4000] [--out FILE]
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from torch import Tensor

from monosemy.config import TrainingConfig
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import ARCHITECTURES, build_sae
from monosemy.support.progress import stage
from monosemy.training.trainee import Trainee
from research import common
from research.records import record_path

D_IN, N_TRUE, GROUP, BATCH = 128, 256, 8, 1024
WIDTHS = (256, 512)
LEARNING_RATE = 4e-3
MATCH_COSINE = 0.9


class Planted:
    """The generator: true directions [256, 128] and batches at E‖x‖² = 1."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.directions = torch.nn.functional.normalize(torch.randn(N_TRUE, D_IN, generator=self.generator), dim=1)
        ranks = torch.arange(1, N_TRUE // GROUP + 1, dtype=torch.float32)
        self.rates = 0.5 * ranks**-1.0
        sample, codes = self._draw(32_768)
        self.l0 = float((codes > 0).sum(1).float().mean())
        self.scale = float(sample.square().sum(1).mean().sqrt())

    def _draw(self, n: int) -> tuple[Tensor, Tensor]:
        groups = torch.rand(n, N_TRUE // GROUP, generator=self.generator) < self.rates
        members = torch.rand(n, N_TRUE, generator=self.generator) < 0.5
        amplitude = (1 + 0.3 * torch.randn(n, N_TRUE, generator=self.generator)).abs()
        codes = groups.repeat_interleave(GROUP, dim=1) * members * amplitude
        noise = 0.02 * torch.randn(n, D_IN, generator=self.generator)
        return codes @ self.directions + noise, codes

    def batch(self, n: int = BATCH) -> Tensor:
        return self._draw(n)[0] / self.scale


def scores(truth: Tensor, learned: Tensor) -> dict[str, float]:
    """Mean max cosine, precision, recall and F1 of unit rows `learned` against unit rows `truth`."""
    cosine = truth @ torch.nn.functional.normalize(learned, dim=1).T
    recall = float((cosine.max(1).values >= MATCH_COSINE).float().mean())
    precision = float((cosine.max(0).values >= MATCH_COSINE).float().mean())
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    mean_max = float(cosine.max(1).values.mean())
    return {"mean_max_cosine": mean_max, "precision": precision, "recall": recall, "f1": f1}


def train(architecture: str, seed: int, n_steps: int, d_sae: int) -> dict[str, float]:
    data = Planted(seed)
    sae = build_sae(SaeConfig(architecture, D_IN, d_sae, round(data.l0), seed=seed + 1000))
    trainee = Trainee(sae, TrainingConfig(batch_tokens=BATCH, learning_rate=LEARNING_RATE), n_steps, n_steps * BATCH)
    trainee.initialise(data.batch(4096))
    last: dict[str, float] = {}
    for step in range(n_steps):
        last = trainee.step(data.batch(), step)
    recovery = scores(data.directions, sae.W_dec.detach())
    return recovery | {"asked_l0": data.l0, "train_l0": last["l0"], "train_fvu": last["fvu"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=record_path("planted", "groups"))
    arguments = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {}
    with stage("planted", total=len(ARCHITECTURES) * arguments.seeds * len(WIDTHS), unit="SAEs") as bar:
        for d_sae in WIDTHS:
            for architecture in ARCHITECTURES:
                for seed in range(arguments.seeds):
                    name = f"{architecture} {d_sae}"
                    results.setdefault(name, []).append(train(architecture, seed, arguments.steps, d_sae))
                    bar.advance()
    for seed in range(arguments.seeds):
        data = Planted(seed)
        random = torch.randn(N_TRUE, D_IN, generator=torch.Generator().manual_seed(seed + 2000))
        results.setdefault("random (control)", []).append(scores(data.directions, random))
    print(f"{'dictionary':18s} mean max cosine (min to max)    F1 (min to max)          L0 asked/reached   FVU")
    for name, rows in results.items():
        cosines, f1 = [r["mean_max_cosine"] for r in rows], [r["f1"] for r in rows]
        line = f"{name:18s} {statistics.mean(cosines):.3f} ({min(cosines):.3f} to {max(cosines):.3f})"
        line += f"{'':10s} {statistics.mean(f1):.3f} ({min(f1):.3f} to {max(f1):.3f})"
        if "train_l0" in rows[0]:
            line += f"    {rows[0]['asked_l0']:.1f}/{rows[0]['train_l0']:.1f}   {rows[0]['train_fvu']:.4f}"
        print(line)
    common.save(arguments.out, {"n_steps": arguments.steps, "batch": BATCH, "results": results})


if __name__ == "__main__":
    main()
