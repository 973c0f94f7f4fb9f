"""The frontier of finished runs: FVU and delta loss of architectures at equal L0, paired over documents.

Run: python -m research.frontier.run RUN [RUN …] [--out FILE] [--figures FOLDER]

The runs share model, text, width and training settings, and differ in sites, architectures, L0s or seeds; `monosemy
train` made and evaluated them. Nothing is measured here: their evaluations are joined.

For each site: every architecture and asked L0 (mean over seeds; interval: from the lowest to the highest end of the
seeds' own, each over validation documents; `each`: single seeds, in the order of `seeds`), the largest miss of an asked
L0, and the differences of architectures at each L0, paired over the documents and simultaneous (paired.py): FVU
as ratios, delta loss in nats per token. The paired intervals don't know how seeds differ: `by_seed` has each seed's own
estimate. Printed: the tables of README.md, ± half the interval's width. Figures as in a run's report.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monosemy.errors import UserError
from monosemy.evals.documents import DocumentSums, load_documents
from monosemy.layout import RunFiles
from monosemy.report.compare import Point, points
from monosemy.report.figures import site_figures
from monosemy.report.power_law import UsageLaws, fit_usage
from monosemy.report.read import Evaluated, Latents, ReportInputs, read_inputs
from monosemy.run import read_stages
from monosemy.saes.registry import ARCHITECTURES
from monosemy.support.files import atomic_path
from research import common, run_folders
from research.differences import Difference
from research.frontier.paired import joined, paired_differences, paired_ratios
from research.records import record_path

SHARES = ("dead_fraction", "over_1pct_fraction", "over_10pct_fraction")
MEASURES = ("l0", "fvu", "delta_loss", "loss_recovered", "gamma", *SHARES)
FIGURES = ("delta_loss", "fvu", "shares", "firing_rates", "usage")
NAMES = {"frozen_random": "frozen random (control)", "pca": "PCA (control)"}
FIRST_COLUMN = ("jumprelu", "batch_topk", "gated", "relu", "topk")
"""Order in which a pair of architectures is named in the printed table."""


def merged(runs: Sequence[ReportInputs], folders: Sequence[Path]) -> ReportInputs:
    """All runs as one; a control that several of them have counts once.

    Raises UserError for a SAE that two runs have, and for a run without evaluation.
    """
    records: dict[tuple[str, str], Evaluated] = {}
    owner: dict[tuple[str, str], Path] = {}
    for folder, run in zip(folders, runs, strict=True):
        if not run.records:
            raise UserError(f"{folder} has no evaluation; run `monosemy evaluate {folder}` first")
        for record in run.records:
            key = (record.site, record.name)
            if key in records and not record.control:
                raise UserError(f"{folder} and {owner[key]} both have {record.name} at {record.site}; give one of them")
            records.setdefault(key, record)
            owner.setdefault(key, folder)
    return dataclasses.replace(
        runs[0],
        records=tuple(records.values()),
        curves={key: curve for run in runs for key, curve in run.curves.items()},
        latents={key: latents for run in runs for key, latents in run.latents.items()},
    )


def row(point: Point) -> dict[str, Any]:
    """A point of the frontier as plain values, seeds in their order."""
    records = sorted(point.records, key=lambda r: r.seed)
    summary: dict[str, Any] = {
        "architecture": point.architecture,
        "asked": point.target_l0,
        "seeds": [r.seed for r in records],
    }
    for measure in MEASURES:
        value = point[measure]
        if math.isfinite(value.value):
            ends = [value.low, value.high] if math.isfinite(value.low) else None
            summary[measure] = {"mean": value.value, "interval": ends, "each": [r[measure].value for r in records]}
    return summary


def paired(sums: Mapping[str, DocumentSums], frontier_points: Sequence[Point]) -> dict[str, Any]:
    """Differences of the architectures that reached one asked L0, by L0; `off_target`: those that did not."""
    result: dict[str, Any] = {}
    for target_l0 in sorted({p.target_l0 for p in frontier_points if p.target_l0 and not p.control}):
        able = [p for p in frontier_points if p.target_l0 == target_l0 and p.architecture in ARCHITECTURES]
        here = [p for p in able if p.on_target]
        if len(here) > 1:
            result[f"{target_l0:g}"] = {
                "off_target": [p.architecture for p in able if not p.on_target],
                "fvu_ratio_minus_1": as_rows(sums["error"], here, paired_ratios),
                "delta_loss_difference": as_rows(sums["delta_loss"], here, paired_differences),
            }
    return result


def as_rows(sums: DocumentSums, here: Sequence[Point], differ: Callable[..., list[Difference]]) -> list[dict[str, Any]]:
    """Every pair of the architectures: over all seeds, with its interval, and seed against the same seed."""
    names = {p.architecture: {r.seed: r.name for r in p.records} for p in here}
    together = differ(sums, {architecture: list(own.values()) for architecture, own in names.items()})
    shared = sorted(set.intersection(*(set(own) for own in names.values())))
    single = {seed: differ(sums, {architecture: [own[seed]] for architecture, own in names.items()}) for seed in shared}
    return [
        dataclasses.asdict(d) | {"apart": d.apart, "by_seed": {seed: own[i].estimate for seed, own in single.items()}}
        for i, d in enumerate(together)
    ]


def laws_of(run: ReportInputs, site: str) -> dict[tuple[str, str], UsageLaws | None]:
    return {
        key: fit_usage(latents.firing_rate, latents.mean_when_active)
        for key, latents in run.latents.items()
        if key[0] == site
    }


def compare(run: ReportInputs, folders: Sequence[Path], site: str) -> dict[str, Any]:
    """Everything about one site."""
    stored = [sites[site] for folder in folders if site in (sites := load_documents(RunFiles(folder).documents))]
    sums = {quantity: joined([measured[quantity] for measured in stored]) for quantity in ("error", "delta_loss")}
    records = run.at(site)
    if missing := sorted({r.name for r in records} - set(sums["error"].sums)):
        raise UserError(
            f"no document sums of {', '.join(missing)} at {site}; run `monosemy evaluate` on that run again"
        )
    frontier_points = points(records)
    own = [p for p in frontier_points if p.architecture in ARCHITECTURES and p.target_l0]
    return {
        "n_tokens": max(r.n_tokens for r in records),
        "n_loss_tokens": max(r.n_loss_tokens for r in records),
        "n_documents": len(sums["error"].documents),
        "n_loss_documents": len(sums["delta_loss"].documents),
        "largest_l0_miss": max(abs(r["l0"].value / p.target_l0 - 1) for p in own for r in p.records if p.target_l0),
        "points": [row(p) for p in frontier_points],
        "paired": paired(sums, frontier_points),
        "power_laws": {
            name: {"exponent": law.exponent, "interval": law.interval, "r_squared": law.r_squared}
            for (_, name), laws in laws_of(run, site).items()
            if laws is not None
            for law in (laws.frequency_on_activation,)
        },
        "over_10pct": {name: over_active(latents) for (where, name), latents in run.latents.items() if where == site},
    }


def over_active(latents: Latents) -> dict[str, float]:
    """How many latents fire on more than 10% of tokens, and their share of all firings."""
    over = latents.firing_count[latents.firing_rate > 0.1]
    return {"latents": len(over), "share_of_firings": float(over.sum() / max(latents.firing_count.sum(), 1))}


def show(site: str, comparison: Mapping[str, Any]) -> None:
    print(
        f"\n{site}: {comparison['n_tokens']:,} tokens, losses over {comparison['n_loss_tokens']:,}; every L0 within "
        f"{100 * comparison['largest_l0_miss']:.1f}% of the asked\n"
    )
    print("\n".join([*table(comparison["points"]), "", *paired_table(comparison["paired"])]))
    for target_l0, both in comparison["paired"].items():
        if both["off_target"]:
            print(f"\nnot compared at L0 {target_l0}, too far from it: {', '.join(both['off_target'])}")


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The points as lines of a table in Markdown."""
    lines = ["| asked | dictionary | seeds | L0 | FVU | Δ loss | recovered | γ | dead % | >10% % |", "|---" * 10 + "|"]
    last = None
    for point in sorted(rows, key=lambda p: (p["asked"] or 0, p["architecture"] in NAMES, p["architecture"])):
        name = point["architecture"]
        target_cell, last = ("" if point["asked"] == last else f"{point['asked'] or 0:g}"), point["asked"]
        shares = ["" if name == "pca" else plain(point, share, 1, 100) for share in (SHARES[0], SHARES[2])]
        cells = [
            target_cell,
            NAMES.get(name, name),
            "" if name == "pca" else f"{len(point['seeds'])}",
            half(point, "l0", 1),
            half(point, "fvu", 3),
            half(point, "delta_loss", 3),
            plain(point, "loss_recovered", 3),
            plain(point, "gamma", 3),
            *shares,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def plain(point: Mapping[str, Any], measure: str, digits: int, scale: float = 1) -> str:
    return f"{scale * point[measure]['mean']:.{digits}f}" if measure in point else ""


def half(point: Mapping[str, Any], measure: str, digits: int) -> str:
    """`0.160 ±.005`: a mean and half the width of its interval, which is left out where it rounds to zero."""
    ends = point[measure]["interval"] if measure in point else None
    width = f"{(ends[1] - ends[0]) / 2:.{digits}f}" if ends else "0"
    return plain(point, measure, digits) + (f" ±{width.removeprefix('0')}" if float(width) > 0 else "")


def paired_table(paired: Mapping[str, Any]) -> list[str]:
    """The paired differences as lines of a table in Markdown, a column per L0; FVU in per cent of the second's."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for target_l0, both in paired.items():
        for measure, per_cent in (("fvu_ratio_minus_1", True), ("delta_loss_difference", False)):
            for difference in both[measure]:
                first, second, *values = oriented(difference, per_cent)
                cell = ("{:+.1f}% [{:+.1f}, {:+.1f}]" if per_cent else "{:+.3f} [{:+.3f}, {:+.3f}]").format(*values)
                title = f"{first} against {second}"
                rows.setdefault((title, "FVU" if per_cent else "Δ loss"), {})[target_l0] = cell
    lines = [f"| | {' | '.join(f'L0 {target_l0}' for target_l0 in paired)} |", "|---" * (len(paired) + 1) + "|"]
    for title, kind in sorted(rows, key=lambda key: [FIRST_COLUMN.index(name) for name in key[0].split(" against ")]):
        cells = [rows[title, kind].get(target_l0, "") for target_l0 in paired]
        lines.append(f"| {title}, {kind} | {' | '.join(cells)} |")
    return lines


def oriented(difference: Mapping[str, Any], ratio: bool) -> tuple[Any, ...]:
    """(first, second, estimate, low, high) with the pair in the order of FIRST_COLUMN; ratios in per cent."""
    names, values = (
        (difference["first"], difference["second"]),
        [difference[key] for key in ("estimate", "low", "high")],
    )
    if FIRST_COLUMN.index(names[0]) > FIRST_COLUMN.index(names[1]):
        names = names[::-1]
        low_first = (values[0], values[2], values[1])
        values = [1 / (1 + v) - 1 if ratio else -v for v in low_first]
    return *names, *(100 * v if ratio else v for v in values)


def draw(run: ReportInputs, site: str, folder: Path) -> None:
    """Pictures of single latents show the lowest seed alone: their counts would otherwise sum seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    lowest = {min(p.records, key=lambda r: r.seed).name for p in points(run.at(site))}
    run = dataclasses.replace(run, latents={key: latents for key, latents in run.latents.items() if key[1] in lowest})
    for kind, drawing in site_figures(run, site, laws_of(run, site)):
        if kind in FIGURES:
            with atomic_path(folder / f"frontier-{drawing.file}.png") as temporary:
                temporary.write_bytes(drawing.light)


def costs(folders: Sequence[Path], runs: Sequence[ReportInputs]) -> list[dict[str, Any]]:
    """Seconds of every stage of every run, with the SAEs and tokens behind them."""
    rows = []
    for folder, run in zip(folders, runs, strict=True):
        stages = read_stages(folder)
        trained = stages.get("training", {}).get("record", {})
        losses = [r.n_loss_tokens for r in run.records if math.isfinite(r["delta_loss"].value)]
        rows.append(
            {
                "run": folder.name,
                "n_saes": len(trained.get("saes", ())),
                "training_tokens": trained.get("n_tokens"),
                "n_evaluated": len(run.records),
                "validation_tokens": max((r.n_tokens for r in run.records), default=0),
                "loss_tokens_of_all": sum(losses),
                "seconds": {name: stage["seconds"] for name, stage in stages.items()},
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of one model and text")
    parser.add_argument("--out", type=Path, default=record_path("frontier"))
    parser.add_argument("--figures", type=Path)
    parser.add_argument("--figure-sites", nargs="*", help="default: every site")
    arguments = parser.parse_args()
    settings = run_folders.comparable(run_folders.shared_config(arguments.runs))
    runs = [read_inputs(folder) for folder in arguments.runs]
    run = merged(runs, arguments.runs)
    sites = {site: compare(run, arguments.runs, site) for site in run.sites}
    for site, comparison in sites.items():
        show(site, comparison)
        if arguments.figures and site in (arguments.figure_sites or run.sites):
            draw(run, site, arguments.figures)
    common.save(arguments.out, {"settings": settings, "sites": sites, "costs": costs(arguments.runs, runs)})


if __name__ == "__main__":
    run_folders.run(main)
