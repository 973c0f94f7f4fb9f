"""Influence of nodes on the logits, pruning by it, and the two scores of a graph.

Place on the path: rows of direct effects → [influence] → which latents become nodes, which nodes and edges are kept.

    Ã[t, s] = |A[t, s]| / Σ_s' |A[t, s']|          each target's inputs as shares
    influence = w Ã + w Ã² + …                      w: the logits' probabilities; the sum ends, because the graph has
                                                   no circles
    edge influence[t, s] = Ã[t, s] (influence_t + w_t)
    replacement score  = influence of tokens / (that + influence of errors)
    completeness score = Σ_t (1 − Σ_errors Ã[t, e]) (influence_t + w_t) / Σ_t (influence_t + w_t)

Rows are targets: first the n latents that are nodes, in the order of the first n columns, then the logits. Columns are
sources: the n latents, errors, tokens. Biases are no sources, and neither are active latents that are no nodes.
Source: Ameisen et al., Circuit Tracing (2025); thresholds as circuit-tracer takes them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monosemy.shapes import Scalar

_TINY = 1e-10
"""The least sum of a row; a target without inputs keeps a row of zeros."""
_BLOCK = 256
"""Rows whose sizes are in memory at a time."""


def shares(effects: Float[Tensor, "target source"]) -> Float[Tensor, "target source"]:
    """Ã: each target's inputs by size, as shares of their sum."""
    sizes = effects.abs()
    return sizes / sizes.sum(1, keepdim=True).clamp_min(_TINY)


def influence(shares: Float[Tensor, "target source"], weights: Float[Tensor, " logit"]) -> Float[Tensor, " source"]:
    """The influence of every source; the last rows of `shares` are the logits, with these weights."""
    n = len(shares) - len(weights)
    step = weights.to(shares) @ shares[n:]
    total = step.clone()
    # A latent's inputs come from lower layers, so after as many steps as there are layers nothing is left.
    while bool((step[:n] > 0).any()):
        step = step[:n] @ shares[:n]
        total += step
    return total


def partial_influence(
    effects: Float[Tensor, "target source"],
    weights: Float[Tensor, " logit"],
    columns: Int[Tensor, " latent"],
) -> Float[Tensor, " source"]:
    """The influence of all sources while only some latents have rows: the logits first, then those of `columns`.

    What is not among `columns` only receives influence, so that the sum over steps runs over their square alone.
    """
    n_logits = len(weights)
    sums = torch.cat([block.abs().sum(1) for block in effects.split(_BLOCK)]).clamp_min(_TINY)
    square = effects[:, columns].abs() / sums[:, None]
    within = torch.cat([square[n_logits:], square[:n_logits]])
    of_targets = torch.cat([weights.to(effects), influence(within, weights)]) / sums
    total = effects.new_zeros(effects.shape[1])
    for first in range(0, len(effects), _BLOCK):
        total += of_targets[first : first + _BLOCK] @ effects[first : first + _BLOCK].abs()
    return total


@dataclass(frozen=True)
class Pruned:
    """What is kept of a graph's sources and edges."""

    sources: Bool[Tensor, " source"]
    edges: Bool[Tensor, "target source"]

    def n_latents(self, n: int) -> int:
        """How many of the first n sources, the latents, are kept."""
        return int(self.sources[:n].sum())


def prune(
    effects: Float[Tensor, "target source"],
    weights: Float[Tensor, " logit"],
    *,
    n_tokens: int,
    node_share: float = 0.8,
    edge_share: float = 0.98,
) -> Pruned:
    """Keeps the nodes that carry `node_share` of all influence, and of the edges between them `edge_share`.

    Tokens and logits are always kept. Latents without an input or an output among the kept edges, and errors without
    an output, are dropped after that, until none is left.
    """
    n = len(effects) - len(weights)
    by_node = influence(shares(effects), weights)
    keep = by_node >= threshold(by_node, node_share)
    keep[-n_tokens:] = True
    kept_effects = effects * keep
    kept_effects[:n] *= keep[:n, None]
    by_edge = edge_influence(kept_effects, weights)
    edges = by_edge >= threshold(by_edge.flatten(), edge_share)
    edges &= by_edge > 0
    while True:
        before = keep.clone()
        keep[:-n_tokens] &= edges[:, :-n_tokens].any(0)
        keep[:n] &= edges[:n].any(1)
        edges &= keep
        edges[:n] &= keep[:n, None]
        if torch.equal(keep, before):
            return Pruned(keep, edges)


def edge_influence(effects: Float[Tensor, "target source"], weights: Float[Tensor, " logit"]) -> Tensor:
    """The influence of every edge, [target, source]: its share of its target's, own weight included."""
    normalised, n = shares(effects), len(effects) - len(weights)
    by_target = torch.cat([influence(normalised, weights)[:n], weights.to(effects)])
    return normalised * by_target[:, None]


def threshold(scores: Float[Tensor, " score"], share: float) -> Scalar:
    """The least score among the fewest largest ones that together reach `share` of the sum of all."""
    ordered = scores.sort(descending=True).values
    # float64: over millions of edges, a running sum in float32 never reaches its end.
    running = ordered.double().cumsum(0)
    place = int(torch.searchsorted(running / running[-1].clamp_min(1e-300), share))
    return ordered[min(place, len(ordered) - 1)]


def scores(
    effects: Float[Tensor, "target source"], weights: Float[Tensor, " logit"], *, n_tokens: int
) -> tuple[float, float]:
    """(replacement score, completeness score) of a graph; NaN where nothing reaches tokens or errors."""
    normalised, n = shares(effects), len(effects) - len(weights)
    by_source = influence(normalised, weights)
    tokens, errors = by_source[-n_tokens:].sum(), by_source[n:-n_tokens].sum()
    by_target = torch.cat([by_source[:n], weights.to(effects)])
    free_of_errors = 1 - normalised[:, n:-n_tokens].sum(1)
    # Tokens and errors have no inputs, and so none from errors: they count as complete, as in circuit-tracer.
    complete = (free_of_errors * by_target).sum() + by_source[n:].sum()
    return float(tokens / (tokens + errors)), float(complete / (by_target.sum() + by_source[n:].sum()))
