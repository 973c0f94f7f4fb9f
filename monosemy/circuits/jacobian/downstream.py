"""The input SAE's error, measured where the MLP passes it on.

    E_x = Σ_n ‖y_n − MLP(x̂_n)‖² / Σ_n ‖y_n − ȳ‖²

over the rows of a batch: what of the MLP's output is lost when it reads the reconstruction. Like an SAE's own error it
is a share of a variance, so it does not change when activations or the MLP's weights are multiplied by a number.
Place on the path: the input SAE's code of a batch, y → **E_x** → `training_pair`.

Gradient: to every parameter of the input SAE, thresholds excepted, through x̂; the selection of latents carries none,
and neither do y and the MLP. Memory: the MLP's hidden layer is held for a few rows at a time, with its gradient.
"""

# mypy: disable-error-code="override"
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from monosemy.circuits.jacobian.batch_code import Code, positive_rows, reconstruction
from monosemy.circuits.jacobian.diagonals import ROWS, SCRATCH_BACK, parts
from monosemy.circuits.jacobian.weights import MlpWeights
from monosemy.saes.losses import variance
from monosemy.shapes import Activations, Scalar


class _ThroughMlp(Function):
    """Autograd's node for x̂ → Σ ‖y − MLP(x̂)‖², which computes its gradient in the forward pass, part by part."""

    @staticmethod
    def forward(ctx: Any, x_hat: Tensor, y: Tensor, weights: MlpWeights, n_rows: int) -> Tensor:
        slope, total = torch.empty_like(x_hat), x_hat.new_zeros(())
        for rows in parts(len(x_hat), n_rows):
            with torch.enable_grad():
                part = x_hat[rows].detach().requires_grad_()
                error = (weights.output(part) - y[rows]).square().sum()
            (slope[rows],) = torch.autograd.grad(error, part)
            total += error.detach()
        ctx.save_for_backward(slope)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return slope * grad, None, None, None


def error_through_mlp(weights: MlpWeights, inputs: Code, y: Activations, max_memory: int) -> Scalar:
    """E_x, a scalar. weights: the MLP between scaled activations; y [N, d_out]: its output at the rows of `inputs`.

    Temporary arrays take max_memory bytes, or what one row needs if that is more.
    """
    x_hat = reconstruction(inputs, *positive_rows(inputs.latents, None), None)
    n_rows = max(1, max_memory // (SCRATCH_BACK * weights.d_ff * y.element_size()))
    error = _ThroughMlp.apply(x_hat, y, weights, min(ROWS, n_rows))
    return error / (len(y) * variance(y)).clamp_min(1e-30)
