"""What the options of the optimizer do to a step."""

import pytest
import torch

from monosemy.config import TrainingConfig
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import ARCHITECTURES, build_sae
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
