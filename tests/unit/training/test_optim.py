"""A step of the optimizer against Adam in float64, the schedule at points worked out by hand, and the options."""

import math

import pytest
import torch

from monosemy.config import TrainingConfig
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import ARCHITECTURES, build_sae
from monosemy.training.optim import Adam, schedule
from monosemy.training.trainee import Trainee


def moved(architecture: str, factor: float) -> dict[str, torch.Tensor]:
    """What one step adds to every parameter."""
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0)) / 4
    sae = build_sae(SaeConfig(architecture, 16, 48, 4, options={"bias_rate_factor": factor}))
    trainee = Trainee(sae, TrainingConfig(batch_tokens=64, learning_rate=1e-2), 100, 6400)
    sae.initialise(x, trainee.target_l0(0))
    before = {name: p.detach().clone() for name, p in sae.named_parameters()}
    trainee.step(x, 0)
    return {name: p.detach() - before[name] for name, p in sae.named_parameters()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_biases_step_is_their_factor_of_the_others(architecture: str) -> None:
    whole, slow = moved(architecture, 1.0), moved(architecture, 0.1)
    biases = [name for name in whole if name.startswith("b_")]
    assert {"b_dec"} < set(biases)
    for name, step in whole.items():
        factor = 0.1 if name in biases else 1.0
        assert torch.allclose(slow[name], factor * step, rtol=0, atol=1e-6)
        # Adam's first step: the learning rate of the schedule's start, whatever the gradient's size
        if name in biases:
            assert float(step.abs().max()) == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize(
    ("progress", "factor"),
    [
        (0.0, 0.1),
        (0.05, 0.55),  # halfway up the cosine
        (0.025, 0.1 + 0.45 * (1 - math.sqrt(0.5))),
        (0.1, 1.0),
        (0.5, 1.0),
        (0.8, 1.0),
        (0.85, 0.75),
        (0.95, 0.25),
        (1.0, 0.0),
    ],
)
def test_the_rate_rises_along_a_cosine_stays_and_falls_in_a_line(progress: float, factor: float) -> None:
    assert schedule(progress, 0.1, 0.2) == pytest.approx(factor, abs=1e-12)


def test_without_warm_up_and_decay_the_rate_is_constant() -> None:
    assert [schedule(progress, 0.0, 0.0) for progress in (0.0, 0.3, 1.0)] == [1.0, 1.0, 1.0]


def test_steps_are_adams_and_decoder_rows_turn_without_growing() -> None:
    """Against bias-corrected Adam written out in float64, over steps of different size and rate."""
    beta1, beta2, epsilon = 0.8, 0.95, 1e-8
    sae = build_sae(SaeConfig("topk", 8, 12, 2, options={"bias_rate_factor": 0.5}))
    adam = Adam(sae, beta1, beta2)
    expected = {name: p.detach().double() for name, p in sae.named_parameters()}
    first = {name: torch.zeros_like(p) for name, p in expected.items()}
    second = {name: torch.zeros_like(p) for name, p in expected.items()}
    draw = torch.Generator().manual_seed(3)
    for step, rate in enumerate((1e-2, 3e-3, 2e-2, 1e-2), start=1):
        for name, parameter in sae.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=draw) * step
            gradient = parameter.grad.double()
            if name == "W_dec":
                along = (gradient * expected[name]).sum(1, keepdim=True)
                gradient = gradient - along * expected[name]
            first[name] = beta1 * first[name] + (1 - beta1) * gradient
            second[name] = beta2 * second[name] + (1 - beta2) * gradient**2
            mean, square = first[name] / (1 - beta1**step), second[name] / (1 - beta2**step)
            own_rate = rate * (0.5 if name.startswith("b_") else 1)
            expected[name] = expected[name] - own_rate * mean / (square.sqrt() + epsilon)
            if name == "W_dec":
                expected[name] /= expected[name].norm(dim=1, keepdim=True)
        adam.step(rate)
        for name, parameter in sae.named_parameters():
            assert parameter.grad is None
            torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=1e-5, atol=1e-6)


def test_a_parameter_without_gradient_stays() -> None:
    sae = build_sae(SaeConfig("topk", 8, 12, 2))
    before = {name: p.detach().clone() for name, p in sae.named_parameters()}
    sae.b_dec.grad = torch.ones(8)
    Adam(sae, 0.9, 0.999).step(1e-2)
    for name, parameter in sae.named_parameters():
        assert torch.equal(parameter.detach(), before[name]) is (name != "b_dec")
