"""Sparse training is exact: 200 float64 steps make the weights that dense products make, and the gradients of a float32
step are the float64 ones to rounding."""

from __future__ import annotations

import copy

import pytest
import torch

from monosemy.config import TrainingConfig
from monosemy.kernels import dispatch, reference
from monosemy.saes.base import SaeConfig, StepInfo
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
    trainee.initialise(batch())
    metrics = [trainee.step(batch(), index) for index in range(STEPS)]
    weights = {name: p.detach().clone() for name, p in sae.state_dict().items()}
    return (
        weights,
        [step_metrics["loss"] for step_metrics in metrics],
        [step_metrics["fvu"] for step_metrics in metrics],
    )


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


def gradients(sae: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    dead = torch.zeros(sae.d_sae, dtype=torch.bool)
    dead[: sae.d_sae // 8] = True
    output = sae.losses(x, StepInfo(0.5, 12.0, 1e-3, dead))
    output.total.backward()
    return output.latents.to_dense() > 0, {name: p.grad for name, p in sae.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_of_one_step_in_float32_are_the_float64_reference_to_rounding(architecture, monkeypatch):
    """Wide enough for the 8-bit screen where the processor has it; AuxK active in those that have it."""
    random = torch.Generator().manual_seed(3)
    d, m, n = 96, 2048, 512
    planted = torch.nn.functional.normalize(torch.randn(400, d, generator=random), dim=1)
    x = (torch.rand(n, 400, generator=random) * (torch.rand(n, 400, generator=random) < 0.03)) @ planted
    x /= x.square().sum(1).mean().sqrt()
    sae = build_sae(SaeConfig(architecture, d, m, 12, options={"k_start_factor": 1.0}))
    sae.initialise(x, 12.0)
    for parameter in sae.parameters():  # no two alike, and no threshold on a pre-activation that it was read from
        parameter.data *= 1 + 0.01 * torch.rand(parameter.shape, generator=random)
    exact = copy.deepcopy(sae).double()
    monkeypatch.setattr(dispatch, "DENSE_ABOVE", 2.0)
    selected, computed = gradients(sae, x)
    monkeypatch.setattr(dispatch, "DENSE_ABOVE", -1.0)
    monkeypatch.setattr(dispatch, "_backend", lambda tensor: reference)
    expected_selected, expected = gradients(exact, x.double())
    assert torch.equal(selected, expected_selected)  # no pre-activation of this seed is on its threshold
    assert computed.keys() == expected.keys()
    for name, gradient in expected.items():
        error = (computed[name].double() - gradient).norm() / gradient.norm().clamp(min=1e-12)
        assert error < 3e-6, (name, float(error))
