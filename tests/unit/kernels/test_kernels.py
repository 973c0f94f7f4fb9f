"""Every compiled kernel against its definition in plain PyTorch, on random and adversarial shapes, and every gradient
of the sparse operations against autograd through a dense code."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monosemy.kernels import dispatch, ops, reference
from monosemy.kernels.cpu import sparse as cpu
from monosemy.kernels.reference import AdamStep
from monosemy.latents import SparseLatents


@st.composite
def batches(draw):
    """Scores [N, F] with many ties, negatives and empty rows, in either precision."""
    n_rows = draw(st.integers(1, 9))
    n_latents = draw(st.sampled_from([1, 2, 7, 64, 65, 300]))
    seed = draw(st.integers(0, 2**31 - 1))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(n_rows, n_latents, generator=generator, dtype=dtype)
    if draw(st.booleans()):
        scores = (scores * 2).round() / 2  # duplicated values
    if draw(st.booleans()):
        scores[draw(st.integers(0, n_rows - 1))] = -1.0  # a row with nothing to select
    return scores


def assert_same(a: reference.Pattern, b: reference.Pattern) -> None:
    assert a.offsets.tolist() == b.offsets.tolist()
    assert a.indices.tolist() == b.indices.tolist()


@settings(max_examples=60)
@given(batches(), st.integers(1, 300))
def test_topk_selects_as_the_definition_does(scores, k):
    k = min(k, scores.shape[1])
    assert_same(cpu.select_topk(scores, k), reference.select_topk(scores, k))


@settings(max_examples=60)
@given(batches(), st.integers(1, 3000))
def test_batch_topk_keeps_the_largest_of_the_batch(scores, n_keep):
    n_keep = min(n_keep, scores.numel())
    compiled, cut = cpu.select_batch_topk(scores, n_keep)
    defined, defined_cut = reference.select_batch_topk(scores, n_keep)
    assert_same(compiled, defined)
    assert cut == pytest.approx(defined_cut, abs=0)


@settings(max_examples=40)
@given(batches())
def test_above_is_strict_and_per_latent(scores):
    threshold = torch.linspace(-1, 1, scores.shape[1], dtype=scores.dtype)
    threshold[0] = scores[0, 0]
    assert_same(cpu.select_above(scores, threshold), reference.select_above(scores, threshold))


@settings(max_examples=40)
@given(batches(), st.integers(1, 40))
def test_products_agree_with_the_definition(scores, d_in):
    pattern = reference.select_above(scores, torch.zeros(scores.shape[1], dtype=scores.dtype))
    n_rows, n_latents = scores.shape
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(n_rows, d_in, generator=generator, dtype=scores.dtype)
    matrix = torch.randn(n_latents, d_in, generator=generator, dtype=scores.dtype)
    bias = torch.randn(d_in, generator=generator, dtype=scores.dtype)
    values = reference.take(scores, pattern)
    columns = reference.transpose(pattern, n_latents)
    compiled_columns = cpu.transpose(pattern, n_latents)
    for computed, theirs in zip(compiled_columns, columns, strict=True):
        assert computed.tolist() == theirs.tolist()
    close = {"rtol": 2e-5, "atol": 2e-5} if scores.dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(cpu.take(scores, pattern), values, rtol=0, atol=0)
    for name, arguments in {
        "decode": (pattern, values, matrix, bias),
        "gather_dot": (pattern, inputs, matrix),
        "accumulate": (columns, values, inputs),
        "sum_by_latent": (columns, values),
    }.items():
        torch.testing.assert_close(getattr(cpu, name)(*arguments), getattr(reference, name)(*arguments), **close)
    target = torch.randn(n_rows, d_in, generator=generator, dtype=scores.dtype)
    for computed, theirs in zip(
        cpu.squared_error(target, inputs), reference.squared_error(target, inputs), strict=True
    ):
        torch.testing.assert_close(computed, theirs, **close)


@pytest.mark.parametrize("unit_rows", [False, True])
@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_adam_steps_as_the_definition_and_as_pytorch(unit_rows, beta1):
    generator = torch.Generator().manual_seed(1)
    weights = torch.nn.functional.normalize(torch.randn(7, 5, generator=generator, dtype=torch.float64), dim=1)
    theirs, pytorch = weights.clone(), torch.nn.Parameter(weights.clone())
    states = [[torch.zeros_like(weights) for _ in range(2)] for _ in range(2)]
    optimiser = torch.optim.Adam([pytorch], lr=0.01, betas=(beta1, 0.99), eps=1e-8)
    rates = {"learning_rate": 0.01, "beta1": beta1, "beta2": 0.99, "epsilon": 1e-8, "unit_rows": unit_rows}
    for step in range(1, 6):
        gradient = torch.randn(7, 5, generator=generator, dtype=torch.float64)
        options = AdamStep(step=step, **rates)
        dispatch.adam(weights, gradient.clone(), *states[0], options=options)
        reference.adam(theirs, gradient.clone(), *states[1], options=options)
        pytorch.grad = gradient.clone()
        optimiser.step()
    torch.testing.assert_close(weights, theirs, rtol=1e-12, atol=1e-13)
    if unit_rows:
        torch.testing.assert_close(weights.norm(dim=1), torch.ones(7, dtype=torch.float64))
    else:
        torch.testing.assert_close(weights, pytorch.detach(), rtol=1e-9, atol=1e-11)


def test_adam_steps_a_column_major_matrix_in_place():
    storage = torch.randn(6, 4, dtype=torch.float64)
    column_major = storage.T
    before = column_major.clone()
    first, second = torch.zeros(6, 4, dtype=torch.float64).T, torch.zeros(6, 4, dtype=torch.float64).T
    dispatch.adam(
        column_major,
        torch.ones(4, 6, dtype=torch.float64),
        first,
        second,
        options=AdamStep(step=1, learning_rate=0.1, beta1=0.9, beta2=0.999, epsilon=0.0, unit_rows=False),
    )
    torch.testing.assert_close(column_major, before - 0.1)
    assert column_major.data_ptr() == storage.data_ptr()


@pytest.mark.parametrize("dense_above", [0.0, 2.0], ids=["dense", "sparse"])
@pytest.mark.parametrize("with_biases", [True, False])
def test_every_gradient_of_the_sparse_path_equals_autograd_through_a_dense_code(monkeypatch, dense_above, with_biases):
    monkeypatch.setattr(dispatch, "DENSE_ABOVE", dense_above)
    n_rows, d_in, n_latents = 11, 6, 17
    generator = torch.Generator().manual_seed(3)

    def leaf(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    x, W_enc, W_dec, b_dec, scale = (
        leaf(n_rows, d_in),
        leaf(d_in, n_latents),
        leaf(n_latents, d_in),
        leaf(d_in),
        leaf(n_latents),
    )
    b_enc = leaf(n_latents) if with_biases else None
    b_in = b_dec if with_biases else None
    leaves = [t for t in (x, W_enc, W_dec, b_dec, scale, b_enc) if t is not None]

    pre = ops.pre_activations(x, W_enc, b_enc, b_in)
    pattern = dispatch.select_topk(pre, 5)
    selection = ops.Selection(
        pattern, dispatch.take(pre, pattern), ops.centre(x, b_in), x=x, W_enc=W_enc, b_enc=b_enc, b_dec=b_in
    )
    values = torch.sin(selection.pre_acts) * selection.per_latent(scale)
    (selection.decode(values, W_dec, b_dec).pow(3).sum() + values.pow(2).sum()).backward()
    sparse = [t.grad.clone() for t in leaves]
    for t in leaves:
        t.grad = None

    dense_pre = (x - b_in if b_in is not None else x) @ W_enc + (b_enc if b_enc is not None else 0)
    mask = SparseLatents(pattern.offsets, pattern.indices, torch.ones(len(pattern.indices)), n_latents).to_dense() > 0
    code = torch.where(mask, torch.sin(dense_pre) * scale, 0.0)
    ((code @ W_dec + b_dec).pow(3).sum() + code.pow(2).sum()).backward()
    for t, gradient in zip(leaves, sparse, strict=True):
        torch.testing.assert_close(gradient, t.grad, rtol=1e-10, atol=1e-10)


def test_non_contiguous_inputs_are_taken_as_they_are():
    scores = torch.randn(12, 20).T
    assert_same(dispatch.select_topk(scores, 3), reference.select_topk(scores, 3))


def test_the_squared_error_and_its_gradients_equal_autograd():
    generator = torch.Generator().manual_seed(0)
    x, estimate = (torch.randn(7, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    computed, expected = [], []
    for results, loss in (
        (computed, ops.squared_error),
        (expected, lambda x, estimate: (x - estimate).square().sum() / len(x)),
    ):
        leaves = [x.clone().requires_grad_(), estimate.T.contiguous().T.clone().requires_grad_()]
        total = loss(*leaves)
        (3 * total).backward()
        results += [total.detach(), *(leaf.grad for leaf in leaves)]
    for result, theirs in zip(computed, expected, strict=True):
        torch.testing.assert_close(result, theirs, rtol=1e-14, atol=1e-14)
