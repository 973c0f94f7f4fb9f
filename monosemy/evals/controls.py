"""Controls that are not trained, behind the interface of an SAE: PCA, and for transcoders the best linear map.

Place on the data's path: evaluation, beside trained SAEs of the same L0. A trained SAE that PCA can match has found
nothing beyond the directions of largest variance.

  f = V_k (x − x̄),  x̂ = x̄ + V_kᵀ f,   V_k [k, d] the k leading eigenvectors of the covariance

PCA is dense: all k components are active on every token, with either sign, so L0 = k and every component "fires" on
every token. It is the best linear map of rank k, but uses the same components for all tokens. It is fitted on training
rows and evaluated on validation rows.

A transcoder predicts another site's rows y. Without any latents it would be ŷ = ȳ + (x − x̄) A, A by least squares: what
it explains beyond that is what its latents are for.

Source: the definition; PCA as a baseline of dictionaries follows Bricken et al., Towards Monosemanticity (2023).
Limits: fitting holds [d, d] covariances in float64 and needs one eigendecomposition or solution, O(d³): seconds at
d = 4,096.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosemy.errors import UserError
from monosemy.latents import Frame, SparseLatents


@dataclass(frozen=True)
class PcaBasis:
    """The mean and all principal components of a site's training rows; `dictionary` takes the first k of them."""

    mean: Float[Tensor, " d"]
    components: Float[Tensor, "d d"]
    """The eigenvectors of the covariance as unit rows, by decreasing variance; float64."""
    variances: Float[Tensor, " d"]
    """The variance along each component, in raw units squared."""
    n_tokens: int

    def dictionary(self, k: int) -> PcaDictionary:
        """The dictionary of the first k components. Raises UserError unless 1 ≤ k ≤ d."""
        d = len(self.mean)
        if not 1 <= k <= d:
            raise UserError(f"PCA with {k} components: the site is {d} wide; choose 1 to {d}")
        return PcaDictionary(self.mean, self.components[:k])


def fit_pca(batches: Iterable[Float[Tensor, "_ d"]]) -> PcaBasis:
    """Fits PCA to training rows in one pass, with sums in float64.

    Raises UserError when there are fewer than two rows or a value is not finite.
    """
    n = 0
    # Replaced by tensors of the site's width at the first rows.
    shift = total = product = torch.empty(0)
    for batch in batches:
        rows = batch.detach().to(torch.float64)
        if not torch.isfinite(rows).all():
            raise UserError("PCA: a training row holds NaN or infinity; rebuild the activations")
        if not len(rows):
            continue
        if not n:
            # Sums are taken around the first batch's mean, so that a large mean does not cancel digits.
            shift = rows.mean(0)
            total, product = torch.zeros_like(shift), rows.new_zeros(len(shift), len(shift))
        rows = rows - shift
        n += len(rows)
        total += rows.sum(0)
        product += rows.T @ rows
    if n < 2:
        raise UserError(f"PCA needs at least 2 training rows, got {n}")
    covariance = (product - torch.outer(total, total) / n) / n
    # eigh gives ascending eigenvalues, hence the flips; rounding can make the smallest ones slightly negative.
    variances, vectors = torch.linalg.eigh(covariance)
    return PcaBasis(shift + total / n, vectors.T.flip(0).contiguous(), variances.flip(0).clamp(min=0), n)


class PcaDictionary(nn.Module):
    """The first k principal components as a dictionary.

    `encode` gives all k coefficients of every row; `decode` adds up the components and the mean. It is a module without
    parameters, so that `.to(device)` works as for an SAE.
    """

    b_dec: Tensor
    W_dec: Tensor

    def __init__(self, mean: Float[Tensor, " d"], components: Float[Tensor, "k d"]):
        super().__init__()
        self.register_buffer("b_dec", mean.to(torch.float32))
        self.register_buffer("W_dec", components.to(torch.float32).contiguous())

    @property
    def d_in(self) -> int:
        return self.W_dec.shape[1]

    @property
    def d_sae(self) -> int:
        return self.W_dec.shape[0]

    def encode(self, x: Float[Tensor, "n d"]) -> SparseLatents:
        n, k = len(x), self.d_sae
        # Every row stores all k entries, in the order of the components; `decode` relies on it.
        values_NK = (x - self.b_dec) @ self.W_dec.T
        offsets = torch.arange(0, (n + 1) * k, k, device=x.device)
        indices = torch.arange(k, dtype=torch.int32, device=x.device).repeat(n)
        return SparseLatents(offsets, indices, values_NK.reshape(-1), k)

    def decode(self, latents: SparseLatents) -> Float[Tensor, "n d"]:
        return latents.values.view(-1, self.d_sae) @ self.W_dec + self.b_dec


class LinearMap(nn.Module):
    """ŷ = b + x A, fitted by least squares, as a dictionary without latents: its code holds the output as a frame."""

    A: Tensor
    b: Tensor
    d_sae = 0

    def __init__(self, A: Float[Tensor, "d_in d_out"], b: Float[Tensor, " d_out"], source: str):
        super().__init__()
        self.register_buffer("A", A.to(torch.float32))
        self.register_buffer("b", b.to(torch.float32))
        self.source_site = source

    @property
    def d_in(self) -> int:
        return self.A.shape[0]

    def encode(self, x: Float[Tensor, "n d"]) -> SparseLatents:
        n = len(x)
        frame = Frame(x.new_ones(n, 1), x @ self.A)
        empty = torch.zeros(0, dtype=torch.int32, device=x.device)
        return SparseLatents(
            torch.zeros(n + 1, dtype=torch.int64, device=x.device), empty, x.new_zeros(0), 0, frame=frame
        )

    def decode(self, latents: SparseLatents) -> Float[Tensor, "n d_out"]:
        assert latents.frame is not None
        return latents.frame.offset + self.b


def fit_linear_map(x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"], source: str) -> LinearMap:
    """The least-squares map from rows x of the site `source` to rows y of another, with an intercept.

    Where x has fewer independent rows than components, the shortest of the solutions.
    """
    x, y = x.double(), y.double()
    inputs, outputs = x - x.mean(0), y - y.mean(0)
    A = torch.linalg.pinv(inputs.T @ inputs, rtol=1e-10, hermitian=True) @ (inputs.T @ outputs)
    return LinearMap(A, y.mean(0) - x.mean(0) @ A, source)
