"""Sparse training is exact: over 200 steps in float64 it makes the weights that dense products make."""

from __future__ import annotations

import pytest
import torch

from monosemy.config import TrainingConfig
from monosemy.kernels import dispatch, reference
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import ARCHITECTURES, build_sae
from monosemy.training.trainee import Trainee

STEPS, ROWS, D, M = 200, 64, 12, 48


def trained(architecture: str) -> tuple[dict[str, torch.Tensor], list[float], list[float]]:
    random = torch.Generator().manual_seed(0)
    planted = torch.nn.functional.normalize(torch.randn(30, D, generator=random, dtype=torch.float64), dim=1)

    def batch() -> torch.Tensor:
        code = torch.rand(ROWS, 30, generator=random, dtype=torch.float64)
        code *= torch.rand(ROWS, 30, generator=random) < 0.1
        x = code @ planted
        return x / x.square().sum(1).mean().sqrt()

    sae = build_sae(SaeConfig(architecture, D, M, 3)).double()
    trainee = Trainee(sae, TrainingConfig(batch_tokens=ROWS, dead_fraction=0.05), STEPS, STEPS * ROWS)
    sae.initialise(batch(), trainee.target_l0(0.0))
    metrics = [trainee.step(batch(), index) for index in range(STEPS)]
    weights = {name: p.detach().clone() for name, p in sae.state_dict().items()}
    return weights, [one["loss"] for one in metrics], [one["fvu"] for one in metrics]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_two_hundred_steps_equal_the_dense_reference(architecture, monkeypatch):
    monkeypatch.setattr(dispatch, "DENSE_ABOVE", 2.0)  # never dense
    sparse, losses, fvu = trained(architecture)
    monkeypatch.setattr(dispatch, "DENSE_ABOVE", -1.0)  # always dense products, and the definitions in PyTorch
    monkeypatch.setattr(dispatch, "_backend", lambda tensor: reference)
    dense, dense_losses, _ = trained(architecture)
    assert min(fvu) < 0.9 * fvu[0]  # it learns; the last may be higher, since the asked L0 falls
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(dense_losses), rtol=1e-8, atol=1e-10)
    for name, tensor in dense.items():
        torch.testing.assert_close(sparse[name], tensor, rtol=1e-7, atol=1e-9)
