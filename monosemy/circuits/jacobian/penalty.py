"""The penalty of a pair in training: the mean magnitude of its Jacobian's elements.

    P = 1 / (N k_x k_y) Σ_n Σ_{i ∈ B_n, j ∈ A_n} |J_n,ij| / r        added to the loss as λ P

N is the number of tokens, A_n and B_n are a token's active input and output latents, k is the L0 that the step asks of
each SAE, and r is the MLP's own unit of derivatives (`derivative_unit`).
Place on the path: both SAEs' codes of a batch (`StepOutput.latents`) → **P** → `training_pair`.

Gradient `at` the input (as published): to W_dec of the input SAE and W_enc of the output SAE only. The MLP's slopes at
the true x do not depend on either SAE, and selections carry no gradient. `at` the reconstruction the slopes depend on
the input SAE, so its W_enc and biases receive gradient as well, through x̂ and φ''. The gradient is exact for SAEs whose
active latents equal their pre-activations π (TopK, BatchTopK, JumpReLU). Thresholds receive none: P is flat in them
almost everywhere.

P is a mean over tokens, so it can be estimated without bias on a share of them, drawn anew each step without
replacement. The draw depends on the step's number alone, so a resumed run repeats it. At the reconstruction, BatchTopK
still selects over the whole batch.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosemy.circuits.jacobian.batch_code import Code, positive_rows, reconstruction
from monosemy.circuits.jacobian.diagonals import diagonals
from monosemy.circuits.jacobian.diagonals import outputs as mlp_outputs
from monosemy.circuits.jacobian.products import DEFAULT_MEMORY, Matrices, absolute_sum
from monosemy.circuits.jacobian.slices import At
from monosemy.circuits.jacobian.weights import MlpWeights, Slopes
from monosemy.kernels import dispatch, ops
from monosemy.kernels.reference import Pattern
from monosemy.latents import SparseLatents
from monosemy.saes.base import SparseAutoencoder
from monosemy.shapes import Activations, Scalar

DrawnSlopes: TypeAlias = tuple[Float[Tensor, "drawn d_ff"], Float[Tensor, "drawn d_ff"] | None]
"""The slopes of a batch's drawn rows; of all of its rows where none were drawn."""

_STRIDE = 0x9E3779B1
"""Spreads consecutive step numbers over the seeds (a prime near 2³² divided by the golden ratio)."""


def sampled_rows(index: int, n_rows: int, share: float) -> Int64[Tensor, " drawn"] | None:
    """The rows on which step `index` measures the penalty, in ascending order, at least one; None for all of them."""
    if share >= 1:
        return None
    generator = torch.Generator().manual_seed((index + 1) * _STRIDE)
    return torch.randperm(n_rows, generator=generator)[: max(1, round(share * n_rows))].sort().values


@dataclass
class SlopesAtInput:
    """The MLP's slopes at a batch's true input, computed once a step for all pairs around the MLP.

    A pair that leaves rows out of its step (`training.outliers`) has a batch of its own, and so its own slopes. Safe to
    share between threads.
    """

    weights: MlpWeights
    """The MLP between scaled activations (`MlpWeights.between_scaled`)."""
    _step: int = -1
    _x: Activations | None = None
    _slopes: Slopes | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @torch.no_grad()
    def at(self, index: int, x: Activations, rows: Int64[Tensor, " drawn"] | None) -> DrawnSlopes:
        """a, b [rows, d_ff] of the drawn rows of x at step `index`, without gradient.

        Two calls with the same step and the same x must ask for the same rows: the second gets the first one's result.
        """
        # The lock makes pairs that step at the same time wait for one computation instead of repeating it. x is
        # compared by identity, which is quick, and kept, so that no other tensor can take its identity over.
        with self._lock:
            if self._step != index or self._x is not x or self._slopes is None:
                self._slopes = diagonals(self.weights, x if rows is None else x[rows])
                self._step, self._x = index, x
            return self._slopes


def mean_magnitude(
    slopes: SlopesAtInput,
    inputs: Code,
    outputs: Code,
    index: int,
    *,
    at: At = "input",
    token_share: float = 1.0,
    unit: float = 1.0,
    max_memory: int = DEFAULT_MEMORY,
) -> Scalar:
    """P of a batch, a scalar; the module's docstring says what receives gradient.

    inputs, outputs: both SAEs' sides of this step's batch, in units of E‖x‖² = E‖y‖² = 1.
    """
    n_rows = len(inputs.x)
    rows = sampled_rows(index, n_rows, token_share)
    rows = None if rows is None else rows.to(inputs.x.device)
    active, values = positive_rows(inputs.latents, rows)
    if at == "input":
        a, b = slopes.at(index, inputs.x, rows)
        active_outputs, _ = positive_rows(outputs.latents, rows)
    else:
        middle = reconstruction(inputs, active, values, rows)
        a, b = diagonals(slopes.weights, middle)
        active_outputs = _active_outputs(
            slopes.weights, inputs, outputs, middle.detach(), rows=rows, max_memory=max_memory
        )
    # The divisor holds the L0s that the step asks for, not the numbers of active latents, which vary by token.
    matrices = Matrices(slopes.weights, inputs.sae.W_dec, outputs.sae.W_enc)
    total = absolute_sum(matrices, (a, b), active, active_outputs, max_memory=max_memory)
    return total / (len(a) * inputs.l0 * outputs.l0 * unit)


@torch.no_grad()
def _active_outputs(
    weights: MlpWeights, inputs: Code, outputs: Code, middle: Tensor, *, rows: Tensor | None, max_memory: int
) -> Pattern:
    """The output latents active at MLP(x̂) in the drawn rows, selected as the output SAE selects in training."""
    sae = outputs.sae
    if sae.name == "batch_topk" and rows is not None:  # latents compete across the whole batch, so all of it is encoded
        middle = inputs.sae.decode(inputs.latents.positive())
        return positive_rows(training_code(sae, mlp_outputs(weights, middle, max_memory), outputs.l0), rows)[0]
    return positive_rows(training_code(sae, mlp_outputs(weights, middle, max_memory), outputs.l0), None)[0]


@torch.no_grad()
def training_code(sae: SparseAutoencoder, x: Activations, l0: float) -> SparseLatents:
    """The code of x as a training step that asks for `l0` selects it, without gradient.

    TopK and BatchTopK select by the step's L0; every other architecture selects in training as in `encode`.
    """
    if sae.name not in ("topk", "batch_topk"):
        return sae.encode(x)
    centred, b_enc = ops.centre(x, sae.b_dec), getattr(sae, "b_enc", None)
    if sae.name == "topk":
        pattern, values = dispatch.encode_topk(centred, sae.W_enc, b_enc, round(l0))
    else:
        pattern, values, _ = dispatch.encode_batch_topk(centred, sae.W_enc, b_enc, round(l0 * len(x)))
    return SparseLatents(pattern.offsets, pattern.indices, values, sae.d_sae)
