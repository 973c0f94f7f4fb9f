"""Do SAEs of other seeds find the same latents? Share of latents with a twin, per architecture, against chance.

Run: python -m research.stability.run RUN [RUN …] [--out FILE] [--figures FOLDER]

For each architecture at one L0 and each pair of its seeds: every living latent's nearest decoder row in the other SAE,
by cosine, both ways. A seed sets the random decoder that training starts from (and the encoder, its transpose); the
order of the data is the same for all seeds. Living: fires on the run's validation tokens; dead latents are counted and
left out.

    share ≥ 0.7, ≥ 0.9    of living latents whose nearest row is that near
    mutual                the nearest row's nearest row is the latent itself, and the cosine is ≥ 0.7
    one to one            the same shares when no row may serve twice (Hungarian matching of the living latents); who is
                          left over has no twin
    by rate               share ≥ 0.7 in fifths of the firing rates of the architecture's own latents

Controls: random unit rows with the decoders' second moment, as many (`evals.stability.chance_rows`), and the SAEs with
frozen random decoders, whose directions no training touched.

Intervals: each latent counts once, its values averaged over the SAEs that it is held against. "latents" is Wilson's for
shares (two latents matched with each other count as one) and resamples latents for the mean cosine; the differences
between architectures hold together (max-t over latents). All these are too narrow: the latents of one SAE are not
independent, and twins are near each other from both sides. "pairs" is Student's t over the pairs of seeds (three for
three seeds, which share SAEs: approximate), for differences one by one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from monosemy.errors import UserError
from monosemy.evals.intervals import percentiles
from monosemy.evals.latent_statistics import LatentStatistics
from monosemy.features.explain.scores import wilson
from monosemy.layout import SaeFiles
from monosemy.saes.registry import ARCHITECTURES
from monosemy.support import progress
from research import common, run_folders
from research.differences import resampled_means, simultaneous_differences
from research.stability.twins import Twins, chance_rows, find_twins, one_to_one

THRESHOLDS = (0.7, 0.9)
COMPARED = ("share_0.7", "share_0.9", "cosine")


@dataclass(frozen=True)
class Decoder:
    """The living rows of one SAE's decoder, and their firing rates."""

    rows: Tensor
    rates: np.ndarray
    n_dead: int

    @staticmethod
    def read(entry: run_folders.Entry) -> Decoder:
        statistics = LatentStatistics.load(SaeFiles(entry.folder).latents)  # evaluation writes it
        rates = statistics.firing_count / np.float64(statistics.n_tokens or 0)
        living = rates > 0
        return Decoder(entry.load().W_dec.detach()[torch.from_numpy(living)], rates[living], int((~living).sum()))


@dataclass(frozen=True)
class Pair:
    """Two seeds of one kind."""

    seeds: tuple[int, int]
    twins: Twins
    matched: tuple[np.ndarray, np.ndarray]
    """Cosines of a's latents with their partners in the matching, then of b's; 0 for one left over."""
    rates: tuple[np.ndarray, np.ndarray]

    @property
    def cosines(self) -> tuple[np.ndarray, np.ndarray]:
        """Of a's latents with their nearest in b, and of b's in a."""
        return self.twins.cosine_a, self.twins.cosine_b

    @property
    def mutual(self) -> tuple[np.ndarray, np.ndarray]:
        return self.twins.mutual_a, self.twins.mutual_b


def pairs_of(decoders: Mapping[int, Decoder]) -> list[Pair]:
    pairs = []
    for a, b in combinations(sorted(decoders), 2):
        first, second = decoders[a], decoders[b]
        twins = find_twins(first.rows, second.rows)
        pairs.append(Pair((a, b), twins, one_to_one(first.rows, second.rows), (first.rates, second.rates)))
    return pairs


def chance_pairs(decoders: Mapping[int, Decoder]) -> list[Pair]:
    """The same with random rows of the second moment of both."""
    pairs = []
    for number, (a, b) in enumerate(combinations(sorted(decoders), 2)):
        first, second = decoders[a], decoders[b]
        rows = [
            chance_rows(first.rows, second.rows, len(d.rows), 2 * number + i) for i, d in enumerate((first, second))
        ]
        pairs.append(Pair((a, b), find_twins(*rows), one_to_one(*rows), (first.rates, second.rates)))
    return pairs


Sides = tuple[np.ndarray, np.ndarray]
"""One value a latent: of the first SAE's latents, of the second's."""


def measures(pair: Pair) -> dict[str, Sides]:
    """Name → one value a latent of the pair."""
    low = THRESHOLDS[0]
    by_measure: dict[str, list[np.ndarray]] = {}
    for cosines, mutual, matched in zip(pair.cosines, pair.mutual, pair.matched, strict=True):
        own = {f"share_{t}": cosines >= t for t in THRESHOLDS}
        own |= {f"mutual_{low}": (cosines >= low) & mutual, "cosine": cosines}
        own |= {f"one_to_one_{t}": matched >= t for t in THRESHOLDS}
        for name, values in own.items():
            by_measure.setdefault(name, []).append(values.astype(float))
    return {name: (sides[0], sides[1]) for name, sides in by_measure.items()}


def per_latent(pairs: Sequence[Pair], values: Sequence[Sides]) -> dict[int, np.ndarray]:
    """Seed → one value a latent: the mean over the SAEs it is held against."""
    by_seed: dict[int, list[np.ndarray]] = {}
    for pair, sides in zip(pairs, values, strict=True):
        for seed, side in zip(pair.seeds, sides, strict=True):
            by_seed.setdefault(seed, []).append(side)
    return {seed: np.mean(held_against, 0) for seed, held_against in sorted(by_seed.items())}


def summary(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Every measure: mean, by pair, both intervals; shares by firing rate."""
    values = [measures(pair) for pair in pairs]
    estimates: dict[str, Any] = {}
    for name in values[0]:
        latents = list(per_latent(pairs, [v[name] for v in values]).values())
        by_pair = np.array([np.concatenate(v[name]).mean() for v in values])
        mean, n = float(np.mean([v.mean() for v in latents])), sum(map(len, latents))
        if name.startswith(("mutual", "one_to_one")):
            n //= 2  # both of a pair say the same
        resampled = percentiles(resampled_means({"": latents}, 1000)[""]) if name == "cosine" else wilson(mean, n)
        estimates[name] = {
            "mean": mean,
            "by_pair": by_pair.tolist(),
            "interval_latents": resampled,
            "interval_pairs": over_pairs(by_pair),
        }
    twin = per_latent(pairs, [v[f"share_{THRESHOLDS[0]}"] for v in values])
    return estimates | {"by_rate": by_rate(per_latent(pairs, [pair.rates for pair in pairs]), twin)}


def by_rate(rates: Mapping[int, np.ndarray], twin: Mapping[int, np.ndarray]) -> list[dict[str, Any]]:
    """Shares of latents with a twin in fifths of the firing rates; seed → value of each latent."""
    rate, share = np.concatenate([rates[seed] for seed in twin]), np.concatenate(list(twin.values()))
    fifth = np.searchsorted(np.quantile(rate, [0.2, 0.4, 0.6, 0.8]), rate, side="right")
    cells = [(rate[fifth == k], share[fifth == k]) for k in range(5) if (fifth == k).any()]
    return [
        {
            "median_rate": float(np.median(own)),
            f"share_{THRESHOLDS[0]}": float(twins.mean()),
            "interval_latents": wilson(float(twins.mean()), len(twins)),
        }
        for own, twins in cells
    ]


def over_pairs(values: np.ndarray) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    margin = float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean() - margin), float(values.mean() + margin)


def compare(by_kind: Mapping[str, Sequence[Pair]], name: str) -> dict[str, Any]:
    """Differences between trained architectures in one measure: over latents, all together; over pairs of seeds."""
    values = {kind: [measures(pair)[name] for pair in pairs] for kind, pairs in by_kind.items()}
    groups = {kind: list(per_latent(pairs, values[kind]).values()) for kind, pairs in by_kind.items()}
    by_pair = {
        kind: {pair.seeds: float(np.concatenate(v).mean()) for pair, v in zip(pairs, values[kind])}
        for kind, pairs in by_kind.items()
    }
    differences = []
    for d in simultaneous_differences(groups, n_resamples=1000):
        shared = sorted(by_pair[d.first].keys() & by_pair[d.second].keys())
        own = np.array([by_pair[d.first][seeds] - by_pair[d.second][seeds] for seeds in shared])
        differences.append(asdict(d) | {"by_pair": own.tolist(), "interval_pairs": over_pairs(own)})
    return {"differences": differences}


def main() -> None:
    arguments = run_folders.arguments("stability", __doc__).parse_args()
    entries = run_folders.gather(arguments.runs, arguments.site, arguments.l0)
    kinds = [kind for kind in dict.fromkeys(e.kind for e in entries) if sum(e.kind == kind for e in entries) > 1]
    if not kinds:
        raise UserError(f"stability needs two seeds at least of an architecture at L0 {arguments.l0:g}")
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
        **run_folders.provenance(arguments.runs, entries),
        "seconds": round(time.perf_counter() - started, 1),
        "dead": dead,
        "architectures": {kind: summary(pairs) for kind, pairs in by_kind.items()},
        "chance": {kind: summary(pairs) for kind, pairs in chance.items()},
        "compared": {name: compare(trained, name) for name in COMPARED} if len(trained) > 1 else {},
    }
    show(results)
    common.save(arguments.out, results)
    if arguments.figures:
        from research.evidence_figures import stability

        curves, by_chance = (
            {
                kind: np.concatenate([side for pair in pairs for side in pair.cosines])
                for kind, pairs in pairs_by_kind.items()
            }
            for pairs_by_kind in (by_kind, chance)
        )
        stability(arguments.figures, curves, by_chance, results)


def show(results: Mapping[str, Any]) -> None:
    for section in ("architectures", "chance"):
        print(f"\n{section}: share with a twin ≥ 0.7 and ≥ 0.9, mutual, one to one ≥ 0.7, mean cosine")
        for kind, estimates in results[section].items():
            low, high = estimates["share_0.7"]["interval_latents"]
            numbers = "  ".join(
                f"{estimates[n]['mean']:.3f}" for n in ("share_0.9", "mutual_0.7", "one_to_one_0.7", "cosine")
            )
            pairs = np.round(estimates["share_0.7"]["by_pair"], 3)
            print(f"  {kind:14s} {estimates['share_0.7']['mean']:.3f} [{low:.3f}, {high:.3f}] {pairs}  {numbers}")
    for name, comparison in results["compared"].items():
        print(f"\n{name}")
        for d in comparison["differences"]:
            print(f"  {d['first']} − {d['second']}: {d['estimate']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}]")


if __name__ == "__main__":
    run_folders.run(main)
