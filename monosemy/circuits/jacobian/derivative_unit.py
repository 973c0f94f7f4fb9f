"""The MLP's unit of derivatives: how large an element of the Jacobian is between two directions drawn at random.

    r = √(E_n ‖M_n‖²_F / (d_in d_out)),    M_n = ∂y/∂x at row n

‖M‖²_F / (d_in d_out) is the mean square of uᵀ M v over unit vectors u, v of all directions. r changes with J when
activations, the MLP's weights or its width change, so the penalty counts |J| in units of r, and λ keeps its meaning.
Place on the path: the MLP between scaled activations, training rows → **r** → `training_pair`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.circuits.jacobian.diagonals import parts
from monosemy.circuits.jacobian.weights import MlpWeights
from monosemy.shapes import Activations


@torch.no_grad()
def derivative_unit(weights: MlpWeights, x: Activations) -> float:
    """r of an MLP over rows x [n, d_in], estimated with a random direction for every row.

    E‖u M‖² = ‖M‖²_F for u ~ N(0, 1)^d_in. The directions are drawn on the CPU with a fixed seed.
    """
    generator, total = torch.Generator().manual_seed(0), 0.0
    for rows in parts(len(x)):
        directions = torch.randn(x[rows].shape, generator=generator, dtype=torch.float64).to(x)
        total += float(_moved(weights, x[rows], directions).square().sum(dtype=torch.float64))
    return (total / (len(x) * weights.d_in * weights.d_out)) ** 0.5


def _moved(weights: MlpWeights, x: Activations, directions: Tensor) -> Float[Tensor, "n d_out"]:
    """u_n M_n of every row."""
    first, second = weights.slopes(x)
    hidden = (directions @ weights.W_in) * first
    if second is not None and weights.W_up is not None:
        hidden += (directions @ weights.W_up) * second
    return hidden @ weights.W_out
