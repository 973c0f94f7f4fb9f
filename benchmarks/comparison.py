"""The frontier of finished runs: FVU and delta loss of architectures at equal L0, paired over documents.

Run: python benchmarks/comparison.py RUN [RUN …] [--out docs/results/comparison.json] [--figures docs/figures]

The runs share model, text, width and training settings, and differ in sites, architectures, L0s or seeds; `monosemy
train` made and evaluated them. Nothing is measured here: their evaluations are joined.

For each site: every architecture and asked L0 (mean over seeds; interval: from the lowest to the highest end of the
seeds' own, each over validation documents; `each`: single seeds), the largest miss of an asked L0, and the differences
of architectures at each L0, paired over the documents and simultaneous (evals.documents): FVU as ratios, delta loss in
nats per token. The paired intervals don't know how seeds differ. Figures as in a run's report.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import run_folders

from monosemy.evals.differences import Difference
from monosemy.evals.documents import FILE, DocumentSums, joined, load_documents, paired_differences, paired_ratios
from monosemy.files import atomic_path, read_json
from monosemy.report.compare import Point, points
from monosemy.report.figures import site_figures
from monosemy.report.power_law import PowerLaw, fit_power_law
from monosemy.report.read import Run, read_run
from monosemy.saes.registry import ARCHITECTURES

SHARES = ("dead_fraction", "over_1pct_fraction", "over_10pct_fraction")
SHOWN = ("l0", "fvu", "delta_loss", "loss_recovered", "gamma", *SHARES)
FIGURES = ("delta_loss", "fvu", "shares", "firing_rates", "usage")


def merged(runs: Sequence[Run]) -> Run:
    """All runs as one; a control that several of them have counts once."""
    records = {(r.site, r.name): r for run in reversed(runs) for r in run.records}
    return dataclasses.replace(
        runs[0],
        records=tuple(records.values()),
        curves={key: curve for run in runs for key, curve in run.curves.items()},
        latents={key: found for run in runs for key, found in run.latents.items()},
    )


def row(point: Point) -> dict[str, Any]:
    """A point of the frontier as plain values."""
    found: dict[str, Any] = {"architecture": point.architecture, "asked": point.target_l0, "seeds": len(point.records)}
    for measure in SHOWN:
        value = point[measure]
        if math.isfinite(value.value):
            ends = [value.low, value.high] if math.isfinite(value.low) else None
            found[measure] = {"mean": value.value, "interval": ends, "each": [r[measure].value for r in point.records]}
    return found


def paired(sums: Mapping[str, DocumentSums], found: Sequence[Point]) -> dict[str, Any]:
    """Differences of the architectures that reached one asked L0, by L0."""
    result: dict[str, Any] = {}
    for asked in sorted({p.target_l0 for p in found if p.target_l0 and not p.control}):
        here = [p for p in found if p.target_l0 == asked and p.architecture in ARCHITECTURES and p.on_target]
        groups = {p.architecture: [r.name for r in p.records] for p in here}
        if len(groups) > 1:
            result[f"{asked:g}"] = {
                "fvu_ratio_minus_1": as_rows(paired_ratios(sums["error"], groups)),
                "delta_loss_difference": as_rows(paired_differences(sums["delta_loss"], groups)),
            }
    return result


def as_rows(differences: Sequence[Difference]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(d) | {"apart": d.apart} for d in differences]


def laws_of(run: Run, site: str) -> dict[tuple[str, str], PowerLaw | None]:
    return {
        key: fit_power_law(found.mean_when_active, found.firing_rate)
        for key, found in run.latents.items()
        if key[0] == site
    }


def compare(run: Run, folders: Sequence[Path], site: str) -> dict[str, Any]:
    """Everything about one site."""
    stored = [found for folder in folders if site in (found := load_documents(folder / FILE))]
    names = {r.name for r in run.at(site)}
    sums = {quantity: joined([found[site][quantity] for found in stored]) for quantity in ("error", "delta_loss")}
    assert names <= set(sums["error"].sums)
    found = points(run.at(site))
    own = [p for p in found if p.architecture in ARCHITECTURES and p.target_l0]
    records = run.at(site)
    return {
        "n_tokens": max(r.n_tokens for r in records),
        "n_loss_tokens": max(r.n_loss_tokens for r in records),
        "n_documents": len(sums["error"].documents),
        "n_loss_documents": len(sums["delta_loss"].documents),
        "largest_l0_miss": max(abs(r["l0"].value / p.target_l0 - 1) for p in own for r in p.records if p.target_l0),
        "points": [row(p) for p in found],
        "paired": paired(sums, found),
        "power_laws": {
            name: {"exponent": law.exponent, "interval": law.interval, "r_squared": law.r_squared}
            for (_, name), law in laws_of(run, site).items()
            if law is not None
        },
    }


def show(site: str, found: Mapping[str, Any]) -> None:
    print(f"\n{site}: {found['n_tokens']:,} tokens, losses over {found['n_loss_tokens']:,}; every L0 within "
          f"{100 * found['largest_l0_miss']:.1f}% of the asked")  # fmt: skip
    for one in sorted(found["points"], key=lambda p: (p["asked"] or 0, p["architecture"])):
        cells = [f"{name} {one[name]['mean']:.4g}" for name in SHOWN if name in one]
        print(f"  {one['asked'] or 0:4g} {one['architecture']:14s} x{one['seeds']}  {'  '.join(cells)}")
    for asked, both in found["paired"].items():
        for measure, differences in both.items():
            for d in differences:
                if d["apart"]:
                    ends = f"{d['estimate']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}]"
                    print(f"  {asked:>4s} {measure}: {d['first']} against {d['second']} {ends}")


def draw(run: Run, site: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind, drawing in site_figures(run, site, laws_of(run, site)):
        if kind in FIGURES:
            with atomic_path(folder / f"frontier-{drawing.file}.png") as temporary:
                temporary.write_bytes(drawing.light)


def costs(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Seconds of every stage of every run, with the tokens behind them."""
    listed = []
    for folder in folders:
        stages = read_json(folder / "stages.json")["stages"]
        seconds = {name: stage["seconds"] for name, stage in stages.items()}
        trained = stages.get("training", {}).get("record", {})
        listed.append({"run": folder.name, "n_saes": len(trained.get("saes", ())),
                       "training_tokens": trained.get("n_tokens"), "seconds": seconds})  # fmt: skip
    return listed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of one model and text")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figures", type=Path)
    parser.add_argument("--figure-sites", nargs="*", help="default: every site")
    chosen = parser.parse_args()
    config = run_folders.shared_config(chosen.runs)
    run = merged([read_run(folder) for folder in chosen.runs])
    sites = {site: compare(run, chosen.runs, site) for site in run.sites}
    for site, found in sites.items():
        show(site, found)
        if chosen.figures and site in (chosen.figure_sites or run.sites):
            draw(run, site, chosen.figures)
    shared = {name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[call-overload]
              for name, value in run_folders.comparable(config).items()}  # fmt: skip
    common.save(chosen.out, {"settings": shared, "sites": sites, "costs": costs(chosen.runs)})


if __name__ == "__main__":
    main()
