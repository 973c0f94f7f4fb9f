"""The Triton kernels against their definitions in plain PyTorch, and training steps on them against the definitions in
double precision. Without a GPU they run in Triton's interpreter."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported
pytest.importorskip("triton", reason="triton is installed where there are GPUs")

from monosemy.kernels import dispatch, ops, reference  # noqa: E402
from monosemy.kernels.cuda import encode as triton_encode  # noqa: E402
from monosemy.kernels.cuda import sparse as backend  # noqa: E402
from monosemy.kernels.reference import AdamStep  # noqa: E402
from monosemy.latents import SparseLatents  # noqa: E402
from monosemy.saes.base import SaeConfig, StepInfo  # noqa: E402
from monosemy.saes.registry import build_sae  # noqa: E402

CLOSE = {
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    torch.bfloat16: {"rtol": 1e-2, "atol": 1e-2},
    torch.float16: {"rtol": 2e-3, "atol": 2e-3},
}
DTYPES = [torch.float32, torch.bfloat16]
# (N, F, duplicated values, an empty row)
SHAPES = [(1, 1, False, False), (1, 70, True, False), (5, 65, True, True), (3, 130, False, True), (4, 7, True, True)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Several chunks and blocks at the sizes of these tests."""
    monkeypatch.setattr(triton_encode, "CHUNK", 64)
    monkeypatch.setattr(triton_encode, "BLOCK", 32)
    monkeypatch.setattr(triton_encode, "CAPACITY_LEAST", 8)


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def whole(*shape, seed=0, dtype=torch.float32):
    """Whole numbers, whose products are exact in any order and tie often."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-2, 3, shape, generator=generator).to(DEVICE, dtype)


def scores_of(shape, dtype=torch.float32):
    n_rows, n_latents, duplicated, empty = shape
    scores = random(n_rows, n_latents, seed=n_latents)
    if duplicated:
        scores = (scores * 2).round() / 2
    if empty:
        scores[n_rows // 2] = -1.0
    return scores.to(dtype)


def assert_same(a, b):
    assert a.offsets.tolist() == b.offsets.tolist()
    assert a.indices.tolist() == b.indices.tolist()
    assert a.indices.dtype == torch.int32
    assert a.offsets.dtype == torch.int64


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_topk_selects_as_the_definition_does(shape, dtype):
    scores = scores_of(shape, dtype)
    for k in {1, 5, 64, scores.shape[1]}:
        k = min(k, scores.shape[1])
        assert_same(backend.select_topk(scores, k), reference.select_topk(scores, k))


def test_topk_of_equal_ascending_infinite_and_transposed_scores():
    ascending = torch.arange(300.0, device=DEVICE).repeat(2, 1)
    infinite = random(3, 200)
    infinite[0, :100] = -torch.inf
    infinite[1, ::7] = torch.inf
    for scores in (torch.ones(2, 150, device=DEVICE), ascending, ascending.flip(1), infinite, random(130, 5).T):
        for k in (1, 9, 130):
            assert_same(backend.select_topk(scores, k), reference.select_topk(scores, k))


@pytest.mark.parametrize("scores", ["falling", "mixed", "rising"])
def test_lists_that_overflow_are_given_up(scores):
    rising = torch.arange(320.0, device=DEVICE).expand(3, -1)
    matrix = {"falling": rising.flip(1), "mixed": random(3, 320), "rising": rising}[scores]
    largest = triton_encode._largest_by_lists(triton_encode._dense(matrix), 3, 16)
    assert (largest is None) == (scores == "rising")
    if largest is not None:
        assert largest.indices.tolist() == matrix.topk(3).indices.sort(1).values.tolist()


@pytest.mark.parametrize("sample_rows", [1, 128])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_batch_topk_keeps_the_largest_of_the_batch(monkeypatch, shape, dtype, sample_rows):
    monkeypatch.setattr(triton_encode, "SAMPLE_ROWS", sample_rows)
    scores = scores_of(shape, dtype)
    for n_keep in {0, 1, 3, 20, scores.numel() // 3, scores.numel()}:
        n_keep = min(n_keep, scores.numel())
        selected, cut = backend.select_batch_topk(scores, n_keep)
        theirs, their_cut = reference.select_batch_topk(scores, n_keep)
        assert_same(selected, theirs)
        assert cut == their_cut


def test_a_guess_that_is_too_high_is_loosened(monkeypatch):
    monkeypatch.setattr(triton_encode, "SAMPLE_ROWS", 1)
    scores = random(6, 400)
    scores[0] *= 100  # the only row in the sample
    selected, cut = backend.select_batch_topk(scores, 400)
    theirs, their_cut = reference.select_batch_topk(scores, 400)
    assert_same(selected, theirs)
    assert cut == their_cut


@pytest.mark.parametrize("least", [1, 256], ids=["full lists", "lists with room"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_above_is_strict_and_per_latent(monkeypatch, shape, dtype, least):
    monkeypatch.setattr(triton_encode, "LIST_LEAST", least)
    scores = scores_of(shape, dtype)
    threshold = torch.linspace(-1, 1, scores.shape[1], device=DEVICE).to(dtype)
    threshold[0] = scores[0, 0]
    assert_same(backend.select_above(scores, threshold), reference.select_above(scores, threshold))
    assert_same(backend.select_above(scores.T.contiguous().T, threshold), reference.select_above(scores, threshold))


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n_rows", "n_latents"), [(1, 3), (4, 150), (3, 64)])
def test_the_fused_encoder_selects_what_the_dense_product_would(monkeypatch, n_rows, n_latents, dtype, with_bias):
    # Whole numbers: ties at every cut, and no rounding that could excuse a difference.
    x, W_enc = whole(n_rows, 11, dtype=dtype), whole(n_latents, 11, seed=1, dtype=dtype).T
    b_enc = whole(n_latents, seed=2, dtype=dtype) if with_bias else None
    pre = x.float() @ W_enc.float() + (b_enc.float() if b_enc is not None else 0)
    for k in {1, min(8, n_latents), n_latents}:
        selected, values = backend.encode_topk(x, W_enc, b_enc, k)
        assert_same(selected, reference.select_topk(pre, k))
        assert values.tolist() == reference.take(pre, selected).tolist()
        assert values.dtype == dtype
    threshold = whole(n_latents, seed=3, dtype=dtype)
    for least in (1, 256):
        monkeypatch.setattr(triton_encode, "LIST_LEAST", least)
        selected, values = backend.encode_above(x, W_enc, b_enc, threshold)
        assert_same(selected, reference.select_above(pre, threshold))
        assert values.tolist() == reference.take(pre, selected).tolist()
        for n_keep in {1, pre.numel() // 4, pre.numel()}:
            selected, values, cut = backend.encode_batch_topk(x, W_enc, b_enc, n_keep)
            theirs, their_cut = reference.select_batch_topk(pre, n_keep)
            assert_same(selected, theirs)
            assert values.tolist() == reference.take(pre, selected).tolist()
            assert cut == their_cut


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d_in", [1, 37, 300])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_agree_with_the_definition(shape, d_in, dtype):
    scores = scores_of(shape, dtype)
    n_rows, n_latents = scores.shape
    pattern = reference.select_above(scores, torch.zeros(n_latents, device=DEVICE))
    columns = reference.transpose(pattern, n_latents)
    for computed, theirs in zip(backend.transpose(pattern, n_latents), columns, strict=True):
        assert computed.tolist() == theirs.tolist()
        assert computed.dtype == theirs.dtype
    inputs, bias = random(d_in, n_rows, dtype=dtype).T, random(d_in, dtype=dtype)  # inputs: not contiguous
    matrix = random(d_in, n_latents, seed=1, dtype=dtype).T
    values = reference.take(scores, pattern)
    torch.testing.assert_close(backend.take(scores, pattern), values, rtol=0, atol=0)
    for name, arguments in {
        "decode": (pattern, values, matrix, bias),
        "gather_dot": (pattern, inputs, matrix),
        "accumulate": (columns, values, inputs),
        "sum_by_latent": (columns, values),
    }.items():
        doubled = [a.double() if isinstance(a, torch.Tensor) else a for a in arguments]
        exact = getattr(reference, name)(*doubled)
        computed = getattr(backend, name)(*arguments)
        assert computed.is_contiguous()
        torch.testing.assert_close(computed, exact.to(dtype), **CLOSE[dtype])
    target = random(n_rows, d_in, seed=2, dtype=dtype)
    sums, residual = backend.squared_error(target, inputs)
    exact_sums, exact_residual = reference.squared_error(target.double(), inputs.double())
    assert sums.dtype == torch.float32
    torch.testing.assert_close(sums, exact_sums.float(), **CLOSE[torch.float32])
    torch.testing.assert_close(residual, exact_residual.to(dtype), **CLOSE[dtype])


def test_a_pattern_without_entries():
    pattern = reference.Pattern(
        torch.zeros(4, dtype=torch.int64, device=DEVICE), torch.zeros(0).to(DEVICE, torch.int32)
    )
    nothing, bias = torch.zeros(0, device=DEVICE), random(5)
    columns = backend.transpose(pattern, 6)
    assert backend.decode(pattern, nothing, random(6, 5), bias).tolist() == bias.expand(3, 5).tolist()
    assert backend.gather_dot(pattern, random(3, 5), random(6, 5)).numel() == 0
    assert not backend.accumulate(columns, nothing, random(3, 5)).any()
    assert not backend.sum_by_latent(columns, nothing).any()
    assert_same(backend.select_above(random(3, 6), torch.full((6,), torch.inf, device=DEVICE)), pattern)
    assert_same(backend.select_topk(-torch.ones(3, 6, device=DEVICE), 2), pattern)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("unit_rows", [False, True])
@pytest.mark.parametrize("shape", [(7, 5), (3, 130), (1, 1)])
def test_adam_steps_as_the_definition(shape, unit_rows, dtype):
    weights = torch.nn.functional.normalize(random(*shape), dim=1).to(dtype)
    states = [torch.zeros_like(weights) for _ in range(2)]
    theirs, their_states = weights.double(), [s.double() for s in states]
    rates = {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8, "unit_rows": unit_rows}
    for step in range(1, 4):
        gradient = random(*shape, seed=step, dtype=dtype)
        options = AdamStep(step=step, **rates)
        backend.adam(weights, gradient, *states, options=options)
        reference.adam(theirs, gradient.double(), *their_states, options=options)
        torch.testing.assert_close(weights, theirs.to(dtype), **CLOSE[dtype])
        # In half precision the states were rounded: go on from the same ones.
        theirs, their_states = weights.double(), [s.double() for s in states]
    if unit_rows:
        norms = torch.ones(shape[0], device=DEVICE)
        torch.testing.assert_close(weights.float().norm(dim=1), norms, **CLOSE[dtype])


def test_adam_steps_a_vector():
    weights, gradient = random(1500), random(1500, seed=1)
    theirs = weights.clone()
    options = AdamStep(step=1, learning_rate=0.1, beta1=0.0, beta2=0.999, epsilon=1e-8, unit_rows=False)
    backend.adam(weights, gradient, torch.zeros_like(weights), torch.zeros_like(weights), options=options)
    reference.adam(theirs, gradient, torch.zeros_like(weights), torch.zeros_like(weights), options=options)
    torch.testing.assert_close(weights, theirs)


def point_dispatch_at(monkeypatch, module):
    """Every kernel runs on `module`, sparse whatever the density."""
    monkeypatch.setattr(dispatch, "_backend", lambda tensor: module)
    monkeypatch.setattr(dispatch, "_compiled", lambda: module)
    monkeypatch.setattr(dispatch, "DENSE_ABOVE", 2.0)


def test_every_gradient_of_the_fused_path_equals_autograd_through_a_dense_code(monkeypatch):
    point_dispatch_at(monkeypatch, backend)
    n_rows, d_in, n_latents = 6, 5, 80
    x, W_dec, b_dec = random(n_rows, d_in), random(n_latents, d_in, seed=1), random(d_in, seed=2)
    W_enc, b_enc, scale = random(n_latents, d_in, seed=3).T, random(n_latents, seed=4), random(n_latents, seed=5)
    leaves = [t.requires_grad_() for t in (x, W_enc, W_dec, b_dec, b_enc, scale)]
    pattern, _ = backend.encode_topk((x - b_dec).detach(), W_enc.detach(), b_enc.detach(), 7)

    values = dispatch.take(ops.pre_activations(x, W_enc, b_enc, b_dec), pattern)
    selection = ops.Selection(pattern, values, ops.centre(x, b_dec), x=x, W_enc=W_enc, b_enc=b_enc, b_dec=b_dec)
    values = torch.sin(selection.pre_acts) * selection.per_latent(scale)
    (selection.decode(values, W_dec, b_dec).pow(2).sum() + values.pow(2).sum()).backward()
    sparse = [t.grad.clone() for t in leaves]
    for t in leaves:
        t.grad = None

    dense_pre = (x - b_dec) @ W_enc + b_enc
    unit_values = torch.ones(len(pattern.indices), device=DEVICE)
    mask = SparseLatents(pattern.offsets, pattern.indices, unit_values, n_latents).to_dense() > 0
    assert torch.equal(mask, (dense_pre >= dense_pre.topk(7).values[:, -1:]) & (dense_pre > 0))
    code = torch.where(mask, torch.sin(dense_pre) * scale, 0.0)
    ((code @ W_dec + b_dec).pow(2).sum() + code.pow(2).sum()).backward()
    for t, gradient in zip(leaves, sparse, strict=True):
        torch.testing.assert_close(gradient, t.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "options"),
    [("topk", {}), ("batch_topk", {}), ("gated", {}), ("jumprelu", {}), ("jumprelu", {"recipe": "tanh"}), ("relu", {})],
)
def test_a_training_step_equals_the_definition_in_double_precision(monkeypatch, architecture, options):
    config = SaeConfig(architecture=architecture, d_in=9, d_sae=70, l0=6, options=options)
    sae, x = build_sae(config).to(DEVICE), random(13, 9) / 3
    point_dispatch_at(monkeypatch, reference)
    sae.initialise(x, 6)
    sae.shift_margins(-1e-3)  # off the very score whose rank the threshold was read from
    exact = copy.deepcopy(sae).double()
    dead = torch.arange(70, device=DEVICE) % 3 == 0
    step = StepInfo(progress=0.5, l0=6, sparsity_coef=0.01, dead=dead if "topk" in architecture else None)
    truth = exact.losses(x.double(), step)
    truth.total.backward()
    point_dispatch_at(monkeypatch, backend)
    computed = sae.losses(x, step)
    computed.total.backward()
    assert computed.latents.indices.tolist() == truth.latents.indices.tolist()
    torch.testing.assert_close(computed.total.double(), truth.total, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(computed.reconstruction.double(), truth.reconstruction, rtol=1e-5, atol=1e-6)
    for (name, parameter), theirs in zip(sae.named_parameters(), exact.parameters(), strict=True):
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad.double(), theirs.grad, rtol=2e-4, atol=1e-5, msg=name)


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from monosemy.kernels.cuda import encode, sparse as products

types = dict.fromkeys(["offsets", "bases"], "*i64")
types |= dict.fromkeys(["indices", "rows", "order", "counts", "new_counts", "held_indices", "list_indices"], "*i32")
types |= dict.fromkeys(["held_values", "threshold", "bias", "sums"], "*fp32")
types |= dict.fromkeys(["rate", "beta1", "rest1", "beta2", "rest2", "scale2", "epsilon"], "fp32")
types |= dict.fromkeys(["n_inputs", "n_elements", "width", "row_stride", "column_stride"], "i32")
types |= dict.fromkeys(["start", "n_columns", "k", "capacity"], "i32")
blocks = {"BLOCK_Z": 16, "BLOCK_D": 256, "BLOCK": 1024, "CHUNK": 4096, "HELD": 32}
kernels = [(kernel, flag) for kernel in (encode._merge_topk, encode._append_above) for flag in (False, True)]
for name in ("_take", "_decode", "_gather_dot", "_accumulate", "_sum_by_latent", "_squared_error", "_adam"):
    kernels.append((getattr(products, name), True))
for kernel, flag in kernels:
    blocks |= dict.fromkeys(["FROM_LISTS", "BY_ROW", "UNIT_ROWS"], flag)
    # What is in neither table is a tensor in the caller's number format.
    signature = {a: "constexpr" if a in blocks else types.get(a, "*bf16") for a in kernel.arg_names}
    constants = {(i,): blocks[a] for i, a in enumerate(kernel.arg_names) if a in blocks}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    print(len(triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]))
"""


@pytest.mark.skipif(DEVICE == "cuda", reason="the other tests compile the kernels")
def test_every_kernel_compiles_for_a_gpu(tmp_path):
    # The interpreter takes Python that the compiler refuses; compiling needs no GPU.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 11


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_a_gpu_at_its_own_chunk_size(monkeypatch, dtype):
    monkeypatch.undo()
    n_rows, d_in, n_latents, k = 512, 256, 3 * triton_encode.CHUNK + 77, 32
    x, W_enc = whole(n_rows, d_in, dtype=dtype), whole(n_latents, d_in, seed=1, dtype=dtype).T
    b_enc = whole(n_latents, seed=2, dtype=dtype)
    pre = x.float() @ W_enc.float() + b_enc.float()
    selected, values = backend.encode_topk(x, W_enc, b_enc, k)
    assert_same(selected, reference.select_topk(pre, k))
    assert torch.equal(values.float(), reference.take(pre, selected))
    selected, _, cut = backend.encode_batch_topk(x, W_enc, b_enc, k * n_rows)
    theirs, their_cut = reference.select_batch_topk(pre, k * n_rows)
    assert_same(selected, theirs)
    assert cut == their_cut
    for level in (20.0, 80.0):  # lists overflow at the first
        threshold = torch.full((n_latents,), level, device=DEVICE)
        selected, values = backend.encode_above(x, W_enc, b_enc, threshold)
        assert_same(selected, reference.select_above(pre, threshold))
    matrix, bias = random(n_latents, d_in, seed=3, dtype=dtype), random(d_in, dtype=dtype)
    columns = backend.transpose(selected, n_latents)
    values = random(len(selected.indices), dtype=dtype)
    for name, arguments in {
        "decode": (selected, values, matrix, bias),
        "gather_dot": (selected, x, matrix),
        "accumulate": (columns, values, x),
        "sum_by_latent": (columns, values),
    }.items():
        doubled = [a.double() if isinstance(a, torch.Tensor) else a for a in arguments]
        first = getattr(backend, name)(*arguments)
        torch.testing.assert_close(first, getattr(reference, name)(*doubled).to(dtype), rtol=1e-2, atol=1e-2)
        assert torch.equal(first, getattr(backend, name)(*arguments))


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_the_fused_encoder_never_holds_the_pre_activations(monkeypatch):
    monkeypatch.undo()
    n_rows, d_in, n_latents = 4096, 64, 65536
    x = random(n_rows, d_in, dtype=torch.bfloat16)
    W_enc = random(n_latents, d_in, seed=1, dtype=torch.bfloat16).T
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    backend.encode_topk(x, W_enc, None, 32)
    backend.encode_above(x, W_enc, None, torch.full((n_latents,), 25.0, device=DEVICE))
    backend.encode_batch_topk(x, W_enc, None, 32 * n_rows)
    assert torch.cuda.max_memory_allocated() - before < n_rows * n_latents * 4 / 4
