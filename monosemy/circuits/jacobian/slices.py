"""JacobianSlices: per token, the derivatives of active output latents with respect to active input latents.

Place on the path: what `mlp.jacobian_slices` gives and every measure and study of the Jacobian reads.

    J[n, i, j] = ∂f_s,i / ∂s_x,j   for output latent out_indices[n, i] and input latent in_indices[n, j]

with f_s = τ ∘ e_y ∘ MLP ∘ d_x, from the input SAE's latents to the output SAE's (τ: the SAE's selection and ReLU).
Every entry of the whole [m_y, m_x] Jacobian that is not listed is exactly zero, because of both selections.

Units: latents of SAEs trained at E‖x‖² = E‖y‖² = 1. An SAE of a finished run reads raw activations and its latents are
C times larger (C: its site's scale, `sae.config.scale`); values here are those latents divided by C, and J is the
derivative between the divided ones: J = J_raw · C_x / C_y. An SAE whose `scale` is 1 is taken as it is.

Limits: padded to the largest number of active latents of the rows; the padding costs memory where that number varies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

At = Literal["input", "reconstruction"]
"""Where a Jacobian is taken (mlp.py)."""


@dataclass(frozen=True)
class JacobianSlices:
    """J of N token rows on their active latents. Rows of latents are in ascending order of latent, padding last.

    Fields: values [N, Ky, Kx], zero on padding; out_indices, in_indices int64 [N, Ky], [N, Kx], -1 on padding;
    out_values, in_values [N, Ky], [N, Kx], the latents' activations (positive; zero on padding). Nothing here carries a
    gradient.
    """

    values: Tensor
    out_indices: Tensor
    in_indices: Tensor
    out_values: Tensor
    in_values: Tensor

    @property
    def n_tokens(self) -> int:
        return self.values.shape[0]

    @property
    def out_active(self) -> Tensor:
        """bool [N, Ky]: no padding."""
        return self.out_indices >= 0

    @property
    def in_active(self) -> Tensor:
        """bool [N, Kx]: no padding."""
        return self.in_indices >= 0

    @property
    def active(self) -> Tensor:
        """bool [N, Ky, Kx]: pairs of active latents, the elements that shares and averages count."""
        return self.out_active[:, :, None] & self.in_active[:, None, :]

    def elements(self) -> Tensor:
        """J of every pair of active latents, [number of such pairs], token after token."""
        return self.values[self.active]
