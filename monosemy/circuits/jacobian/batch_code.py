"""One SAE's side of a pair's batch: its code, the pattern of its active latents, and its reconstruction.

Place on the path: a step's `StepOutput.latents` → **`Code`** → the penalty (`penalty`) and the errors seen downstream
(`downstream`).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from monosemy.kernels import ops
from monosemy.kernels.jacobian import rows_subset
from monosemy.kernels.reference import Pattern
from monosemy.latents import SparseLatents
from monosemy.saes.base import SparseAutoencoder
from monosemy.shapes import Activations


@dataclass(frozen=True)
class Code:
    """One SAE's side of a batch: the SAE, its input, its code in this step, and the L0 that the step asks for."""

    sae: SparseAutoencoder
    x: Activations
    latents: SparseLatents
    l0: float


def positive_rows(latents: SparseLatents, rows: Tensor | None) -> tuple[Pattern, Tensor]:
    """The pattern of the code's positive entries in the drawn rows, and their values, detached."""
    code = latents.positive()
    pattern, values = Pattern(code.offsets, code.indices), code.values.detach()
    return (pattern, values) if rows is None else rows_subset(pattern, values, rows)


def reconstruction(inputs: Code, active: Pattern, values: Tensor, rows: Tensor | None) -> Tensor:
    """x̂ of the drawn rows, with its gradient to every parameter of the input SAE."""
    # The selection is the step's own, so only the selected pre-activations are computed again, with gradient.
    sae, x = inputs.sae, inputs.x if rows is None else inputs.x[rows]
    b_enc = getattr(sae, "b_enc", None)
    selection = ops.Selection(
        active, values, ops.centre(x, sae.b_dec), x=x, W_enc=sae.W_enc, b_enc=b_enc, b_dec=sae.b_dec
    )
    return selection.decode(selection.pre_acts, sae.W_dec, sae.b_dec)
