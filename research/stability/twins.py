"""Do two SAEs of other seeds find the same directions? Twins of decoder rows, and what chance gives.

Place on the data's path: evaluation, on decoders alone (no activations).

    twin of latent i     max_j cos(a_i, b_j) ≥ threshold, a and b the decoders' rows
    mutual               i's nearest is j and j's nearest is i
    one to one           the matching of a's rows with b's that maximises Σ cos (Hungarian)
    chance               max_j cos between random unit rows with the decoders' own second moment ½ (aᵀa/m + bᵀb/n):
                         Gaussian draws, normalised, their variances corrected until the moment is met

Source: mean max cosine similarity as in Sharkey et al., Taking features out of superposition (2022); one-to-one
matching as in Paulo and Belrose, Sparse autoencoders trained on the same data learn different features (2025).
Limits: the matching takes O(m³) time at worst, some seconds at m = 4,608.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

_BLOCK = 2048
_ITERATIONS = 30


@dataclass(frozen=True)
class Twins:
    """Nearest rows of two decoders, a [m, d] and b [n, d]."""

    cosine_a: Float[ndarray, " m"]
    """Of each row of a with its nearest row of b."""
    cosine_b: Float[ndarray, " n"]
    nearest_a: ndarray
    """int64 [m]: which row of b."""
    nearest_b: ndarray

    @property
    def mutual_a(self) -> ndarray:
        """bool [m]: the nearest row's nearest row is this one."""
        return self.nearest_b[self.nearest_a] == np.arange(len(self.nearest_a))

    @property
    def mutual_b(self) -> ndarray:
        return self.nearest_a[self.nearest_b] == np.arange(len(self.nearest_b))


def unit_rows(rows: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
    """Rows at length one, float32; zero rows stay zero."""
    return torch.nn.functional.normalize(rows.detach().float(), dim=1)


def find_twins(a: Float[Tensor, "m d"], b: Float[Tensor, "n d"]) -> Twins:
    """The nearest row of the other decoder, by cosine, for every row of both. Raises ValueError for other widths."""
    if a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise ValueError(f"decoders of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be compared")
    a, b = unit_rows(a), unit_rows(b)
    parts, best_b = [], torch.full((len(b),), -torch.inf)
    nearest_b = torch.zeros(len(b), dtype=torch.int64)
    for first in range(0, len(a), _BLOCK):
        cosine = a[first : first + _BLOCK] @ b.T
        parts.append(cosine.max(1))
        values, rows = cosine.max(0)
        nearest_b = torch.where(values > best_b, rows + first, nearest_b)
        best_b = torch.maximum(best_b, values)
    return Twins(
        torch.cat([part.values for part in parts]).numpy(),
        best_b.numpy(),
        torch.cat([part.indices for part in parts]).numpy(),
        nearest_b.numpy(),
    )


def one_to_one(a: Float[Tensor, "m d"], b: Float[Tensor, "n d"]) -> tuple[Float[ndarray, " m"], Float[ndarray, " n"]]:
    """Cosine of every row of a, and of every row of b, with its partner in the best one-to-one matching.

    Rows left over, where one decoder has more, have 0.
    """
    from scipy.optimize import linear_sum_assignment

    cosine = (unit_rows(a) @ unit_rows(b).T).numpy()
    rows, columns = linear_sum_assignment(cosine, maximize=True)
    matched = np.zeros(len(a), np.float32), np.zeros(len(b), np.float32)
    matched[0][rows] = matched[1][columns] = cosine[rows, columns]
    return matched


def chance_rows(a: Float[Tensor, "m d"], b: Float[Tensor, "n d"], n: int, seed: int) -> Float[Tensor, "n d"]:
    """n random unit rows with the second moment of both decoders' unit rows together."""
    a, b = unit_rows(a).double(), unit_rows(b).double()
    moment, vectors = torch.linalg.eigh((a.T @ a / len(a) + b.T @ b / len(b)) / 2)
    moment = moment.clamp(min=0)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(n, a.shape[1], generator=generator, dtype=torch.float64)
    spread = moment.clone()
    for _ in range(_ITERATIONS):  # drawn with Σ and normalised, rows spread more evenly than Σ: correct for it
        reached = torch.nn.functional.normalize(draws * spread.sqrt(), dim=1).square().mean(0)
        spread *= moment / reached.clamp(min=1e-12)
        spread /= spread.sum()
    return unit_rows((draws * spread.sqrt()) @ vectors.T)
