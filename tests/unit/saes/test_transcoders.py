"""Transcoders of every architecture: losses and gradients by definition, folding, starts, restarts, planted maps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from monosemy.config import TrainingConfig
from monosemy.kernels import dispatch
from monosemy.saes.base import SaeConfig, SparseAutoencoder, StepInfo
from monosemy.saes.formats import export
from monosemy.saes.registry import ARCHITECTURES, architecture
from monosemy.saes.starts import SHRINKAGE, no_anisotropy, regressed_encoder
from monosemy.saes.storage import load_sae, save_sae
from monosemy.saes.transforms import transcoding
from monosemy.training.revival import new_weights
from monosemy.training.trainee import Trainee

D_IN, D_OUT, M, N = 6, 5, 17, 11
NESTED = (1, 2, 4, 8, M)
"""1/16, 1/8, 1/4, 1/2 and all of the latents."""
STEP = StepInfo(progress=0.5, l0=3, sparsity_coef=0.07)


@pytest.fixture(params=["sparse kernels", "dense products"])
def density(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways an operation can run, whatever the density of these small codes."""
    monkeypatch.setattr(dispatch, "DENSE_ABOVE", 2.0 if request.param == "sparse kernels" else -1.0)


def rows(n: int = N, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Inputs and outputs [n, ·] at E‖·‖² about 1, both with a mean."""
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(n, d, generator=generator, dtype=torch.float64) for d in (D_IN, D_OUT))
    return (x + 0.3) / D_IN**0.5, (y - 0.4) / D_OUT**0.5


def make(name: str, *, skip: bool = True, **changes: Any) -> SparseAutoencoder:
    """A float64 transcoder whose parameters are all away from their starting values."""
    config = SaeConfig(
        name, d_in=D_IN, d_sae=M, l0=3, seed=4, site="layers.2.mlp_in", site_out="layers.2.mlp_out", d_out=D_OUT,
        transforms=transcoding(skip=skip),
    )  # fmt: skip
    if name.endswith("jumprelu"):  # with a fixed λ, thresholds stay where they are put; rates of so few rows are high
        config = dataclasses.replace(config, options={"sparsity_coef": STEP.sparsity_coef, "frequency_coef": 0.0})
    sae = architecture(name)(dataclasses.replace(config, **changes)).double()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=0.1)
        sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))
        sae.input_mean.copy_(torch.randn(sae.d_in, generator=generator))
        if sae.name == "jumprelu":
            sae.threshold.copy_(0.1 + 0.2 * torch.rand(M, generator=generator))
        if sae.name == "batch_topk":
            sae.threshold.fill_(0.2)
    return sae


def affine(sae: Any, x: Tensor) -> Tensor:
    linear_path = (x - sae.input_mean) @ sae.W_skip.T if sae.config.transforms.skip else 0
    return sae.b_dec + linear_path


def dense_code(sae: Any, x: Tensor) -> Tensor:
    """The code of training, without the kernels."""
    linear = (x - sae.input_mean) @ sae.W_enc
    if sae.name == "gated":
        return (linear + sae.b_gate > 0) * (linear * sae.r_mag.exp() + sae.b_mag).relu()
    pre = linear + sae.b_enc
    if sae.name == "topk":
        return pre.relu() * (pre >= pre.topk(3, dim=1).values[:, -1:])
    if sae.name == "batch_topk":
        return pre.relu() * (pre >= pre.flatten().topk(3 * len(x)).values[-1])
    return pre.relu() * (pre > sae.threshold) if sae.name == "jumprelu" else pre.relu()


def dense_loss(sae: Any, x: Tensor, y: Tensor) -> Tensor:
    """mean‖y − ŷ‖² / Var y and the architecture's own terms. JumpReLU's thresholds have another gradient."""
    unit = (y - y.mean(0)).square().sum(1).mean()
    code = dense_code(sae, x)
    widths = NESTED if sae.config.architecture.startswith("matryoshka") else (M,)
    errors = [(y - affine(sae, x) - code[:, :w] @ sae.W_dec[:w]).square().sum(1).mean() for w in widths]
    loss = sum(errors) / len(widths) / unit
    if sae.name == "relu":
        return loss + STEP.sparsity_coef * code.sum(1).mean() / unit.sqrt()
    if sae.name == "gated":
        gate = ((x - sae.input_mean) @ sae.W_enc + sae.b_gate).relu()
        aux = (y - affine(sae, x).detach() - gate @ sae.W_dec.detach()).square().sum(1).mean() / unit
        return loss + aux + STEP.sparsity_coef * gate.sum(1).mean() / unit.sqrt()
    return loss + (STEP.sparsity_coef * (code > 0).sum(1).double().mean() if sae.name == "jumprelu" else 0)


@pytest.mark.usefixtures("density")
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_loss_and_gradients_are_those_of_the_definition(name: str, skip: bool) -> None:
    sae, (x, y) = make(name, skip=skip), rows()
    output = sae.losses(x, STEP, sae.target(x, y))
    expected = dense_loss(sae, x, y)
    assert output.total.item() == pytest.approx(expected.item(), abs=1e-12)
    parameters = {n: p for n, p in sae.named_parameters() if n != "threshold"}
    assert ("W_skip" in parameters) == skip
    ours, dense = (torch.autograd.grad(loss, list(parameters.values())) for loss in (output.total, expected))
    for parameter, gradient, reference in zip(parameters, ours, dense, strict=True):
        assert (gradient - reference).abs().max() < 1e-9, parameter
        assert gradient.abs().max() > 0, parameter


@pytest.mark.parametrize("name", ["topk", "gated"])
def test_the_linear_path_and_the_bias_descend_as_finite_differences_say(name: str) -> None:
    sae, (x, y) = make(name), rows()
    if name == "gated":  # its auxiliary error holds both fixed, on purpose
        sae.options = dataclasses.replace(sae.options, aux_coef=0.0)
    sae.losses(x, STEP, sae.target(x, y)).total.backward()
    for parameter in (sae.W_skip, sae.b_dec):
        step = torch.randn(parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 1e-6
        with torch.no_grad():
            parameter.add_(step)
            above = sae.losses(x, STEP, sae.target(x, y)).total
            parameter.sub_(2 * step)
            below = sae.losses(x, STEP, sae.target(x, y)).total
            parameter.add_(step)
        assert (above - below).item() == pytest.approx(2 * (parameter.grad * step).sum().item(), rel=1e-5)


def test_dead_latents_are_pulled_by_the_error_of_the_output() -> None:
    dead = torch.arange(M) < 8
    sae, (x, y) = make("topk", options={"aux_coef": 0.5, "k_aux": 4}), rows()
    output = sae.losses(x, dataclasses.replace(STEP, dead=dead), sae.target(x, y))
    pre = (x - sae.input_mean) @ sae.W_enc + sae.b_enc
    residual = (y - affine(sae, x) - dense_code(sae, x) @ sae.W_dec).detach()
    scores = pre.masked_fill(~dead, -torch.inf)
    estimate = (pre.relu() * (scores >= scores.topk(4, dim=1).values[:, -1:])) @ sae.W_dec
    aux = (residual - estimate).square().sum() / residual.square().sum()
    assert output.terms["aux"].item() == pytest.approx(aux.item(), abs=1e-12)
    own = torch.autograd.grad(output.total, sae.W_dec)[0]
    reference = torch.autograd.grad(dense_loss(sae, x, y) + 0.5 * aux, sae.W_dec)[0]
    assert (own - reference).abs().max() < 1e-9


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_saved_transcoder_reads_and_gives_raw_rows(name: str, skip: bool, tmp_path: Path) -> None:
    """folded(x) = C_out · unfolded(x / C_in), with codes times C_out, also after it was saved and opened."""
    sae, (x, _) = make(name, skip=skip), rows(40)
    code, output = sae.encode(x), sae(x)
    assert torch.allclose(output, affine(sae, x) + code.to_dense() @ sae.W_dec, atol=1e-12)
    sae.fold_scale(7.0, 0.3)
    sae.fold_input_mean()
    assert torch.allclose(sae(7.0 * x), 0.3 * output, atol=1e-9)
    save_sae(sae.float(), tmp_path / "sae")
    opened = load_sae(tmp_path / "sae", dtype=torch.float64)
    assert (opened.config.site, opened.config.site_out) == ("layers.2.mlp_in", "layers.2.mlp_out")
    assert opened.config.transforms.transcoder
    assert opened.config.scale == pytest.approx(0.3)
    dense = opened.encode(7.0 * x).to_dense()
    same = (dense > 0) == (code.to_dense() > 0)
    assert same.double().mean() > 0.99  # a pre-activation at its threshold may fall on either side in float32
    assert torch.allclose(torch.where(same, dense, 0), torch.where(same, 0.3 * code.to_dense(), 0), atol=1e-5)
    agrees = same.all(1)
    assert torch.allclose(opened(7.0 * x)[agrees], 0.3 * output[agrees], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "layout"),
    [("topk", "sparsify"), ("jumprelu", "sae-lens"), ("batch_topk", "circuit-tracer"), ("relu", "circuit-tracer")],
)
@pytest.mark.parametrize("skip", [False, True])
def test_a_trained_transcoder_goes_into_other_libraries_layouts_and_back(
    name: str, layout: str, skip: bool, tmp_path: Path
) -> None:
    from monosemy.saes.formats.exported import write_exported

    sae, (x, _) = make(name, skip=skip, d_out=None, d_in=D_OUT, model="someone/model"), rows(40)
    x = x[:, :D_OUT]
    sae.fold_scale(2.0, 0.5)
    sae.fold_input_mean()
    save_sae(sae.float(), tmp_path / "own")
    own = load_sae(tmp_path / "own")
    folder = write_exported(export(own, layout), tmp_path / "theirs")
    opened = load_sae(folder / "layer_2.safetensors" if layout == "circuit-tracer" else folder)
    assert opened.config.transforms == own.config.transforms
    assert torch.allclose(opened.encode(x.float()).to_dense(), own.encode(x.float()).to_dense(), atol=1e-6)
    assert torch.allclose(opened(x.float()), own(x.float()), atol=1e-6)


# --- start, restart -----------------------------------------------------------------------------------------------


def test_the_encoder_starts_as_the_ridge_regression_along_each_decoder_row() -> None:
    x, y = rows(300)
    inputs, outputs = x - x.mean(0), y - y.mean(0)
    W_dec = torch.nn.functional.normalize(torch.randn(M, D_OUT, dtype=torch.float64), dim=1)
    W_enc = regressed_encoder(inputs, outputs, W_dec)
    # At its minimum, the gradient of mean‖y·d − x·w‖² + r‖w‖² vanishes.
    ridge = SHRINKAGE * inputs.square().mean()
    gradient = inputs.T @ (inputs @ W_enc - outputs @ W_dec.T) / len(x) + ridge * W_enc
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_start_predicts_better_than_the_mean_at_its_l0(name: str) -> None:
    x, y = planted(2000)
    sae = architecture(name)(config(name))
    trainee = Trainee(sae, TrainingConfig(batch_tokens=200), 100, 20_000)
    trainee.initialise(x, y)
    output = trainee.forward(x, 0, y).output
    assert output.latents.l0 == pytest.approx(L0, rel=0.1)
    assert float(output.terms["error"]) < 1
    assert torch.allclose(sae.b_dec, y.mean(0))
    assert torch.allclose(sae.input_mean, x.mean(0))


def test_a_restart_reads_like_a_bad_row_and_writes_its_error() -> None:
    x, y = planted(500)
    sae = architecture("jumprelu")(config("jumprelu"))
    sae.initialise(x, L0, y)
    generator = torch.Generator().manual_seed(1)
    residual = torch.randn(500, D_PLANTED + 2, generator=generator)
    anisotropy = no_anisotropy(sae.W_enc.T)
    latents = torch.tensor([3, 9, 20])
    new = new_weights(sae, latents, x, residual, anisotropy=anisotropy, generator=generator)
    centred = x - x.mean(0)
    # Without dominating directions the filter is a row of the batch itself.
    cosine = torch.nn.functional.normalize(new.encoder, dim=0).T @ torch.nn.functional.normalize(centred, dim=1).T
    assert torch.allclose(cosine.amax(1), torch.ones(3), atol=1e-5)
    values = torch.where(centred @ new.encoder > new.thresholds, centred @ new.encoder, 0)
    assert torch.allclose(new.decoder, torch.nn.functional.normalize(values.T @ residual, dim=1), atol=1e-5)
    fires = (values > 0).sum(0)
    assert bool(((fires >= 1) & (fires <= round(L0 * 500 / F) + 1)).all())
    # Each is as large as lowers the error most, times one factor with which all together lower it most.
    best = (values * (residual @ new.decoder.T)).sum(0) / values.square().sum(0)
    assert torch.allclose(best, best[:1].expand(3), rtol=1e-4)
    addition = values @ new.decoder
    assert float((residual * addition).sum() / addition.square().sum()) >= 1 - 1e-4


# --- a planted map ------------------------------------------------------------------------------------------------

D_PLANTED, F, L0, N_PLANTED = 24, 64, 4, 40


def config(name: str, **changes: Any) -> SaeConfig:
    return SaeConfig(
        name, D_PLANTED, F, float(L0), d_out=D_PLANTED + 2, site="a", site_out="b",
        transforms=transcoding(skip=changes.pop("skip", False)), **changes,
    )  # fmt: skip


def planted(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs are sums of 4 of 40 directions; the output writes another direction for each, of the same strength."""
    generator = torch.Generator().manual_seed(7)
    read = torch.nn.functional.normalize(torch.randn(N_PLANTED, D_PLANTED, generator=generator), dim=1)
    write = written_directions()
    rng = torch.Generator().manual_seed(seed)
    order = torch.rand(n, N_PLANTED, generator=rng)
    on = order >= order.topk(L0, dim=1).values[:, -1:]
    code = on * (0.5 + torch.rand(n, N_PLANTED, generator=rng))
    x, y = code @ read + 0.5, code @ write - 0.2
    return x / x.square().sum(1).mean().sqrt(), y / y.square().sum(1).mean().sqrt()


def written_directions() -> Tensor:
    generator = torch.Generator().manual_seed(8)
    return torch.nn.functional.normalize(torch.randn(N_PLANTED, D_PLANTED + 2, generator=generator), dim=1)


@pytest.mark.parametrize("name", ["topk", "jumprelu"])
def test_training_finds_the_planted_outputs(name: str) -> None:
    n_steps, batch = 300, 256
    sae = architecture(name)(config(name))
    trainee = Trainee(sae, TrainingConfig(batch_tokens=batch), n_steps, n_steps * batch)
    trainee.initialise(*planted(4000, seed=1))
    for index in range(n_steps):
        x, y = planted(batch, seed=10 + index)
        trainee.step(x, index, y)
    x, y = planted(2000, seed=2)
    with torch.no_grad():
        fvu = float((y - sae(x)).square().sum() / (y - y.mean(0)).square().sum())
        best = (sae.W_dec @ written_directions().T).amax(0)
    assert fvu < 0.2
    assert float((best > 0.9).float().mean()) > 0.8
    assert sae.encode(x).l0 == pytest.approx(L0, rel=0.25)
