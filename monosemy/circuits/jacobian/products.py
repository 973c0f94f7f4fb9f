"""J of a batch within a memory bound, and the sum of its magnitudes with its gradient.

Place on the path: the weights of an MLP (`weights`), a decoder and an encoder, two patterns of active latents → **J**,
flat.

    T_in = W_dec W_in,  T_up = W_dec W_up   [m_x, h]      T_out = W_encᵀ W_outᵀ   [m_y, h]
    J_n  = T_out[B_n] (a_n ⊙ T_in[A_n] + b_n ⊙ T_up[A_n])ᵀ                        (`kernels.jacobian`)

The T are called tables. A row of a table serves every token on which its latent is active, so the tables are
multiplied out once for many tokens. Only latents that are active somewhere in the batch need a row (at most n·k of the
m latents), and a row costs 2·d·h operations. `whole_tables_pay` says when it is cheaper to make the tables of all
latents once than those of the active latents of each chunk of tokens.

The gradient of Σ|J| has a closed form: ∂T from sign(J), then ∂W_dec = ∂T_in W_inᵀ + ∂T_up W_upᵀ and
∂W_enc = W_outᵀ ∂T_outᵀ. It is computed in the forward pass, while the tables are in memory; the backward pass only
scales it.

Memory: the diagonals of all N tokens are held while the penalty is computed (2·N·h numbers, twice that where they need
a gradient). J takes n·k² numbers; the tables and their gradients take 2·(2·U + V)·h for U and V active latents. Where
that exceeds the bound, the hidden width h is cut (`Plan.width`). J is then summed over the parts. For a gradient, the
tables of every part are multiplied out a second time; this adds half of the operations, whatever the number of parts.
The tokens are cut only where J itself is too large, and every part of them then multiplies out its own tables.
"""

# mypy: disable-error-code="override"
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from monosemy.circuits.jacobian.diagonals import ROWS, SCRATCH, SCRATCH_BACK
from monosemy.circuits.jacobian.weights import MlpWeights, Slopes
from monosemy.errors import UserError
from monosemy.kernels import jacobian as kernels
from monosemy.kernels.reference import Pattern
from monosemy.shapes import Scalar
from monosemy.support.numbers import size_text

NARROWEST = 64
"""The fewest hidden columns that are held at a time."""
OVERHEAD = 1.3
"""Peak memory over the size of the arrays; the excess is what matrix products and the allocator take (measured: 1.0 to
1.27)."""
DEFAULT_MEMORY = 2_000_000_000
"""Bound on temporary arrays, in bytes, where the caller sets none."""


@dataclass(frozen=True)
class Sizes:
    """The sizes that time and memory depend on.

    k_in, k_out: the most active latents of any row (token); m_in, m_out: latents of the two SAEs; d_ff: hidden width.
    """

    n_tokens: int
    k_in: int
    k_out: int
    m_in: int
    m_out: int
    d_ff: int
    gated: bool
    n_bytes: int = 4
    """Bytes per number."""
    d_model: int = 0
    """Width of the decoder's and the encoder's rows."""
    at: Literal["input", "reconstruction"] | None = None
    """Where the penalty takes the MLP's slopes; their diagonals are then held for all tokens at once. None: no penalty,
    and the diagonals are made for one part of the tokens at a time."""

    @property
    def n_tables_in(self) -> int:
        """Tables over input latents: T_in, and T_up for a gated MLP."""
        return 2 if self.gated else 1

    def table_rows(self, n_tokens: int) -> int:
        """The most rows, of all tables together, that n_tokens tokens need."""
        return self.n_tables_in * min(self.m_in, n_tokens * self.k_in) + min(self.m_out, n_tokens * self.k_out)

    @property
    def whole_rows(self) -> int:
        """Rows of the tables of all latents, active or not."""
        return self.n_tables_in * self.m_in + self.m_out


@dataclass(frozen=True)
class Plan:
    """How a batch is cut: into parts of `n_tokens` rows and `width` hidden columns, which take `n_bytes` of temporary
    arrays."""

    n_tokens: int
    width: int
    n_bytes: int


def peak_bytes(sizes: Sizes, n_tokens: int, width: int, *, gradient: bool) -> int:
    """Bytes of temporary arrays that a batch takes when it is cut into parts of n_tokens × width.

    Counted are J, the diagonals and the arrays they are made from, the active rows of both SAEs, and the tables; for a
    gradient also the gradients of the tables, of those rows and of both SAEs' weights.
    """
    rows = sizes.table_rows(n_tokens)
    sae_rows = min(sizes.m_in, n_tokens * sizes.k_in) + min(sizes.m_out, n_tokens * sizes.k_out)
    numbers = 2 * n_tokens * sizes.k_in * sizes.k_out + rows * width + sae_rows * sizes.d_model
    # Columns cut out of a and b are copied, and the gradients of a and b are new arrays.
    numbers += 2 * n_tokens * width if width < sizes.d_ff or sizes.at == "reconstruction" else 0
    if gradient:
        numbers += sae_rows * sizes.d_model + rows * width
    # The scratch of the diagonals is free again before the products are made, so the larger of the two counts.
    kept_numbers, scratch = _diagonal_numbers(sizes, n_tokens)
    numbers = kept_numbers + max(scratch, numbers)
    if gradient:
        numbers += (sizes.m_in + sizes.m_out) * sizes.d_model
    return int(OVERHEAD * sizes.n_bytes * numbers)


def _diagonal_numbers(sizes: Sizes, n_tokens: int) -> tuple[int, int]:
    """Numbers that are held throughout, the diagonals among them, and the scratch that making the diagonals takes."""
    all_tokens, chunk_numbers = sizes.n_tokens, min(ROWS, sizes.n_tokens) * sizes.d_ff
    if sizes.at is None:  # x, x̂, MLP(x̂) beside the part's diagonals
        return 2 * n_tokens * sizes.d_ff + 3 * all_tokens * sizes.d_model, SCRATCH * min(ROWS, n_tokens) * sizes.d_ff
    if sizes.at == "input":
        return 2 * all_tokens * sizes.d_ff, SCRATCH * chunk_numbers
    # The diagonals with their gradients, and the gradients of x̂ and of everything it is computed from.
    through = (2 * sizes.m_in + 8 * all_tokens) * sizes.d_model
    return 4 * all_tokens * sizes.d_ff + through, SCRATCH_BACK * chunk_numbers


def plan(sizes: Sizes, max_memory: int, *, gradient: bool) -> Plan:
    """The cheapest cut that stays within max_memory bytes.

    The whole batch is taken at once if it fits, else a part of the hidden width at a time, else fewer tokens as well.
    Raises UserError, naming both sizes, when one token and `NARROWEST` hidden columns do not fit.
    """
    n_tokens = max(1, sizes.n_tokens)
    least = min(NARROWEST, sizes.d_ff)
    # Every number of tokens is tried from the full width down: narrow columns cost little, fewer tokens cost tables.
    while True:
        width = sizes.d_ff
        while peak_bytes(sizes, n_tokens, width, gradient=gradient) > max_memory and width > least:
            # Half, rounded up to a multiple of NARROWEST.
            width = max(least, (width // 2 + NARROWEST - 1) // NARROWEST * NARROWEST)
        needed = peak_bytes(sizes, n_tokens, width, gradient=gradient)
        if needed <= max_memory:
            return Plan(n_tokens, width, needed)
        if n_tokens == 1:
            raise UserError(
                f"the Jacobian of one token of {sizes.n_tokens} between {sizes.m_in} and {sizes.m_out} latents "
                f"({sizes.k_in} × {sizes.k_out} active) takes {size_text(needed)} and {size_text(max_memory)} are "
                "allowed; raise max_memory, or lower the L0 or the number of tokens at a time"
            )
        n_tokens = (n_tokens + 1) // 2


def whole_tables_pay(sizes: Sizes, chunk_tokens: int) -> bool:
    """Whether making the tables of all latents once takes fewer operations than those of each chunk's active latents.

    A row of a table costs 2·d·h operations either way, so it is enough to compare numbers of rows: m of each SAE
    against at most k per token, chunk by chunk.
    """
    n_chunks = -(-sizes.n_tokens // max(1, chunk_tokens))
    return sizes.whole_rows < n_chunks * sizes.table_rows(chunk_tokens)


@dataclass(frozen=True)
class Tables:
    """T_in, T_up [U, h], T_out [V, h] of all latents."""

    T_in: Float[Tensor, "u d_ff"]
    T_up: Float[Tensor, "u d_ff"] | None
    T_out: Float[Tensor, "v d_ff"]


@torch.no_grad()
def whole_tables(weights: MlpWeights, W_dec: Float[Tensor, "m_in d_in"], W_enc: Float[Tensor, "d_out m_out"]) -> Tables:
    """The tables of all latents: 2·m_x + m_y rows of h numbers (m_x + m_y for a plain MLP), 2·d·h operations a row."""
    T_up = None if weights.W_up is None else W_dec @ weights.W_up
    return Tables(W_dec @ weights.W_in, T_up, W_enc.T @ weights.W_out.T)


@dataclass(frozen=True)
class Matrices:
    """The matrices that J is a product of: the MLP's weights, the decoder before it and the encoder after it."""

    weights: MlpWeights
    W_dec: Float[Tensor, "m_in d_in"]
    """Of the input SAE."""
    W_enc: Float[Tensor, "d_out m_out"]
    """Of the output SAE."""


def batch_sizes(matrices: Matrices, inputs: Pattern, outputs: Pattern) -> Sizes:
    """The sizes of a batch; k_in and k_out are the most active latents of any of its rows."""
    weights, W_dec, W_enc = matrices.weights, matrices.W_dec, matrices.W_enc
    n_tokens = len(inputs.offsets) - 1
    k_in, k_out = (int(p.offsets.diff().max()) if n_tokens else 0 for p in (inputs, outputs))
    m_in, m_out = len(W_dec), W_enc.shape[1]
    return Sizes(
        n_tokens,
        k_in,
        k_out,
        m_in,
        m_out=m_out,
        d_ff=weights.d_ff,
        gated=weights.gated,
        n_bytes=W_dec.element_size(),
        d_model=weights.d_in,
    )


class _Part:
    """Some tokens of a batch: their patterns, and the latents that are active in them.

    With `renumber`, the patterns count only those latents, so that tables need rows for them alone.
    """

    def __init__(self, inputs: Pattern, outputs: Pattern, m_in: int, m_out: int, *, renumber: bool) -> None:
        self.in_latents = self.out_latents = None
        if renumber:
            inputs, self.in_latents = _renumbered(inputs, m_in)
            outputs, self.out_latents = _renumbered(outputs, m_out)
        self.inputs, self.outputs = inputs, outputs
        self.pairs = kernels.pair_offsets(inputs, outputs)

    def factors(self, tables: Tables, a: Tensor, b: Tensor | None) -> kernels.Factors:
        """The arguments of the kernels for these tokens."""
        return kernels.Factors(
            a, b, tables.T_in, tables.T_up, T_out=tables.T_out, inputs=self.inputs, outputs=self.outputs
        )


def _renumbered(pattern: Pattern, m: int) -> tuple[Pattern, Tensor | None]:
    """The pattern renumbered to its distinct latents, and those latents; unchanged and None where it has nearly all."""
    # A mask and a running count instead of `unique`: no sort of the N·k indices.
    present = torch.zeros(m, dtype=torch.bool, device=pattern.indices.device)
    present[pattern.indices.long()] = True
    latents = present.nonzero()[:, 0]
    if len(latents) > 0.9 * m:  # gathering the rows would copy nearly the whole matrix and save almost nothing
        return pattern, None
    numbers = (present.cumsum(0) - 1).to(torch.int32)
    return Pattern(pattern.offsets, numbers[pattern.indices.long()]), latents


def _rows(matrix: Tensor, latents: Tensor | None) -> Tensor:
    """The rows of the latents; the whole matrix where None stands for nearly all of them."""
    return matrix if latents is None else matrix[latents]


def between(pattern: Pattern, first: int, last: int) -> Pattern:
    """Rows first … last − 1 of a pattern."""
    offsets = pattern.offsets[first : last + 1]
    return Pattern(offsets - offsets[0], pattern.indices[int(offsets[0]) : int(offsets[-1])])


def _widths(d_ff: int, width: int) -> list[slice]:
    """Slices of at most `width` hidden columns."""
    return [slice(start, min(d_ff, start + width)) for start in range(0, d_ff, width)]


@torch.no_grad()
def flat_slices(
    matrices: Matrices,
    diagonals: Slopes,
    inputs: Pattern,
    outputs: Pattern,
    *,
    width: int,
    tables: Tables | None = None,
) -> Float[Tensor, " z"]:
    """J of every token, flat (see `kernels.pair_offsets`); carries no gradient.

    J is computed `width` hidden columns at a time, or at once where `tables` of all latents are given. diagonals: a, b
    [N, h] of the tokens (b None for a plain MLP); inputs, outputs: patterns of their active latents.
    """
    W_dec, W_enc = matrices.W_dec, matrices.W_enc
    a, b = diagonals
    part = _Part(inputs, outputs, len(W_dec), W_enc.shape[1], renumber=tables is None)
    J = W_dec.new_zeros(int(part.pairs[-1]))
    if tables is not None:
        kernels.slices(part.factors(tables, a, b), part.pairs, J)
        return J
    decoder_rows, encoder_rows = _rows(W_dec, part.in_latents), _rows(W_enc.T, part.out_latents)
    for columns in _widths(matrices.weights.d_ff, width):
        factors = _factors(matrices.weights, decoder_rows, encoder_rows, diagonals, part=part, columns=columns)
        kernels.slices(factors, part.pairs, J)  # adds to J
        del factors  # freed before the next columns' tables are made, or two would be in memory
    return J


def _factors(
    weights: MlpWeights,
    decoder_rows: Tensor,
    encoder_rows: Tensor,
    diagonals: Slopes,
    *,
    part: _Part,
    columns: slice,
) -> kernels.Factors:
    """The tables of some hidden columns, multiplied out, with the same columns of the diagonals."""
    a, b = diagonals
    T_up = None if weights.W_up is None else decoder_rows @ weights.W_up[:, columns]
    tables = Tables(decoder_rows @ weights.W_in[:, columns], T_up, encoder_rows @ weights.W_out[columns].T)
    return part.factors(tables, a[:, columns], None if b is None else b[:, columns])


@dataclass
class _Slopes:
    """The gradients of Σ|J|, added up over the parts of a batch; a and b are None where they need none."""

    W_dec: Tensor
    W_enc_rows: Tensor
    a: Tensor | None
    b: Tensor | None


def _add_part(
    matrices: Matrices,
    diagonals: Slopes,
    part: _Part,
    width: int,
    *,
    slopes: _Slopes,
    rows: slice,
) -> float:
    """Σ|J| of the tokens in `rows`, whose diagonals are given; adds its gradients to `slopes`.

    sign(J) is known only once J is summed over all hidden columns, so these are passed over twice: first for J, then
    for the gradients. Where they fit in one part, its tables are kept for the second pass.
    """
    weights, W_dec, W_enc = matrices.weights, matrices.W_dec, matrices.W_enc
    decoder_rows, encoder_rows = _rows(W_dec, part.in_latents), _rows(W_enc.T, part.out_latents)
    # First pass: J.
    J = W_dec.new_zeros(int(part.pairs[-1]))
    all_columns = _widths(weights.d_ff, width)
    only_factors: kernels.Factors | None = None
    for columns in all_columns:
        factors = _factors(weights, decoder_rows, encoder_rows, diagonals, part=part, columns=columns)
        kernels.slices(factors, part.pairs, J)
        only_factors = factors if len(all_columns) == 1 else None
        del factors  # freed before the next columns' tables are made
    # Single precision would lose digits in a sum of n·k² terms.
    total = float(J.abs().sum(dtype=torch.float64))
    signs = J.sign_()  # ∂Σ|J|/∂J, in J's own memory
    # Second pass: the gradients of the tables and, through them, of the gathered rows of both SAEs.
    d_decoder, d_encoder = torch.zeros_like(decoder_rows), torch.zeros_like(encoder_rows)
    for columns in all_columns:
        factors = only_factors or _factors(weights, decoder_rows, encoder_rows, diagonals, part=part, columns=columns)
        gradients = kernels.gradients(factors, part.pairs, signs, diagonals=slopes.a is not None)
        d_decoder.addmm_(gradients.T_in, weights.W_in[:, columns].T)
        if weights.W_up is not None and gradients.T_up is not None:
            d_decoder.addmm_(gradients.T_up, weights.W_up[:, columns].T)
        d_encoder.addmm_(gradients.T_out, weights.W_out[columns])
        del factors
        for total_slope, part_slope in ((slopes.a, gradients.a), (slopes.b, gradients.b)):
            if total_slope is not None and part_slope is not None:
                total_slope[rows, columns] = part_slope  # each block of tokens and columns is reached once
        del gradients, part_slope  # the loop variable would keep its array alive
    # Back from the active latents to all of them.
    for target, latents, gradient_rows in (
        (slopes.W_dec, part.in_latents, d_decoder),
        (slopes.W_enc_rows, part.out_latents, d_encoder),
    ):
        target.add_(gradient_rows) if latents is None else target.index_add_(0, latents, gradient_rows)
    return total


@dataclass(frozen=True)
class _Batch:
    """The arguments of `_AbsoluteSum` other than the tensors that may need a gradient."""

    weights: MlpWeights
    inputs: Pattern
    outputs: Pattern
    max_memory: int


class _AbsoluteSum(Function):
    """Autograd's node for W_dec, W_enc, a, b → Σ|J|.

    Σ|J| is a scalar, so the forward pass can compute its gradients up to one factor. They are saved instead of all that
    they are computed from, and the backward pass multiplies them by the incoming gradient.
    """

    @staticmethod
    def forward(ctx: Any, W_dec: Tensor, W_enc: Tensor, a: Tensor, b: Tensor | None, batch: _Batch) -> Tensor:
        diagonals = ctx.needs_input_grad[2]
        matrices, inputs, outputs = Matrices(batch.weights, W_dec, W_enc), batch.inputs, batch.outputs
        sizes = batch_sizes(matrices, inputs, outputs)
        sizes = dataclasses.replace(sizes, at="reconstruction" if diagonals else "input")
        cut = plan(sizes, batch.max_memory, gradient=True)
        slopes = _Slopes(
            torch.zeros_like(W_dec),
            torch.zeros_like(W_enc.T),
            torch.zeros_like(a) if diagonals else None,
            torch.zeros_like(b) if diagonals and b is not None else None,
        )
        total = 0.0
        for first in range(0, len(a), cut.n_tokens):
            rows = slice(first, min(len(a), first + cut.n_tokens))
            in_rows, out_rows = (between(pattern, rows.start, rows.stop) for pattern in (inputs, outputs))
            part = _Part(in_rows, out_rows, len(W_dec), W_enc.shape[1], renumber=True)
            part_diagonals = (a[rows], None if b is None else b[rows])
            total += _add_part(matrices, part_diagonals, part, cut.width, slopes=slopes, rows=rows)
        ctx.save_for_backward(slopes.W_dec, slopes.W_enc_rows, slopes.a, slopes.b)
        return W_dec.new_tensor(total)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        d_dec, d_enc_rows, d_a, d_b = ctx.saved_tensors
        d_diagonals = (None if d is None else d * grad for d in (d_a, d_b))
        return d_dec * grad, (d_enc_rows * grad).T, *d_diagonals, None


def absolute_sum(
    matrices: Matrices,
    diagonals: Slopes,
    inputs: Pattern,
    outputs: Pattern,
    *,
    max_memory: int = DEFAULT_MEMORY,
) -> Scalar:
    """Σ_n Σ_ij |J_n,ij| over the active pairs of all tokens, a scalar.

    diagonals: a, b [N, h] (`MlpWeights.slopes`; b None for a plain MLP); inputs, outputs: patterns of active latents, N
    rows each. Gradient goes to W_dec and W_enc, and to a and b where they require it. Raises UserError where one token
    does not fit in max_memory bytes.
    """
    batch = _Batch(matrices.weights, inputs, outputs, max_memory)
    return _AbsoluteSum.apply(matrices.W_dec, matrices.W_enc, *diagonals, batch)
