"""ACDC and subnetwork probing over edges: of a whole attention-only model, or among member heads of a real model.

Place on the path: `Contrast` → a graph with a mask z on its edges (`EdgeGraph`, `MemberGraph`) → [search] → a score per
edge.

    d(z) = mean over prompts of KL(p_clean ‖ p under the mask z)

    ACDC   from all edges, those of the last receivers first: cut an edge if d rises by less than τ. Score: the largest
           τ of a grid at which the edge is still kept (0 if at none).
    SP     minimise d(z) + λ · mean P(z > 0) over hard-concrete gates z; score: P(z > 0)

Scores are unsigned, as over heads (`masks.py`): neither method tells an edge that supports the behaviour from one that
works against it.

Source: Conmy et al. 2023 (2304.14997), Cao et al. 2021 (2104.03514). Deviation: a grid of τ in one score. Limits: ACDC
is greedy, so among edges that stand in for each other their order decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from monosemy.circuits.heads.contrast import Ablation, Contrast
from monosemy.circuits.heads.edges import EdgeGraph
from monosemy.circuits.heads.masks import THRESHOLDS, ProbeConfig, kl, prune, train_gates
from monosemy.circuits.heads.scores import EdgeScores
from monosemy.circuits.heads.task import Edge
from monosemy.support import progress
from research.heads.member_graph import MemberGraph


def acdc_edges(
    contrast: Contrast, thresholds: Sequence[float] = THRESHOLDS, ablation: Ablation = "resample"
) -> EdgeScores:
    """ACDC over all edges of an attention-only model."""
    began = time.perf_counter()
    graph = EdgeGraph(contrast, ablation)

    def divergence(mask: Tensor) -> float:
        with torch.no_grad():
            return sum(float(kl(b, graph.logits(b, mask)).sum()) for b in contrast.batches) / contrast.n_examples

    # Edges are numbered in topological order, so counting down goes from the output back.
    order = range(len(graph.edges) - 1, -1, -1)
    scores = _largest_thresholds(order, divergence, thresholds, contrast.heads.device)
    return _unsigned("ACDC", contrast, graph.edges, scores, began=began)


def acdc_member_edges(
    contrast: Contrast,
    members: Sequence[int],
    thresholds: Sequence[float] = THRESHOLDS,
    ablation: Ablation = "resample",
) -> EdgeScores:
    """ACDC over the edges among member heads (by number) and from them to the output; all other edges stay whole."""
    began = time.perf_counter()
    graph = MemberGraph(contrast, members, ablation)

    def divergence(mask: Tensor) -> float:
        divergences = [kl(batch, graph.logits(i, mask)) for i, batch in enumerate(contrast.batches)]
        return float(torch.cat(divergences).mean())

    def from_the_output_back(number: int) -> tuple[float, int]:
        receiver = graph.places[number][1]
        return (-receiver if receiver is not None else -torch.inf, -number)

    order = sorted(range(len(graph.edges)), key=from_the_output_back)
    scores = _largest_thresholds(order, divergence, thresholds, contrast.heads.device)
    return _unsigned("ACDC", contrast, graph.edges, scores, began=began)


def probe_edges(contrast: Contrast, config: ProbeConfig | None = None, ablation: Ablation = "resample") -> EdgeScores:
    """Subnetwork probing with a gate on every edge of an attention-only model."""
    began = time.perf_counter()
    graph = EdgeGraph(contrast, ablation)

    def logits(batch: int, gates: Tensor) -> Tensor:
        return graph.logits(contrast.batches[batch], gates)

    openings = _trained_openings(contrast, len(graph.edges), logits, config)
    return _unsigned("SP", contrast, graph.edges, openings, began=began)


def probe_member_edges(
    contrast: Contrast, members: Sequence[int], config: ProbeConfig | None = None, ablation: Ablation = "resample"
) -> EdgeScores:
    """Subnetwork probing with a gate on every edge among member heads (by number) and from them to the output."""
    began = time.perf_counter()
    graph = MemberGraph(contrast, members, ablation)
    openings = _trained_openings(contrast, len(graph.edges), graph.logits, config)
    return _unsigned("SP", contrast, graph.edges, openings, began=began)


def _largest_thresholds(
    order: Sequence[int], divergence: Callable[[Tensor], float], thresholds: Sequence[float], device: torch.device
) -> Tensor:
    """For every edge the largest threshold that keeps it when edges are tried in this order; 0 where none does."""
    n_edges = len(order)
    scores = torch.zeros(n_edges, dtype=torch.float64)

    def divergence_without(dropped: list[int]) -> float:
        mask = torch.ones(n_edges, device=device)
        mask[dropped] = 0
        return divergence(mask)

    # Thresholds rise: the largest one that keeps an edge is written last.
    with progress.stage("ACDC", total=n_edges * len(thresholds), unit="edges") as bar:
        for threshold in sorted(thresholds):
            for number in prune(order, divergence_without, threshold, bar.advance):
                scores[number] = threshold
    return scores


def _trained_openings(
    contrast: Contrast, n_edges: int, logits: Callable[[int, Tensor], Tensor], config: ProbeConfig | None
) -> Tensor:
    """P(z > 0) of the trained gates; `logits` takes the number of a batch and the gates."""

    def loss(batch: int, gates: Tensor) -> Tensor:
        return kl(contrast.batches[batch], logits(batch, gates)).mean()

    return train_gates(n_edges, len(contrast.batches), loss, config or ProbeConfig(), device=contrast.heads.device)


def _unsigned(method: str, contrast: Contrast, edges: list[Edge], scores: Tensor, *, began: float) -> EdgeScores:
    seconds = time.perf_counter() - began
    return EdgeScores(method, edges, scores, False, seconds=seconds, reading_seconds=contrast.seconds)
