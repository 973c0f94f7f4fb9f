"""JacobianSlices: each token's derivatives of active output latents with respect to active input latents.

Place on the path: returned by `mlp.jacobian_slices`, read by every measure and study of the Jacobian.

    J[n, i, j] = ∂f_s,i / ∂s_x,j   for output latent out_indices[n, i] and input latent in_indices[n, j]

where f_s = τ ∘ e_y ∘ MLP ∘ d_x maps the input SAE's latents to the output SAE's: decoder d_x, encoder e_y, and the
output SAE's selection with its ReLU, τ. Every entry of the whole [m_y, m_x] Jacobian that is not listed is exactly
zero, because of the two selections.

Units: latents of SAEs trained at E‖x‖² = E‖y‖² = 1. An SAE of a finished run reads raw activations, so its latents are
C times larger, where C is the scale of its site (`sae.config.scale`). The values here are those latents divided by C,
and J is the derivative between the divided latents: J = J_raw · C_x / C_y. An SAE whose `scale` is 1 is used unchanged.

Limits: every row is padded to the largest number of active latents of any row, which costs memory where that varies.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

from jaxtyping import Bool, Float, Int64
from torch import Tensor

At = Literal["input", "reconstruction"]
"""Where a Jacobian is taken: at the MLP's true input or at the SAE's reconstruction of it (mlp.py)."""


@dataclass(frozen=True)
class JacobianSlices:
    """J of N tokens on their active latents, which are listed in ascending order in each row, padding last.

    Fields: values [N, Ky, Kx], zero on padding; out_indices [N, Ky] and in_indices [N, Kx], int64, -1 on padding;
    out_values [N, Ky] and in_values [N, Kx], the latents' activations, positive, zero on padding. Nothing here carries
    a gradient.
    """

    values: Float[Tensor, "n k_out k_in"]
    out_indices: Int64[Tensor, "n k_out"]
    in_indices: Int64[Tensor, "n k_in"]
    out_values: Float[Tensor, "n k_out"]
    _: KW_ONLY
    in_values: Float[Tensor, "n k_in"]

    @property
    def n_tokens(self) -> int:
        """N, the number of tokens."""
        return self.values.shape[0]

    @property
    def out_active(self) -> Bool[Tensor, "n k_out"]:
        """bool [N, Ky]: true where there is a latent, false on padding."""
        return self.out_indices >= 0

    @property
    def in_active(self) -> Bool[Tensor, "n k_in"]:
        """bool [N, Kx]: true where there is a latent, false on padding."""
        return self.in_indices >= 0

    @property
    def active(self) -> Bool[Tensor, "n k_out k_in"]:
        """bool [N, Ky, Kx]: true for pairs of active latents, the elements that shares and averages count."""
        return self.out_active[:, :, None] & self.in_active[:, None, :]

    def elements(self) -> Float[Tensor, " z"]:
        """J of every pair of active latents, one-dimensional, token after token."""
        return self.values[self.active]
