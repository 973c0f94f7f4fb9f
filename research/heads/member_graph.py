"""Many edges among member heads of a real model held at once, in one pass.

Place on the path: `Contrast`, member heads → [a mask on the edges between them and to the output] → search
(`edge_search.py`).

    receiver r reads   x_r − Σ_s (1 − z_sr) (o_s − o'_s)        (member heads s in earlier layers)

as in `edges.py`, x_r and o_s as they run, and all edges from and to other heads stay whole. A receiver's queries,
keys and values are held together. The prompts run once more for every receiver of a layer with an edge cut: at that
layer these copies read what the receiver reads, and its values are taken over from them; elsewhere they do not count.

Limits: as in `member_edges.py`, whose exact effects are those of a mask with a single 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.circuits.heads.contrast import Ablation, Batch, Contrast
from monosemy.circuits.heads.member_edges import edges_among, edges_by_number
from monosemy.circuits.heads.model_heads import LanguageModelHeads
from monosemy.errors import UserError


class MemberGraph:
    """Passes of a real model with a mask on the edges among member heads (by number), and from them to the output."""

    def __init__(self, contrast: Contrast, members: Sequence[int], ablation: Ablation = "resample") -> None:
        heads = contrast.heads
        if not isinstance(heads, LanguageModelHeads):
            raise UserError(f"{heads.name} has edges of its own (`edges.py`); these are for language models")
        self.heads = heads
        self.contrast = contrast
        self.places = edges_among(members, heads.n_heads)
        self.edges = edges_by_number(self.places, heads.n_heads)
        self.replacements = contrast.replacements(ablation)
        self._numbers: dict[int | None, list[int]] = {}
        for number, (_, receiver) in enumerate(self.places):
            self._numbers.setdefault(receiver, []).append(number)

    def metric(self, batch: int, mask: Float[Tensor, " edges"]) -> Float[Tensor, " B"]:
        """m under the mask, of one of the contrast's batches."""
        return self.contrast.batches[batch].measure(self.logits(batch, mask))

    def logits(self, batch: int, mask: Float[Tensor, " edges"]) -> Float[Tensor, "B V"]:
        """Logits at the last position; differentiable in the mask where it asks for a gradient."""
        run = _MaskedPass(self, self.contrast.batches[batch], self.replacements[batch], mask)
        return run.logits()

    def cut(self, receiver: int | None, mask: Tensor) -> list[int]:
        """Numbers of the receiver's edges that are not whole."""
        numbers = self._numbers.get(receiver, [])
        return numbers if mask.requires_grad else [number for number in numbers if float(mask[number]) != 1]


class _MaskedPass:
    """One pass: the prompts, and behind them as many copies as one layer has receivers with an edge cut."""

    def __init__(self, graph: MemberGraph, batch: Batch, replacement: Tensor, mask: Tensor) -> None:
        self.graph, self.batch, self.replacement, self.mask = graph, batch, replacement, mask
        self.n = len(batch.examples)
        self.n_heads = graph.heads.n_heads
        self.lost: dict[int, Tensor] = {}
        """o'_s − o_s of the senders so far."""
        self.receivers: dict[int, list[int]] = {}
        """By layer."""
        for receiver in {r for _, r in graph.places if r is not None}:
            if graph.cut(receiver, mask):
                self.receivers.setdefault(receiver // self.n_heads, []).append(receiver)

    def logits(self) -> Tensor:
        heads, tokens = self.graph.heads, self.batch.clean.tokens
        senders = {sender // self.n_heads for sender, _ in self.graph.places}
        with_heads = (senders | set(self.receivers)) & set(heads.layers)
        edits: dict[str, Callable[[Tensor], Tensor]] = {}
        for layer in sorted(with_heads):
            edits[f"layers.{layer}.attn_heads"] = partial(self._values, layer)
        for layer in with_heads & set(self.receivers):
            edits[f"layers.{layer}.resid_pre"] = partial(self._read, layer)
        if self.graph.cut(None, self.mask):
            edits[f"layers.{heads.n_layers - 1}.resid_post"] = self._final
        copies = max(map(len, self.receivers.values()), default=0)
        logits = heads.model.logits(
            tokens.repeat(1 + copies, 1), edits, last_only=True, gradients=self.mask.requires_grad
        )
        return logits[: self.n, -1].float()

    def _values(self, layer: int, value: Tensor) -> Tensor:
        """Takes the receivers' values from their copies; notes what this layer's senders write."""
        split = self.graph.heads.split(layer, value)
        columns = list(split[: self.n].unbind(2))
        for place, receiver in enumerate(self.receivers.get(layer, []), 1):
            head = receiver % self.n_heads
            columns[head] = split[place * self.n : (place + 1) * self.n, :, head]
        for sender in {s for s, _ in self.graph.places if s // self.n_heads == layer}:
            gone = self.replacement[:, :, sender] - columns[sender % self.n_heads]
            self.lost[sender] = self.graph.heads.added(sender, gone)
        return self.graph.heads.join(layer, torch.cat([torch.stack(columns, 2), split[self.n :]]))

    def _read(self, layer: int, value: Tensor) -> Tensor:
        main = value[: self.n]
        copies = [main + self._push(receiver).to(value.dtype) for receiver in self.receivers[layer]]
        return torch.cat([main, *copies, value[(1 + len(copies)) * self.n :]])

    def _final(self, value: Tensor) -> Tensor:
        return torch.cat([value[: self.n] + self._push(None).to(value.dtype), value[self.n :]])

    def _push(self, receiver: int | None) -> Tensor:
        """Σ_s (1 − z_sr) (o'_s − o_s)."""
        numbers = self.graph.cut(receiver, self.mask)
        parts = [(1 - self.mask[number]) * self.lost[self.graph.places[number][0]] for number in numbers]
        return torch.stack(parts).sum(0)
