"""Nested dictionaries (Matryoshka): every prefix of the latents is trained to reconstruct on its own.

    x̂_j = b_dec + Σ_{i < w_j} f_i W_dec[i],   w_1 < … < w_P = d_sae
    error = mean_j mean‖x − x̂_j‖² / mean‖x − x̄‖²

The code f is that of the whole dictionary; only the error changes. The first latents must serve without the others, so
they learn what is general, and later ones cannot take a general latent's part on the tokens where they fire (feature
absorption). `BatchTopK` and `JumpRelu` have widths as an option; under the names of `NESTED` they are set.
Source: Bussmann et al. 2025 (arXiv 2503.17547). Deviation: the mean over prefixes where the paper has the sum, so that
the error stays the size of an FVU, and λ and aux_coef keep their meaning.
Limits: dead latents restart towards the error of the whole dictionary, also those of a narrow prefix.
"""

from __future__ import annotations

import itertools

from monosemy.errors import UserError
from monosemy.kernels import ops, prefixes
from monosemy.ranges import Range, number_name
from monosemy.saes.losses import Target, squared_error
from monosemy.shapes import OutputMatrix, Outputs, PerEntry, PerInput, Scalar

PREFIX = Range(0, 1, example=0.25, above_low=True, below_high=True)
"""The width of a prefix as a share of the dictionary."""
NESTED = {"prefixes": (1 / 16, 1 / 8, 1 / 4, 1 / 2)}
"""The widths that the nested architectures have by default; the whole dictionary is always the last."""


def prefix_widths(shares: tuple[float, ...], d_sae: int) -> tuple[int, ...]:
    """The widths w_1 < … < w_P = d_sae of prefixes that are `shares` of the dictionary; (d_sae,) where there is none.

    Raises UserError for shares that do not rise, or where two of them are the same number of latents.
    """
    widths = (*(max(1, round(share * d_sae)) for share in shares), d_sae)
    if any(narrow >= wide for narrow, wide in itertools.pairwise(widths)):
        text = " ".join(number_name(share) for share in shares)
        raise UserError(
            f"prefixes {text} are {', '.join(map(str, widths[:-1]))} of {d_sae} latents and must rise; give fewer, or "
            "widen the SAE with --d-sae"
        )
    return widths


def decoded(
    selection: ops.Selection,
    values: PerEntry,
    W_dec: OutputMatrix,
    b_dec: PerInput,
    *,
    target: Target,
    widths: tuple[int, ...],
) -> tuple[Outputs, Scalar]:
    """(x̂ [N, d_out] of the whole dictionary, without gradient; the error, as the module's docstring has it)."""
    if len(widths) == 1:
        reconstruction = selection.decode(values, W_dec, b_dec)
        return reconstruction.detach(), squared_error(target.rows, reconstruction) / target.variance
    levels = prefixes.levels_of(selection.pattern, selection.columns, widths)
    error, reconstruction = prefixes.nested_error(target.rows, values, W_dec, b_dec, levels=levels)
    return reconstruction, error / target.variance
