"""Direct edges between the heads of a circuit, measured exactly, in any model without post-norms.

Place on the path: `Contrast`, members of a circuit → [each edge replaced in turn] → a score per edge.

    s → r         r's layer reads  x + (o'_s − o_s);  only r takes its new values;  the layers after r run on from there
    s → output    the final residual stream is  x + (o'_s − o_s)
    score = m(clean) − m(edge replaced), positive when the edge supports the behaviour

x is the clean residual stream, o_s what s adds to it on the prompt, and o'_s what s adds when replaced (by the
counterpart's value, the mean, or nothing). Only the direct path through the residual stream counts: MLPs and heads
between s and r keep their clean values. A receiver's queries, keys and values are replaced together. Attention-only
models also have exact edges by channel, and edges from the input: `edges.py` measures them, here restricted to members.

Source: path patching (Wang et al. 2022, 2211.00593; Goldowsky-Dill et al. 2023, 2304.05969). Cost per edge: one
attention layer and a pass from the receiver on. Limits: effects through MLPs belong to no edge here; edges are cut one
at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from monosemy.circuits.heads.contrast import Ablation, Batch, Contrast
from monosemy.circuits.heads.edges import all_edges, patch_edges
from monosemy.circuits.heads.model_heads import AttentionOnlyHeads, LanguageModelHeads, replace_edit
from monosemy.circuits.heads.scores import EdgeScores, edges_from_examples
from monosemy.circuits.heads.task import INPUT, OUTPUT, Edge
from monosemy.support import progress


def patch_member_edges(contrast: Contrast, members: Sequence[int], ablation: Ablation = "resample") -> EdgeScores:
    """The exact effect of every edge between `members` (heads by number), and from each of them to the output.

    `ablation` says what replaces the sender. Raises UserError for a model whose single edges cannot be replaced.
    """
    heads = contrast.heads
    if isinstance(heads, AttentionOnlyHeads):
        return among_members(contrast, members, lambda indices: patch_edges(contrast, indices, ablation))
    assert isinstance(heads, LanguageModelHeads)
    began = time.perf_counter()
    edges = edges_among(members, heads.n_heads)
    effects = torch.zeros(contrast.n_examples, len(edges), dtype=torch.float64)
    n_done = 0
    with progress.stage("patch edges", total=len(edges) * contrast.n_examples, unit="passes") as bar:
        for batch, replacement in zip(contrast.batches, contrast.replacements(ablation)):
            rows = slice(n_done, n_done := n_done + len(batch.examples))
            for number, (sender, receiver) in enumerate(edges):
                effects[rows, number] = _effect(heads, batch, replacement, sender, receiver=receiver).cpu().double()
                bar.advance(len(batch.examples))
    return edges_from_examples("patching", contrast, edges_by_number(edges, heads.n_heads), effects, began=began)


def edges_among(members: Sequence[int], n_heads: int) -> list[tuple[int, int | None]]:
    """(sender, receiver) by number: all pairs of members in rising layers, then every member with the output (None)."""
    pairs = [(s, r) for s, r in product(sorted(members), sorted(members)) if s // n_heads < r // n_heads]
    return [*pairs, *((s, None) for s in sorted(members))]


def edges_by_number(pairs: Sequence[tuple[int, int | None]], n_heads: int) -> list[Edge]:
    """The edges of (sender, receiver) pairs of heads by number; a receiver of None is the output."""
    return [
        Edge(divmod(sender, n_heads), OUTPUT if receiver is None else divmod(receiver, n_heads))
        for sender, receiver in pairs
    ]


def _effect(
    heads: LanguageModelHeads, batch: Batch, replacement: Tensor, sender: int, *, receiver: int | None
) -> Tensor:
    """m(clean) − m(edge replaced) of one edge on every prompt, [B]; `receiver` None is the output."""
    difference = replacement[:, :, sender] - batch.clean.values[:, :, sender]
    pushed = heads.added(sender, difference).to(batch.clean.values.dtype)
    if receiver is None:
        return batch.m_clean - batch.measure(heads.logits_from(batch.clean, pushed))
    layer, head = divmod(receiver, heads.n_heads)
    # Only the receiver takes the value it computes from the changed stream; the pass then runs on from its layer.
    values = batch.clean.values.clone()
    values[:, :, receiver] = heads.values_from(batch.clean, layer, pushed)[:, :, head]
    edit = replace_edit(values, [receiver], heads.n_heads)
    return batch.m_clean - batch.measure(heads.logits(batch.clean.tokens, edit, layers=[layer], clean=batch.clean))


def among_members(contrast: Contrast, members: Sequence[int], method: Callable[[list[int]], EdgeScores]) -> EdgeScores:
    """The edges of an attention-only model among the members, the input and the output.

    method: receives these edges' numbers and returns scores of all edges of the model.
    """
    n_heads = contrast.heads.n_heads
    ends = {INPUT, OUTPUT, *(divmod(index, n_heads) for index in members)}
    graph_edges = all_edges(contrast.heads.n_layers, n_heads)
    indices = [number for number, edge in enumerate(graph_edges) if edge.sender in ends and edge.receiver in ends]
    edge_scores = method(indices)
    assert edge_scores.intervals is not None
    member_edges = [graph_edges[number] for number in indices]
    return replace(
        edge_scores, edges=member_edges, scores=edge_scores.scores[indices], intervals=edge_scores.intervals[indices]
    )
