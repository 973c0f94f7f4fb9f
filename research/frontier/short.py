"""Which statements about the architectures does the demo show that the longer runs of this study do?

Run: python -m research.frontier.short RUN [--out FILE]        # RUN: the demo's

The demo reads less text, so that it ends in minutes. A statement is judged at every asked L0 by the same rule in both
records (`STATEMENTS`); differences are paired over documents and their intervals hold together (paired.py). "Can't be
told apart" is no finding of equality: with fewer tokens it holds more easily.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from monosemy.report.read import read_inputs
from research import common, run_folders
from research.frontier.run import NAMES, compare, oriented
from research.records import record_path

Site = Mapping[str, Any]
AHEAD = ("jumprelu", "batch_topk", "gated")
SHRINKS_BELOW = 0.99
"""γ below which a dictionary is said to shrink what it reconstructs."""
FEW_DEAD = 0.002
"""Share of dead latents up to which hardly any is dead."""
UNREAD = tuple(
    f"{place}{name}"
    for place in ("", "*/")
    for name in (
        "seeds",
        "each",
        "over_1pct_fraction",
        "by_seed",
        "apart",
        "power_laws",
        "over_10pct",
    )
)
"""What no statement and no table reads."""
FVU, LOSS = "fvu_ratio_minus_1", "delta_loss_difference"


def at(site: Site, l0: str) -> dict[str, Mapping[str, Any]]:
    """The points of one asked L0, by architecture."""
    return {point["architecture"]: point for point in site["points"] if point["asked"] == float(l0)}


def sign(site: Site, l0: str, measure: str, pair: tuple[str, str]) -> int:
    """−1 where the first is clearly lower than the second, 1 where it is clearly higher, else 0."""
    for row in site["paired"][l0][measure]:
        first, second, _, low, high = oriented(row, measure == FVU)
        if {first, second} == set(pair):
            clear = -1 if high < 0 else int(low > 0)
            return clear if (first, second) == pair else -clear
    raise KeyError(pair)


def beats_controls(site: Site, l0: str) -> bool:
    points = at(site, l0)
    return all(
        point[measure]["interval"][1] < points[control][measure]["interval"][0]
        for measure in ("fvu", "delta_loss")
        for control in NAMES
        for name, point in points.items()
        if name not in NAMES
    )


def relu_is_worst(site: Site, l0: str, measure: str) -> bool:
    return all(sign(site, l0, measure, ("relu", name)) > 0 for name in (*AHEAD, "topk"))


def only_relu_shrinks(site: Site, l0: str) -> bool:
    own = {name: point["gamma"]["mean"] for name, point in at(site, l0).items() if name not in NAMES}
    return {name for name, gamma in own.items() if gamma < SHRINKS_BELOW} == {"relu"}


def ahead_of_topk(site: Site, l0: str, measure: str) -> bool:
    return all(sign(site, l0, measure, (name, "topk")) < 0 for name in AHEAD)


def batch_topk_is_best(site: Site, l0: str) -> bool:
    return all(sign(site, l0, FVU, ("batch_topk", name)) < 0 for name in ("jumprelu", "gated"))


def losses_not_apart(site: Site, l0: str) -> bool:
    return all(sign(site, l0, LOSS, pair) == 0 for pair in combinations(AHEAD, 2))


def hardly_any_dead(site: Site, l0: str) -> bool:
    return all(p["dead_fraction"]["mean"] <= FEW_DEAD for name, p in at(site, l0).items() if name not in NAMES)


def jumprelu_has_fewest_common(site: Site, l0: str) -> bool:
    common_shares = {n: p["over_10pct_fraction"]["mean"] for n, p in at(site, l0).items() if n not in NAMES}
    return all(common_shares["jumprelu"] < share for name, share in common_shares.items() if name != "jumprelu")


STATEMENTS: Mapping[str, Callable[[Site, str], bool]] = {
    "every architecture is ahead of both controls, in FVU and Δ loss": beats_controls,
    "ReLU+L1 has the highest FVU": lambda site, l0: relu_is_worst(site, l0, FVU),
    "ReLU+L1 has the highest Δ loss": lambda site, l0: relu_is_worst(site, l0, LOSS),
    "ReLU+L1 alone shrinks (γ below .99)": only_relu_shrinks,
    "JumpReLU, BatchTopK and Gated have a lower FVU than TopK": lambda site, l0: ahead_of_topk(site, l0, FVU),
    "the same of Δ loss": lambda site, l0: ahead_of_topk(site, l0, LOSS),
    "BatchTopK has the lowest FVU of these three": batch_topk_is_best,
    "in Δ loss these three can't be told apart": losses_not_apart,
    "hardly any latent is dead (at most .2%)": hardly_any_dead,
    "JumpReLU has the fewest latents that fire on over a tenth of the tokens": jumprelu_has_fewest_common,
}
"""What is said of the middle site, with the rule that decides it at one asked L0. Lower is "clearly lower"."""


def holds(site: Site) -> dict[str, list[str]]:
    """The asked L0s at which each statement holds."""
    return {name: [l0 for l0 in site["paired"] if rule(site, l0)] for name, rule in STATEMENTS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the demo's run folder")
    parser.add_argument("--out", type=Path, default=record_path("frontier", "demo"))
    options = parser.parse_args()
    run = read_inputs(options.run)
    config = run.config
    (site,) = run.sites
    comparison = compare(run, [options.run], site)
    for name, levels in holds(comparison).items():
        print(f"{name}: {', '.join(levels) or 'nowhere'}")
    record = {"n_tokens_asked": config.text.n_tokens, "n_passes": config.training.n_passes, "d_sae": config.d_sae}
    common.save(options.out, {"site": site, **record, **comparison}, without=UNREAD)


if __name__ == "__main__":
    run_folders.run(main)
