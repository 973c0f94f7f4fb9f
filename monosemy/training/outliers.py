"""Rows that would wreck a SAE: reconstructed far worse than all others, and worse than by nothing at all.

Place on the data's path: inside a training step, between the loss and its gradient; such rows are left out of the step.

  left out: rows n with  e_n > multiple · median(e)  and  e_n > ‖x_n‖²,     e_n = ‖x_n − x̂_n‖²

Why: one row several times as long as any before it drives thousands of latents over their thresholds at once (all
architectures but TopK, whose k is fixed). Most of these fire seldom, so Adam's second moment expects little of them,
and each moves by up to lr·(1 − β₁)/√(1 − β₂) in that step and ten times as much while the momentum fades: one row
turns whole dictionaries. research/outliers/README.md has the rows: three of 525,509, 3.7 to 5.1 times as long as the
median; a run at learning rate 4e-3 that kept them ended with 68–81% of the latents of four architectures dead. In a
trial with one of them its error was 5,000 to 16,000 times the median; of 300,000 others the largest was 20 times.

Limits: the batch's median stands for ordinary rows, so more than half of a batch cannot be outliers. A row that is
merely hard (not reconstructed: e_n ≈ ‖x_n‖²) is never left out. The rows' count is in the metrics, and evaluation
leaves none out.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from monosemy.shapes import Activations


@torch.no_grad()
def ordinary_rows(x: Activations, reconstruction: Activations, multiple: float) -> Bool[Tensor, " n"] | None:
    """True for rows to keep; None when that is all of them (always for `multiple` 0). NaN rows are kept: the loss says
    so."""
    if multiple == 0:
        return None
    residual = x - reconstruction
    error = torch.linalg.vecdot(residual, residual)
    # Both conditions: a row that is merely hard is worse than the median, but no worse than zeros would be.
    wrecking = (error > multiple * error.median()) & (error > torch.linalg.vecdot(x, x))
    return ~wrecking if bool(wrecking.any()) else None
