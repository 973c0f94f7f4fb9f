"""Finds the rows of a batch that would wreck an SAE if it learned from them.

Such a row is reconstructed far worse than all others, and either worse than by the zero vector or by far more latents.
Place on the data's path: inside a training step, between the loss and its gradient. The step leaves these rows out.

  left out: rows n with  e_n > multiple · median(e)  and  (e_n > ‖x_n‖²  or  l_n > CROWDED · mean(l)),
            e_n = ‖x_n − x̂_n‖², l_n the number of its entries in the code

Why: one row that is several times as long as any before it drives thousands of latents over their thresholds at once
(in all architectures except TopK, whose k is fixed). Most of these latents fire rarely, so Adam's second moment for
them is small, and each moves by up to lr·(1 − β₁)/√(1 − β₂) in that step and ten times as much while the momentum
fades. A single row can so overturn a whole dictionary.
Measured (research/outliers/README.md): three of 525,509 rows were 3.7 to 5.1 times as long as the median, and a run at
learning rate 4e-3 that kept them ended with 68–81% of the latents of four architectures dead. In a trial with one of
these rows, its error was 5,000 to 16,000 times the median; the largest error of 300,000 other rows was 20 times it.

The second case is that of an SAE whose encoder is still small: the row's latents are as many, but what they add stays
below the row itself.

Limits: the batch's median stands for ordinary rows, so at most half of a batch can be outliers. A row that is merely
hard (hardly reconstructed, by as many latents as others) is never left out. The metrics record how many rows were left
out; evaluation leaves none out.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from monosemy.shapes import Activations, PerToken

CROWDED = 5.0
"""How many times the batch's mean number of entries a row has that is said to drive far more latents."""


@torch.no_grad()
def ordinary_rows(
    x: Activations, reconstruction: Activations, n_active: Int[Tensor, " n"], multiple: float
) -> Bool[Tensor, " n"] | None:
    """The rows to keep, bool [N]; None when all are kept, which is always so for `multiple` 0.

    n_active: how many entries each row has in the code.

    Rows with NaN are kept, so that the loss becomes NaN and training stops with a message.
    """
    if multiple == 0:
        return None
    residual = x - reconstruction
    errors, energies = torch.linalg.vecdot(residual, residual), torch.linalg.vecdot(x, x)
    wrecking = wrecking_rows(errors, energies, n_active, multiple)
    return ~wrecking if bool(wrecking.any()) else None


def wrecking_rows(
    errors: PerToken, energies: PerToken, n_active: Int[Tensor, " n"], multiple: float
) -> Bool[Tensor, " n"]:
    """The rows of a whole batch to leave out, from ‖x_n − x̂_n‖², ‖x_n‖² and the number of each row's entries."""
    # A row that is merely hard is worse than the median, but no worse than a reconstruction of zero.
    harmful = (errors > energies) | (n_active > CROWDED * n_active.double().mean())
    return (errors > multiple * errors.median()) & harmful
