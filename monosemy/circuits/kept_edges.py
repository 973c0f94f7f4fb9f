"""Direct edges between the few heads that are kept: exact on any model without post-norms.

Place on the path: `Contrast`, kept heads → [each edge held to the replacement's value] → a score per edge.

    s → r         layer of r reads  x + (o'_s − o_s);  r alone takes the values this gives;  all that follows runs on
    s → output    the final residual stream is  x + (o'_s − o_s)
    score = m(clean) − m(edge replaced), positive when the edge supports the behaviour

x: clean residual stream, o_s, o'_s: what s adds on the prompt and when replaced (by the counterpart's, the
mean, or nothing). Only the direct way through the
residual stream counts: MLPs and heads between s and r keep their clean values. A receiver's queries, keys and values
are replaced together. Attention-only models have exact edges by channel, and edges from the input: `edges.py` gives
them, restricted to the kept heads.

Source: path patching (Wang et al. 2022, 2211.00593; Goldowsky-Dill et al. 2023, 2304.05969). Cost: for an edge, one
attention layer and a pass from the receiver on. Limits: effects through MLPs belong to no edge here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from monosemy import progress
from monosemy.circuits.contrast import Ablation, Batch, Contrast, EdgeScores, mean_intervals
from monosemy.circuits.edges import all_edges, patch_edges
from monosemy.circuits.heads import AttentionOnlyHeads, LanguageModelHeads, replace_edit
from monosemy.circuits.task import INPUT, OUTPUT, Edge


def kept_edges(contrast: Contrast, kept: Sequence[int], ablation: Ablation = "resample") -> EdgeScores:
    """Exact effect of every edge between kept heads (by number), and from them to the output.

    What the sender is replaced by follows `ablation`. Raises UserError for a model whose single edges cannot be held.
    """
    heads = contrast.heads
    if isinstance(heads, AttentionOnlyHeads):
        return _restricted(contrast, kept, ablation)
    assert isinstance(heads, LanguageModelHeads)
    began = time.perf_counter()
    pairs = [(s, r) for s, r in product(sorted(kept), sorted(kept)) if s // heads.n_heads < r // heads.n_heads]
    edges = [Edge(divmod(s, heads.n_heads), divmod(r, heads.n_heads)) for s, r in pairs]
    edges += [Edge(divmod(s, heads.n_heads), OUTPUT) for s in sorted(kept)]
    found = torch.zeros(contrast.n_examples, len(edges), dtype=torch.float64)
    done = 0
    with progress.stage("patch edges", total=len(edges) * contrast.n_examples, unit="passes") as bar:
        for batch, replacement in zip(contrast.batches, contrast.replacements(ablation)):
            rows = slice(done, done := done + len(batch.examples))
            for number, (sender, receiver) in enumerate([*pairs, *((s, None) for s in sorted(kept))]):
                found[rows, number] = _effect(heads, batch, replacement, sender, receiver).double().cpu()
                bar.advance(len(batch.examples))
    intervals = mean_intervals(found) if edges else torch.zeros(0, 2, dtype=torch.float64)
    seconds = time.perf_counter() - began
    return EdgeScores("patching", edges, found.mean(0), True, seconds, contrast.seconds, intervals)


def _effect(heads: LanguageModelHeads, batch: Batch, replacement: Tensor, sender: int, receiver: int | None) -> Tensor:
    """[B]; `receiver` None is the output."""
    difference = replacement[:, :, sender] - batch.clean.values[:, :, sender]
    pushed = heads.added(sender, difference).to(batch.clean.values.dtype)
    if receiver is None:
        return batch.m_clean - batch.measure(heads.logits_from(batch.clean, pushed))
    layer, head = divmod(receiver, heads.n_heads)
    values = batch.clean.values.clone()
    values[:, :, receiver] = heads.values_from(batch.clean, layer, pushed)[:, :, head]
    edit = replace_edit(values, [receiver], heads.n_heads)
    return batch.m_clean - batch.measure(heads.logits(batch.clean.tokens, edit, layers=[layer], clean=batch.clean))


def _restricted(contrast: Contrast, kept: Sequence[int], ablation: Ablation) -> EdgeScores:
    """The exact edges of an attention-only model among kept heads, the input and the output."""
    n_heads = contrast.heads.n_heads
    ends = {INPUT, OUTPUT, *(divmod(index, n_heads) for index in kept)}
    every = all_edges(contrast.heads.n_layers, n_heads)
    chosen = [number for number, edge in enumerate(every) if edge.sender in ends and edge.receiver in ends]
    found = patch_edges(contrast, chosen, ablation)
    assert found.intervals is not None
    return EdgeScores(
        found.method,
        [every[number] for number in chosen],
        found.scores[chosen],
        True,
        found.seconds,
        found.reading_seconds,
        found.intervals[chosen],
    )
