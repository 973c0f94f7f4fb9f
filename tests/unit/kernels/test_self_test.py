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
    sae, x = build_sae(SaeConfig("topk", 8, 40, 4)), torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    total = sae.losses(x, StepInfo(0.5, 4)).total
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
NO_COMPILER = """
@triton.jit
def broken(offsets, order, values, out, BLOCK: tl.constexpr):
    tl.store(out + tl.program_id(0), tl.no_such_function(BLOCK))
sparse._sum_by_latent = broken
"""


def run_step(tmp_path: Path, broken: str, kernels: str = "triton") -> list[str]:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "MONOSEMY_KERNELS": kernels}
    # Triton reads a kernel's source, which a file has and `-c` has not.
    program = tmp_path / "step.py"
    program.write_text(STEP.replace("{broken}", broken))
    done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_kernels_that_work_are_used(tmp_path):
    assert run_step(tmp_path, "") == ["monosemy.kernels.cuda.sparse", ""]


def test_a_kernel_with_wrong_numbers_is_replaced(tmp_path):
    backend, *lines = run_step(tmp_path, WITHOUT_BIAS)
    assert backend == "monosemy.kernels.reference"
    assert len(lines) == 1
    assert "decode: wrong numbers in float32" in lines[0]


def test_a_kernel_that_does_not_compile_is_replaced(tmp_path):
    backend, *lines = run_step(tmp_path, NO_COMPILER)
    assert backend == "monosemy.kernels.reference"
    assert len(lines) == 1
    assert "sum_by_latent: " in lines[0]
    assert "no_such_function" in lines[0]


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
