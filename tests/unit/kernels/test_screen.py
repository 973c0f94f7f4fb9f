"""The 8-bit screen selects what the float32 pre-activations select: on whole numbers, where float32 sums are exact in
any order, identical to the last tie; on real-valued data, up to rounding; it steps aside where it cannot help."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monosemy.kernels import dispatch, reference
from monosemy.kernels.cpu import screen
from monosemy.kernels.cpu import sparse as cpu
from monosemy.saes.base import SaeConfig, StepInfo
from monosemy.saes.registry import ARCHITECTURES, build_sae

pytestmark = pytest.mark.skipif(not screen.exact(), reason="8-bit products are not exact under ONEDNN_MAX_CPU_ISA here")


@pytest.fixture
def forced(monkeypatch):
    """The screen in use, whatever the processor: without fast 8-bit products it is slow, not wrong."""
    monkeypatch.setenv("MONOSEMY_SCREEN", "1")
    screen.available.cache_clear()
    yield
    screen.available.cache_clear()


@st.composite
def encoders(draw):
    """x [N, D], W_enc [D, F] stored column by column, b_enc: whole numbers, ties, outlying inputs, zero rows."""
    n, d, f = draw(st.integers(1, 40)), draw(st.integers(1, 50)), draw(st.integers(64, 700))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31 - 1)))
    x = torch.randint(-8, 9, (n, d), generator=random).float()
    weights = torch.randint(-8, 9, (f, d), generator=random).float()
    if draw(st.booleans()):
        x[:, draw(st.integers(0, d - 1))] *= 100  # an input that outweighs the others
    if draw(st.booleans()):
        x[draw(st.integers(0, n - 1))] = 0
    if draw(st.booleans()):
        weights[1::2] = weights[:-1:2]  # pairs of equal latents: ties everywhere
    bias = torch.randint(-20, 21, (f,), generator=random).float() if draw(st.booleans()) else None
    return x, weights.T, bias


def pre_activations(x, W_enc, bias):
    return x @ W_enc + (0 if bias is None else bias)


def assert_same(encoded, pattern, pre):
    assert encoded[0].offsets.tolist() == pattern.offsets.tolist()
    assert encoded[0].indices.tolist() == pattern.indices.tolist()
    assert torch.equal(encoded[1], reference.take(pre, pattern))


@settings(max_examples=80)
@given(encoders(), st.integers(1, 20))
def test_topk_is_the_definition(encoder, k):
    encoded = screen.encode_topk(*encoder, k)
    if encoded is None:
        assert 3 * k > screen.WORTH * encoder[1].shape[1]
        return
    pre = pre_activations(*encoder)
    assert_same(encoded, reference.select_topk(pre, k), pre)


@settings(max_examples=80)
@given(encoders(), st.floats(0.005, 0.2))
def test_above_is_the_definition(encoder, share):
    pre = pre_activations(*encoder)
    cut = float(pre.flatten().quantile(1 - share))
    threshold = torch.full((pre.shape[1],), cut)
    threshold[::3] += 1
    encoded = screen.encode_above(*encoder, threshold)
    if encoded is None:  # too much of a row passes
        capacity = max(64, int(screen.WORTH * pre.shape[1]))
        sampled = pre[:: max(1, len(pre) // screen.SAMPLE_ROWS)]
        crowded = bool(((pre > threshold).sum(1) > capacity).any())
        assert crowded or float((sampled > threshold).float().mean()) >= screen.WORTH / 2
        return
    assert_same(encoded, reference.select_above(pre, threshold), pre)


@settings(max_examples=80)
@given(encoders(), st.floats(0.0005, 0.05))
def test_batch_topk_is_the_definition(encoder, share):
    pre = pre_activations(*encoder)
    n_keep = max(1, int(share * pre.numel()))
    encoded = screen.encode_batch_topk(*encoder, n_keep)
    if encoded is None:  # few distinct values: no guess lets enough and not too much through
        return
    pattern, cut = reference.select_batch_topk(pre, n_keep)
    assert_same(encoded[:2], pattern, pre)
    assert encoded[2] == cut


@settings(max_examples=30)
@given(encoders(), st.integers(1, 12))
def test_rows_taken_block_by_block_are_the_same_rows(encoder, k):
    encoded = screen.encode_topk(*encoder, k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(screen, "BUFFER", 1)  # 32 rows a block, the least
        again = screen.encode_topk(*encoder, k)
        above = screen.encode_above(*encoder, torch.full((encoder[1].shape[1],), 1e9))
    assert (encoded is None) == (again is None)
    if encoded is not None:
        assert_same(again, encoded[0], pre_activations(*encoder))
    assert above is None or len(above[1]) == 0


def test_what_rounding_takes_from_the_input_is_in_the_bound():
    """x rounds down by 0.49 of a step in every input, the weights not at all: only ‖e_x‖‖w‖ bounds what is lost."""
    d = 64
    x = torch.full((64, d), 127 * (126.49 / 127) ** 2)  # in steps of √rms, 126.49
    x[:, 0] = 127
    weights = torch.full((200, d), -1.0)
    weights[0] = 1
    weights[:, 0] = 0
    pre = x @ weights.T
    threshold = torch.full((200,), 0.998 * float(pre[0, 0]))  # the rounded product is 0.996 of the true one
    encoded = screen.encode_above(x, weights.T, None, threshold)
    assert encoded is not None
    assert encoded[0].indices.tolist() == [0] * 64
    torch.testing.assert_close(encoded[1], pre[:, 0], rtol=1e-5, atol=0)


@pytest.mark.parametrize("underflowing", ["a row", "a latent", "every row"])
def test_rows_whose_norm_underflows_are_left_to_the_dense_product(underflowing):
    torch.manual_seed(0)
    x, weights = torch.randn(600, 64), torch.randn(4000, 64)
    if underflowing == "a latent":
        weights[7] *= 1e-26
    else:
        x[1 if underflowing == "a row" else 0 :] *= 1e-26
    assert screen.encode_topk(x, weights.T, None, 32) is None


@pytest.mark.usefixtures("forced")
def test_an_encoder_used_in_inference_mode_works_outside_of_it_afterwards():
    x, weights = torch.randn(300, 32), torch.randn(4000, 32)
    with torch.inference_mode():
        dispatch.encode_topk(x, weights.T, None, 8)
    pattern, _ = dispatch.encode_topk(x, weights.T, None, 8)
    assert len(pattern.indices) == 300 * 8


@pytest.mark.usefixtures("forced")
def test_threads_do_not_share_the_buffer():
    torch.manual_seed(0)
    x = torch.randint(-8, 9, (8, 256, 48)).float()
    weights = torch.randint(-8, 9, (8, 4200, 48)).float()
    expected = [reference.select_topk(x[i] @ weights[i].T, 16).indices for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            jobs = [pool.submit(dispatch.encode_topk, x[i], weights[i].T, None, 16) for i in range(8)]
            for job, indices in zip(jobs, expected, strict=True):
                assert torch.equal(job.result()[0].indices, indices)


@pytest.mark.parametrize("seed", range(10))
def test_batch_topk_is_found_by_the_screen_where_values_differ(seed):
    random = torch.Generator().manual_seed(seed)
    x = torch.randint(-8, 9, (64, 40), generator=random).float()
    weights = torch.randint(-8, 9, (900, 40), generator=random).float()
    encoded = screen.encode_batch_topk(x, weights.T, None, 64 * 9)
    assert encoded is not None
    pre = x @ weights.T
    pattern, cut = reference.select_batch_topk(pre, 64 * 9)
    assert_same(encoded[:2], pattern, pre)
    assert encoded[2] == cut


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e15])
def test_any_scale(scale):
    torch.manual_seed(0)
    x, W_enc = torch.randn(40, 33) * scale, torch.randn(500, 33).T
    encoded = screen.encode_topk(x, W_enc, None, 8)
    pre = x.double() @ W_enc.double()
    pattern = reference.select_topk(pre, 8)
    assert encoded is not None
    assert encoded[0].indices.tolist() == pattern.indices.tolist()
    expected = reference.take(pre, pattern)
    torch.testing.assert_close(encoded[1].double(), expected, rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_left_to_the_dense_product(bad):
    x, W_enc = torch.randn(40, 16), torch.randn(300, 16).T
    x[3, 4] = bad
    assert screen.encode_topk(x, W_enc, None, 4) is None
    x[3, 4] = 0
    W_enc[2, 7] = bad
    assert screen.encode_topk(x, W_enc, None, 4) is None


def on_grid(tensor):
    """The tensor rounded to multiples of 2⁻¹⁰."""
    return (tensor * 2**10).round() / 2**10


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_training_step_takes_the_screen_and_agrees_with_the_dense_one(architecture, monkeypatch):
    torch.manual_seed(0)
    planted = torch.nn.functional.normalize(torch.randn(2048, 64), dim=1)
    code = torch.rand(600, 2048) * (torch.rand(600, 2048) < 0.004)
    x = code @ planted + 0.02 * torch.randn(600, 64)
    x = x / x.square().sum(1).mean().sqrt()
    sae = build_sae(SaeConfig(architecture, 64, 2048, 8))
    sae.initialise(x, 8)
    # Thresholds are read off pre-activations, and gradients have edges there: on a grid sums are exact in any order, so
    # that both ways see the same pre-activations, however many threads add them up.
    x = on_grid(x)
    for parameter in sae.parameters():
        parameter.data = on_grid(parameter.data)
    largest = float(((x - sae.b_in).abs() @ sae.W_enc.abs()).detach().max())
    assert largest < 16, "products are multiples of 2⁻²⁰, of which float32 holds sums below 2⁴ exactly"
    calls = []
    blocks = screen._Screen.blocks
    monkeypatch.setattr(screen._Screen, "blocks", lambda self: calls.append(1) or blocks(self))
    step = StepInfo(progress=0.5, l0=8, sparsity_coef=0.01)

    def gradients():
        output = sae.losses(x, step)
        output.total.backward()
        by_name = {name: p.grad.clone() for name, p in sae.named_parameters() if p.grad is not None}
        sae.zero_grad()
        return output.total.detach(), by_name, output.latents

    loss, screened, latents = gradients()
    assert calls
    monkeypatch.setattr(dispatch, "_screen", lambda *_: None)
    dense_loss, theirs, dense_latents = gradients()
    assert latents.indices.tolist() == dense_latents.indices.tolist()
    torch.testing.assert_close(loss, dense_loss, rtol=1e-5, atol=0)
    for name, gradient in theirs.items():
        torch.testing.assert_close(screened[name], gradient, rtol=1e-3, atol=1e-6 + 1e-4 * float(gradient.abs().max()))


@pytest.mark.usefixtures("forced")
def test_it_is_left_out_where_it_makes_no_sense(monkeypatch):
    small, wide = torch.randn(8, 16), torch.randn(4096, 16)
    assert not screen.worth_trying(small, 100)
    assert not screen.worth_trying(wide.double(), 4096)
    assert dispatch._screen(wide.to(torch.bfloat16), wide.T) is None
    monkeypatch.setenv("MONOSEMY_SCREEN", "0")
    screen.available.cache_clear()
    assert not screen.worth_trying(wide, 4096)
    screen.available.cache_clear()


def test_cutting_a_batch_keeps_the_earlier_of_equal_values():
    pattern = reference.Pattern(torch.tensor([0, 2, 4]), torch.tensor([1, 5, 0, 3], dtype=torch.int32))
    cut_pattern, values, cut = cpu.cut_batch(pattern, torch.tensor([2.0, 1.0, 1.0, 3.0]), 3)
    assert (cut_pattern.offsets.tolist(), cut_pattern.indices.tolist()) == ([0, 2, 3], [1, 5, 3])
    assert (values.tolist(), cut) == ([2.0, 1.0, 3.0], 1.0)
