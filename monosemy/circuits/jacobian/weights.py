"""The weights of a plain or gated MLP, and the output and slopes that follow from them.

    plain   y = φ(x W_in + b_in) W_out + b_out
    gated   y = (φ(x W_in + b_in) ⊙ (x W_up + b_up)) W_out + b_out        (SwiGLU, GeGLU)

Place on the path: `mlp.mlp_weights` reads them from a model → `diagonals`, `products`, `penalty`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.circuits.jacobian.activation import value_and_slope
from monosemy.shapes import Activations

Slopes: TypeAlias = tuple[Float[Tensor, "n d_ff"], Float[Tensor, "n d_ff"] | None]
"""Two numbers for every row and hidden unit; the second is None for a plain MLP."""


@dataclass(frozen=True)
class MlpWeights:
    """The weights of one MLP, detached, on the model's device, in float32 (float64 where the model is).

    W_in, W_up [d_in, d_ff]: W_up is None for a plain MLP, and W_in is the gate of a gated one. W_out [d_ff, d_out].
    Biases may be None. activation: the name of φ in `activation.ACTIVATIONS`.
    """

    W_in: Float[Tensor, "d_in d_ff"]
    W_up: Float[Tensor, "d_in d_ff"] | None
    W_out: Float[Tensor, "d_ff d_out"]
    b_in: Float[Tensor, " d_ff"] | None
    b_up: Float[Tensor, " d_ff"] | None
    b_out: Float[Tensor, " d_out"] | None
    activation: str
    name: str = "MLP"
    """How messages name it: `the MLP in layer 15 of …`."""

    @property
    def gated(self) -> bool:
        return self.W_up is not None

    @property
    def d_in(self) -> int:
        return self.W_in.shape[0]

    @property
    def d_ff(self) -> int:
        return self.W_in.shape[1]

    @property
    def d_out(self) -> int:
        return self.W_out.shape[1]

    def _hidden(self, x: Activations) -> Slopes:
        """g = x W_in + b_in and u = x W_up + b_up, [N, d_ff] each; u is None for a plain MLP."""
        # addmm adds the bias within the product instead of in a pass of its own.
        g = x @ self.W_in if self.b_in is None else torch.addmm(self.b_in, x, self.W_in)
        if self.W_up is None:
            return g, None
        return g, x @ self.W_up if self.b_up is None else torch.addmm(self.b_up, x, self.W_up)

    def output(self, x: Activations) -> Float[Tensor, "n d_out"]:
        """y [N, d_out] of x [N, d_in]; gradient to x."""
        g, u = self._hidden(x)
        value, _ = value_and_slope(self.activation, g)
        y = (value if u is None else value * u) @ self.W_out
        return y if self.b_out is None else y + self.b_out

    def slopes(self, x: Activations) -> Slopes:
        """The two diagonals in the middle of the MLP's Jacobian at x [N, d_in], each [N, d_ff]; gradient to x.

        ∂y/∂x = W_in diag(first) W_out + W_up diag(second) W_out, where first is φ'(g) for a plain MLP and φ'(g) ⊙ u for
        a gated one, and second is φ(g), or None for a plain MLP.
        """
        g, u = self._hidden(x)
        value, slope = value_and_slope(self.activation, g)
        return (slope, None) if u is None else (slope * u, value)

    def between_scaled(self, scale_in: float, scale_out: float) -> MlpWeights:
        """The same MLP as a map from x / scale_in to y / scale_out, the activations that SAEs read in training."""
        # b_in and b_up stay: the hidden layer sees x as before.
        return dataclasses.replace(
            self,
            W_in=self.W_in * scale_in,
            W_up=None if self.W_up is None else self.W_up * scale_in,
            W_out=self.W_out / scale_out,
            b_out=None if self.b_out is None else self.b_out / scale_out,
        )

    def to(self, tensor: Float[Tensor, " ..."]) -> MlpWeights:
        """The same weights on the device and in the number format of `tensor`."""
        moved: dict[str, Any] = {name: t.to(tensor) for name, t in vars(self).items() if isinstance(t, Tensor)}
        return dataclasses.replace(self, **moved)
