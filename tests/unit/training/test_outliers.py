"""A single row far outside of all others must not wreck what a SAE has learnt; hard rows must stay in."""

import pytest
import torch

from monosemy.config import TrainingConfig
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import ARCHITECTURES, build_sae
from monosemy.training.outliers import ordinary_rows
from monosemy.training.trainee import Trainee

D, M, ROWS, STEPS, AT = 32, 256, 256, 120, 90


def batches():
    generator = torch.Generator().manual_seed(0)
    planted = torch.nn.functional.normalize(torch.randn(160, D, generator=generator), dim=1)
    rates = 0.12 * torch.arange(1, 161) ** -0.5
    while True:
        on = torch.rand(ROWS, 160, generator=generator) < rates
        x = (on * (0.5 + torch.rand(ROWS, 160, generator=generator))) @ planted
        x += 0.3 * torch.ones(D) / D**0.5 + 0.05 * torch.randn(ROWS, D, generator=generator)
        yield x / 1.8


def trained(architecture: str, length: float, **settings: float) -> tuple[list[float], Trainee]:
    """FVU of each step; at step AT one row (for `length` above 0) drives all latents that it can."""
    # Without restarts, which would repair some of the damage.
    config = TrainingConfig(batch_tokens=ROWS, learning_rate=4e-3, decay_fraction=0.0, restart_share=0.0, **settings)
    sae = build_sae(SaeConfig(architecture, D, M, 6))
    trainee = Trainee(sae, config, STEPS, STEPS * ROWS)
    stream, fvus = batches(), []
    trainee.initialise(next(stream))
    for index in range(STEPS):
        x = next(stream)
        if index == AT and length:
            x[5] = length * torch.nn.functional.normalize(sae.W_enc.detach().sum(1), dim=0)
        fvus.append(trainee.step(x, index)["fvu"])
    return fvus, trainee


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "topk"])
def test_one_row_cannot_wreck_a_dictionary(architecture):
    clean, undisturbed = trained(architecture, 0)
    guarded_fvus, guarded = trained(architecture, 40)
    wrecked, _ = trained(architecture, 40, outlier_error=0)
    assert undisturbed.n_left_out <= 2  # of 30,720 rows
    assert guarded.n_left_out == undisturbed.n_left_out + 1
    after = slice(AT + 1, STEPS)
    assert sum(guarded_fvus[after]) == pytest.approx(sum(clean[after]), rel=0.01)
    assert sum(wrecked[after]) > 1.05 * sum(clean[after])


FEW = torch.full((100,), 3)
"""Every row has as many entries."""


def test_a_row_that_is_merely_hard_stays():
    x = torch.ones(100, 4)
    x[7] = torch.tensor([40.0, -3.0, 0.0, 0.0])
    assert ordinary_rows(x, torch.where(torch.arange(100)[:, None] == 7, 0.0, 0.99 * x), FEW, 100) is None


def test_only_the_wrecking_row_is_left_out():
    x = torch.ones(100, 4)
    reconstruction = 0.99 * x
    reconstruction[7] = -50
    keep = ordinary_rows(x, reconstruction, FEW, 100)
    assert keep is not None
    assert (~keep).nonzero().tolist() == [[7]]
    assert ordinary_rows(x, reconstruction, FEW, 0) is None


def test_a_row_that_drives_far_more_latents_is_left_out_before_it_is_worse_than_nothing():
    x = torch.ones(100, 4)
    x[7] = 40
    reconstruction = torch.where(torch.arange(100)[:, None] == 7, 0.2 * x, 0.99 * x)
    assert ordinary_rows(x, reconstruction, FEW, 100) is None
    keep = ordinary_rows(x, reconstruction, torch.where(torch.arange(100) == 7, 60, FEW), 100)
    assert keep is not None
    assert (~keep).nonzero().tolist() == [[7]]
    # Many latents alone are no reason: the row is as well reconstructed as others.
    assert ordinary_rows(x, 0.99 * x, torch.where(torch.arange(100) == 7, 60, FEW), 1e4) is None


def test_rows_that_all_fail_are_no_outliers():
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    assert ordinary_rows(x, 9 * x, FEW, 100) is None


def test_nan_rows_are_left_for_the_loss_to_refuse():
    x = torch.ones(100, 4)
    x[3] = torch.nan
    assert ordinary_rows(x, 0.5 * x, FEW, 100) is None
