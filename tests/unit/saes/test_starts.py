"""Starts of encoders and thresholds, on data whose variance lies in a few directions and whose mean is large."""

import pytest
import torch

from monosemy.config import TrainingConfig
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import ARCHITECTURES, build_sae
from monosemy.saes.starts import (
    distortionless_encoder,
    measure_anisotropy,
    quantile_of_l0,
    start_weights,
    thresholds_of_equal_rate,
)
from monosemy.training.trainee import Trainee

D, F, N = 16, 48, 2000


def dominated_rows(n: int = N, seed: int = 0) -> torch.Tensor:
    """Rows [n, D] of which two directions hold nearly all variance, at a mean much larger than that."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.ones(D)
    size[:2] = 20.0
    return 50 + size * torch.randn(n, D, generator=generator)


def test_the_encoder_answers_its_decoder_row_with_one_and_minimises_the_rest() -> None:
    x = dominated_rows().double()
    centred = x - x.mean(0)
    W_dec = torch.nn.functional.normalize(torch.randn(F, D, generator=torch.Generator().manual_seed(1)).double(), dim=1)
    W_enc = distortionless_encoder(centred, W_dec)
    assert torch.allclose((W_enc * W_dec.T).sum(0), torch.ones(F, dtype=torch.float64), atol=1e-9)
    S = centred.T @ centred / N
    S = S + S.trace() / D * torch.eye(D, dtype=torch.float64)
    # At a constrained minimum of wᵀ S w the gradient S w has no component but along the constraint's d.
    gradient = S @ W_enc
    along = gradient - (gradient * W_dec.T).sum(0) * W_dec.T
    assert along.abs().max() < 1e-9 * gradient.abs().max()


def test_isotropic_rows_keep_the_decoders_transpose() -> None:
    x = torch.cat([torch.eye(D), -torch.eye(D)])
    W_dec = torch.nn.functional.normalize(torch.randn(F, D, generator=torch.Generator().manual_seed(1)), dim=1)
    assert torch.allclose(distortionless_encoder(x, W_dec), W_dec.T, atol=1e-6)
    assert torch.equal(distortionless_encoder(torch.zeros(5, D), W_dec), W_dec.T)


@pytest.mark.parametrize("l0", [0.5, 3.0, 12.0])
def test_all_latents_start_at_one_firing_rate(l0: float) -> None:
    pre = torch.randn(N, F, generator=torch.Generator().manual_seed(2)) * torch.logspace(-2, 2, F)
    fires = pre > thresholds_of_equal_rate(pre, l0)
    assert float(fires.sum(1).float().mean()) == pytest.approx(l0, rel=0.1)
    rates = fires.float().mean(0)
    assert float(rates.max()) <= 1.2 * float(rates.min()) + 2 / N


def test_few_rows_still_give_the_l0() -> None:
    pre = torch.randn(40, 1000, generator=torch.Generator().manual_seed(2))
    fires = pre > thresholds_of_equal_rate(pre, 4.0)
    assert float(fires.sum(1).float().mean()) == pytest.approx(4.0, abs=0.2)


def test_directions_dominate_above_one_bound_and_are_paired_above_both() -> None:
    """Rows ±a_i e_i have variances that are known exactly."""
    shares = torch.tensor([0.5, 0.2, 0.1] + [0.2 / 61] * 61)
    centred = torch.diag((64 * shares).sqrt()).repeat(2, 1) * torch.tensor([1.0, -1.0]).repeat_interleave(64)[:, None]
    for l0, n_paired in ((100.0, 3), (8.0, 2), (4.0, 1), (3.0, 0)):  # ten times what comes after, 1/l0, l0/4
        anisotropy = measure_anisotropy(centred, l0)
        assert torch.allclose(anisotropy.directions.abs(), torch.eye(64)[:3], atol=1e-5)
        others = shares[3]
        assert torch.allclose(1 - anisotropy.excess, (others / shares[:3]).sqrt(), rtol=1e-4)
        assert int(anisotropy.n_paired) == n_paired


def test_shrinking_makes_dominating_directions_like_the_others() -> None:
    centred = dominated_rows(seed=3) - 50
    centred = centred - centred.mean(0)
    shrunk = measure_anisotropy(centred, 16.0).shrink(centred.T).T
    variances = torch.linalg.eigvalsh(shrunk.T @ shrunk / len(shrunk))
    assert float(variances.max() / variances.min()) < 2


def test_dense_latents_take_the_dominating_directions_and_fire_on_every_row() -> None:
    x = dominated_rows()
    x = x / x.square().sum(1).mean().sqrt()
    sae = build_sae(SaeConfig("jumprelu", D, F, 16))
    assert start_weights(sae, x) == 4
    assert torch.allclose(sae.W_dec[0], -sae.W_dec[1])
    assert torch.allclose(sae.W_dec[2], -sae.W_dec[3])
    sae.initialise(x, 16)
    fires = sae.encode(x).to_dense() > 0
    assert bool((fires[:, 0] ^ fires[:, 1]).all())
    error = (x - sae(x)).square().sum() / (x - x.mean(0)).square().sum()
    assert float(error.detach()) < 0.05  # all but what the other directions hold

    frozen = build_sae(SaeConfig("topk", D, F, 16, frozen_decoder=True))
    rows = frozen.W_dec.detach().clone()
    frozen.initialise(x, 16)
    assert torch.equal(frozen.W_dec, rows)


def test_the_quantile_of_an_l0_is_the_score_of_that_rank() -> None:
    scores = torch.arange(20.0).view(4, 5)
    assert quantile_of_l0(scores, 1.5) == 14.0  # the sixth largest of 0 to 19


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_no_latent_starts_silent_where_few_directions_dominate(architecture: str) -> None:
    x = dominated_rows()
    x = x / x.square().sum(1).mean().sqrt()
    sae = build_sae(SaeConfig(architecture, D, F, 6))
    trainee = Trainee(sae, TrainingConfig(batch_tokens=N), 10, 10 * N)
    trainee.initialise(x)
    assert int((sae.encode(x).firing_counts() == 0).sum()) == 0
