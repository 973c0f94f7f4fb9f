"""A step of the optimizer against Adam in float64, the schedule at points worked out by hand, and the options."""

import math

import pytest
import torch

from monosemy.config import TrainingConfig
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import ARCHITECTURES, build_sae
from monosemy.saes.starts import measure_anisotropy
from monosemy.training.optim import Adam, default_rate, parameter_units, schedule
from monosemy.training.trainee import Trainee


def moved(architecture: str, factor: float, *, mean: float = 0.0, size: float = 0.25) -> dict[str, torch.Tensor]:
    """What one step on rows of that mean and size adds to every parameter."""
    x = mean + size * torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    sae = build_sae(SaeConfig(architecture, 16, 48, 4, options={"bias_rate_factor": factor}))
    trainee = Trainee(sae, TrainingConfig(batch_tokens=64, learning_rate=1e-2), 100, 6400)
    trainee.initialise(x)
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
    # Adam's first step has the learning rate of the schedule's start, whatever the gradient's size: for b_dec in units
    # of the rows' spread, which the rows here have by construction, 64 of them to a few per cent.
    assert float(whole["b_dec"].abs().max()) == pytest.approx(1e-3, rel=0.1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_steps_are_in_the_units_of_the_data(architecture: str) -> None:
    """Rows of a tenth of the size, far from zero: parameters in the input's unit move a tenth as far, weights alike."""
    wide, narrow = moved(architecture, 1.0), moved(architecture, 1.0, mean=0.2, size=0.025)
    scaled = set(build_sae(SaeConfig(architecture, 16, 48, 4)).scaled)
    assert {"b_dec"} < scaled & set(wide)
    for name, step in wide.items():
        expected = 0.1 * step.abs().max() if name in scaled else step.abs().max()
        assert float(narrow[name].abs().max()) == pytest.approx(float(expected), rel=0.02), name


def test_units_are_the_spread_and_the_median_response() -> None:
    x = 5 + torch.randn(64, 16, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 17)
    sae = build_sae(SaeConfig("jumprelu", 16, 48, 4))
    sae.initialise(x, 4)
    units = parameter_units(sae, x, measure_anisotropy(x - x.mean(0), 4))
    rows = x.double() - x.double().mean(0)
    response = (rows @ sae.W_enc.detach().double()).square().mean(0).sqrt().sort().values[23]  # the lower median of 48
    assert set(units) == {"b_enc", "b_dec", "threshold"}
    assert units["b_dec"] == pytest.approx(float(rows.square().sum(1).mean().sqrt()), rel=1e-5)
    assert units["b_enc"] == units["threshold"] == pytest.approx(4 * float(response), rel=1e-5)


def test_constant_rows_leave_the_rates_as_they_are() -> None:
    sae = build_sae(SaeConfig("topk", 16, 48, 4))
    x = torch.ones(64, 16) / 4
    sae.initialise(x, 4)
    assert set(parameter_units(sae, x, measure_anisotropy(x - x.mean(0), 4)).values()) == {1.0}


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


def test_the_default_rate_turns_rows_of_all_widths_equally_fast() -> None:
    assert default_rate(676, 1024) == pytest.approx(0.005)
    assert default_rate(4 * 676, 1024) == pytest.approx(0.0025)
    assert default_rate(676, 256) == pytest.approx(0.0025)
    assert default_rate(4, 1024) == 0.02


def test_steps_of_the_encoder_are_adams_in_shrunk_coordinates() -> None:
    """W_enc = M V with a dense M: V's own Adam in float64 moves W_enc as the optimizer does."""
    generator = torch.Generator().manual_seed(0)
    size = torch.ones(16)
    size[3] = 30.0
    x = (torch.randn(512, 16, generator=generator) * size) @ torch.linalg.qr(torch.randn(16, 16, generator=generator))[
        0
    ]
    sae = build_sae(SaeConfig("topk", 16, 48, 8))
    sae.initialise(x, 8)
    adam = Adam(sae, 0.5, 0.9)
    adam.adapt(x)
    directions, excess = adam.anisotropy.directions.double(), adam.anisotropy.excess.double()
    assert directions.shape == (1, 16)
    others = (x - x.mean(0)).double().square().sum() / 512 - 1
    along = ((x - x.mean(0)).double() @ directions.T).square().mean()
    s = float(((others + 1 - along) / 15 / along).sqrt())
    assert 1 - float(excess) == pytest.approx(s, rel=0.02)
    M = torch.eye(16, dtype=torch.float64) - directions.T @ (excess[:, None] * directions)
    expected, first, second = sae.W_enc.detach().double(), torch.zeros(16, 48).double(), torch.zeros(16, 48).double()
    rows = sae.W_dec.detach().clone()
    for step in range(1, 4):
        sae.W_enc.grad = torch.randn(16, 48, generator=generator)
        sae.W_dec.grad = torch.randn(48, 16, generator=generator)
        gradient = M @ sae.W_enc.grad.double()
        first, second = 0.5 * first + 0.5 * gradient, 0.9 * second + 0.1 * gradient**2
        expected = expected - 1e-2 * M @ (first / (1 - 0.5**step) / ((second / (1 - 0.9**step)).sqrt() + 1e-8))
        adam.step(1e-2)
    assert torch.allclose(sae.W_enc.double(), expected, rtol=0, atol=1e-5)
    # The two dense latents' decoder rows turn by about s of what the others turn by.
    turns = (sae.W_dec.detach() - rows).norm(dim=1)
    assert float(turns[:2].mean() / turns[2:].mean()) == pytest.approx(s, rel=0.5)
