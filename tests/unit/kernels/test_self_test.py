"""Kernels that fail on a device give way to PyTorch's operations, with one warning and the right numbers.

For real: in Triton's interpreter, in a process of its own, with kernels that are broken on purpose.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from monosemy.errors import UserError
from monosemy.kernels import dispatch, reference, self_test

# Not imported: test_triton.py must be the first in this process to do so, with the interpreter asked for.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is installed where there are GPUs"
)

STEP = """
import warnings, torch, triton, triton.language as tl
from monosemy.kernels import dispatch, reference
from monosemy.kernels.cuda import sparse
from monosemy.saes.base import SaeConfig, StepInfo
from monosemy.saes.registry import build_sae
{broken}
def loss():
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    sae = build_sae(SaeConfig("topk", 8, 40, {k}))
    total = sae.losses(x, StepInfo(0.5, {k})).total
    total.backward()
    return total.item(), sae.W_enc.grad
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    computed, gradient = loss()
    loss()
backend = dispatch._backend(torch.zeros(1))
print(backend.__name__)
print(*[warning.message for warning in seen], sep="\\n")
dispatch._backend = lambda tensor: reference
expected, definition = loss()
torch.testing.assert_close(computed, expected)
torch.testing.assert_close(gradient, definition)
"""
WITHOUT_BIAS = """
@triton.jit
def broken(offsets, indices, values, matrix, bias, out, n_inputs, BLOCK_Z: tl.constexpr, BLOCK_D: tl.constexpr):
    n = tl.program_id(0)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    tl.store(out + n * n_inputs + d, tl.load(bias + d, mask=d < n_inputs, other=0.0), mask=d < n_inputs)
sparse._decode = broken
"""
FIRST_BLOCK_ALONE = """
from monosemy.kernels.cuda import encode
product = encode._product
encode._product = lambda x, W_enc, b_enc: product(x[:, :1024], W_enc[:1024], b_enc)
"""
"""An encoder that is right up to 1,024 components."""
NO_COMPILER = """
@triton.jit
def broken(offsets, order, values, out, BLOCK: tl.constexpr):
    tl.store(out + tl.program_id(0), tl.no_such_function(BLOCK))
sparse._sum_by_latent = broken
"""


ONLY_LATER = """
@triton.jit
def broken(offsets, indices, left, right, out, n_inputs, BLOCK_Z: tl.constexpr, BLOCK_D: tl.constexpr):
    if BLOCK_D == 8:
        tl.store(out, tl.no_such_function(BLOCK_D))
    n = tl.program_id(0)
    z = tl.load(offsets + n)
    while z < tl.load(offsets + n + 1):
        total = 0.0
        latent = tl.load(indices + z).to(tl.int64)
        for start in range(0, n_inputs, BLOCK_D):
            d = start + tl.arange(0, BLOCK_D)
            row = tl.load(left + n * n_inputs + d, mask=d < n_inputs, other=0.0).to(tl.float32)
            total += tl.sum(row * tl.load(right + latent * n_inputs + d, mask=d < n_inputs, other=0.0).to(tl.float32))
        tl.store(out + z, total)
        z += 1
sparse._gather_dot = broken
"""
"""Right in the test, and not to be compiled for the narrower rows of the SAE."""
ENCODER_ONLY_LATER = """
from monosemy.kernels.cuda import encode
merge = encode._merge_topk
class Launch:
    def __getitem__(self, grid):
        def run(*arguments, HELD, **options):
            if HELD > 8:
                raise triton.runtime.errors.OutOfResources(HELD, 8, "shared memory")
            return merge[grid](*arguments, HELD=HELD, **options)
        return run
encode._merge_topk = Launch()
"""
"""An encoder that has no room for the k of the SAE, and enough for that of the test."""


def run_step(tmp_path: Path, broken: str, kernels: str = "triton", k: int = 4) -> list[str]:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "MONOSEMY_KERNELS": kernels}
    # Triton reads a kernel's source, which a file has and `-c` has not.
    program = tmp_path / "step.py"
    program.write_text(STEP.replace("{broken}", broken).replace("{k}", str(k)))
    done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_kernels_that_work_are_used(tmp_path):
    assert run_step(tmp_path, "") == ["monosemy.kernels.cuda.sparse", ""]


@pytest.mark.parametrize(("broken", "name"), [(WITHOUT_BIAS, "decode"), (FIRST_BLOCK_ALONE, "encode_topk")])
def test_a_kernel_with_wrong_numbers_is_replaced(broken, name, tmp_path):
    backend, *lines = run_step(tmp_path, broken)
    assert backend == "monosemy.kernels.reference"
    assert len(lines) == 1
    assert f"({name}: wrong numbers in float32)" in lines[0]


def test_a_kernel_that_does_not_compile_is_replaced(tmp_path):
    backend, *lines = run_step(tmp_path, NO_COMPILER)
    assert backend == "monosemy.kernels.reference"
    assert len(lines) == 1
    assert "sum_by_latent: " in lines[0]
    assert "no_such_function" in lines[0]


@pytest.mark.parametrize(
    ("broken", "k", "reason"),
    [
        (ONLY_LATER, 4, "gather_dot: "),
        (ENCODER_ONLY_LATER, 9, "encode_topk: out of resource: shared memory, Required: 16"),
    ],
)
def test_a_kernel_that_fails_after_its_test_is_replaced_with_one_warning(broken, k, reason, tmp_path):
    backend, *lines = run_step(tmp_path, broken, k=k)
    assert backend == "monosemy.kernels.reference"
    assert len(lines) == 1
    assert reason in lines[0]


def test_an_error_that_the_definition_raises_too_is_raised(monkeypatch):
    backend = ModuleType("strict")
    vars(backend).update({**vars(reference), "ERRORS": (IndexError,)})
    monkeypatch.setattr(dispatch, "_backend", lambda tensor: backend)
    with pytest.raises(IndexError):
        dispatch.decode(reference.select_topk(torch.ones(2, 9), 1), torch.ones(2), torch.ones(0, 4), torch.ones(4))
    assert dispatch._given_up == set()


def test_the_environment_chooses(tmp_path, monkeypatch):
    seen = "import sys\nimport atexit\natexit.register(lambda: print('numba' in sys.modules))"
    assert run_step(tmp_path, WITHOUT_BIAS + seen, "reference") == ["monosemy.kernels.reference", "", "False"]
    monkeypatch.setenv("MONOSEMY_KERNELS", "fast")
    with pytest.raises(UserError, match="MONOSEMY_KERNELS is 'fast'; choose auto, triton, reference"):
        dispatch._wanted.__wrapped__()


def test_a_full_device_says_nothing_of_the_kernels():
    def take(scores: torch.Tensor, pattern: reference.Pattern) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    backend = ModuleType("full")
    vars(backend).update({**vars(reference), "take": take})
    with pytest.raises(torch.OutOfMemoryError):
        self_test.failure(backend, torch.device("cpu"))
