"""Restarts of dead latents: the new weights against their definition, and latents that come back in training."""

from __future__ import annotations

import pytest
import torch

from monosemy.config import TrainingConfig
from monosemy.saes.base import SaeConfig, SparseAutoencoder
from monosemy.saes.registry import ARCHITECTURES, build_sae
from monosemy.saes.starts import measure_anisotropy, no_anisotropy
from monosemy.training.dead import dead_after_tokens
from monosemy.training.optim import Adam
from monosemy.training.revival import drawn_latents, forget, new_weights
from monosemy.training.trainee import Trainee

D, F, L0 = 16, 48, 3
BATCH = 256


class Planted:
    """Rows that are sums of about L0 of F random directions."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.directions = torch.nn.functional.normalize(torch.randn(F, D, generator=self.generator), dim=1)

    def batch(self) -> torch.Tensor:
        return (torch.rand(BATCH, F, generator=self.generator) < L0 / F).float() @ self.directions / 2


def silenced(sae: SparseAutoencoder, latent: int) -> None:
    """Puts a latent where nothing makes it fire."""
    with torch.no_grad():
        for name, value in (("threshold", 50.0), ("b_gate", -50.0), ("b_enc", -50.0)):
            parameter = getattr(sae, name, None)
            if parameter is not None and parameter.ndim == 1 and (name != "b_enc" or sae.name != "jumprelu"):
                parameter[latent] = value


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_dead_latent_comes_back_in_training(architecture: str) -> None:
    data = Planted()
    sae = build_sae(SaeConfig(architecture, D, F, L0, seed=5))
    trainee = Trainee(sae, TrainingConfig(batch_tokens=BATCH, dead_fraction=0.02), 200, 200 * BATCH)
    trainee.initialise(data.batch())
    silenced(sae, 7)
    restarted = [trainee.step(data.batch(), step)["restarted"] for step in range(200)]
    assert sum(restarted) > 0
    assert int(sae.encode(torch.cat([data.batch() for _ in range(8)])).firing_counts()[7]) > 0


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_without_a_share_nothing_restarts(architecture: str) -> None:
    data = Planted()
    sae = build_sae(SaeConfig(architecture, D, F, L0, seed=5))
    config = TrainingConfig(batch_tokens=BATCH, dead_fraction=0.02, restart_share=0)
    trainee = Trainee(sae, config, 200, 200 * BATCH)
    trainee.initialise(data.batch())
    silenced(sae, 7)
    assert sum(trainee.step(data.batch(), step)["restarted"] for step in range(20)) == 0


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_restarted_latent_fires_as_often_as_an_average_one_and_lowers_the_error(architecture: str) -> None:
    """An SAE that lacks one of the planted directions gets it back with the first restart."""
    data = Planted()
    sae = build_sae(SaeConfig(architecture, D, F, L0, seed=5))
    trainee = Trainee(sae, TrainingConfig(batch_tokens=BATCH), 200, 200 * BATCH)
    trainee.initialise(data.batch())
    for step in range(100):
        trainee.step(data.batch(), step)
    silenced(sae, 7)
    x = data.batch()
    before = trainee.forward(x, 100)
    trainee.tracker.silent_tokens.zero_()
    trainee.tracker.silent_tokens[7] = 10**9
    assert trainee.restart_dead(x, 100, before) == 1
    after = trainee.forward(x, 100).output
    fired = after.latents.firing_counts()[7]
    assert 1 <= int(fired) <= 8 * L0 * BATCH // F
    # Where the L0 is kept, it displaces other latents; ReLU's bias takes part of the value away.
    if architecture == "gated":
        error = before.residual.square().sum()
        assert float((x - after.reconstruction).square().sum()) < 1.02 * float(error)


def test_new_weights_follow_their_definition() -> None:
    generator = torch.Generator().manual_seed(1)
    size = torch.ones(D)
    size[0] = 20.0
    x = torch.randn(BATCH, D, generator=generator) * size
    sae = build_sae(SaeConfig("jumprelu", D, F, 12, seed=5))
    sae.initialise(x, 12)
    # What is left over are multiples of two directions, so restarts can only take these.
    directions = torch.linalg.qr(torch.randn(D, 2, generator=generator))[0].T
    residual = torch.randn(BATCH, 1, generator=generator).exp() * directions[torch.arange(BATCH) % 2]
    anisotropy = measure_anisotropy(x - x.mean(0), 12)
    assert len(anisotropy.excess) == 1
    latents = torch.tensor([3, 9, 20])
    new = new_weights(sae, latents, x, residual, anisotropy=anisotropy, generator=generator)
    assert torch.allclose((new.decoder @ directions.T).abs().amax(1), torch.ones(3), atol=1e-5)
    M = torch.eye(D) - anisotropy.directions.T @ (anisotropy.excess[:, None] * anisotropy.directions)
    filters = M @ M @ new.decoder.T
    cosine = torch.nn.functional.cosine_similarity(filters, new.encoder, dim=0)
    assert torch.allclose(cosine, torch.ones(3), atol=1e-4)
    gains = (new.encoder * new.decoder.T).sum(0)
    assert bool(((gains > 0.00099) & (gains < 1.001)).all())
    values = torch.where(new.answers > new.thresholds, new.answers, 0)
    addition = values @ new.decoder
    assert float((residual - addition).square().sum()) < float(residual.square().sum())
    fires = ((x - sae.b_dec) @ new.encoder > new.thresholds).sum(0)
    assert bool((fires <= round(12 * BATCH / F)).all())
    assert bool((fires >= 1).all())


def test_many_latents_that_answer_the_same_error_restart_at_a_size_that_still_lowers_it() -> None:
    """Each of them alone would remove the error; added up at those sizes they would overshoot it many times."""
    generator = torch.Generator().manual_seed(3)
    direction = torch.nn.functional.normalize(torch.randn(D, generator=generator), dim=0)
    x = torch.randn(BATCH, D, generator=generator) * 0.01 + torch.randn(BATCH, 1, generator=generator).exp() * direction
    sae = build_sae(SaeConfig("jumprelu", D, F, F // 2, seed=5))
    with torch.no_grad():
        sae.b_dec.zero_()
    anisotropy = no_anisotropy(sae.W_dec)
    new = new_weights(sae, torch.arange(24), x, x, anisotropy=anisotropy, generator=generator)
    addition = torch.where(new.answers > new.thresholds, new.answers, 0) @ new.decoder
    error, before = (x - addition).square().sum(), x.square().sum()
    assert float(error) < 0.9 * float(before)
    # No common factor lowers the error further.
    assert float((addition * (x - addition)).sum() / addition.square().sum()) == pytest.approx(0, abs=1e-4)


def test_the_draw_depends_on_the_seed_alone_and_takes_its_share() -> None:
    dead = torch.arange(200) % 2 == 0
    draws = [drawn_latents(dead, 0.05, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert len(draws[0]) == 10
    assert len(set(draws[0].tolist())) == 10
    assert bool(dead[draws[0]].all())
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert len(drawn_latents(torch.arange(30) == 4, 0.001, torch.Generator())) == 1


def test_restarted_latents_get_the_moments_of_an_average_living_one() -> None:
    sae = build_sae(SaeConfig("jumprelu", D, F, L0))
    adam = Adam(sae, 0.5, 0.9)
    for moments in (adam.first, adam.second):
        for moment in moments.values():
            moment.copy_(torch.rand(moment.shape, generator=torch.Generator().manual_seed(0)))
    second = {name: moment.clone() for name, moment in adam.second.items()}
    living = torch.arange(F) != 7
    forget(adam, torch.tensor([7]), living)
    assert float(adam.first["W_enc"][:, 7].abs().max()) == 0
    assert float(adam.first["W_dec"][7].abs().max()) == 0
    assert float(adam.first["W_enc"].abs().sum(0).gt(0).sum()) == F - 1
    assert torch.allclose(adam.second["W_enc"][:, 7], second["W_enc"][:, living].mean().expand(D))
    assert torch.allclose(adam.second["threshold"][7], second["threshold"][living].mean())
    assert torch.equal(adam.second["W_dec"][living], second["W_dec"][living])
    assert torch.equal(adam.second["b_dec"], second["b_dec"])


@pytest.mark.parametrize(("n_train_tokens", "expected"), [(1_000_000, 30_000), (1_000, 256)])
def test_latents_are_dead_after_a_share_of_the_run_but_at_least_one_batch(n_train_tokens: int, expected: int) -> None:
    assert dead_after_tokens(TrainingConfig(batch_tokens=256), n_train_tokens) == expected
