"""What the slices of an MLP's Jacobian are made of, and the gradients of that.

Place on the path: `circuits.jacobian.products` makes the factors; `kernels.jacobian` and its compiled form for CPUs,
`kernels.cpu.jacobian`, multiply them. The equations stand in `kernels.jacobian`.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from monosemy.kernels.reference import Pattern


class Factors(NamedTuple):
    """What J is made of, for N tokens: a, b [N, h]; T_in, T_up [U, h], T_out [V, h]; `inputs` and `outputs` are
    patterns of N rows with indices below U and V. b and T_up are both None for a plain MLP."""

    a: Float[Tensor, "n d_ff"]
    b: Float[Tensor, "n d_ff"] | None
    T_in: Float[Tensor, "u d_ff"]
    T_up: Float[Tensor, "u d_ff"] | None
    T_out: Float[Tensor, "v d_ff"]
    inputs: Pattern
    outputs: Pattern


class Gradients(NamedTuple):
    """The gradients of the factors.

    a and b are None unless the caller asked for them. For a plain MLP, b and T_up are None in any case.
    """

    T_in: Float[Tensor, "u d_ff"]
    T_up: Float[Tensor, "u d_ff"] | None
    T_out: Float[Tensor, "v d_ff"]
    a: Float[Tensor, "n d_ff"] | None
    b: Float[Tensor, "n d_ff"] | None
