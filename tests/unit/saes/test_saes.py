"""Architectures: gradients of the sparse path against dense autograd, folding, purity, calibration, the folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from monosemy.errors import UserError
from monosemy.kernels import dispatch
from monosemy.latents import SparseLatents
from monosemy.saes.base import SaeConfig, SparseAutoencoder, StepInfo, calibrate
from monosemy.saes.losses import Target
from monosemy.saes.registry import ARCHITECTURES, build_sae
from monosemy.saes.storage import load_sae, save_sae

D, M, N = 6, 17, 11
STEP = StepInfo(progress=0.5, l0=3, sparsity_coef=0.07)


@pytest.fixture(params=["sparse kernels", "dense products"])
def density(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways an operation can run, whatever the density of these small codes."""
    monkeypatch.setattr(dispatch, "DENSE_ABOVE", 2.0 if request.param == "sparse kernels" else -1.0)


def rows(n: int = N, seed: int = 1) -> Tensor:
    """Rows [n, D] at E‖x‖² about 1, with a mean."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, D, generator=generator, dtype=torch.float64) + 0.3) / D**0.5


def make(name: str, **changes: Any) -> SparseAutoencoder:
    """A float64 SAE whose parameters are all away from their starting values."""
    config = dataclasses.replace(SaeConfig(architecture=name, d_in=D, d_sae=M, l0=3, seed=4), **changes)
    if name.endswith("jumprelu"):  # with a fixed λ, thresholds stay where they are put; rates of so few rows are high
        config = dataclasses.replace(
            config, options={"sparsity_coef": STEP.sparsity_coef, "frequency_coef": 0.0, **config.options}
        )
    sae = build_sae(config).double()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for key, p in sae.named_parameters():
            noise = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            p.add_(noise, alpha=0.2 if key == "W_enc" else 0.05)
        sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))
        if sae.name == "jumprelu":
            sae.threshold.copy_(0.1 + 0.2 * torch.rand(M, generator=generator, dtype=torch.float64))
        if sae.name == "batch_topk":
            sae.threshold.fill_(0.2)
    return sae


def gradients(sae: SparseAutoencoder, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*sae.named_parameters())
    computed = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, parameters, computed)}


def assert_same(ours: dict[str, Tensor], dense: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    assert ours.keys() == dense.keys()
    for name, gradient in dense.items():
        assert (ours[name] - gradient).abs().max() < tolerance, name


def variance(x: Tensor) -> Tensor:
    return (x - x.mean(0)).square().sum(1).mean()


def square(e: Tensor) -> Tensor:
    return e.square().sum(1).mean()


NESTED = (1, 2, 4, 8, M)
"""1/16, 1/8, 1/4, 1/2 and all of the latents."""


def error(sae: Any, x: Tensor, code: Tensor) -> Tensor:
    """The squared error of the reconstruction, of a nested dictionary the mean over its prefixes."""
    widths = NESTED if sae.config.architecture.startswith("matryoshka") else (M,)
    errors = [square(x - sae.b_dec - code[:, :width] @ sae.W_dec[:width]) for width in widths]
    return sum(errors, torch.zeros(())) / len(widths)


# --- dense re-implementations -------------------------------------------------------------------------------------


def dense_relu(sae: Any, x: Tensor, step: StepInfo, keep: Tensor | None = None) -> Tensor:
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    code = pre.relu() if keep is None else pre * keep
    return error(sae, x, code) / variance(x) + step.sparsity_coef * code.sum(1).mean() / variance(x).sqrt()


def dense_aux(sae: Any, x: Tensor, reconstruction: Tensor, pre: Tensor, dead: Tensor) -> Tensor:
    residual = (x - reconstruction).detach()
    n_dead = min(sae.options.k_aux, int(dead.sum()))
    scores = pre.detach().masked_fill(~dead, -torch.inf)
    mask = torch.zeros_like(pre).scatter(1, scores.topk(n_dead, dim=1).indices, 1.0)
    code = (pre * mask).relu()
    return (residual - code @ sae.W_dec).square().sum() / residual.square().sum()


def dense_topk(sae: Any, x: Tensor, step: StepInfo, keep: Tensor | None = None) -> Tensor:
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    if keep is None:
        if sae.name == "topk":
            keep = torch.zeros_like(pre).scatter(1, pre.topk(round(step.l0), dim=1).indices, 1.0)
        else:
            flat = torch.zeros(pre.numel(), dtype=pre.dtype)
            keep = flat.scatter(0, pre.flatten().topk(round(step.l0 * len(x))).indices, 1.0).view_as(pre)
        keep = keep * (pre > 0)
    reconstruction = sae.b_dec + (pre * keep) @ sae.W_dec
    total = error(sae, x, pre * keep) / variance(x)
    if step.dead is not None:
        total = total + sae.options.aux_coef * dense_aux(sae, x, reconstruction, pre, dead=step.dead)
    return total


def dense_gated(sae: Any, x: Tensor, step: StepInfo) -> Tensor:
    linear = (x - sae.b_dec) @ sae.W_enc
    gate = linear + sae.b_gate
    code = (gate > 0) * (linear * sae.r_mag.exp() + sae.b_mag).relu()
    frozen = sae.b_dec.detach() + gate.relu() @ sae.W_dec.detach()
    errors = square(x - sae.b_dec - code @ sae.W_dec) + sae.options.aux_coef * square(x - frozen)
    return errors / variance(x) + step.sparsity_coef * gate.relu().sum(1).mean() / variance(x).sqrt()


def dense_jumprelu(sae: Any, x: Tensor, step: StepInfo) -> Tensor:
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    inside = window(sae, pre.detach())
    code = DenseJump.apply(pre, sae.threshold, inside, sae.bandwidth)
    firing = DenseStep.apply(pre, sae.threshold, inside, sae.bandwidth)
    return error(sae, x, code) / variance(x) + step.sparsity_coef * firing.sum(1).mean()


@pytest.mark.parametrize("variance_factor", [1, 100])
def test_frequent_latents_pay_for_the_rate_above_the_limit(variance_factor: int) -> None:
    """Against the dense definition: min(1, FVU / 0.1) Σ max(0, p_i − limit)² below 3 · limit, whose gradient reaches θ
    alone."""
    step = dataclasses.replace(STEP, l0=0.5)  # a mean rate far below the limit
    sae, x = make("jumprelu", options={"frequency_coef": 0.7, "frequency_limit": 0.1}), rows()
    firing = DenseStep.apply(
        pre := (x - sae.b_dec) @ sae.W_enc + sae.b_enc, sae.threshold, window(sae, pre.detach()), sae.bandwidth
    )
    rates = firing.mean(0)
    penalised = (rates > 0.1) & (rates < 0.3)
    assert bool(penalised.any())
    assert bool((rates >= 0.3).any())  # dense latents, which are left alone
    penalty = 0.7 * (rates[penalised] - 0.1).square().sum()
    assert penalty.item() > 1e-3
    target = Target(x, variance(x) * variance_factor)
    output = sae.losses(x, step, target)
    fvu = output.terms["error"].item()
    assert (fvu < 0.1) == (variance_factor == 100)
    sparsity = step.sparsity_coef * firing.sum(1).mean()
    error = (dense_jumprelu(sae, x, step) - sparsity) / variance_factor
    expected = error + sparsity + min(1, fvu / 0.1) * penalty
    assert output.total.item() == pytest.approx(expected.item(), abs=1e-12)
    assert_same(gradients(sae, output.total), gradients(sae, expected))
    # Where the mean rate is 3/17, the limit is three times that.
    frequency = sae.losses(x, STEP).terms["frequency"]
    assert frequency.item() == pytest.approx((rates - 9 / M).clamp_min(0).square().sum().item(), abs=1e-12)


DENSE: dict[str, Callable[..., Tensor]] = {
    "relu": dense_relu,
    "topk": dense_topk,
    "batch_topk": dense_topk,
    "gated": dense_gated,
    "jumprelu": dense_jumprelu,
    "matryoshka_batch_topk": dense_topk,
    "matryoshka_jumprelu": dense_jumprelu,
}


# --- gradients ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("density")
@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_gradients_equal_dense_autograd(name: str, seed: int) -> None:
    sae, x = make(name), rows(seed=seed)
    output = sae.losses(x, STEP)
    expected = DENSE[name](sae, x, STEP)
    assert output.total.item() == pytest.approx(expected.item(), abs=1e-12)
    dense = gradients(sae, expected)
    assert all(g.abs().max() > 1e-4 for g in dense.values())  # no parameter is left out of the comparison
    assert_same(gradients(sae, output.total), dense)


@pytest.mark.usefixtures("density")
@pytest.mark.parametrize("name", ["topk", "batch_topk", "matryoshka_batch_topk"])
def test_dead_latent_term_gradients_equal_dense_autograd(name: str) -> None:
    sae, x = make(name, options={"k_aux": 4, "aux_coef": 0.5}), rows()
    step = dataclasses.replace(STEP, dead=torch.arange(M) % 2 == 0)
    computed = gradients(sae, sae.losses(x, step).total)
    assert_same(computed, gradients(sae, DENSE[name](sae, x, step)))
    without = gradients(sae, sae.losses(x, STEP).total)
    assert (computed["W_enc"] - without["W_enc"]).abs().max() > 1e-4


@pytest.mark.usefixtures("density")
@pytest.mark.parametrize("name", ["relu", "topk"])
def test_gradients_equal_finite_differences(name: str) -> None:
    sae, x = make(name), rows()
    output = sae.losses(x, STEP)
    keep = (output.latents.to_dense() != 0).double()  # the selection, fixed
    step = 1e-6
    for key, gradient in gradients(sae, output.total).items():
        parameter = dict(sae.named_parameters())[key]
        flat = torch.empty_like(gradient)
        with torch.no_grad():
            for i in range(parameter.numel()):
                where = tuple(int(j) for j in torch.unravel_index(torch.tensor(i), parameter.shape))
                before = parameter[where].item()
                parameter[where] = before + step
                above = DENSE[name](sae, x, STEP, keep)
                own_above = sae.losses(x, STEP)
                parameter[where] = before - step
                below = DENSE[name](sae, x, STEP, keep)
                own_below = sae.losses(x, STEP)
                parameter[where] = before
                flat[where] = (above - below) / (2 * step)
                for perturbed in (own_above, own_below):  # no entry crosses within the step: the loss stays the same
                    assert ((perturbed.latents.to_dense() != 0) == (keep != 0)).all()
                own = (own_above.total - own_below.total) / (2 * step)
                assert own.item() == pytest.approx(gradient[where].item(), abs=1e-7), (key, where)
        assert (flat - gradient).abs().max() < 1e-7, key


# --- JumpReLU -----------------------------------------------------------------------------------------------------


def jumprelu(**options: Any) -> Any:
    return make("jumprelu", options={"bandwidth_relative": 0.0, "bandwidth": 0.15, **options})


def window(sae: Any, pre: Tensor) -> Tensor:
    """K((π − θ)/ε)."""
    return (((pre - sae.threshold) / sae.bandwidth).abs() < 0.5).double()


@pytest.mark.usefixtures("density")
def test_jumprelu_threshold_gradient_is_the_closed_form() -> None:
    sae, x = jumprelu(), rows(200)
    output = sae.losses(x, STEP)
    computed = gradients(sae, output.total)
    with torch.no_grad():
        pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
        error = x - sae(x)
        inside = window(sae, pre)
        assert inside.sum(0).min() > 0  # every latent has tokens in its window
        assert (inside * (pre < sae.threshold)).sum() > 0  # on both sides of the threshold
        per_token = 2 * sae.threshold * (error @ sae.W_dec.T) / variance(x) - STEP.sparsity_coef
        expected = (per_token * inside / sae.bandwidth).mean(0)
    assert (computed["threshold"] - expected).abs().max() < 1e-9


@pytest.mark.usefixtures("density")
def test_jumprelu_other_gradients_are_those_with_the_step_constant() -> None:
    sae, x = jumprelu(), rows(50)
    computed = gradients(sae, sae.losses(x, STEP).total)
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    step = (pre > sae.threshold).double()
    error = square(x - sae.b_dec - (pre * step) @ sae.W_dec) / variance(x)
    dense = gradients(sae, error + STEP.sparsity_coef * step.sum(1).mean())
    del computed["threshold"], dense["threshold"]
    assert_same(computed, dense)


@pytest.mark.usefixtures("density")
def test_steered_thresholds_give_the_batch_its_l0() -> None:
    """As if every θ had been multiplied before the step: the same loss, and gradients through the product."""
    steered, x, step = jumprelu(sparsity_coef=0.0), rows(200), dataclasses.replace(STEP, l0=4.5)
    output = steered.losses(x, step)
    factor = output.statistic
    assert factor is not None
    assert 0.5 < factor != 1 < 2  # within its bounds, and not idle
    assert int((output.latents.values > 0).sum()) == 900
    plain = jumprelu()
    plain.load_state_dict(steered.state_dict())
    with torch.no_grad():
        plain.threshold.mul_(factor)
    expected = plain.losses(x, step)
    assert output.total.item() == pytest.approx(expected.total.item(), abs=1e-12)
    ours, reference = gradients(steered, output.total), gradients(plain, expected.total)
    reference["threshold"] = factor * reference["threshold"]
    assert_same(ours, reference)
    steered.observe(output, step)
    assert torch.equal(steered.threshold, plain.threshold)


def test_the_balanced_coefficient_leaves_the_common_level_of_thresholds_where_it_is() -> None:
    sae, x = jumprelu(sparsity_coef=0.0), rows(200)
    with torch.no_grad():  # latents that reduce the error, so that their firing is worth something
        sae.W_enc.copy_(0.5 * sae.W_dec.T)
        sae.b_enc.zero_()

    def pull(step: StepInfo) -> float:
        """Σ_i θ_i ∂L/∂θ_i of a step; leaves the gradients in place."""
        sae.zero_grad()
        sae.losses(x, step).total.backward()
        return float((sae.threshold * sae.threshold.grad).sum())

    assert abs(pull(STEP)) > 1e-3
    balanced = sae.balanced_coef(sae.losses(x, STEP), STEP)
    assert balanced > 0
    assert abs(pull(dataclasses.replace(STEP, sparsity_coef=balanced))) < 1e-12
    assert jumprelu().balanced_coef(jumprelu().losses(x, STEP), STEP) is None


def test_one_batch_moves_thresholds_by_a_bounded_factor() -> None:
    sae, x = jumprelu(sparsity_coef=0.0), rows(200)
    assert sae.losses(100 * x, STEP).statistic == 2.0
    with torch.no_grad():
        sae.threshold.mul_(1000)
    assert sae.losses(x, STEP).statistic == 0.5  # nothing is near a threshold


class DenseJump(torch.autograd.Function):
    """π H(π − θ) [N, F], written densely: θ ← −(θ/ε) K."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, inside: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold, inside)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        pre, threshold, inside = ctx.saved_tensors
        return grad * (pre > threshold), (-threshold / ctx.bandwidth * inside * grad).sum(0), None, None


class DenseStep(torch.autograd.Function):
    """H(π − θ) [N, F], written densely: θ ← −(1/ε) K."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, inside: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(inside)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return None, (-ctx.saved_tensors[0] / ctx.bandwidth * grad).sum(0), None, None


@pytest.mark.usefixtures("density")
@pytest.mark.parametrize("pre_act_coef", [0.0, 0.3])
def test_jumprelu_tanh_recipe_equals_dense_autograd(pre_act_coef: float) -> None:
    sae, x = jumprelu(recipe="tanh", tanh_scale=3.0, pre_act_coef=pre_act_coef), rows(50)
    output = sae.losses(x, STEP)
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    code = DenseJump.apply(pre, sae.threshold, window(sae, pre.detach()), sae.bandwidth)
    error = square(x - sae.b_dec - code @ sae.W_dec) / variance(x)
    total = error + STEP.sparsity_coef * torch.tanh(3 * code).sum(1).mean()
    total = total + pre_act_coef * (sae.threshold - pre).relu().sum(1).mean()
    assert output.total.item() == pytest.approx(total.item(), abs=1e-12)
    assert_same(gradients(sae, output.total), gradients(sae, total))


def test_the_term_below_the_threshold_belongs_to_the_tanh_recipe_alone() -> None:
    x = rows()
    for recipe, coef, has_term in (("tanh", 0.3, True), ("tanh", 0.0, False), ("step", 0.3, False)):
        output = jumprelu(recipe=recipe, pre_act_coef=coef).losses(x, STEP)
        assert ("below" in output.terms) is has_term


@pytest.mark.usefixtures("density")
def test_below_threshold_term_alone_equals_dense_autograd() -> None:
    sae, x = jumprelu(recipe="tanh", pre_act_coef=1.0), rows(50)
    ours = sae._below(x, x - sae.b_dec.detach())
    dense = (sae.threshold - ((x - sae.b_dec) @ sae.W_enc + sae.b_enc)).relu().sum(1).mean()
    assert ours.item() == pytest.approx(dense.item(), abs=1e-12)
    assert_same(gradients(sae, ours), gradients(sae, dense))


# --- every architecture -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("density")
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [8.0, 0.25, 3.7])
def test_folded_scale(name: str, dtype: torch.dtype, scale: float) -> None:
    sae, folded = make(name).to(dtype), make(name).to(dtype)
    folded.fold_scale(scale)
    assert folded.config.scale == scale
    raw = rows(40).to(dtype) * scale
    expected = scale * sae(raw / scale)
    if scale in (8.0, 0.25):
        assert torch.equal(folded(raw), expected)
        assert torch.equal(folded.encode(raw).values, scale * sae.encode(raw / scale).values)
    else:
        assert torch.allclose(folded(raw), expected, rtol=1e-4 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_forward_encode_and_losses_change_nothing(name: str) -> None:
    sae, x = make(name), rows()
    before = {key: t.clone() for key, t in sae.state_dict().items()}
    input_before = x.clone()
    step = dataclasses.replace(STEP, dead=torch.arange(M) < 5)
    sae(x)
    sae.encode(x)
    first = sae.losses(x, step)
    second = sae.losses(x, step)
    second.total.backward()
    assert torch.equal(first.total, second.total)
    assert torch.equal(x, input_before)
    for key, tensor in sae.state_dict().items():
        assert torch.equal(tensor, before[key]), key


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_forward_is_encode_then_decode_on_any_leading_shape(name: str) -> None:
    sae, x = make(name), rows(12)
    code = sae.encode(x)
    assert torch.allclose(sae(x), sae.b_dec + code.to_dense() @ sae.W_dec, atol=1e-12)
    assert torch.equal(sae(x.view(3, 4, D)), sae(x).view(3, 4, D))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_initial_biases_start_near_the_l0(name: str) -> None:
    sae = build_sae(SaeConfig(architecture=name, d_in=D, d_sae=M, l0=3, seed=4))
    x = rows(500).float()
    sae.initialise(x, 3)
    assert torch.allclose(sae.b_dec, x.mean(0))
    assert sae.losses(x, STEP).latents.l0 == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "topk"])
@pytest.mark.parametrize("l0", [1, 2.5])
def test_calibration_lands_the_l0(name: str, l0: float) -> None:
    sae = make(name, l0=l0)
    x = rows(1000)
    done = calibrate(sae, [x[:300], x[300:]])
    assert abs(sae.encode(x).l0 - l0) < 0.01 * l0
    assert done["l0_after"] == pytest.approx(sae.encode(x).l0)
    assert abs(done["l0_before"] - l0) > 0.05 * l0  # there was something to do
    assert done["n_tokens"] == 1000


def test_calibration_leaves_topk_alone() -> None:
    sae = make("topk")
    before = {key: t.clone() for key, t in sae.state_dict().items()}
    assert calibrate(sae, [rows(100)]) == {}
    assert all(torch.equal(t, before[key]) for key, t in sae.state_dict().items())


@pytest.mark.parametrize("name", ["relu", "batch_topk", "gated", "jumprelu"])
def test_calibration_to_more_latents_than_can_fire_stays_finite(name: str) -> None:
    sae, x = make(name, l0=M), rows(100)
    done = calibrate(sae, [x])
    assert all(torch.isfinite(t).all() for t in sae.state_dict().values())
    assert all(abs(value) < 1e6 for value in done.values())
    assert torch.isfinite(sae(x)).all()


def test_batch_topk_threshold_average_is_bias_corrected() -> None:
    sae, x = make("batch_topk"), rows(200)
    output = sae.losses(x, STEP)
    cuts = [0.5, 0.3, 0.4]
    for cut in cuts:
        sae.observe(dataclasses.replace(output, statistic=cut), STEP)
    beta = sae.options.threshold_beta
    weights = [beta**2, beta, 1.0]
    expected = sum(w * c for w, c in zip(weights, cuts)) / sum(weights)
    assert float(sae.threshold) == pytest.approx(expected, abs=1e-7)


def test_a_frozen_decoder_has_no_gradient() -> None:
    sae = make("topk", frozen_decoder=True)
    sae.losses(rows(), STEP).total.backward()
    assert sae.W_dec.grad is None
    assert sae.W_enc.grad is not None


# --- the folder ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_saved_and_loaded_outputs_are_bit_exact(name: str, tmp_path: Path) -> None:
    sae, x = make(name, site="blocks.1.resid_post", record={"tokens": 5}).float(), rows(40).float()
    sae.fold_scale(2.5)
    save_sae(sae, tmp_path / "sae")
    loaded = load_sae(tmp_path / "sae")
    assert loaded.config == sae.config
    assert torch.equal(loaded(x), sae(x))
    assert torch.equal(loaded.encode(x).values, sae.encode(x).values)
    assert not any(p.requires_grad for p in loaded.parameters())
    assert loaded.W_enc.T.is_contiguous()


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    save_sae(make("topk").float(), tmp_path)
    path = tmp_path / "sae.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"sae\.safetensors is damaged"):
        load_sae(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match="is missing"):
        load_sae(tmp_path)


def test_a_folder_that_is_no_sae_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a saved SAE.*RUN/saes"):
        load_sae(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 3}))
    with pytest.raises(UserError, match="does not describe a monosemy SAE"):
        load_sae(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    save_sae(make("topk").float(), tmp_path)
    document = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(document | {"format_version": 99}))
    with pytest.raises(UserError, match="upgrade monosemy"):
        load_sae(tmp_path)


def test_an_sae_whose_training_stopped_is_refused_unless_asked_for(tmp_path: Path) -> None:
    message = "topk at layers.1.resid_post stopped: the loss became nan at step 3; the other SAEs go on"
    sae, folder = make("topk", record={"stopped": message}).float(), tmp_path / "layers.1.resid_post" / "topk-l0_4-s0"
    save_sae(sae, folder)
    refused = r"SAE layers\.1\.resid_post/topk-l0_4-s0 stopped early \(the loss became nan at step 3\)"
    with pytest.raises(UserError, match=refused):
        load_sae(folder)
    assert torch.equal(load_sae(folder, even_stopped=True).W_dec, sae.W_dec)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    save_sae(make("topk").float(), tmp_path)
    document = json.loads((tmp_path / "config.json").read_text())
    document["sae"]["d_sae"] = M + 1
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=f"has .*{M + 1}"):
        load_sae(tmp_path)


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("l0", [M + 1, 0, -2])
def test_an_impossible_l0_is_refused(l0: float) -> None:
    with pytest.raises(UserError, match=f"l0 {l0}.*at most d_sae {M}"):
        make("topk", l0=l0)


def test_an_unknown_architecture_names_the_near_match() -> None:
    with pytest.raises(UserError, match="jumprelu"):
        make("jumprleu")


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(UserError, match="k_aux"):
        make("topk", options={"k_auxx": 3})


def test_inputs_and_codes_of_another_width_are_refused() -> None:
    sae = make("relu")
    with pytest.raises(UserError, match=f"width {D + 1} but this SAE reads width {D}"):
        sae(torch.zeros(3, D + 1, dtype=torch.float64))
    with pytest.raises(UserError, match=f"{M + 2} latents but this SAE has {M}"):
        sae.decode(SparseLatents.from_dense(torch.ones(3, M + 2, dtype=torch.float64)))
