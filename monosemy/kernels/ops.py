"""Differentiable sparse operations: what an architecture composes its loss from.

A training step is: one dense product and a selection of its entries (`dispatch.encode_*`, no gradient), the
pre-activations on the selection with their gradient (`Selection`), element-wise work on its values, and `decode`.
For every architecture here the gradient with respect to pre-activations is exactly zero off the selection, so this
is the exact gradient. Above `dispatch.DENSE_ABOVE` the same operations run as dense products: callers see no
difference. Gradients flow to: pre_acts → W_enc, b_enc, b_dec, x; decode → values, W_dec, b_dec;
per_latent → its parameter.
"""

# mypy: disable-error-code="override"
from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from monosemy.kernels import dispatch
from monosemy.kernels.reference import Columns, Pattern
from monosemy.latents import SparseLatents
from monosemy.shapes import Activations, DecoderMatrix, EncoderMatrix, PerEntry, PerInput, PerLatent, PreActs, Scalar


def centre(x: Activations, b_dec: PerInput | None) -> Activations:
    """x − b_dec, without gradient; `None` leaves x as it is."""
    with torch.no_grad():
        return x if b_dec is None else x - b_dec


def pre_activations(x: Activations, W_enc: EncoderMatrix, b_enc: PerLatent | None, b_dec: PerInput | None) -> PreActs:
    """π = (x − b_dec) W_enc + b_enc, [N, F], without gradient; `None` leaves a bias out."""
    return dispatch.pre_activations(centre(x, b_dec), W_enc, b_enc)


class _OnSelection(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor | None,
        b_dec: Tensor | None,
        values: Tensor,
        centred: Tensor,
        pattern: Pattern,
        columns: Columns,
    ) -> Tensor:
        ctx.save_for_backward(centred, W_enc)
        ctx.pattern, ctx.columns = pattern, columns
        # The values exist already: this only ties them to the parameters. A view, since autograd needs a new tensor.
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        centred, W_enc = ctx.saved_tensors
        needs_x, needs_W, needs_b_enc, needs_b_dec = ctx.needs_input_grad[:4]
        n_latents = W_enc.shape[1]
        grad_W = (
            codes_transposed_times(ctx.pattern, ctx.columns, grad, centred, n_latents=n_latents).T if needs_W else None
        )
        # π = (x − b_dec) W_enc + b_enc: both biases need only Σ_n ∂π by latent, b_dec through −W_enc.
        by_latent = dispatch.sum_by_latent(ctx.columns, grad) if needs_b_enc or needs_b_dec else None
        grad_b_enc = by_latent if needs_b_enc else None
        grad_b_dec = -(W_enc @ by_latent) if needs_b_dec and by_latent is not None else None
        grad_x = None
        if needs_x:
            grad_x = codes_times(ctx.pattern, grad, W_enc.T, W_enc.new_zeros(W_enc.shape[0]))
        return grad_x, grad_W, grad_b_enc, grad_b_dec, None, None, None, None


class _Decode(Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, W_dec: Tensor, b_dec: Tensor, pattern: Pattern, columns: Columns | None
    ) -> Tensor:
        ctx.save_for_backward(values, W_dec)
        ctx.pattern, ctx.columns = pattern, columns
        return codes_times(pattern, values, W_dec, b_dec)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, W_dec = ctx.saved_tensors
        needs_values, needs_W, needs_b = ctx.needs_input_grad[:3]
        pattern, n_latents = ctx.pattern, W_dec.shape[0]
        grad_values = grad_W = None
        # ∂values are wanted on the pattern alone; a dense product computes the rest too, and is still quicker there.
        if needs_values and is_dense(pattern, n_latents):
            grad_values = dispatch.take(grad @ W_dec.T, pattern)
        elif needs_values:
            grad_values = dispatch.gather_dot(pattern, grad, W_dec)
        if needs_W:
            columns = ctx.columns or dispatch.transpose(pattern, n_latents)
            grad_W = codes_transposed_times(pattern, columns, values, grad, n_latents=n_latents)
        return grad_values, grad_W, grad.sum(0) if needs_b else None, None, None


class _PerLatent(Function):
    @staticmethod
    def forward(ctx: Any, parameter: Tensor, pattern: Pattern, columns: Columns) -> Tensor:
        ctx.columns = columns
        return parameter[pattern.indices.long()]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return dispatch.sum_by_latent(ctx.columns, grad), None, None


class _SquaredError(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, reconstruction: Tensor) -> Tensor:
        # x̂ − x is the gradient up to a factor: keeping it saves a second pass over both matrices.
        sums, residual = dispatch.squared_error(x, reconstruction)
        ctx.save_for_backward(residual)
        return sums.sum() / len(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (residual,) = ctx.saved_tensors
        slope = residual * (2 * grad / len(residual))
        return -slope if ctx.needs_input_grad[0] else None, slope


class Selection:
    """A pattern of selected (row, latent) pairs with its transpose, on which pre-activations are known.

    `values` [Z] are π on the pattern and `centred` is x − b_dec [N, D], as `dispatch.encode_*` gives them. `pre_acts`
    [Z] are those values with their gradient to the encoder; `per_latent(p)` spreads a parameter [F] over the entries;
    `latents(values)` makes a code of them and `decode(values, …)` reconstructs.
    """

    def __init__(
        self,
        pattern: Pattern,
        values: PerEntry,
        centred: Activations,
        *,
        x: Activations,
        W_enc: EncoderMatrix,
        b_enc: PerLatent | None,
        b_dec: PerInput | None,
    ) -> None:
        self.pattern = pattern
        self.d_sae = W_enc.shape[1]
        self.columns = dispatch.transpose(pattern, self.d_sae)
        self.pre_acts: Tensor = _OnSelection.apply(x, W_enc, b_enc, b_dec, values, centred, pattern, self.columns)

    def per_latent(self, parameter: PerLatent) -> PerEntry:
        """parameter[f] at every entry, [Z]; its gradient is summed by latent."""
        return _PerLatent.apply(parameter, self.pattern, self.columns)

    def latents(self, values: PerEntry) -> SparseLatents:
        """The code with these values on the pattern."""
        return SparseLatents(self.pattern.offsets, self.pattern.indices, values, self.d_sae)

    def decode(self, values: PerEntry, W_dec: DecoderMatrix, b_dec: PerInput) -> Activations:
        """x̂ = b_dec + codes W_dec, [N, D]."""
        return decode_selected(values, W_dec, b_dec, self.pattern, columns=self.columns)


def decode_selected(
    values: PerEntry, W_dec: DecoderMatrix, b_dec: PerInput, pattern: Pattern, *, columns: Columns
) -> Activations:
    """b_dec + Σ_f v_nf W_dec[f] for each row of a pattern and its transpose, [N, D]; gradient to the first three."""
    return _Decode.apply(values, W_dec, b_dec, pattern, columns)


def squared_error(x: Activations, reconstruction: Activations) -> Scalar:
    """mean_n ‖x_n − x̂_n‖², a scalar; gradient to both. The difference is made once, for the loss and its gradient."""
    return _SquaredError.apply(x, reconstruction)


def decode(latents: SparseLatents, W_dec: DecoderMatrix, b_dec: PerInput) -> Activations:
    """x̂ [N, D] of a code made anywhere; gradient to values, W_dec and b_dec."""
    pattern = Pattern(latents.offsets, latents.indices.to(torch.int32))
    return _Decode.apply(latents.values, W_dec, b_dec, pattern, None)


def is_dense(pattern: Pattern, n_latents: int) -> bool:
    """Whether a dense product is quicker than the sparse kernels at this density."""
    n_rows = pattern.offsets.shape[0] - 1
    return pattern.indices.shape[0] > dispatch.DENSE_ABOVE * n_rows * n_latents


def codes_times(
    pattern: Pattern, values: PerEntry, matrix: Float[Tensor, "d_sae d"], bias: Float[Tensor, " d"]
) -> Float[Tensor, "n d"]:
    """codes [N, F] × matrix [F, D] + bias, sparse or dense by the measured density."""
    if is_dense(pattern, matrix.shape[0]):
        return torch.addmm(bias, _densify(pattern, values, matrix.shape[0]), matrix)
    return dispatch.decode(pattern, values, matrix, bias)


def codes_transposed_times(
    pattern: Pattern, columns: Columns, values: PerEntry, inputs: Float[Tensor, "n d"], *, n_latents: int
) -> Float[Tensor, "d_sae d"]:
    """codesᵀ [F, N] × inputs [N, D], sparse or dense by the measured density."""
    if is_dense(pattern, n_latents):
        return _densify(pattern, values, n_latents).T @ inputs
    return dispatch.accumulate(columns, values, inputs)


def _densify(pattern: Pattern, values: Tensor, n_latents: int) -> Tensor:
    return SparseLatents(pattern.offsets, pattern.indices, values.detach(), n_latents).to_dense()
