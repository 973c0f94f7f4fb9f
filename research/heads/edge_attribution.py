"""EAP and EAP-IG on edges: of a whole attention-only model, or among member heads of a real model.

Place on the path: `Contrast` → gradients at what receivers read → a score per edge, to compare with exact patching
(`monosemy.circuits.heads.edges`, `member_edges`).

    EAP       Σ (o_s − o'_s) · ∂m/∂x_r    = ∂m/∂z_sr at z = 1, the first-order estimate of m(clean) − m(edge replaced)
    EAP-IG    the same with the gradient averaged over inputs on the straight path of embeddings

o_s, o'_s, x_r and the mask z are those of `edges.py`. Over the edges into the output, EAP's scores sum to
m(clean) − m(corrupt) where the metric is linear in the logits: these edges are a cut of the graph, and the metric reads
it linearly. Edges further back count the same effect again.

Source: Syed et al. 2023 (2310.10348), Hanna et al. 2024 (2403.17806). Cost: on the whole graph one backward pass a
step, among members one for every receiver. Limits: as in `edges.py` and `member_edges.py`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.circuits.heads.contrast import Ablation, Batch, Contrast
from monosemy.circuits.heads.edges import EdgeGraph, written
from monosemy.circuits.heads.member_edges import among_members, edges_among, edges_by_number
from monosemy.circuits.heads.model_heads import AttentionOnlyHeads, LanguageModelHeads, replace_edit
from monosemy.circuits.heads.scores import EdgeScores, edges_from_examples
from monosemy.circuits.heads.task import Channel


def attribute_edges(contrast: Contrast, n_steps: int = 1, ablation: Ablation = "resample") -> EdgeScores:
    """EAP (one step) or EAP-IG (several): a forward and a backward pass per step, for all edges at once.

    The path of EAP-IG starts at the counterpart's embeddings, whatever the ablation.
    """
    began = time.perf_counter()
    graph = EdgeGraph(contrast, ablation)
    effects = []
    for batch in contrast.batches:
        total = torch.zeros(len(batch.examples), len(graph.edges), dtype=torch.float64)
        clean, corrupted = (contrast.heads.inputs(p.tokens) for p in (batch.clean, batch.corrupted))
        for step in range(1, n_steps + 1):
            inputs = None if step == n_steps else corrupted + step / n_steps * (clean - corrupted)
            total += _edge_derivatives(graph, batch, inputs)
        effects.append(total / n_steps)
    method = "EAP" if n_steps == 1 else "EAP-IG"
    return edges_from_examples(method, contrast, graph.edges, torch.cat(effects), began=began)


def attribute_member_edges(contrast: Contrast, members: Sequence[int], ablation: Ablation = "resample") -> EdgeScores:
    """EAP of the edges that `patch_member_edges` measures, with one backward pass for every receiver.

    Raises UserError as `patch_member_edges` does.
    """
    heads = contrast.heads
    if isinstance(heads, AttentionOnlyHeads):
        return among_members(contrast, members, lambda _: attribute_edges(contrast, 1, ablation))
    assert isinstance(heads, LanguageModelHeads)
    began = time.perf_counter()
    edges = edges_among(members, heads.n_heads)
    effects = []
    for batch, replacement in zip(contrast.batches, contrast.replacements(ablation)):
        # Many edges share senders and receivers: one difference is made per sender and one gradient per receiver.
        lost = batch.clean.values - replacement
        differences = {s: heads.added(s, lost[:, :, s]) for s in sorted(members)}
        gradients = {r: _gradient(heads, batch, r) for r in dict.fromkeys(receiver for _, receiver in edges)}
        columns = [(differences[s] * gradients[r]).sum((1, 2)) for s, r in edges]
        effects.append(torch.stack(columns, 1).cpu().double() if columns else torch.zeros(len(batch.examples), 0))
    return edges_from_examples("EAP", contrast, edges_by_number(edges, heads.n_heads), torch.cat(effects), began=began)


def _edge_derivatives(graph: EdgeGraph, batch: Batch, inputs: Tensor | None) -> Float[Tensor, "B edges"]:
    """Σ (o_s − o'_s) · ∂m/∂x_r per prompt and edge, with the gradient taken at `inputs`.

    The senders' difference is always that between prompt and counterpart. The derivative by the mask would take it at
    `inputs`, so the gradient with respect to what the receivers read is used instead.
    """
    model = graph.model
    reads: list[Tensor] = []

    def read(layer: int, channel: Channel, wide: Tensor) -> Tensor:
        # A zero added to what a receiver reads: its gradient is ∂m/∂x_r for that receiver alone.
        push = torch.zeros_like(wide, requires_grad=True)
        reads.append(push)
        return wide + push

    with torch.enable_grad():
        start = model.embed(batch.clean.tokens).detach() if inputs is None else inputs
        total = batch.measure(model.logits(batch.clean.tokens, reads=read, embeddings=start)).sum()
        gradients = torch.autograd.grad(total, reads)
    difference = written(model, batch.clean) - graph.replaced(batch)
    products = []
    for number, gradient in enumerate(gradients):
        # Three reads (q, k, v) a layer, then the output's; each layer has the senders before it.
        n_senders = 1 + min(number // 3, model.n_layers) * model.n_heads
        products.append(torch.einsum("btsd,bthd->bsh", difference[:, :, :n_senders], gradient).flatten(1))
    return torch.cat(products, dim=1).cpu().double()


def _gradient(heads: LanguageModelHeads, batch: Batch, receiver: int | None) -> Tensor:
    """The gradient of m with respect to what the receiver alone reads, [B, T, d_model], at the prompt itself."""
    push = torch.zeros(*batch.clean.tokens.shape, heads.d_model, device=heads.device, requires_grad=True)
    if receiver is None:
        logits = heads.logits_from(batch.clean, push, gradients=True)
    else:
        layer, head = divmod(receiver, heads.n_heads)
        with torch.enable_grad():
            layer_values = heads.values_from(batch.clean, layer, push, gradients=True)
            # Of the layer's heads only the receiver sees the push; all others keep their clean values.
            of_head = layer_values[:, :, head : head + 1]
            values = torch.cat(
                [batch.clean.values[:, :, :receiver], of_head, batch.clean.values[:, :, receiver + 1 :]], 2
            )
        edit = replace_edit(values, [receiver], heads.n_heads)
        logits = heads.logits(batch.clean.tokens, edit, layers=[layer], clean=batch.clean, gradients=True)
    with torch.enable_grad():
        total = batch.measure(logits).sum()
    (gradient,) = torch.autograd.grad(total, push)
    return gradient
