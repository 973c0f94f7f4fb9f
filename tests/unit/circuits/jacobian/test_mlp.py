"""The Jacobian between two SAEs' latents: exact against autograd of the whole chain, families, memory, refusals."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from mlp_pairs import D, K, M, N, make_sae, make_weights, rows
from tiny_models import FAMILIES, make_tiny_model
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from monosemy.circuits.jacobian import mlp as jacobian_mlp
from monosemy.circuits.jacobian import products
from monosemy.circuits.jacobian.activation import ACTIVATIONS, recognise, value_and_slope
from monosemy.circuits.jacobian.batch_code import Code
from monosemy.circuits.jacobian.mlp import jacobian_slices, mlp_weights, weight_tables
from monosemy.circuits.jacobian.penalty import SlopesAtInput, mean_magnitude, training_code
from monosemy.circuits.jacobian.products import (
    NARROWEST,
    Matrices,
    Plan,
    Sizes,
    absolute_sum,
    peak_bytes,
    plan,
    whole_tables_pay,
)
from monosemy.circuits.jacobian.slices import At, JacobianSlices
from monosemy.circuits.jacobian.weights import MlpWeights
from monosemy.errors import UserError
from monosemy.kernels import jacobian as kernels
from monosemy.kernels.reference import Pattern
from monosemy.saes.base import SparseAutoencoder

CASES = [("relu", False), ("gelu", False), ("gelu_tanh", False), ("silu", True), ("gelu", True), ("gelu_tanh", True)]
TORCH = {
    "relu": nn.functional.relu,
    "gelu": nn.functional.gelu,
    "gelu_tanh": lambda z: nn.functional.gelu(z, approximate="tanh"),
    "silu": nn.functional.silu,
    "identity": lambda z: z,
}


def select(sae: SparseAutoencoder, pre: Tensor) -> Tensor:
    """τ: the SAE's selection and ReLU, in plain operations that autograd goes through."""
    if sae.name == "topk":
        mask = torch.zeros_like(pre).scatter(-1, pre.topk(round(sae.config.l0), dim=-1).indices, 1.0)
        return (pre * mask).relu()
    if sae.name == "relu":
        return pre.relu()
    return torch.where(pre > sae.threshold.clamp_min(0), pre, 0.0)


def plain_mlp(weights: MlpWeights) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        hidden = TORCH[weights.activation](x @ weights.W_in + weights.b_in)
        if weights.W_up is not None:
            hidden = hidden * (x @ weights.W_up + weights.b_up)
        return hidden @ weights.W_out + weights.b_out

    return run


def whole_jacobian(
    mlp: Callable[[Tensor], Tensor], sae_in: SparseAutoencoder, sae_out: SparseAutoencoder, x: Tensor, at: str
) -> Tensor:
    """∂f_s/∂s [N, m_y, m_x] by autograd: f_s = τ e_y(MLP(d_x(τ(s)) + error)), `at` input with the error x − x̂ held."""
    jacobians = []
    for row in x:
        s = select(sae_in, (row - sae_in.b_dec) @ sae_in.W_enc + sae_in.b_enc)
        error = row - (s @ sae_in.W_dec + sae_in.b_dec) if at == "input" else torch.zeros_like(row)

        def f(s: Tensor, error: Tensor = error) -> Tensor:
            s = select(sae_in, s)
            y = mlp(s @ sae_in.W_dec + sae_in.b_dec + error)
            return select(sae_out, (y - sae_out.b_dec) @ sae_out.W_enc + sae_out.b_enc)

        jacobians.append(jacobian(f, s))
    return torch.stack(jacobians)


def dense(slices: JacobianSlices, m_out: int = M, m_in: int = M) -> Tensor:
    """[N, m_y, m_x], zero off the slices."""
    whole = torch.zeros(slices.n_tokens, m_out + 1, m_in + 1, dtype=slices.values.dtype)
    for n in range(slices.n_tokens):
        whole[n, slices.out_indices[n][:, None], slices.in_indices[n][None, :]] = slices.values[n]
    return whole[:, :m_out, :m_in]


# --- plan A: exact ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["input", "reconstruction"])
@pytest.mark.parametrize(("activation", "gated"), CASES)
def test_slices_are_autograd_through_the_whole_chain(activation: str, gated: bool, at: Any) -> None:
    weights, sae_in, sae_out, x = make_weights(activation, gated), make_sae(1), make_sae(2), rows()
    slices = jacobian_slices(weights, sae_in, sae_out, x, at=at)
    expected = whole_jacobian(plain_mlp(weights), sae_in, sae_out, x, at=at)
    assert expected.abs().max() > 0.1
    assert (dense(slices) - expected).abs().max() < 1e-10
    # nothing stands off the slices, exactly
    on_slices = dense(dataclasses.replace(slices, values=torch.ones_like(slices.values))) > 0
    assert bool((expected[~on_slices] == 0).all())
    assert slices.values.shape == (N, K, K)


@pytest.mark.parametrize("architecture", ["batch_topk", "jumprelu", "relu"])
@pytest.mark.parametrize("at", ["input", "reconstruction"])
def test_other_architectures_are_exact_too(architecture: str, at: Any) -> None:
    weights, x = make_weights("silu", True), rows()
    sae_in, sae_out = make_sae(1, architecture), make_sae(2, architecture)
    slices = jacobian_slices(weights, sae_in, sae_out, x, at=at)
    expected = whole_jacobian(plain_mlp(weights), sae_in, sae_out, x, at=at)
    assert expected.abs().max() > 0.1
    assert (dense(slices) - expected).abs().max() < 1e-10
    assert len(set(slices.in_active.sum(1).tolist())) > 1  # rows of different lengths: padding is exercised
    assert bool((slices.values[~slices.active] == 0).all())


def test_fewer_positive_pre_activations_than_k() -> None:
    weights, sae_in, sae_out, x = make_weights("gelu", True), make_sae(1), make_sae(2), rows(12)
    with torch.no_grad():
        for sae in (sae_in, sae_out):
            sae.b_enc.sub_(1.2)
    slices = jacobian_slices(weights, sae_in, sae_out, x)
    counts = slices.in_active.sum(1)
    assert int(counts.min()) < K
    assert (dense(slices) - whole_jacobian(plain_mlp(weights), sae_in, sae_out, x, at="input")).abs().max() < 1e-10


def test_no_active_latents_at_all() -> None:
    weights, sae_in, sae_out = make_weights("gelu", True), make_sae(1), make_sae(2)
    with torch.no_grad():
        sae_in.b_enc.sub_(100.0)
    slices = jacobian_slices(weights, sae_in, sae_out, rows())
    assert slices.values.shape == (N, K, 0)
    assert slices.elements().shape == (0,)
    assert jacobian_slices(weights, sae_in, sae_out, rows(0)).n_tokens == 0


def test_a_linear_mlp_has_the_same_jacobian_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ACTIVATIONS, "identity", lambda z: (z, torch.ones_like(z)))
    weights, sae_in, sae_out = make_weights("identity", False), make_sae(1), make_sae(2)
    dense_jacobian = dense(jacobian_slices(weights, sae_in, sae_out, rows(30)))
    constant = (sae_in.W_dec @ weights.W_in @ weights.W_out @ sae_out.W_enc).T
    active = dense_jacobian != 0
    assert (dense_jacobian - constant)[active].abs().max() < 1e-10
    assert int(active.any(0).sum()) > M


def test_permuting_latents_permutes_the_jacobian() -> None:
    weights, sae_in, sae_out, x = make_weights("silu", True), make_sae(1), make_sae(2), rows()
    before = dense(jacobian_slices(weights, sae_in, sae_out, x))
    orders = []
    for seed, sae in ((7, sae_in), (8, sae_out)):
        order = torch.randperm(M, generator=torch.Generator().manual_seed(seed))
        sae.W_enc.copy_(sae.W_enc[:, order])
        sae.W_dec.copy_(sae.W_dec[order])
        sae.b_enc.copy_(sae.b_enc[order])
        orders.append(order)
    after = dense(jacobian_slices(weights, sae_in, sae_out, x))
    assert (after - before[:, orders[1]][:, :, orders[0]]).abs().max() < 1e-12


def test_units_are_those_of_training() -> None:
    """SAEs with their scale folded in, on raw activations, give what the unfolded ones give on scaled activations."""
    C_in, C_out = 3.7, 0.21
    weights, sae_in, sae_out, x = make_weights("silu", True), make_sae(1), make_sae(2), rows()
    scaled = jacobian_slices(weights.between_scaled(C_in, C_out), sae_in, sae_out, x)
    y = weights.output(C_in * x)
    sae_in.fold_scale(C_in)
    sae_out.fold_scale(C_out)
    raw = jacobian_slices(weights, sae_in, sae_out, C_in * x, y=y)
    for field in dataclasses.fields(JacobianSlices):
        torch.testing.assert_close(getattr(raw, field.name), getattr(scaled, field.name), rtol=1e-9, atol=1e-12)


# --- the gradient of Σ|J| ---------------------------------------------------------------------------------------------


def patterns_of(slices: JacobianSlices) -> tuple[Pattern, Pattern]:
    patterns = []
    for indices in (slices.in_indices, slices.out_indices):
        counts = (indices >= 0).sum(1)
        patterns.append(
            Pattern(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), indices[indices >= 0].to(torch.int32))
        )
    return patterns[0], patterns[1]


@pytest.mark.parametrize("cut_to", ["whole batch", "narrow parts", "single tokens"])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("architecture", ["topk", "jumprelu"])
def test_penalty_and_gradient_are_autograds(
    architecture: str, gated: bool, cut_to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = make_weights("silu" if gated else "gelu", gated, d_ff=150)
    sae_in, sae_out, x = make_sae(1, architecture), make_sae(2, architecture), rows(9)
    inputs, outputs = patterns_of(jacobian_slices(weights, sae_in, sae_out, x))
    a, b = weights.slopes(x)
    leaves = [sae_in.W_dec.clone(), sae_out.W_enc.clone(), a, *([] if b is None else [b])]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    n_tokens, width = {"whole batch": (9, 150), "narrow parts": (9, NARROWEST), "single tokens": (1, NARROWEST)}[cut_to]
    monkeypatch.setattr(products, "plan", lambda *_, **__: Plan(n_tokens, width, 0))
    total = absolute_sum(Matrices(weights, *leaves[:2]), (leaves[2], leaves[3] if gated else None), inputs, outputs)
    gradients = torch.autograd.grad(3 * total, leaves)

    J = leaves[0] @ weights.W_in @ (leaves[2][:, :, None] * (weights.W_out @ leaves[1]))
    if weights.W_up is not None:
        J = J + leaves[0] @ weights.W_up @ (leaves[3][:, :, None] * (weights.W_out @ leaves[1]))
    mask = torch.zeros(9, M, M, dtype=torch.float64)
    for n in range(9):
        active = [p.indices[p.offsets[n] : p.offsets[n + 1]].long() for p in (inputs, outputs)]
        mask[n, active[0][:, None], active[1][None, :]] = 1
    expected = (J * mask).abs().sum()
    torch.testing.assert_close(total, expected.detach(), rtol=1e-11, atol=0)
    for ours, theirs in zip(gradients, torch.autograd.grad(3 * expected, leaves)):
        assert theirs.abs().max() > 0
        assert (ours - theirs).abs().max() < 1e-10


@pytest.mark.parametrize("width", [1, 63, 64, 257, 600])
@pytest.mark.parametrize("gated", [True, False])
def test_compiled_kernels_are_pytorchs(width: int, gated: bool) -> None:
    draw = torch.Generator().manual_seed(width)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    patterns = []
    for U in (23, 31):
        mask = torch.rand(10, U, generator=draw) < torch.linspace(0, 0.9, 10)[:, None]  # one row has none
        counts = torch.cat([torch.zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)])
        patterns.append(Pattern(counts, mask.nonzero()[:, 1].to(torch.int32)))
    factors = kernels.Factors(
        random(10, width),
        random(10, width) if gated else None,
        random(23, width),
        random(23, width) if gated else None,
        random(31, width),
        *patterns,
    )
    pairs = kernels.pair_offsets(*patterns)
    ours, theirs = random(int(pairs[-1])), torch.zeros(int(pairs[-1]), dtype=torch.float64)
    theirs += ours
    kernels.slices(factors, pairs, ours)
    kernels.slices_in_torch(factors, pairs, theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
    for diagonals in (True, False):
        compiled_gradients = kernels.gradients(factors, pairs, ours, diagonals=diagonals)
        other = kernels.gradients_in_torch(factors, pairs, ours, diagonals=diagonals)
        for compiled, in_torch in zip(compiled_gradients, other):
            assert (compiled is None) == (in_torch is None)
            if compiled is not None and in_torch is not None:
                torch.testing.assert_close(compiled, in_torch, rtol=1e-11, atol=1e-11)


def test_rows_subset() -> None:
    mask = torch.rand(8, 10, generator=torch.Generator().manual_seed(0)) < 0.3
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)])
    pattern, values = Pattern(offsets, mask.nonzero()[:, 1].to(torch.int32)), torch.arange(float(mask.sum()))
    row_indices = torch.tensor([5, 0, 7])
    subset, subset_values = kernels.rows_subset(pattern, values, row_indices)
    for position, row in enumerate(row_indices.tolist()):
        span, there = slice(*subset.offsets[position : position + 2]), slice(*offsets[row : row + 2])
        assert torch.equal(subset.indices[span], pattern.indices[there])
        assert torch.equal(subset_values[span], values[there])


# --- memory and cost ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["input", "reconstruction"])
def test_chunked_is_unchunked(at: Any) -> None:
    weights, sae_in, sae_out, x = make_weights("silu", True, d_ff=200), make_sae(1), make_sae(2), rows(40)
    whole = jacobian_slices(weights, sae_in, sae_out, x, at=at)
    sizes = Sizes(40, K, K, M, m_out=M, d_ff=200, gated=True, n_bytes=8, d_model=D)
    for bound in (peak_bytes(sizes, 1, NARROWEST, gradient=False), peak_bytes(sizes, 7, NARROWEST, gradient=False)):
        assert plan(sizes, bound, gradient=False).n_tokens < 40
        part = jacobian_slices(weights, sae_in, sae_out, x, at=at, max_memory=bound)
        for field in dataclasses.fields(JacobianSlices):
            torch.testing.assert_close(getattr(part, field.name), getattr(whole, field.name), rtol=1e-11, atol=1e-13)
    with_tables = jacobian_slices(weights, sae_in, sae_out, x, at=at, tables=weight_tables(weights, sae_in, sae_out))
    torch.testing.assert_close(with_tables.values, whole.values, rtol=1e-11, atol=1e-13)


def test_whole_tables_are_made_where_they_are_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small parts under a tight bound: the products of all latents' weights are made once, unasked."""
    weights, sae_in, sae_out, x = make_weights("silu", True), make_sae(1), make_sae(2), rows(1500)
    calls = []
    real = jacobian_mlp.whole_tables
    monkeypatch.setattr(jacobian_mlp, "whole_tables", lambda *arguments: calls.append(1) or real(*arguments))
    whole = jacobian_slices(weights, sae_in, sae_out, x)
    assert not calls, "one part: its own tables are never larger"
    tight = jacobian_slices(weights, sae_in, sae_out, x, max_memory=1_000_000)
    assert calls == [1]
    assert (tight.values - whole.values).abs().max() < 1e-13
    assert torch.equal(tight.out_indices, whole.out_indices)


def test_plan_prefers_narrow_parts_to_few_tokens_and_stays_within_the_bound() -> None:
    sizes = Sizes(2048, 32, 32, 4608, m_out=4608, d_ff=1536, gated=True, n_bytes=4, d_model=576, at="input")
    whole = peak_bytes(sizes, 2048, 1536, gradient=True)
    assert plan(sizes, whole, gradient=True).width == 1536
    bounds = [whole, whole // 2, whole // 3, whole // 4]
    cuts = [plan(sizes, bound, gradient=True) for bound in bounds]
    for bound, cut in zip(bounds, cuts):
        assert cut.n_bytes <= bound
        assert cut.n_bytes == peak_bytes(sizes, cut.n_tokens, cut.width, gradient=True)
    assert cuts[1].n_tokens == 2048
    assert cuts[1].width < 1536
    assert all(a.n_tokens >= b.n_tokens for a, b in pairwise(cuts))
    with pytest.raises(UserError, match=r"one token .* raise max_memory"):
        plan(sizes, 100_000, gradient=True)


def test_cost_rule_of_whole_tables() -> None:
    """Rows of tables are what costs: all latents' once, or every chunk's active ones."""
    sizes = Sizes(1000, 4, 4, 400, m_out=600, d_ff=64, gated=True)
    assert sizes.whole_rows == 2 * 400 + 600
    assert sizes.table_rows(10) == 2 * 40 + 40
    assert sizes.table_rows(1000) == sizes.whole_rows
    assert not whole_tables_pay(sizes, 1000)  # one chunk: its own tables are never larger
    assert whole_tables_pay(sizes, 10)  # 100 chunks of 120 rows against 1400
    assert not whole_tables_pay(dataclasses.replace(sizes, n_tokens=100), 10)  # 10 chunks of 120 rows
    assert whole_tables_pay(dataclasses.replace(sizes, n_tokens=120), 10)


# --- models -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_exact(family: str) -> None:
    """Against autograd through the model's own modules, from mlp_in to mlp_out."""
    model, layer = make_tiny_model(family), 1
    weights = mlp_weights(model, layer)
    d = weights.d_in
    sites = [f"layers.{layer}.mlp_in", f"layers.{layer}.mlp_out"]
    tokens = torch.randint(0, 256, (1, 6), generator=torch.Generator().manual_seed(0))
    there = model.activations(tokens, sites)
    x, y = (there[site][0] for site in sites)
    torch.testing.assert_close(weights.output(x), y, rtol=1e-4, atol=1e-5)
    entry, leave = (model.place(site)[0] for site in sites)

    def own(row: Tensor) -> Tensor:
        if entry is leave:
            return leave(row[None, None])[0, 0] * model.contribution_scale(sites[1])
        return leave(model.block(layer).activation_fn(entry(row)))

    sae_in, sae_out = (make_sae(seed, d=d).float() for seed in (1, 2))
    slices = jacobian_slices(weights, sae_in, sae_out, x, y=y)
    expected = whole_jacobian(own, sae_in, sae_out, x, at="input")
    assert expected.abs().max() > 0.01
    assert (dense(slices) - expected).abs().max() < 1e-4 * max(1.0, float(expected.abs().max()))


def test_activations_and_their_slopes() -> None:
    z = torch.linspace(-6, 6, 100, dtype=torch.float64, requires_grad=True)
    for name in ACTIVATIONS:
        value, slope = value_and_slope(name, z)
        expected = torch.autograd.grad(value.sum(), z)[0]
        assert (slope - expected).abs().max() < 1e-12, name
        assert recognise(lambda t, name=name: value_and_slope(name, t)[0], "this MLP") == name
    assert recognise(nn.GELU(), "this MLP") == "gelu"
    assert recognise(nn.GELU(approximate="tanh"), "this MLP") == "gelu_tanh"
    with pytest.raises(UserError, match=r"this MLP has activation Mish.*covered: relu"):
        recognise(nn.Mish(), "this MLP")


# --- refusals -----------------------------------------------------------------------------------------------------


def test_refusals_of_pairs() -> None:
    weights, x = make_weights("silu", True), rows()
    with pytest.raises(UserError, match=r"input SAE reads width 10 .* mlp_in"):
        jacobian_slices(weights, make_sae(1, d=10), make_sae(2), x)
    with pytest.raises(UserError, match=r"output SAE is of architecture gated"):
        jacobian_slices(weights, make_sae(1), make_sae(2, "gated"), x)
    sae_in, sae_out = make_sae(1), make_sae(2)
    for there, here in (("layers.3.mlp_in", "layers.4.mlp_out"), ("layers.3.mlp_out", "layers.3.mlp_in")):
        sae_in.config = dataclasses.replace(sae_in.config, site=there)
        sae_out.config = dataclasses.replace(sae_out.config, site=here)
        with pytest.raises(UserError, match=r"not the two ends of one MLP"):
            jacobian_slices(weights, sae_in, sae_out, x)
    with pytest.raises(UserError, match=r"one token .* are allowed; raise max_memory"):
        jacobian_slices(weights, make_sae(1), make_sae(2), x, max_memory=1000)


class _Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(8, 2), nn.ModuleList([nn.Linear(8, 8)])


class _Odd(nn.Module):
    """Has the names of a plain MLP but doubles its output."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.fc1, self.fc2, self.act = nn.Linear(8, 16), nn.Linear(16, 8), act

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.fc2(self.act(self.fc1(x)))


class _Fused(nn.Module):
    """Gate and up projection in one matrix, as in Phi-3."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj, self.act_fn = nn.Linear(8, 32), nn.Linear(16, 8), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(up * self.act_fn(gate))


class _Model:
    name = "odd"

    def __init__(self, mlp: nn.Module) -> None:
        self.mlp = mlp

    def place(self, site: str) -> tuple[nn.Module, str]:
        return self.mlp, "input" if site.endswith("mlp_in") else "output"

    def contribution_scale(self, site: str) -> float:
        return 1.0


def test_a_fused_gate_is_taken_apart() -> None:
    mlp, x = _Fused().double(), rows(5, 8)
    weights = mlp_weights(_Model(mlp), 0)  # type: ignore[arg-type]
    assert weights.gated
    assert weights.activation == "silu"
    torch.testing.assert_close(weights.output(x), mlp(x).detach(), rtol=1e-12, atol=1e-12)


def test_refusals_of_models() -> None:
    for module, message in (
        (_Experts(), "mixture of experts"),
        (_Odd(nn.Mish()), "activation Mish"),
        (_Odd(nn.GELU()), "not what its modules' names promise"),
        (nn.Sequential(nn.Linear(8, 8)), "neither a plain nor a gated MLP"),
    ):
        with pytest.raises(UserError, match=message):
            mlp_weights(_Model(module), 0)  # type: ignore[arg-type]


def most_bytes(run: Callable[[], object], trace: Path) -> int:
    """Most bytes of tensors alive at once beyond those before, as PyTorch's allocator counts them: unlike the memory of
    the process, the same on every machine, and without the scratch of the libraries that multiply matrices."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    profiler.export_chrome_trace(str(trace))
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    events.sort(key=lambda event: event["ts"])
    return max(accumulate(event["args"]["Bytes"] for event in events))


def test_allocations_are_counted(tmp_path: Path) -> None:
    def run() -> None:
        for _ in range(3):
            first = torch.empty(1000, dtype=torch.float64)
            second = first + 1
            del first, second

    assert 16_000 <= most_bytes(run, tmp_path / "trace.json") < 16_100  # and the number 1


@pytest.mark.parametrize(
    ("computed", "at", "n_tokens", "bound"),
    [
        ("penalty", "input", 1000, 60_000_000),
        ("penalty", "reconstruction", 1000, 120_000_000),
        ("slices", "input", 2000, 20_000_000),
        ("slices", "reconstruction", 2000, 20_000_000),
    ],
)
def test_peak_memory_stays_within_the_bound(computed: str, at: At, n_tokens: int, bound: int, tmp_path: Path) -> None:
    weights = make_weights("silu", True, 64, 2048).to(torch.zeros(1))
    saes = [make_sae(seed, m=3000, d=64, l0=16).float().requires_grad_(computed == "penalty") for seed in (1, 2)]
    x = torch.randn(n_tokens, 64, generator=torch.Generator().manual_seed(0))
    y = torch.cat([weights.output(part) for part in x.split(20)])

    def peak(max_memory: int) -> int:
        """Beside the result."""
        results = []
        if computed == "slices":
            known_outputs = y if at == "input" else None
            call = partial(jacobian_slices, weights, *saes, x, y=known_outputs, at=at, max_memory=max_memory)
            run = lambda: results.append(call())  # noqa: E731
        else:
            codes = [Code(sae, rows, training_code(sae, rows, 16), 16) for sae, rows in zip(saes, (x, y), strict=True)]
            run = lambda: mean_magnitude(SlopesAtInput(weights), *codes, 0, at=at, max_memory=max_memory).backward()  # noqa: E731
        highest = most_bytes(run, tmp_path / "trace.json")
        return highest - sum(tensor.nbytes for slices in results for tensor in vars(slices).values())

    assert peak(bound) < bound
    assert peak(1 << 40) > 1.5 * bound, "it would take more if it could"
