"""What the slices of an MLP's Jacobian are made of, and the gradients of that.

Place on the path: `circuits.jacobian.products` makes the factors; `kernels.jacobian` and its compiled form for CPUs,
`kernels.cpu.jacobian`, multiply them. The equations stand in `kernels.jacobian`.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from monosemy.kernels.reference import Pattern


class Factors(NamedTuple):
    """What J is made of, for N tokens: a, b [N, h]; T_in, T_up [U, h], T_out [V, h]; `inputs` and `outputs` are
    patterns of N rows with indices below U and V. b and T_up are both None for a plain MLP."""

    a: Tensor
    b: Tensor | None
    T_in: Tensor
    T_up: Tensor | None
    T_out: Tensor
    inputs: Pattern
    outputs: Pattern


class Gradients(NamedTuple):
    """∂L of every factor that has one; a and b only where they were asked for."""

    T_in: Tensor
    T_up: Tensor | None
    T_out: Tensor
    a: Tensor | None
    b: Tensor | None
