"""Do SAEs of other seeds find the same latents? Share of latents with a twin, per architecture, against chance.

Run: python benchmarks/stability.py RUN [RUN …] [--out docs/results/stability.json] [--figures docs/figures]

For each architecture at one L0 and each pair of its seeds: every living latent's nearest decoder row in the other SAE,
by cosine, both ways. A seed sets the random decoder that training starts from (and the encoder, its transpose); the
order of the data is the same for all seeds. Living: fires on the run's validation tokens; dead latents are counted and
left out.

    share ≥ 0.7, ≥ 0.9    of living latents whose nearest row is that near
    mutual                the nearest row's nearest row is the latent itself, and the cosine is ≥ 0.7
    one to one            the same shares when no row may serve twice (Hungarian matching of the living latents)
    by rate               share ≥ 0.7 in fifths of the firing rates of the architecture's own latents

Controls: random unit rows with the decoders' second moment, as many (`evals.stability.chance_rows`), and the SAEs with
frozen random decoders, whose directions no training touched.

Intervals: "latents" is Wilson's for shares, with each latent counted once, and resamples latents for the mean cosine
(latents of one SAE are not independent, so it is too narrow); "pairs" is Student's t over the pairs of seeds (three for
three seeds, which share SAEs: approximate). The differences between architectures hold together (max-t over latents).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import common
import numpy as np
import run_folders
import torch
from scipy.stats import t as student
from torch import Tensor

from monosemy import progress
from monosemy.errors import UserError
from monosemy.evals.differences import resampled_means, simultaneous_differences
from monosemy.evals.intervals import percentiles
from monosemy.evals.reconstruction import LatentStatistics
from monosemy.evals.stability import Twins, chance_rows, find_twins, one_to_one
from monosemy.features.explain_scores import wilson
from monosemy.saes.registry import ARCHITECTURES

THRESHOLDS = (0.7, 0.9)
CHANCE = "chance"


@dataclass(frozen=True)
class Decoder:
    """The living rows of one SAE's decoder, and their firing rates."""

    rows: Tensor
    rates: np.ndarray
    n_dead: int

    @staticmethod
    def read(entry: run_folders.Entry) -> Decoder:
        statistics = LatentStatistics.load(entry.folder / "latents.safetensors")  # evaluation writes it
        rates = (statistics.firing_count.double() / statistics.n_tokens).numpy()
        living = rates > 0
        return Decoder(entry.load().W_dec.detach()[torch.from_numpy(living)], rates[living], int((~living).sum()))


@dataclass(frozen=True)
class Pair:
    """Two seeds of one kind."""

    seeds: tuple[int, int]
    twins: Twins
    matched: np.ndarray
    rates: np.ndarray
    """Of a's latents, then b's."""

    @property
    def cosines(self) -> np.ndarray:
        """Of a's latents with their nearest in b, then of b's."""
        return np.concatenate([self.twins.cosine_a, self.twins.cosine_b])

    @property
    def mutual(self) -> np.ndarray:
        return np.concatenate([self.twins.mutual_a, self.twins.mutual_b])


def pairs_of(decoders: Mapping[int, Decoder]) -> list[Pair]:
    found = []
    for a, b in combinations(sorted(decoders), 2):
        first, second = decoders[a], decoders[b]
        rates = np.concatenate([first.rates, second.rates])
        twins = find_twins(first.rows, second.rows)
        found.append(Pair((a, b), twins, one_to_one(first.rows, second.rows), rates))
    return found


def chance_pairs(decoders: Mapping[int, Decoder]) -> list[Pair]:
    """The same with random rows of the second moment of both."""
    found = []
    for number, (a, b) in enumerate(combinations(sorted(decoders), 2)):
        one, two = decoders[a], decoders[b]
        rows = [chance_rows(one.rows, two.rows, len(d.rows), 2 * number + i) for i, d in enumerate((one, two))]
        rates = np.concatenate([one.rates, two.rates])
        found.append(Pair((a, b), find_twins(*rows), one_to_one(*rows), rates))
    return found


def measures(pair: Pair) -> dict[str, np.ndarray]:
    """Name → one value a latent of the pair."""
    cosines = pair.cosines
    found = {f"share_{t}": (cosines >= t).astype(float) for t in THRESHOLDS}
    found |= {"mutual_0.7": ((cosines >= THRESHOLDS[0]) & pair.mutual).astype(float), "cosine": cosines.astype(float)}
    found |= {f"one_to_one_{t}": (pair.matched >= t).astype(float) for t in THRESHOLDS}
    return found


def summary(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Every measure: mean, by pair, both intervals; shares by firing rate."""
    values = [measures(pair) for pair in pairs]
    n_appearances = len({seed for pair in pairs for seed in pair.seeds}) - 1  # a SAE is in so many pairs
    found: dict[str, Any] = {}
    for name in values[0]:
        clusters = [v[name] for v in values]
        by_pair = np.array([cluster.mean() for cluster in clusters])
        mean, n = float(by_pair.mean()), sum(map(len, clusters)) // n_appearances
        resampled = percentiles(resampled_means({"": clusters}, 1000)[""]) if name == "cosine" else wilson(mean, n)
        found[name] = {
            "mean": mean,
            "by_pair": by_pair.tolist(),
            "interval_latents": resampled,
            "interval_pairs": over_pairs(by_pair),
        }
    rates = np.concatenate([pair.rates for pair in pairs])
    twin = np.concatenate([pair.cosines >= THRESHOLDS[0] for pair in pairs])
    fifth = np.searchsorted(np.quantile(rates, [0.2, 0.4, 0.6, 0.8]), rates, side="right")
    found["by_rate"] = [
        {"median_rate": float(np.median(rates[fifth == k])), "share_0.7": float(twin[fifth == k].mean())}
        for k in range(5)
        if (fifth == k).any()
    ]
    return found


def over_pairs(values: np.ndarray) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    margin = float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean() - margin), float(values.mean() + margin)


def compare(by_kind: Mapping[str, Sequence[Pair]], name: str) -> dict[str, Any]:
    """Differences between trained architectures in one measure."""
    groups = {kind: [measures(pair)[name] for pair in pairs] for kind, pairs in by_kind.items()}
    return {"differences": [asdict(d) for d in simultaneous_differences(groups, n_resamples=1000)]}


def main() -> None:
    chosen = run_folders.arguments(__doc__).parse_args()
    entries = run_folders.gather(chosen.runs, chosen.site, chosen.l0)
    kinds = [kind for kind in dict.fromkeys(e.kind for e in entries) if sum(e.kind == kind for e in entries) > 1]
    if not kinds:
        raise UserError(f"stability needs two seeds at least of an architecture at L0 {chosen.l0:g}")
    started = time.perf_counter()
    by_kind: dict[str, list[Pair]] = {}
    chance: dict[str, list[Pair]] = {}
    dead: dict[str, dict[int, int]] = {}
    with progress.stage("twins", len(kinds), "architectures") as bar:
        for kind in kinds:
            decoders = {entry.seed: Decoder.read(entry) for entry in entries if entry.kind == kind}
            dead[kind] = {seed: decoder.n_dead for seed, decoder in decoders.items()}
            by_kind[kind] = pairs_of(decoders)
            if kind != run_folders.FROZEN:
                chance[kind] = chance_pairs(decoders)
            bar.advance(1)
    trained = {kind: pairs for kind, pairs in by_kind.items() if kind in ARCHITECTURES}
    results = {
        **run_folders.provenance(chosen.runs, entries),
        "seconds": round(time.perf_counter() - started, 1),
        "dead": dead,
        "architectures": {kind: summary(pairs) for kind, pairs in by_kind.items()},
        "chance": {kind: summary(pairs) for kind, pairs in chance.items()},
        "compared": {name: compare(trained, name) for name in ("share_0.7", "cosine")} if len(trained) > 1 else {},
    }
    show(results)
    common.save(chosen.out, results)
    if chosen.figures:
        from evidence_figures import stability

        curves = {kind: [pair.cosines for pair in pairs] for kind, pairs in by_kind.items()}
        widest = max(chance, key=lambda kind: results["chance"][kind]["cosine"]["mean"])
        stability(chosen.figures, curves, np.concatenate([pair.cosines for pair in chance[widest]]), results)


def show(results: Mapping[str, Any]) -> None:
    for what in ("architectures", "chance"):
        print(f"\n{what}: share with a twin ≥ 0.7 and ≥ 0.9, mutual, one to one ≥ 0.7, mean cosine")
        for kind, found in results[what].items():
            low, high = found["share_0.7"]["interval_latents"]
            numbers = "  ".join(
                f"{found[n]['mean']:.3f}" for n in ("share_0.9", "mutual_0.7", "one_to_one_0.7", "cosine")
            )
            pairs = np.round(found["share_0.7"]["by_pair"], 3)
            print(f"  {kind:14s} {found['share_0.7']['mean']:.3f} [{low:.3f}, {high:.3f}] {pairs}  {numbers}")
    for name, found in results["compared"].items():
        print(f"\n{name}")
        for d in found["differences"]:
            print(f"  {d['first']} − {d['second']}: {d['estimate']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}]")


if __name__ == "__main__":
    main()
