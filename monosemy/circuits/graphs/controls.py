"""The same graph from transcoders that learned nothing: shuffled encoders, random ones of equal L0, trained controls.

Place on the path: graph → [controls] → scores and agreement beside the graph's own.

    shuffled   latent i is active where it was, but writes with the output vector of another latent of its layer
    random     encoders and output vectors are random, as long as the real ones; as many latents are active at every
               position as of the real transcoder, the strongest

In both, activations are scaled so that the latents write as much (root mean square over positions) as the real ones,
and the bias is fitted to the prompt; the linear path stays, since it is none of the latents'. A graph whose scores are
no better than its controls' says nothing about what its latents mean. Controls of the run itself (trained, with a
frozen random decoder) are the stricter ones; `trained_control` makes their graph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from monosemy.circuits.graphs.ablation import context_of
from monosemy.circuits.graphs.attribution import build_graph
from monosemy.circuits.graphs.effects import DirectEffects
from monosemy.circuits.graphs.frozen_model import FrozenLayer
from monosemy.circuits.graphs.graph import Graph
from monosemy.circuits.graphs.replacement import LayerReplacement, assemble, replace_mlps
from monosemy.circuits.graphs.transcoders import Weights, match_layers
from monosemy.saes.base import SparseAutoencoder

Control: TypeAlias = Literal["shuffled", "random"]
CONTROLS: tuple[Control, ...] = get_args(Control)


def control_graph(graph: Graph, control: Control, *, seed: int = 0) -> Graph:
    """The graph of the same prompt and settings with a control in the place of every transcoder."""
    context = context_of(graph)
    effects = context.effects
    generator = torch.Generator().manual_seed(seed)
    parts = [
        part if part.weights is None else control_part(effects.frozen.layers[part.layer], part, control, generator)
        for part in effects.parts
    ]
    return build_graph(dataclasses.replace(context, effects=DirectEffects(effects.frozen, parts)), graph.prompt)


def trained_control(graph: Graph, saes: Sequence[SparseAutoencoder]) -> Graph:
    """The graph of the same prompt and settings with trained controls in the place of the transcoders."""
    context = context_of(graph)
    transcoders = match_layers(context.model, saes)
    frozen = context.effects.frozen
    effects = DirectEffects(frozen, replace_mlps(frozen, transcoders))
    return build_graph(dataclasses.replace(context, transcoders=transcoders, effects=effects), graph.prompt)


@torch.no_grad()
def control_part(
    layer: FrozenLayer, part: LayerReplacement, control: Control, generator: torch.Generator
) -> LayerReplacement:
    """One layer with a control in the place of its transcoder."""
    assert part.weights is not None
    real = part.weights
    x = layer.resid_mid if part.norm_in is None else layer.mlp_in
    if control == "shuffled":
        partner = torch.randperm(len(real.W_dec), generator=generator).to(part.latents.device)
        weights = dataclasses.replace(real, partner=partner)
        positions, latents, values = part.positions, part.latents, part.values
    else:
        weights = _random_weights(real, generator)
        positions, latents, values = _strongest(weights, x, part)
    factor = _rms(part.weights, part.positions, part.latents, part.values) / max(
        _rms(weights, positions, latents, values), 1e-30
    )
    gain = torch.ones_like(weights.offset) if weights.gain is None else weights.gain
    weights = dataclasses.replace(weights, gain=gain * factor, offset=weights.offset * factor)
    values = values * factor
    # The bias that fits best is the mean of what latents and linear path leave of the MLP's output.
    output = layer.contribution if part.norm_out is None else layer.mlp_out
    left = output.index_add(0, positions, -weights.decoders(latents).to(output) * values[:, None])
    if part.skip is not None:
        left = left - x @ part.skip.to(x).T
    return assemble(
        part.layer,
        layer,
        (positions, latents, values),
        layer.resid_pre if layer.parallel else layer.resid_mid,
        weights=weights,
        skip=part.skip,
        norms=(part.norm_in, part.norm_out),
        bias=left[1:].mean(0),
    )


def _random_weights(real: Weights, generator: torch.Generator) -> Weights:
    """Gaussian encoders and output vectors, each as long as the real one, without biases."""

    def like(rows: Tensor) -> Tensor:
        drawn = torch.randn(rows.shape, generator=generator).to(rows)
        return drawn / drawn.norm(dim=1, keepdim=True) * rows.norm(dim=1, keepdim=True)

    return Weights(like(real.W_enc.T).T, None, torch.zeros_like(real.offset), like(real.W_dec))


def _strongest(weights: Weights, x: Tensor, part: LayerReplacement) -> tuple[Tensor, Tensor, Tensor]:
    """(positions, latents, values): at each position the strongest positive latents, as many as were active there."""
    pre = x @ weights.W_enc.to(x)
    counts = torch.bincount(part.positions, minlength=len(x)).clamp_max(pre.shape[1])
    ranks = pre.argsort(1, descending=True).argsort(1)
    rows, latents = ((ranks < counts[:, None]) & (pre > 0)).nonzero(as_tuple=True)
    return rows, latents, pre[rows, latents]


def _rms(weights: Weights, positions: Tensor, latents: Tensor, values: Tensor) -> float:
    """The root mean square of what latents write, over all positions and components, up to a constant."""
    if not len(positions):
        return 0.0
    rows = weights.decoders(latents).to(values) * values[:, None]
    total = rows.new_zeros(int(positions.max()) + 1, rows.shape[1]).index_add_(0, positions, rows)
    return float(total.square().sum().sqrt())
