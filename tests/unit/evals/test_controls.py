"""PCA and channel controls against closed forms."""

import pytest
import torch

from monosemy.errors import UserError
from monosemy.evals.controls import fit_pca
from monosemy.evals.reconstruction import evaluate_reconstruction

D = 10


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(D, D, generator=generator) * torch.linspace(3, 0.1, D)[:, None]
    return torch.randn(3000, D, generator=generator) @ mixing + 500.0


def test_streamed_basis_is_that_of_the_whole_covariance(rows):
    basis = fit_pca(rows.split(171))
    centred = rows.double() - rows.double().mean(0)
    expected = torch.linalg.eigvalsh(centred.T @ centred / len(rows)).flip(0)
    torch.testing.assert_close(basis.variances, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(basis.mean, rows.double().mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        basis.components @ basis.components.T, torch.eye(D, dtype=torch.float64), rtol=0, atol=1e-12
    )
    assert basis.n_tokens == 3000


@pytest.mark.parametrize("k", [1, 4, D])
def test_pca_fvu_is_the_share_of_variance_in_the_components_left_out(rows, k):
    basis = fit_pca(rows.split(500))
    documents = torch.arange(len(rows)) // 100
    record = evaluate_reconstruction({"pca": basis.dictionary(k)}, [(rows, documents)])["pca"].record
    assert record.fvu == pytest.approx(float(basis.variances[k:].sum() / basis.variances.sum()), rel=1e-4, abs=1e-9)
    assert record.l0 == k == record.d_sae
    assert record.dead_fraction == 0.0
    assert record.over_10pct_fraction == 1.0


def test_pca_codes_are_the_projections(rows):
    basis = fit_pca([rows])
    code = basis.dictionary(3).encode(rows[:50]).to_dense()
    expected = (rows[:50].double() - basis.mean) @ basis.components[:3].T
    torch.testing.assert_close(code.double(), expected, rtol=1e-3, atol=1e-3)


def test_bad_input(rows):
    with pytest.raises(UserError, match="at least 2 training rows, got 0"):
        fit_pca([])
    with pytest.raises(UserError, match="at least 2 training rows, got 1"):
        fit_pca([rows[:0], rows[:1]])
    with pytest.raises(UserError, match="NaN or infinity"):
        fit_pca([torch.full((4, D), torch.nan)])
    for k in (0, D + 1):
        with pytest.raises(UserError, match=f"{k} components: the site is {D} wide"):
            fit_pca([rows]).dictionary(k)
