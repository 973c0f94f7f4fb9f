"""Nested dictionaries on planted hierarchies: do parents keep their latents where their children fire?

Data: `hierarchical` of kinds.py, 1,024 directions in 256 dimensions: 64 roots, 320 children, 640 grandchildren, and a
child fires only where its parent does. SAEs of 1,024 latents at the true mean L0, with and without nesting. The latent
of a direction is the one whose decoder row has the largest cosine with it. Over directions that have children
("parents") and over those that have none ("leaves"), on 65,536 fresh rows:
    recovered     share of them with a cosine of 0.9 or more
    F1            of the latent as a detector of its direction's firing
and over parents
    missed alone        share of the rows with the parent and none of its children on which its latent is silent
    missed with child   the same over the rows on which a child fires too
    absorption          the second less the first: what the children's latents took over

Intervals: 95%, bootstrap over the directions of all seeds together; how seeds differ stands beside the FVU.

Run: python -m research.planted.nested [--rows 512000] [--seeds 0 1]; about 3 minutes an SAE with one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosemy.evals.intervals import bootstrap_weights, percentiles
from monosemy.saes.base import SparseAutoencoder
from monosemy.support.files import read_json
from monosemy.support.progress import stage
from research import common
from research.markdown import interval, markdown
from research.planted.kinds import N_VALIDATION, Kind, kind, measures, train
from research.records import record_path

ARCHITECTURES = ("batch_topk", "matryoshka_batch_topk", "jumprelu", "matryoshka_jumprelu")
RECOVERED = 0.9
OF_PARENTS = ("recovered", "f1", "missed_alone", "missed_with_child", "absorption")
OF_LEAVES = ("recovered", "f1")


@torch.no_grad()
def scores_by_direction(sae: SparseAutoencoder, data: Kind, n_rows: int = N_VALIDATION) -> dict[str, Tensor]:
    """The scores of the module's docstring for every direction, [F]; NaN where none of its rows is of that kind."""
    assert data.parents is not None
    cosines, latent_of = (data.directions @ sae.W_dec.detach().T).max(1)
    child, n = (data.parents >= 0).nonzero()[:, 0], len(data.directions)
    counts: dict[str, Tensor] = {}
    for _ in range(n_rows // 4096):
        x, fires = data.rows(4096)
        active = (sae.encode(x).to_dense() > 0)[:, latent_of]
        n_children = torch.zeros(len(x), n).index_add_(1, data.parents[child], fires[:, child].float())
        with_child, alone = fires & (n_children > 0), fires & (n_children == 0)
        for name, events in {
            "hit": active & fires,
            "wrong": active ^ fires,
            "alone": alone,
            "silent_alone": alone & ~active,
            "with_child": with_child,
            "silent_with_child": with_child & ~active,
        }.items():
            counts[name] = counts.get(name, 0) + events.sum(0).double()
    missed_alone = counts["silent_alone"] / counts["alone"]
    missed_with_child = counts["silent_with_child"] / counts["with_child"]
    return {
        "recovered": (cosines >= RECOVERED).double(),
        "f1": 2 * counts["hit"] / (2 * counts["hit"] + counts["wrong"]).clamp_min(1),
        "missed_alone": missed_alone,
        "missed_with_child": missed_with_child,
        "absorption": missed_with_child - missed_alone,
    }


def has_children(data: Kind) -> Tensor:
    """Bool [F]: whether a direction is another's parent."""
    assert data.parents is not None
    parents = torch.zeros(len(data.directions), dtype=torch.bool)
    parents[data.parents[data.parents >= 0]] = True
    return parents


def pooled(scores: Tensor, n_resamples: int = 1000) -> dict[str, Any]:
    """The mean of the scores that are defined, with its interval."""
    scores = scores[~scores.isnan()]
    weights = torch.from_numpy(bootstrap_weights(len(scores), n_resamples)).double()
    return {"mean": float(scores.mean()), "interval": percentiles((weights @ scores / weights.sum(1)).numpy())}


def measure(architecture: str, *, seeds: Sequence[int], n_rows: int) -> dict[str, Any]:
    """The scores of one architecture, pooled over the SAEs of all seeds, and the L0, FVU and dead share of each."""
    by_seed, parents, leaves = [], [], []
    for seed in seeds:
        data = kind("hierarchical", seed)
        l0 = round(float(data.rows(16_384)[1].sum(1).float().mean()))
        sae = train(data, architecture, l0, n_rows=n_rows, seed=seed)
        by_seed.append({"seed": seed, "asked_l0": l0, **measures(sae, data)})
        scores, is_parent = scores_by_direction(sae, data), has_children(data)
        parents.append({name: scores[name][is_parent] for name in OF_PARENTS})
        leaves.append({name: scores[name][~is_parent] for name in OF_LEAVES})
    return {
        "seeds": by_seed,
        "parents": {name: pooled(torch.cat([scores[name] for scores in parents])) for name in OF_PARENTS},
        "leaves": {name: pooled(torch.cat([scores[name] for scores in leaves])) for name in OF_LEAVES},
    }


def table(results: Mapping[str, Any]) -> str:
    """Every architecture at equal L0, in the order of `ARCHITECTURES`."""

    def cell(scores: Mapping[str, Any]) -> str:
        return interval(scores["mean"], scores["interval"])

    rows = []
    for n_rows in sorted(results, key=int):
        for architecture in ARCHITECTURES:
            if architecture in results[n_rows]:
                scores = results[n_rows][architecture]
                means = [f"{sum(s[key] for s in scores['seeds']) / len(scores['seeds']):.1f}" for key in ("l0",)]
                fvus = " and ".join(f"{s['fvu']:.3f}" for s in scores["seeds"])
                parents = [cell(scores["parents"][name]) for name in OF_PARENTS]
                leaves = [cell(scores["leaves"][name]) for name in OF_LEAVES]
                rows.append([f"{int(n_rows):,}", architecture, *means, fvus, *parents, *leaves])
    heads = ["parents recovered", "parents' F1", "missed alone", "missed with child", "absorption"]
    return markdown(["rows", "dictionary", "L0", "FVU", *heads, "leaves recovered", "leaves' F1"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[512_000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--out", type=Path, default=record_path("planted", "nested"))
    arguments = parser.parse_args()
    with stage("nested", total=len(arguments.rows) * len(arguments.architectures), unit="architectures") as bar:
        for n_rows in arguments.rows:
            for architecture in arguments.architectures:
                scores = measure(architecture, seeds=arguments.seeds, n_rows=n_rows)
                results = read_json(arguments.out)["results"] if arguments.out.exists() else {}
                results.setdefault(str(n_rows), {})[architecture] = scores
                common.save(arguments.out, {"results": results})
                bar.advance()


if __name__ == "__main__":
    main()
