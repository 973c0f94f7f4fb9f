"""Is an output latent a linear function of one input latent? Shares of linear, JumpReLU-shaped, flat and other curves.

Place on the path: tokens and a LatentMap → [curves f_s,i(s_j), all other input latents fixed] → shares with intervals.

For a token and one of its active input latents j, s_j is swept over 100 points in [0, max(5u, s_j + u)]; every output
latent i that is active on the token gives one curve. The unit u is a quarter of the root mean square of the sample's
active input latents. Farnik et al. 2025 (arXiv 2502.18147) sweep [0, max(5, s_j + 1)] on activations for which that
root mean square is about 4 (width 512 at unit gain, k = 32: √512/√32); with u, the sweep covers the same multiple of a
typical activation at any scale.

A curve y_1 … y_100 of range R = max y − min y belongs to the first of these classes that fits:
  flat      R ≤ 1% of max |y|
  linear    no point is further than 5% of R from the least-squares line
  jumprelu  y is 0 from one end up to some point, and no other point (of at least 5) is further than 5% of R from their
            own line: a threshold, with or without a jump
  other     all other curves
The paper names three classes and no tolerance; it counts flat curves as linear (`linear_or_flat` here).

Limits: the curves end where the sweep ends, and output latents that become active during it are not followed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from monosemy.circuits.jacobian.latent_map import LatentMap, padded
from monosemy.circuits.jacobian.measures import Estimate
from monosemy.errors import UserError
from monosemy.evals.intervals import Blocks, bootstrap_weights, ratio_interval

SHAPES = ("flat", "linear", "jumprelu", "other")
N_POINTS = 100
FLAT, STRAIGHT, FEWEST = 0.01, 0.05, 5


@dataclass(frozen=True)
class LinearityRecord:
    """Shares of curves by shape: those of SHAPES, and linear_or_flat."""

    shares: dict[str, Estimate]
    n_curves: int
    n_sweeps: int
    """Number of (token, input latent) pairs that were swept."""
    n_documents: int
    unit: float
    """u, in units of the input latents."""


def measure_linearity(
    latent_map: LatentMap,
    batches: Iterable[tuple[Float[Tensor, "_ d"], Int[Tensor, " _"]]],
    *,
    n_sweeps: int = 500,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> LinearityRecord:
    """Sweeps `n_sweeps` random pairs of (token, active input latent) and classifies the curves.

    batches: activations x [n, d_in] with the document number of each row. Intervals resample documents. Raises
    UserError when no input latent or no output latent is active.
    """
    rows, documents = (torch.cat(parts) for parts in zip(*batches))
    indices, values = padded(latent_map.inputs(rows))
    token, place = (indices >= 0).nonzero(as_tuple=True)
    if not len(token):
        raise UserError("no input latent is active on these tokens, so there is nothing to sweep")
    unit = float(values[values > 0].double().square().mean().sqrt()) / 4
    # Drawn over all (token, active latent) pairs of the sample, so tokens with more active latents count more.
    order = torch.randperm(len(token), generator=torch.Generator().manual_seed(seed))[:n_sweeps].to(token.device)
    blocks = Blocks()
    counts = np.zeros((blocks.limit, len(SHAPES)))
    for n, k in zip(token[order].tolist(), place[order].tolist()):
        curves = sweep(latent_map, rows[n : n + 1], int(indices[n, k]), float(values[n, k]), unit=unit)
        block = int(blocks.rows(documents[n : n + 1])[0])
        for curve in curves.double().cpu().numpy():
            counts[block, SHAPES.index(shape_of(curve))] += 1
    counts = counts[: blocks.n]
    if not counts.sum():
        raise UserError("no output latent is active on these tokens, so there is no curve to look at")
    weights = bootstrap_weights(blocks.n, n_bootstrap, seed)
    by_shape = {shape: counts[:, number] for number, shape in enumerate(SHAPES)}
    by_shape["linear_or_flat"] = by_shape["linear"] + by_shape["flat"]
    total = counts.sum(1)
    shares = {
        shape: Estimate(float(part.sum() / total.sum()), ratio_interval(part, total, weights, confidence))
        for shape, part in by_shape.items()
    }
    return LinearityRecord(shares, int(total.sum()), len(order), blocks.n_documents, unit=unit)


def sweep(
    latent_map: LatentMap, x: Float[Tensor, "1 d"], latent: int, value: float, *, unit: float
) -> Float[Tensor, "i point"]:
    """The curves of the output latents active at x as input latent `latent`, whose value at x is `value`, is swept."""
    points = torch.linspace(0, max(5 * unit, value + unit), N_POINTS, device=x.device, dtype=x.dtype)
    base = latent_map.base(x)
    active = latent_map.outputs(base)[0].nonzero()[:, 0]
    latents = torch.full((N_POINTS,), latent, device=x.device)
    # One row per point of the sweep: the MLP's input at x, moved along the latent's decoder direction.
    moved = latent_map.moved(base.expand(N_POINTS, -1), latents, points - value)
    return latent_map.outputs(moved)[:, active].T


def shape_of(curve: Float[ndarray, " point"]) -> str:
    """The class of a curve, `flat`, `linear`, `jumprelu` or `other`, by the rules in the module's docstring."""
    span = float(np.ptp(curve))
    if span <= FLAT * float(np.abs(curve).max()):
        return "flat"
    if _straight(curve, span):
        return "linear"
    # JumpReLU: the non-zero points are one stretch that touches an end, and straight by themselves.
    on = np.flatnonzero(curve)
    first, last = int(on[0]), int(on[-1])
    contiguous = last - first + 1 == len(on) and (first == 0 or last == len(curve) - 1)
    if contiguous and FEWEST <= len(on) < len(curve) and _straight(curve[on], span):
        return "jumprelu"
    return "other"


def _straight(curve: Float[ndarray, " point"], span: float) -> bool:
    """Whether no point is further than 5% of `span` from the least-squares line."""
    # With t centred, slope and intercept of the fit decouple.
    t = np.arange(len(curve)) - (len(curve) - 1) / 2
    slope = (t @ curve) / (t @ t)
    return bool(np.abs(curve - curve.mean() - slope * t).max() <= STRAIGHT * span)
