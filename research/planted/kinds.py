"""Three kinds of planted data, defaults only: does any architecture lose latents where its recipe was not tuned?

    even           1,024 directions in 128 dimensions fire independently, at rates with a Zipf tail (exponent .5); L0 5
    hierarchical   1,024 directions in 256 dimensions: 64 roots, five children each, two grandchildren for most; a child
                   fires only where its parent does
    dominated      2,048 directions in 256 dimensions, mean L0 16; besides, three directions with ten times the size of
                   a feature and a mean of sixty times it, as in language models with massive activations

Each SAE has as many latents as there are directions and is asked for the true mean L0. Measured on 65,536 fresh rows:
the share of latents that never fire (dead), FVU, the mean over directions matched one to one of the absolute cosine
(MCC), and the mean F1 of each latent as a detector of its nearest direction.

Run: python -m research.planted.kinds [--rows 102400 512000 2048000] [--kinds even] [--seeds 0 1] [--label after]
Takes about half an hour a seed with one thread. Results are added to the record.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from monosemy.config import TrainingConfig
from monosemy.saes.base import SaeConfig, SparseAutoencoder, calibrate
from monosemy.saes.registry import build_sae
from monosemy.support.files import read_json
from monosemy.support.progress import stage
from monosemy.training.trainee import Trainee
from research import common
from research.records import record_path

BATCH = 1024
N_VALIDATION = 65_536
ARCHITECTURES = ("topk", "batch_topk", "gated", "jumprelu")


@dataclass
class Kind:
    """A generator of rows: unit directions [F, D], their firing [N, F], and what else the rows hold."""

    directions: Tensor
    fires: Callable[[int], Tensor]
    amplitude_spread: float
    mean: Tensor
    dominating: Tensor
    """Further directions times their size, [K, D], with normal coefficients in every row."""
    generator: torch.Generator
    scale: float = 1.0
    parents: Tensor | None = None
    """Int64 [F]: the direction without which each never fires, −1 for a root; None where there is no hierarchy."""

    def rows(self, n: int) -> tuple[Tensor, Tensor]:
        """Rows [n, D] at E‖x‖² = 1, and which directions fire in them, bool [n, F]."""
        fires = self.fires(n)
        noise = torch.randn(fires.shape, generator=self.generator)
        codes = fires * (1 + self.amplitude_spread * noise).clamp_min(0)
        coefficients = torch.randn(n, len(self.dominating), generator=self.generator)
        return (codes @ self.directions + coefficients @ self.dominating + self.mean) / self.scale, fires


def unit_rows(n: int, d: int, generator: torch.Generator) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=1)


def zipf_rates(n: int, l0: float, exponent: float, least: float) -> Tensor:
    """Rates [n] that fall as rank^−exponent from a largest to `least`, and sum to `l0`."""
    tail = torch.arange(1, n + 1, dtype=torch.float64) ** -exponent
    tail = (tail - tail.min()) / (tail.max() - tail.min())
    return least + (l0 / n - least) / tail.mean() * tail


def kind(name: str, seed: int) -> Kind:
    generator = torch.Generator().manual_seed(seed)
    n, d = {"even": (1024, 128), "hierarchical": (1024, 256), "dominated": (2048, 256)}[name]
    directions = unit_rows(n, d, generator)
    mean, spread, dominating, parents = unit_rows(1, d, generator)[0], 0.0, torch.zeros(0, d), None
    if name == "hierarchical":
        roots, children, spread = 64, 320, 0.3
        of_children, of_grandchildren = torch.arange(children), torch.arange(n - roots - children)
        parents = torch.cat([torch.full((roots,), -1), of_children % roots, roots + of_grandchildren % children])
        sizes = (roots, children, n - roots - children)
        rates = torch.cat([torch.full((size,), rate) for size, rate in zip(sizes, (0.08, 0.3, 0.4), strict=True)])
    elif name == "dominated":
        rates, spread = zipf_rates(n, 16.0, 0.5, 1e-3), 0.3
        mean = 60 * mean
        dominating = (
            torch.tensor([10.0, 6.5, 3.0])[:, None] * torch.linalg.qr(torch.randn(d, 3, generator=generator))[0].T
        )
    else:
        rates = zipf_rates(n, 5.0, 0.5, 5e-4)

    def fires(n_rows: int) -> Tensor:
        drawn = torch.rand(n_rows, n, generator=generator) < rates
        if parents is not None:
            for start, stop in ((roots, roots + children), (roots + children, n)):
                drawn[:, start:stop] &= drawn[:, parents[start:stop]]
        return drawn

    data = Kind(directions, fires, amplitude_spread=spread, mean=mean, dominating=dominating, generator=generator)
    data.scale, data.parents = float(data.rows(16_384)[0].square().sum(1).mean().sqrt()), parents
    return data


def train(data: Kind, architecture: str, l0: float, *, n_rows: int, seed: int) -> SparseAutoencoder:
    n, d = data.directions.shape
    sae = build_sae(SaeConfig(architecture, d, n, l0, seed=seed + 1000))
    n_steps = n_rows // BATCH
    trainee = Trainee(sae, TrainingConfig(batch_tokens=BATCH), n_steps, n_rows)
    trainee.initialise(data.rows(8192)[0])
    for step in range(n_steps):
        trainee.step(data.rows(BATCH)[0], step)
    calibrate(sae, [data.rows(2048)[0] for _ in range(4)])
    return sae


@torch.no_grad()
def measures(sae: SparseAutoencoder, data: Kind) -> dict[str, float]:
    """dead, l0, fvu, mcc and f1 on fresh rows."""
    cosines = (sae.W_dec.detach() @ data.directions.T).abs()
    nearest = cosines.argmax(1)
    latents, directions = linear_sum_assignment(1 - cosines.numpy())
    counts = torch.zeros(4, sae.d_sae)  # firings, true, false and missed detections
    error, n_active, total = 0.0, 0.0, torch.zeros(sae.d_in, dtype=torch.float64)
    square = 0.0
    for _ in range(N_VALIDATION // 4096):
        x, fires = data.rows(4096)
        code = sae.encode(x)
        error += float((x - sae.decode(code)).square().sum())
        square, total = square + float(x.double().square().sum()), total + x.double().sum(0)
        n_active += code.l0 * len(x)
        active, truth = code.to_dense() > 0, fires[:, nearest]
        detections = (active, active & truth, active & ~truth, ~active & truth)
        counts += torch.stack([rows.sum(0).float() for rows in detections])
    variance = square - float(total.square().sum()) / N_VALIDATION
    f1 = 2 * counts[1] / (2 * counts[1] + counts[2] + counts[3]).clamp_min(1)
    return {
        "dead": float((counts[0] == 0).float().mean()),
        "l0": n_active / N_VALIDATION,
        "fvu": error / variance,
        "mcc": float(cosines[latents, directions].mean()),
        "f1": float(f1.mean()),
    }


def measure(name: str, seed: int, n_rows: int, architectures: Sequence[str]) -> dict[str, list[dict[str, float]]]:
    """The measures of one SAE of each architecture, trained on the same kind of rows, by architecture."""
    scores = {}
    for architecture in architectures:
        data = kind(name, seed)
        l0 = round(float(data.rows(16_384)[1].sum(1).float().mean()))
        scores[architecture] = [
            {"asked_l0": l0, **measures(train(data, architecture, l0, n_rows=n_rows, seed=seed), data)}
        ]
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[102_400, 512_000, 2_048_000])
    parser.add_argument("--kinds", nargs="+", default=["even", "hierarchical", "dominated"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES)
    parser.add_argument("--label", default="after", help="name of this tree's results beside those recorded before")
    parser.add_argument("--out", type=Path, default=record_path("planted", "kinds"))
    arguments = parser.parse_args()
    wanted = list(itertools.product(arguments.rows, arguments.kinds, arguments.seeds))
    with stage("planted", total=len(wanted), unit="comparisons") as bar:
        for n_rows, name, seed in wanted:
            scores = measure(name, seed, n_rows, arguments.architectures)
            # Read anew each time: other processes may add other kinds to the same record.
            results = read_json(arguments.out)["results"] if arguments.out.exists() else {}
            own = results.setdefault(arguments.label, {}).setdefault(str(n_rows), {}).setdefault(name, {})
            for architecture, measured in scores.items():
                own.setdefault(architecture, []).extend(measured)
            common.save(arguments.out, {"batch": BATCH, "results": results})
            bar.advance()


if __name__ == "__main__":
    main()
