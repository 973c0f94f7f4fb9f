"""Nested dictionaries: their widths, names and settings, and that a prefix serves without the rest."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from monosemy.config import TrainingConfig
from monosemy.errors import UserError
from monosemy.saes.base import SaeConfig, StepInfo, calibrate
from monosemy.saes.prefixes import prefix_widths
from monosemy.saes.registry import build_sae
from monosemy.saes.storage import load_sae, save_sae
from monosemy.training.trainee import Trainee

NAMES = ("matryoshka_batch_topk", "matryoshka_jumprelu")
PLAIN = {"matryoshka_batch_topk": "batch_topk", "matryoshka_jumprelu": "jumprelu"}


@pytest.mark.parametrize(
    ("shares", "d_sae", "widths"),
    [((0.0625, 0.125, 0.25, 0.5), 4096, (256, 512, 1024, 2048, 4096)), ((), 9, (9,)), ((0.01,), 10, (1, 10))],
)
def test_widths_are_shares_of_the_dictionary_and_end_with_all_of_it(shares, d_sae, widths):
    assert prefix_widths(shares, d_sae) == widths


@pytest.mark.parametrize("shares", [(0.5, 0.25), (0.25, 0.25), (0.01, 0.02)])
def test_widths_that_do_not_rise_are_refused_with_the_numbers(shares):
    with pytest.raises(UserError, match="of 20 latents and must rise"):
        prefix_widths(shares, 20)


@pytest.mark.parametrize("name", NAMES)
def test_without_prefixes_it_is_the_plain_architecture(name):
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) / 8**0.5
    nested, plain = (build_sae(SaeConfig(kind, 8, 32, 4)) for kind in (name, PLAIN[name]))
    off = build_sae(SaeConfig(name, 8, 32, 4, options={"prefixes": []}))
    for sae in (nested, plain, off):
        sae.initialise(x, 4)
    assert nested.widths == (2, 4, 8, 16, 32)
    assert plain.widths == off.widths == (32,)
    losses = [sae.losses(x, StepInfo(0.5, 4, 0.01)).total.item() for sae in (nested, plain, off)]
    assert losses[1] == losses[2] != losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_saved_under_its_name_with_its_widths(name, tmp_path):
    sae = build_sae(SaeConfig(name, 8, 32, 4, options={"prefixes": [0.25]}))
    save_sae(sae, tmp_path / "sae")
    loaded = load_sae(tmp_path / "sae")
    assert (loaded.config.architecture, loaded.widths) == (name, (8, 32))
    assert f"{name} SAE" in repr(loaded)


@pytest.mark.parametrize("name", NAMES)
def test_a_prefix_serves_without_the_rest_and_the_l0_lands(name):
    """On planted directions the first half of a nested dictionary explains more than that of a plain one."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(48, 16, generator=generator), dim=1)
    rates = torch.linspace(0.15, 0.01, 48)

    def batch(n: int) -> torch.Tensor:
        code = (torch.rand(n, 48, generator=generator) < rates) * torch.rand(n, 48, generator=generator)
        x = code @ directions
        return x / x.square().sum(1).mean().sqrt()

    fresh, left_over = batch(4096), {}
    for architecture in (name, PLAIN[name]):
        sae = build_sae(SaeConfig(architecture, 16, 48, 4))
        trainee = Trainee(sae, TrainingConfig(batch_tokens=256), 300, 300 * 256)
        trainee.initialise(batch(2048))
        for step in range(300):
            trainee.step(batch(256), step)
        calibrate(sae, [batch(2048)])
        code = sae.encode(fresh)
        assert code.l0 == pytest.approx(4, rel=0.05)
        first_half = dataclasses.replace(code, values=torch.where(code.indices < 24, code.values, 0))
        left_over[architecture] = float((fresh - sae.decode(first_half)).square().sum())
    assert left_over[name] < 0.8 * left_over[PLAIN[name]]
