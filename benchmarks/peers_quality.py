"""Our SAEs beside other libraries': the same activations, width, steps and batch, compared at the L0 each one reaches.

Rows: SmolLM2-135M, layers.12.resid_post, E‖x‖² = 1; validation documents that training never saw, half of them to
choose among tries, the other half reported. Every library trains by its own trainer and losses (`peers_training.py`:
what was set in proportion to the run). Tries: of ours four for each architecture (two learning rates; at the better one
`OPTIONS`); of a peer three learning rates, or four tries where its L0 follows from a coefficient, each coefficient set
from what the ones before it reached. FVU and dead share are ours
(`evals.reconstruction`) on the library's own encode and decode, as its users have them at inference.

The comparison that counts is at equal L0: for the chosen try of each peer row, ours is trained once more for the very
L0 which that peer reached, and the ratio of the two errors has an interval over the same resampled documents.

Run, with the extra `bench` installed (about half an hour on two quiet cores; every try is kept, so that it can be
stopped and started again; --rows limits it to some, the last call makes the table):
  python benchmarks/peers_quality.py [--rows "sae-lens topk" …] [--out docs/results/peers_quality.json]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import common
import peers_figure
import peers_training
import torch
from peers_training import Clock, Data, Trained
from safetensors.torch import load_file
from torch import Tensor

from monosemy.config import TrainingConfig
from monosemy.evals.intervals import Blocks, bootstrap_weights, ratio_interval
from monosemy.evals.reconstruction import block_sums, evaluate_reconstruction
from monosemy.saes.base import SaeConfig, calibrate
from monosemy.saes.registry import ARCHITECTURES, build_sae
from monosemy.training.trainee import Trainee

L0 = 32
OURS = "monosemy"
RATES = {OURS: (2e-3, 4e-3), "sae-lens": (5e-4, 1.5e-3, 4e-3), "dictionary-learning": (5e-4, 1.5e-3, 4e-3),
         "eai-sparsify": (3.3e-3, 6.7e-3, 1.33e-2)}  # fmt: skip
"""Their defaults for these widths are 3e-4, 5.3e-4 and 1.33e-2, chosen for runs a hundred times longer."""
OPTIONS = ({"bias_rate_factor": 0.1}, {"bias_rate_factor": 0.1, "beta2": 0.99, "k_start_factor": 1.5})
"""Our further tries, at the better rate: slower biases, and with them a shorter memory and a gentler start."""
FIRST_COEF = {
    ("sae-lens", "relu"): 5.0, ("sae-lens", "gated"): 5.0, ("sae-lens", "jumprelu"): 5.0,
    ("dictionary-learning", "relu"): 0.1, ("dictionary-learning", "gated"): 0.1,
}  # fmt: skip
"""Documented or default coefficients: the first try of a row whose L0 follows from one."""
PEERS = [
    *(("sae-lens", name) for name in ARCHITECTURES),
    *(("dictionary-learning", name) for name in ARCHITECTURES),
    ("eai-sparsify", "topk"),
]
STEEPNESS = 0.28
"""FVU falls about as L0^−0.28 here (our frontier): only ranks tries that reached different L0s."""

Record = dict[str, Any]
Run = Callable[..., Record]


class Bench:
    """Rows, and every try made so far (one JSON line each)."""

    def __init__(self, folder: Path, d_sae: int, batch: int, n_steps: int) -> None:
        path = folder / "rows.safetensors"
        if not path.exists():
            common.save_real_split(path, n_tokens=300_000, n_validation_tokens=32_768)
        rows = load_file(path)
        train, validation, documents = rows["train"], rows["validation"].float(), rows["documents"]
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[: n_steps * batch]
        self.data = Data(list(train[order].float().split(batch)), float(rows["scale"]))
        self.held_in = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(1))[:32_768]].float()
        reported = documents % 2 == 1
        self.sides = {
            "tuning": (validation[~reported], documents[~reported]),
            "reported": (validation[reported], documents[reported]),
        }
        self.d_sae = d_sae
        self.size = {"d_sae": d_sae, "batch": batch, "n_steps": n_steps}
        self.log = folder / "tries.jsonl"
        self.warm: set[str] = set()
        self.known: dict[str, Record] = {}
        if self.log.exists():
            self.known = {r["key"]: r for r in map(json.loads, self.log.read_text().splitlines())}

    def tried(
        self, library: str, architecture: str, l0: float, rate: float, coef: float | None = None, **extra: Any
    ) -> Record:
        """The record of one training run, made now unless it was before."""
        settings = {"learning_rate": rate, "coef": coef, **extra}
        about = {"library": library, "architecture": architecture, "asked_l0": l0, "settings": settings}
        key = json.dumps({**about, **self.size})
        if key not in self.known:
            trained = (
                self._ours(architecture, l0, rate, extra)
                if library == OURS
                else peers_training.LIBRARIES[library](
                    architecture, self.data, self.d_sae, float(l0), rate, coef, **extra
                )
            )
            record = {"key": key, **about, "seconds": trained.seconds, "cpu_seconds": trained.cpu_seconds}
            record |= {side: self._measured(trained, *rows) for side, rows in self.sides.items()}
            with self.log.open("a") as file:
                file.write(json.dumps(record) + "\n")
            self.known[key] = record
            self._tell(record)
        return self.known[key]

    def _ours(self, architecture: str, l0: float, rate: float, options: Mapping[str, float]) -> Trained:
        data = self.data
        if architecture not in self.warm:  # compiles the kernels: no part of a step
            self.warm.add(architecture)
            self._trainee(architecture, l0, rate, options).step(data.batches[0], 0)
        trainee = self._trainee(architecture, l0, rate, options)
        clock = Clock()
        for index, x in enumerate(data.batches):
            trainee.step(x, index)
        seconds = clock.seconds()
        calibrate(trainee.sae, list(self.held_in.split(4096)))
        return Trained(trainee.sae, *seconds)

    def _trainee(self, architecture: str, l0: float, rate: float, options: Mapping[str, float]) -> Trainee:
        data = self.data
        sae = build_sae(SaeConfig(architecture, data.d_in, self.d_sae, l0, options=dict(options)))
        settings = TrainingConfig(batch_tokens=data.batch_tokens, learning_rate=rate)
        trainee = Trainee(sae, settings, data.n_steps, data.n_steps * data.batch_tokens)
        sae.initialise(self.held_in[:4096], trainee.target_l0(0.0))
        return trainee

    @staticmethod
    def _measured(trained: Trained, rows: Tensor, documents: Tensor) -> Record:
        found = evaluate_reconstruction({"": trained.dictionary}, [(rows, documents)])[""].record
        block = Blocks().rows(documents)
        with torch.no_grad():
            parts = [trained.dictionary.decode(trained.dictionary.encode(x)) for x in rows.split(4096)]
        errors = block_sums((rows - torch.cat(parts)).square().sum(1, keepdim=True), block, int(block.max()) + 1)
        return asdict(found) | {"errors": errors[:, 0].tolist()}

    @staticmethod
    def _tell(record: Record) -> None:
        found, settings = record["reported"], {k: v for k, v in record["settings"].items() if v is not None}
        print(
            f"{record['library']:20s} {record['architecture']:11s} {settings!s:60s} L0 {found['l0']:7.2f}  "
            f"FVU {found['fvu']:.4f}  dead {found['dead_fraction']:.3f}  {record['seconds']:.0f} s",
            flush=True,
        )


def at_l0(record: Record, l0: float = L0) -> float:
    """Tuning FVU carried to `l0` along the usual slope: for ranking tries."""
    found = record["tuning"]
    return found["fvu"] * (max(found["l0"], 1e-3) / l0) ** STEEPNESS


def misses(record: Record) -> float:
    return abs(math.log(max(record["tuning"]["l0"], 1e-3) / L0))


def best_of(records: list[Record]) -> Record:
    """Among those within a fifth of the asked L0 the lowest FVU carried there; if none is, the nearest."""
    near = [r for r in records if misses(r) < math.log(1.2)]
    return min(near, key=at_l0) if near else min(records, key=misses)


def our_tries(bench: Bench, architecture: str) -> list[Record]:
    found = [bench.tried(OURS, architecture, L0, rate) for rate in RATES[OURS]]
    rate = min(found, key=lambda r: r["tuning"]["fvu"])["settings"]["learning_rate"]
    return found + [bench.tried(OURS, architecture, L0, rate, **options) for options in OPTIONS]


def our_settings(record: Record) -> dict[str, Any]:
    """What trains such a SAE again, at another L0."""
    settings = dict(record["settings"])
    return {"rate": settings.pop("learning_rate"), **settings}


def search(bench: Bench, library: str, architecture: str) -> list[Record]:
    """The tries of a row."""
    rates = RATES[library]
    if architecture == "jumprelu" and library == "dictionary-learning":
        tries = [(rates[1], 0.001), (rates[1], 0.01), (rates[2], 0.01)]
        found = [bench.tried(library, architecture, L0, rate, 1.0, bandwidth=b) for rate, b in tries]
        best = best_of(found)["settings"]
        more = {"bandwidth": 3 * best["bandwidth"]}
        return [*found, bench.tried(library, architecture, L0, best["learning_rate"], best["coef"], **more)]
    if (library, architecture) in FIRST_COEF:
        return landed(bench, library, architecture, rates, FIRST_COEF[library, architecture])
    found = [bench.tried(library, architecture, L0, rate) for rate in rates]
    if library == "eai-sparsify":
        rate = best_of(found)["settings"]["learning_rate"]
        extra = {"k_decay_steps": bench.data.n_steps // 10, "auxk_alpha": 1 / 32}
        found.append(bench.tried(library, architecture, L0, rate, **extra))
    return found


def landed(bench: Bench, library: str, architecture: str, rates: tuple[float, ...], coef: float) -> list[Record]:
    """The two higher learning rates, each with a coefficient corrected by what came before; two more at the better."""
    found: list[Record] = []
    for rate in rates[1:]:
        found.append(bench.tried(library, architecture, L0, rate, coef))
        coef = next_coef(found)
    rate = min(found, key=at_l0)["settings"]["learning_rate"]
    for _ in range(2):
        mine = [r for r in found if r["settings"]["learning_rate"] == rate]
        found.append(bench.tried(library, architecture, L0, rate, next_coef(mine)))
    return found


def next_coef(found: list[Record]) -> float:
    """The coefficient that should give the asked L0: a line through the two nearest tries in log-log, or L0 ∝ 1/coef
    where there is one, at most eight times away."""
    nearest = sorted(found, key=misses)
    points = [(math.log(r["settings"]["coef"]), math.log(max(r["tuning"]["l0"], 0.1))) for r in nearest[:2]]
    slope = -1.0
    if len(points) == 2 and points[0][0] != points[1][0]:
        measured = (points[1][1] - points[0][1]) / (points[1][0] - points[0][0])
        slope = min(-0.2, max(-4.0, measured))
    move = (math.log(L0) - points[0][1]) / slope
    return float(f"{math.exp(points[0][0] + max(-math.log(8), min(math.log(8), move))):.4g}")


def interpolated(records: list[Record], chosen: Record) -> float | None:
    """Reported FVU at the asked L0, linear in log L0 between the chosen rate's tries on both sides of it."""
    rate = chosen["settings"]["learning_rate"]
    same = [r["reported"] for r in records if r["settings"]["learning_rate"] == rate]
    below = max((r for r in same if r["l0"] <= L0), key=lambda r: r["l0"], default=None)
    above = min((r for r in same if r["l0"] >= L0), key=lambda r: r["l0"], default=None)
    if below is None or above is None:
        return None
    if above["l0"] == below["l0"]:
        return float(below["fvu"])
    share = math.log(L0 / below["l0"]) / math.log(above["l0"] / below["l0"])
    return float(below["fvu"] + share * (above["fvu"] - below["fvu"]))


def compare(bench: Bench, library: str, architecture: str, ours: Record) -> Record:
    """One row of a peer: its tries, its chosen one, and ours at the L0 that it reached."""
    tries = search(bench, library, architecture)
    chosen = best_of(tries)
    reached = chosen["reported"]["l0"]
    asked = round(reached) if architecture == "topk" else round(reached, 1)
    same = abs(math.log(reached / ours["reported"]["l0"])) < 0.02
    equal = ours if same else bench.tried(OURS, architecture, max(1, asked), **our_settings(ours))
    top, bottom = (torch.tensor(r["reported"]["errors"]).double().numpy() for r in (equal, chosen))
    weights = bootstrap_weights(len(top), 2000)
    return {
        "library": library, "architecture": architecture, "tries": [brief(r) for r in tries], **brief(chosen),
        "fvu_at_32": interpolated(tries, chosen), "ours_l0": equal["reported"]["l0"],
        "ours_fvu": equal["reported"]["fvu"], "ratio": float(top.sum() / bottom.sum()),
        "ratio_interval": ratio_interval(top, bottom, weights),
    }  # fmt: skip


def brief(record: Record) -> Record:
    found = record["reported"]
    kept = ("l0", "l0_interval", "fvu", "fvu_interval", "dead_fraction", "dead_fraction_interval", "n_tokens",
            "n_documents")  # fmt: skip
    shown = {key: record[key] for key in ("settings", "seconds", "cpu_seconds")}
    return shown | {key: found[key] for key in kept} | {"tuning_fvu": record["tuning"]["fvu"]}


def step_times(bench: Bench, rounds: int) -> dict[str, float]:
    """Milliseconds a step at this size, medians of interleaved rounds (needs a quiet machine)."""
    import peers
    import step as single

    batches = bench.data.batches[:10]
    contenders: dict[str, Callable[[], object]] = {}
    for name in ARCHITECTURES:
        contenders[f"{OURS} {name}"] = single.stepper(single.trainee(name, batches[0], bench.d_sae), batches, [])
        for _ in range(60):
            contenders[f"{OURS} {name}"]()
    contenders |= peers.steppers(bench.data.d_in, bench.d_sae, L0, batches, 100_000)
    return {name: 1e3 * seconds for name, seconds in common.medians(contenders, rounds=rounds).items()}


def table(ours: Mapping[str, Record], rows: list[Record]) -> None:
    print("\narchitecture  library               L0 (asked 32)  FVU              dead %   ours at that L0  ours/theirs")
    for name, record in ours.items():
        low, high = record["fvu_interval"]
        print(f"{name:13s} {OURS:21s} {record['l0']:8.2f}       {record['fvu']:.4f} ±{(high - low) / 2:.4f}  "
              f"{100 * record['dead_fraction']:6.2f}")  # fmt: skip
        for row in (r for r in rows if r["architecture"] == name):
            low, high = row["fvu_interval"]
            print(f"{'':13s} {row['library']:21s} {row['l0']:8.2f}       {row['fvu']:.4f} ±{(high - low) / 2:.4f}  "
                  f"{100 * row['dead_fraction']:6.2f}   {row['ours_fvu']:.4f}           {row['ratio']:.3f} "
                  f"[{row['ratio_interval'][0]:.3f}, {row['ratio_interval'][1]:.3f}]")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/peers_quality"), help="rows and finished tries")
    parser.add_argument("--rows", nargs="+", help='rows to run now, e.g. "sae-lens topk"; no table then')
    parser.add_argument("--width", type=int, default=2304)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--time", type=int, default=0, metavar="ROUNDS", help="also time steps in interleaved rounds")
    parser.add_argument("--figure", type=Path, help="PNG of every try")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    bench = Bench(chosen.folder, chosen.width, chosen.batch, chosen.steps)
    tuned: dict[str, list[Record]] = {}
    for name in ARCHITECTURES:
        if not chosen.rows or any(name == row.split()[-1] for row in chosen.rows):
            tuned[name] = our_tries(bench, name)
    ours = {name: min(records, key=lambda r: r["tuning"]["fvu"]) for name, records in tuned.items()}
    rows = [
        compare(bench, library, name, ours[name])
        for library, name in PEERS
        if not chosen.rows or f"{library} {name}" in chosen.rows
    ]
    brief_ours = {name: brief(r) | {"tries": [brief(t) for t in tuned[name]]} for name, r in ours.items()}
    table(brief_ours, rows)
    results: Record = {**bench.size, "l0": L0, "ours": brief_ours, "peers": rows}
    if chosen.time:
        results["step_milliseconds"] = step_times(bench, chosen.time)
        for name, value in results["step_milliseconds"].items():
            print(f"{name:32s} {value:8.1f} ms")
    results["median_ratio"] = statistics.median(r["ratio"] for r in rows) if rows else None
    if chosen.figure:
        peers_figure.write(chosen.figure, results)
    common.save(chosen.out, results)


if __name__ == "__main__":
    main()
