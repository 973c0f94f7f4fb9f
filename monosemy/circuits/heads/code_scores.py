"""Scores of heads and edges from discrete codes, by counting the codes that occur on positives only.

Place on the path: codes [E, n] with labels → [scores by counting] → rankings.

    node    s_h = |P_h \\ N_h|              P_h, N_h: codes of head h on positives, on negatives
    pairs   U_gh = |P_gh \\ N_gh|           the same for pairs of codes (c_g, c_h) on one prompt
    head score by pairs                     how often a head is among the pairs with the largest U
    edge    U_gh for g in an earlier layer than h

The source's "edge-level" result is the head score by pairs. It classifies heads, not edges, hence the name here; the
edge scores are our own and do score edges.

Source: O'Neill and Bui 2024 (arXiv 2405.12522). Their code takes the first H²/2 heads (H heads per layer) in the sorted
list of ordered pairs, i.e. H²/8 unordered pairs, which is the default here. Their softmax over heads is left out: it
changes no ranking. Limits: counts of distinct codes grow with the number of prompts; a bootstrap sample shows fewer
distinct codes than the original, so its intervals lie low.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosemy.circuits.heads.discrete import Codes


def node_scores(codes: Codes, *, break_ties: bool = False) -> Float[Tensor, " n"]:
    """s_h of every head. `break_ties` adds the share (below 1) of positives with a code that no negative shows."""
    on_positives, on_negatives = _occurrence(codes)
    only = on_positives & ~on_negatives
    score = only.sum(1).double()
    return score + _share(codes, only) if break_ties else score


def node_intervals(codes: Codes, n_resamples: int = 200, *, break_ties: bool = False) -> Float[Tensor, "n 2"]:
    """95% percentile intervals of the node scores; positives and negatives are resampled separately."""
    generator = torch.Generator().manual_seed(0)
    groups = [codes.positive.nonzero()[:, 0], (~codes.positive).nonzero()[:, 0]]
    # Counts of distinct codes are not sums over prompts, so every resample is counted anew.
    resampled_scores = []
    for _ in range(n_resamples):
        rows = torch.cat([g[torch.randint(len(g), (len(g),), generator=generator)] for g in groups])
        resample = Codes(codes.codes[rows], codes.positive[rows], codes.n_codes)
        resampled_scores.append(node_scores(resample, break_ties=break_ties))
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    return torch.stack(resampled_scores).quantile(ends, dim=0).T


def distinct_codes(codes: Codes) -> Float[Tensor, " n"]:
    """Control: how many distinct codes each head has at all."""
    on_positives, on_negatives = _occurrence(codes)
    return (on_positives | on_negatives).sum(1).double()


def pair_counts(codes: Codes, *, break_ties: bool = False) -> Float[Tensor, "n n"]:
    """U, symmetric with a zero diagonal. `break_ties` adds the share (below 1) of positives with such a pair."""
    compact, n_compact = _compact(codes.codes)
    n = compact.shape[1]
    counts = torch.zeros(n, n, dtype=torch.float64)
    n_positives = int(codes.positive.sum())
    # A range of codes of its own for every head, so that one flat table serves all partners.
    wide = compact + torch.arange(n) * n_compact
    for head in range(n - 1):
        width = int(compact[:, head].max()) + 1
        partners = wide[:, head + 1 :] - (head + 1) * n_compact
        # The flat place of each (head's code, partner, partner's code), and whether it occurs on positives, negatives.
        pair = compact[:, head : head + 1] * (n - head - 1) * n_compact + partners
        # One table per head against all later heads: a single table of all pairs would be far larger.
        occurs = torch.zeros(2, width * (n - head - 1) * n_compact, dtype=torch.bool)
        occurs[0, pair[codes.positive].flatten()] = True
        occurs[1, pair[~codes.positive].flatten()] = True
        only = (occurs[0] & ~occurs[1]).view(width, n - head - 1, n_compact)
        row = only.sum((0, 2)).double()
        if break_ties:
            row += only.flatten()[pair[codes.positive]].sum(0) / (n_positives + 1)
        counts[head, head + 1 :] = row
    return counts + counts.T


def head_scores_by_pairs(
    counts: Float[Tensor, "n n"], n_heads: int, n_pairs: int | None = None, *, break_ties: bool = False
) -> Float[Tensor, " n"]:
    """How often each head is among the `n_pairs` pairs with the largest U (default H²/8, at least 1).

    Equal pairs come in the order of their heads; pairs with U = 0 never count. `break_ties` adds Σ_g U_gh, scaled below
    1: with few heads per layer and many layers, nearly all heads are in none of so few pairs.
    """
    # Pairs above the diagonal in row order; the stable sort keeps that order among equal pairs.
    n = len(counts)
    first, second = torch.triu_indices(n, n, 1)
    values = counts[first, second]
    order = values.argsort(descending=True, stable=True)[: n_pairs or max(1, round(n_heads**2 / 8))]
    order = order[values[order] > 0]
    score = torch.zeros(n, dtype=torch.float64)
    score.index_add_(0, torch.cat([first[order], second[order]]), torch.ones(2 * len(order), dtype=torch.float64))
    total = counts.sum(1)
    return score + total / (1 + float(total.max())) if break_ties else score


def edge_scores(counts: Float[Tensor, "n n"], n_heads: int) -> Float[Tensor, "n n"]:
    """U[sender, receiver] where the sender is in an earlier layer, else 0."""
    layer = torch.arange(len(counts)) // n_heads
    return counts * (layer[:, None] < layer[None, :])


def _occurrence(codes: Codes) -> tuple[Tensor, Tensor]:
    """Which codes each head shows on any positive, and on any negative; booleans [n, n_codes]."""
    tables = []
    for rows in (codes.positive, ~codes.positive):
        table = torch.zeros(codes.codes.shape[1], codes.n_codes, dtype=torch.bool)
        tables.append(table.scatter_(1, codes.codes[rows].T, True))
    return tables[0], tables[1]


def _share(codes: Codes, only: Tensor) -> Tensor:
    """[n]: the number of positives with a code of `only` [n, n_codes], over the number of positives plus one."""
    occurs = only.gather(1, codes.codes[codes.positive].T)
    return occurs.sum(1).double() / (occurs.shape[1] + 1)


def _compact(codes: Int[Tensor, "E n"]) -> tuple[Int[Tensor, "E n"], int]:
    """The codes, renumbered 0, 1, … for every head, and the largest number of distinct codes of any head."""
    columns = [torch.unique(column, return_inverse=True)[1] for column in codes.T]
    compact = torch.stack(columns, dim=1)
    return compact, int(compact.max()) + 1
