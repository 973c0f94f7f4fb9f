"""Our SAEs beside other libraries': the same activations, width, steps and batch, compared at the L0 each one reaches.

SmolLM2-135M, layers.12.resid_post, E‖x‖² = 1. Two draws of the corpus: on the first all tries are made and chosen
among, on the second the chosen settings are trained again, with every seed (weights and order of the rows), and
measured on its validation documents. Every library trains by its own trainer and losses (`peers_training.py`: what was
set in proportion to the run). FVU and dead share are ours (`evals.reconstruction`) on the library's own encode and
decode, as its users have them at inference.

Tries: ours have four (two learning rates at the defaults; at the better one `OPTIONS`). A peer has three learning rates
and a fourth beyond the best where that is at an end, between the best two where it is not (eai-sparsify one more, with
its options for dead latents); where its L0 follows from a coefficient it has four to seven, until one lands, each
coefficient set from what the ones before it reached. All are chosen by one rule (`best_of`). `OPTIONS` themselves came
out of a dozen earlier runs of our TopK and BatchTopK on the first draw, so our defaults have a row of their own.

The comparison that counts is at equal L0: for each peer row ours is trained for the very L0 which that peer reached,
and the ratio of the two errors has an interval over the same resampled documents, seeds pooled; each seed's stands
beside it.

Run, with the extra `bench` installed (about 1½ hours on two quiet cores, with two processes at a time of different
architectures; every run is kept, so that it can be stopped and started again; --rows limits it to some and makes no
table):
  python -m research.peers.run [--rows "sae-lens topk" …] [--out FILE]
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from monosemy.evals.intervals import bootstrap_weights, ratio_interval
from monosemy.saes.base import calibrate
from monosemy.saes.registry import ARCHITECTURES
from research import common
from research.peers import figure as peers_figure
from research.peers.bench import OURS, Bench, Record
from research.records import record_path

L0 = 32
RATES = {
    OURS: (2e-3, 4e-3),
    "sae-lens": (5e-4, 1.5e-3, 4e-3),
    "dictionary-learning": (5e-4, 1.5e-3, 4e-3),
    "eai-sparsify": (3.3e-3, 6.7e-3, 1.33e-2),
}
"""Their defaults for these widths are 3e-4, 5.3e-4 and 1.33e-2, chosen for runs a hundred times longer."""
OPTIONS = ({"bias_rate_factor": 0.1}, {"bias_rate_factor": 0.1, "beta2": 0.99, "k_start_factor": 1.5})
"""Our further tries, at the better rate: slower biases, and with them a shorter memory and a gentler start."""
FIRST_COEF = {
    ("sae-lens", "relu"): 5.0,
    ("sae-lens", "gated"): 5.0,
    ("sae-lens", "jumprelu"): 5.0,
    ("dictionary-learning", "relu"): 0.1,
    ("dictionary-learning", "gated"): 0.1,
}
"""Documented or default coefficients: the first try of a row whose L0 follows from one."""
PEERS = [
    *(("sae-lens", name) for name in ARCHITECTURES),
    *(("dictionary-learning", name) for name in ARCHITECTURES),
    ("eai-sparsify", "topk"),
]
STEEPNESS = 0.28
"""FVU falls about as L0^−0.28 here (our frontier): only ranks tries that reached different L0s."""


def at_l0(record: Record, l0: float = L0) -> float:
    """Tuning FVU carried to `l0` along the usual slope: for ranking tries."""
    measures = record["tuning"]
    return measures["fvu"] * (max(measures["l0"], 1e-3) / l0) ** STEEPNESS


def misses(record: Record) -> float:
    return abs(math.log(max(record["tuning"]["l0"], 1e-3) / L0))


def best_of(records: list[Record]) -> Record:
    """Among those within a fifth of the asked L0 the lowest FVU carried there; if none is, the nearest."""
    near = [r for r in records if misses(r) < math.log(1.2)]
    return min(near, key=at_l0) if near else min(records, key=misses)


def rate_of(record: Record) -> float:
    return float(record["settings"]["learning_rate"])


def our_tries(bench: Bench, architecture: str) -> list[Record]:
    tries = [bench.tried(OURS, architecture, L0, rate) for rate in RATES[OURS]]
    rate = rate_of(best_of(tries))
    return tries + [bench.tried(OURS, architecture, L0, rate, **options) for options in OPTIONS]


def our_defaults(tries: list[Record]) -> Record:
    """The better of the tries without options."""
    return best_of(tries[: len(RATES[OURS])])


def search(bench: Bench, library: str, architecture: str) -> list[Record]:
    """The tries of a row."""
    rates = RATES[library]
    if architecture == "jumprelu" and library == "dictionary-learning":
        tries = [(rates[1], 0.001), (rates[1], 0.01), (rates[2], 0.01)]
        records = [bench.tried(library, architecture, L0, rate, coef=1.0, bandwidth=b) for rate, b in tries]
        best = best_of(records)["settings"]
        more = {"bandwidth": 3 * best["bandwidth"]}
        records.append(bench.tried(library, architecture, L0, best["learning_rate"], coef=best["coef"], **more))
        best = best_of(records)["settings"]
        faster = {"bandwidth": best["bandwidth"]}
        return [*records, bench.tried(library, architecture, L0, 2 * rates[2], coef=best["coef"], **faster)]
    if (library, architecture) in FIRST_COEF:
        return landed(bench, library, architecture, rates, coef=FIRST_COEF[library, architecture])
    records = [bench.tried(library, architecture, L0, rate) for rate in rates]
    records.append(bench.tried(library, architecture, L0, next_rate(rates, best_of(records))))
    if library == "eai-sparsify":
        extra = {"k_decay_steps": bench.n_steps // 10, "auxk_alpha": 1 / 32}
        records.append(bench.tried(library, architecture, L0, rate_of(best_of(records)), **extra))
    return records


def next_rate(rates: tuple[float, ...], best: Record) -> float:
    """Twice or half the best rate where it is the last or first of the grid, else half way to the next larger one."""
    rate = rate_of(best)
    if rate == rates[-1]:
        return 2 * rate
    return rate / 2 if rate == rates[0] else float(f"{math.sqrt(rate * rates[-1]):.4g}")


def landed(bench: Bench, library: str, architecture: str, rates: tuple[float, ...], *, coef: float) -> list[Record]:
    """Each of the two higher learning rates twice, with a coefficient corrected by what came before; at the better, all
    carried to the asked L0, up to three more until one is within a tenth of it."""
    records: list[Record] = []
    for rate in rates[1:] * 2:
        same = [r for r in records if rate_of(r) == rate]
        records.append(
            bench.tried(library, architecture, L0, rate, coef=next_coef(same or records) if records else coef)
        )
    rate = rate_of(min(records, key=at_l0))
    for _ in range(3):
        same = [r for r in records if rate_of(r) == rate]
        if min(map(misses, same)) < math.log(1.1):
            break
        records.append(bench.tried(library, architecture, L0, rate, coef=next_coef(same)))
    return records


def next_coef(tries: list[Record]) -> float:
    """The coefficient that should give the asked L0: a line through the two nearest tries in log-log, or L0 ∝ 1/coef
    where there is one, at most eight times away."""
    nearest = sorted(tries, key=misses)
    points = [(math.log(r["settings"]["coef"]), math.log(max(r["tuning"]["l0"], 0.1))) for r in nearest[:2]]
    slope = -1.0
    if len(points) == 2 and points[0][0] != points[1][0]:
        measured = (points[1][1] - points[0][1]) / (points[1][0] - points[0][0])
        slope = min(-0.2, max(-4.0, measured))
    move = (math.log(L0) - points[0][1]) / slope
    return float(f"{math.exp(points[0][0] + max(-math.log(8), min(math.log(8), move))):.4g}")


def pooled(records: list[Record]) -> Record:
    """Means over the seeds, intervals from the lowest to the highest end of theirs."""
    reported = [r["reported"] for r in records]
    summary: Record = {"settings": records[0]["settings"], "asked_l0": records[0]["asked_l0"]}
    for measure in ("l0", "fvu", "dead_fraction"):
        ends = [measures[f"{measure}_interval"] for measures in reported]
        summary[measure] = statistics.fmean(measures[measure] for measures in reported)
        summary[f"{measure}_interval"] = [min(low for low, _ in ends), max(high for _, high in ends)]
        summary[f"{measure}_by_seed"] = [measures[measure] for measures in reported]
    return summary | {key: reported[0][key] for key in ("n_tokens", "n_documents")}


def brief(record: Record) -> Record:
    """A try."""
    measures = {key: record["tuning"][key] for key in ("l0", "fvu", "dead_fraction")}
    return {"settings": record["settings"], **measures}


def compare(bench: Bench, library: str, architecture: str, ours: Record) -> Record:
    """One row of a peer: its tries, its chosen one, and ours at the L0 that it reached."""
    tries = search(bench, library, architecture)
    theirs = bench.reported(best_of(tries))
    own_record = bench.reported(ours)
    reached = pooled(theirs)["l0"]
    if abs(math.log(reached / pooled(own_record)["l0"])) > 0.01:
        own_record = bench.reported(ours, max(1, round(reached) if architecture == "topk" else round(reached, 1)))
    top, bottom = (torch.tensor([r["errors"] for r in rows]).double().numpy() for rows in (own_record, theirs))
    weights = bootstrap_weights(top.shape[1], 2000)
    return {
        "library": library,
        "architecture": architecture,
        "tries": [brief(r) for r in tries],
        **pooled(theirs),
        "ours": pooled(own_record),
        "ratio": float(top.sum() / bottom.sum()),
        "ratio_interval": ratio_interval(top.sum(0), bottom.sum(0), weights),
        "ratio_by_seed": (top.sum(1) / bottom.sum(1)).tolist(),
    }


def step_times(bench: Bench, rounds: int) -> dict[str, float]:
    """Milliseconds a step at this size, medians of interleaved rounds (needs a quiet machine); and of the whole
    calibration of ours, which is no part of a step."""
    from research.speed import peers
    from research.speed import step as single

    batches = bench.data.batches[:10]
    contenders: dict[str, Callable[[], object]] = {}
    for name in ARCHITECTURES:
        trainee = single.trainee(name, batches[0], bench.d_sae)
        contenders[f"{OURS} {name}"] = single.stepper(trainee, batches, [])
        for _ in range(60):
            contenders[f"{OURS} {name}"]()
    held_in = list(bench.first.held_in.split(4096))
    contenders[f"{OURS} calibration"] = lambda: calibrate(trainee.sae, held_in)
    contenders |= peers.steppers(bench.data.d_in, bench.d_sae, L0, batches, n_steps=100_000)
    return {name: 1e3 * seconds for name, seconds in common.medians(contenders, rounds=rounds).items()}


def table(ours: Mapping[str, Record], rows: list[Record]) -> str:
    """In Markdown. ±: half of the 95% interval over documents, lowest to highest of the seeds."""

    def cells(record: Record) -> str:
        low, high = record["fvu_interval"]
        half = f"{(high - low) / 2:.3f}".lstrip("0")
        return f"{record['l0']:.1f} | {record['fvu']:.4f} ±{half} | {100 * record['dead_fraction']:.1f}"

    lines = [
        "| | | tries | L0 | FVU | dead % | ours at that L0 | its dead % | ours ÷ theirs | by seed |",
        "|---" * 10 + "|",
    ]
    for name, record in ours.items():
        lines.append(f"| {name} | {OURS} | {len(record['tries'])} | {cells(record)} | | | | |")
        lines.append(f"| | {OURS}, defaults | | {cells(record['defaults'])} | | | | |")
        for row in (r for r in rows if r["architecture"] == name):
            low, high = row["ratio_interval"]
            seeds = " ".join(f"{ratio:.3f}" for ratio in row["ratio_by_seed"])
            lines.append(
                f"| | {row['library']} | {len(row['tries'])} | {cells(row)} | {row['ours']['fvu']:.4f} | "
                f"{100 * row['ours']['dead_fraction']:.1f} | {row['ratio']:.3f} [{low:.3f}, {high:.3f}] | "
                f"{seeds} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/peers_quality"), help="rows and finished runs")
    parser.add_argument("--rows", nargs="+", help='rows to run now, e.g. "sae-lens topk"; no table then')
    parser.add_argument("--width", type=int, default=2304)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--time", type=int, default=0, metavar="ROUNDS", help="also time steps in interleaved rounds")
    parser.add_argument("--figure", type=Path, help="PNG of every try")
    parser.add_argument("--out", type=Path, default=record_path("peers"))
    arguments = parser.parse_args()
    bench = Bench(arguments.folder, arguments.width, arguments.batch, arguments.steps, seeds=arguments.seeds)
    pairs = [(library, name) for library, name in PEERS if not arguments.rows or f"{library} {name}" in arguments.rows]
    tuned = {name: our_tries(bench, name) for name in ARCHITECTURES if name in {name for _, name in pairs}}
    rows = [compare(bench, library, name, best_of(tuned[name])) for library, name in pairs]
    ours: dict[str, Record] = {}
    for name, tries in tuned.items():
        best, plain = (pooled(bench.reported(record)) for record in (best_of(tries), our_defaults(tries)))
        ours[name] = best | {"defaults": plain, "tries": [brief(record) for record in tries]}
    if arguments.rows:
        return
    print(table(ours, rows))
    results: Record = {**bench.size, "l0": L0, "seeds": arguments.seeds, "ours": ours, "peers": rows}
    if arguments.time:
        results["step_milliseconds"] = step_times(bench, arguments.time)
        for name, value in results["step_milliseconds"].items():
            print(f"{name:32s} {value:8.1f} ms")
    if arguments.figure:
        peers_figure.write(arguments.figure, results)
    common.save(arguments.out, results)


if __name__ == "__main__":
    main()
