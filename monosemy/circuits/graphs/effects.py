"""Direct effects: how much each active latent, error and token adds to a target, through the frozen model alone.

Place on the path: frozen model and replaced MLPs → [rows of direct effects] → selection of nodes (`attribution.py`).

A target is a linear function of a sublayer's input at one position: a latent's pre-activation v · x + c, a logit, a
component of a query. Its gradient g with respect to the stream is carried down from layer to layer:

    at each MLP       effect of a source s = g_t · write_s;   the linear path passes g on, the latents don't
    at each attention g_s += N_a^T Σ_h W_V,h Σ_{t ≥ s} A_h[t, s] W_O,h P_a^T g_t
    at the bottom     effect of token t = g_t · embedding_t

A source's effect is thus the sum over all paths from it to the target that pass attention heads and linear paths but no
other latent. Effects and constants (all biases on the way) sum to the target exactly.

All targets share one sweep: a target joins at its own layer and holds gradients only at positions up to its own, so the
cost is about half of layers × half of positions × 2 d (2 d_heads + …) each. Rows lie flat, [row, d], target by target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosemy.circuits.graphs.frozen_model import FrozenLayer, FrozenModel
from monosemy.circuits.graphs.frozen_norm import FrozenNorm
from monosemy.circuits.graphs.replacement import LayerReplacement


@dataclass(frozen=True)
class Targets:
    """Linear functions of what sublayers read: `vectors · x` at a layer and position each.

    A layer equal to the number of layers means what the unembedding reads. With `of_attention`, x is what the layer's
    attention reads instead of its MLP.
    """

    layers: Int[Tensor, " target"]
    positions: Int[Tensor, " target"]
    vectors: Float[Tensor, "target d_model"]
    of_attention: bool = False

    def __len__(self) -> int:
        return len(self.layers)


@dataclass(frozen=True)
class Rows:
    """The rows of gradients of sorted targets: which target and position each row belongs to."""

    targets: Int[Tensor, " row"]
    positions: Int[Tensor, " row"]
    starts: Int[Tensor, " target"]

    @classmethod
    def of(cls, positions: Int[Tensor, " target"]) -> Rows:
        counts = positions + 1
        starts = counts.cumsum(0) - counts
        targets = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
        return cls(targets, torch.arange(len(targets), device=counts.device) - starts[targets], starts)


class DirectEffects:
    """Direct effects on targets of one prompt; columns are its sources.

    Columns: the F active latents by layer, position and number; the errors of all layers by position, L · T; the T
    tokens.
    """

    def __init__(self, frozen: FrozenModel, parts: Sequence[LayerReplacement]) -> None:
        self.frozen, self.parts = frozen, tuple(parts)
        self.n_layers, self.n_positions = len(frozen.layers), frozen.n_positions
        counts = torch.tensor([part.n_entries for part in parts])
        self.first_column = (counts.cumsum(0) - counts).tolist()
        """The column of each layer's first latent."""
        self.n_latents = int(counts.sum())

    @property
    def n_columns(self) -> int:
        return self.n_latents + (self.n_layers + 1) * self.n_positions

    @cached_property
    def constants(self) -> list[Float[Tensor, "position d_model"]]:
        """What each attention adds to the stream where the stream is zero."""
        return [layer.attention_constant() for layer in self.frozen.layers]

    @cached_property
    def entries(self) -> Int[Tensor, "latent 3"]:
        """(layer, position, latent) of every active latent, in the order of the columns."""
        return torch.cat(
            [
                torch.stack([torch.full_like(part.latents, part.layer), part.positions, part.latents], dim=1)
                for part in self.parts
            ]
        )

    @cached_property
    def values(self) -> Float[Tensor, " latent"]:
        """The activation of every active latent."""
        return torch.cat([part.values for part in self.parts])

    def latent_targets(self, columns: Int[Tensor, " target"]) -> tuple[Targets, Float[Tensor, " target"]]:
        """The pre-activations of some active latents as targets, and the constants c that belong to them."""
        entries = self.entries[columns]
        vectors = self.frozen.embeddings.new_zeros(len(columns), self.frozen.d_model)
        offsets = vectors.new_zeros(len(columns))
        for layer in entries[:, 0].unique().tolist():
            mask = entries[:, 0] == layer
            vectors[mask], offsets[mask] = self.parts[layer].reads(columns[mask] - self.first_column[layer])
        return Targets(entries[:, 0], entries[:, 1], vectors), offsets

    @torch.no_grad()
    def rows(
        self, targets: Targets, *, watch: Callable[[int, Tensor, Rows], None] | None = None
    ) -> tuple[Float[Tensor, "target column"], Float[Tensor, " target"]]:
        """(effects of every source, sum of all biases on the way) on each target; together they sum to the target.

        `watch` is called at each layer with the gradient rows of what its attention adds to the stream.
        """
        order = targets.layers.argsort(descending=True, stable=True)
        layers, positions, vectors = targets.layers[order], targets.positions[order], targets.vectors[order]
        effects = vectors.new_zeros(len(targets), self.n_columns)
        constants = vectors.new_zeros(len(targets))
        rows = Rows.of(positions)
        gradient = vectors.new_zeros(len(rows.targets), self.frozen.d_model)
        n_joined = self._join(gradient, constants, rows, joining=(layers, vectors), layer=self.n_layers)
        for index in reversed(range(self.n_layers)):
            layer, part = self.frozen.layers[index], self.parts[index]
            active = gradient[: _end(rows, n_joined)]
            self._at_mlp(index, active, rows, effects, constants=constants)
            skipped = part.skip_gradient(active, rows.positions[: len(active)])
            n_here = int((layers == index).sum())
            joins_early = not layer.parallel and not targets.of_attention
            if not layer.parallel and skipped is not None:
                active += skipped
            if joins_early:
                n_joined += self._join(gradient, constants, rows, joining=(layers, vectors), layer=index)
                active = gradient[: _end(rows, n_joined)]
            if watch is not None:
                watch(index, active, rows)
            passed = self._through_attention(index, active, rows, constants)
            if layer.parallel and skipped is not None:
                active += skipped
            active += passed
            if n_here and not joins_early:
                n_joined += self._join(
                    gradient, constants, rows, joining=(layers, vectors), layer=index, of_attention=targets.of_attention
                )
        self._at_embeddings(gradient, rows, effects)
        unsorted, constants_unsorted = torch.empty_like(effects), torch.empty_like(constants)
        unsorted[order], constants_unsorted[order] = effects, constants
        return unsorted, constants_unsorted

    def _join(
        self,
        gradient: Tensor,
        constants: Tensor,
        rows: Rows,
        *,
        joining: tuple[Tensor, Tensor],
        layer: int,
        of_attention: bool = False,
    ) -> int:
        """Starts the targets of one layer: their vectors, sent back through the norm before them. Returns how many.

        `joining` holds the layers and vectors of all targets.
        """
        layers, vectors = joining
        here = (layers == layer).nonzero()[:, 0]
        places = rows.starts[here] + (rows.targets.bincount(minlength=len(layers))[here] - 1)
        norm = self.norm_before(layer, of_attention)
        if norm is None:
            gradient[places] += vectors[here]
        else:
            gradient[places] += norm.transposed(vectors[here], rows.positions[places])
            if norm.bias is not None:
                constants[here] += vectors[here] @ norm.bias
        return len(here)

    def norm_before(self, layer: int, of_attention: bool) -> FrozenNorm | None:
        """The norm between the stream and what a target reads."""
        if layer == self.n_layers:
            return self.frozen.final_norm
        return self.frozen.layers[layer].before_attention if of_attention else self.parts[layer].norm_in

    def _at_mlp(self, index: int, gradient: Tensor, rows: Rows, effects: Tensor, *, constants: Tensor) -> None:
        """Contracts gradients with all that one MLP adds to the stream: latents, errors and constants."""
        part, first = self.parts[index], self.first_column[index]
        if not len(gradient):
            return
        writes = part.writes()
        bounds = torch.searchsorted(part.positions, torch.arange(self.n_positions + 1, device=part.positions.device))
        for position in range(self.n_positions):
            places = (rows.positions[: len(gradient)] == position).nonzero()[:, 0]
            if not len(places):
                continue
            low, high = int(bounds[position]), int(bounds[position + 1])
            sources = torch.cat([writes[low:high], part.error[None, position], part.constant[None, position]])
            products, owners = gradient[places] @ sources.T, rows.targets[places]
            effects[owners, first + low : first + high] = products[:, :-2]
            effects[owners, self.n_latents + index * self.n_positions + position] = products[:, -2]
            constants[owners] += products[:, -1]

    def _through_attention(self, index: int, gradient: Tensor, rows: Rows, constants: Tensor) -> Tensor:
        """What one attention passes from its contribution back to the stream before it, [row, d]."""
        layer, n = self.frozen.layers[index], len(gradient)
        positions, owners = rows.positions[:n], rows.targets[:n]
        constants.index_add_(0, owners, (gradient * self.constants[index][positions]).sum(1))
        values = value_gradients(layer, gradient, positions, owners)
        passed = values.flatten(1) @ layer.attention.values.W_V.flatten(0, 1)
        norm = layer.before_attention
        return passed if norm is None else norm.transposed(passed, positions)

    def _at_embeddings(self, gradient: Tensor, rows: Rows, effects: Tensor) -> None:
        products = (gradient * self.frozen.embeddings[rows.positions]).sum(1)
        first = self.n_latents + self.n_layers * self.n_positions
        effects[rows.targets, first + rows.positions] = products


def value_gradients(
    layer: FrozenLayer, gradient: Float[Tensor, "row d"], positions: Int[Tensor, " row"], owners: Int[Tensor, " row"]
) -> Float[Tensor, "row key_head d_value"]:
    """The gradient with respect to the values of one attention, summed over the query heads that share each."""
    by_head = head_gradients(layer, gradient, positions, owners)
    return by_head.unflatten(1, (len(layer.attention.values.W_V), -1)).sum(2)


def head_gradients(
    layer: FrozenLayer, gradient: Float[Tensor, "row d"], positions: Int[Tensor, " row"], owners: Int[Tensor, " row"]
) -> Float[Tensor, "row head d_value"]:
    """The gradient with respect to the values that each query head reads: Σ_{t ≥ s} A_h[t, s] W_O,h P_a^T g_t."""
    attention = layer.attention
    if layer.behind_attention is not None:
        gradient = layer.behind_attention.transposed(gradient, positions)
    n_heads, d_value, _ = attention.values.W_O.shape
    outputs = gradient @ attention.values.W_O.flatten(0, 1).T
    n_positions = attention.pattern.shape[1]
    n_owners = int(owners[-1]) + 1 if len(owners) else 0
    # Padded to [head, position, target, value], so that one product a head moves gradients from queries to keys.
    padded = outputs.new_zeros(n_heads, n_positions, n_owners, d_value)
    padded[:, positions, owners] = outputs.unflatten(1, (n_heads, d_value)).transpose(0, 1)
    moved = torch.bmm(attention.pattern.transpose(1, 2), padded.flatten(2)).unflatten(2, (n_owners, d_value))
    return moved[:, positions, owners].transpose(0, 1)


def _end(rows: Rows, n_targets: int) -> int:
    """The number of rows of the first targets."""
    return int(rows.starts[n_targets]) if n_targets < len(rows.starts) else len(rows.targets)
