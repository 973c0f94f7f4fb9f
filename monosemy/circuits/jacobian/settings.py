"""The settings of pairs of SAEs: the section `jacobian` of a run's configuration.

This module is loaded with every configuration, so it imports nothing slow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from monosemy.ranges import SHARE, Range


@dataclass(frozen=True)
class JacobianConfig:
    """Pairs of SAEs around one MLP, trained together so that few input latents move few output latents.

    loss of a pair = both SAEs' own losses + (λ / k²) Σ |∂ output latent / ∂ input latent| / r + μ · (share of the MLP's
    output that is lost when it reads the input SAE's reconstruction), latents at E‖x‖² = 1; r is the derivative between
    random directions.
    One pair is trained for every λ × L0 × seed, beside the SAEs of `architectures`, which may then be empty. Both sites
    of the layer, `layers.N.mlp_in` and `layers.N.mlp_out`, must be among `activations.sites`. A pair is saved as two
    SAEs of the same name, `jsae_<λ>-l0_<L0>-s<seed>`, one at each site, and evaluated like any other SAE.
    """

    lambdas: Annotated[tuple[float, ...], Range(0, 1e9, example=3)] = ()
    """λ of each pair: the weight of its Jacobian penalty, 0 for none. Empty trains no pairs."""
    layer: Annotated[int | None, Range(0, example=12)] = None
    """The layer whose MLP the pairs surround; None takes the only layer with both sites among `activations.sites`."""
    architecture: Literal["topk", "batch_topk", "jumprelu"] = "topk"
    """Architecture of both SAEs."""
    at: Literal["input", "reconstruction"] = "input"
    """Where the MLP's slopes and the active output latents are taken: at the true input, or at its reconstruction."""
    warmup_fraction: Annotated[float, SHARE] = 0.05
    """Share of the training steps over which λ rises from 0 to its full value."""
    token_share: Annotated[float, Range(0, 1, example=0.5, above_low=True)] = 1.0
    """Share of each batch's tokens on which the penalty is measured, drawn anew every step; below 1 it is an unbiased
    estimate and takes less time."""
    mlp_error_coef: Annotated[float, Range(0, 1e9, example=1)] = 0.0
    """Weight μ, where λ > 0, of the input SAE's error as it arrives at the MLP's output, beside its own error."""
    max_memory_mb: Annotated[int, Range(1, example=2048)] = 2048
    """Largest memory for the penalty's temporary arrays, in 10⁶ bytes; with less, training is slower."""
