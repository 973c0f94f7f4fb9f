"""The test that a compiled backend passes before it is used: every kernel against its definition, on small inputs.

Place on the path: beneath `dispatch`, once for a device, at its first use. Drivers, compilers and devices differ, and a
kernel that was never run on one may fail there, or give other numbers. Then `reference` takes the place of all kernels.

Inputs are small whole numbers, whose sums are exact in any order and whose ties are many, so that results must be equal
to the last bit; Adam alone divides, and has a tolerance. They are wide enough for several chunks of latents, and some
rows have as many components as a real model's, for which kernels take larger blocks and the encoder's product several
(in float32, but for the encoder, whose sums are in float32 anyway).
Limits: an error that ends the process, or that leaves the device unusable, cannot be caught.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from monosemy.kernels import reference
from monosemy.kernels.reference import AdamStep

N_ROWS, D_IN, K, N_LATENTS = 9, 24, 5, 150
N_WIDE = 4_200
"""More latents than a chunk of the fused encoder holds (kernels/cuda/encode.py)."""
WIDE_D, N_FEW = 2_304, 20
"""Components and number of rows that are as wide as a real model's, in blocks that the kernels then choose."""


def failure(backend: ModuleType, device: torch.device) -> str | None:
    """What is wrong with a backend on a device, as `kernel: reason`; None when every kernel gives what it should.

    Raises torch.OutOfMemoryError where the device has no room for the test.
    """
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for name, computed, expected in _cases(backend, device, dtype):
            try:
                values = computed()
            except torch.OutOfMemoryError:
                raise  # says nothing of the kernel
            # Whatever a compiler, a driver or a launch may raise: each has errors of its own.
            except Exception as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                return f"{name}: {reason}"
            if not _equal(values, expected(), exact=name != "adam"):
                return f"{name}: wrong numbers in {str(dtype).removeprefix('torch.')}"
    return None


Case = tuple[str, Callable[[], Any], Callable[[], Any]]


def _cases(backend: ModuleType, device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """(kernel's name, its results, the definition's)."""

    def whole(*shape: int, seed: int, span: int = 2) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(-span, span + 1, shape, generator=generator, dtype=torch.int8).to(device, dtype)

    x, rows, bias = whole(N_ROWS, D_IN, seed=0), whole(N_LATENTS, D_IN, seed=1), whole(D_IN, seed=2)
    scores = x.float() @ rows.float().T
    pattern = reference.select_topk(scores, K)
    columns = reference.transpose(pattern, N_LATENTS)
    values = reference.take(scores, pattern).remainder(3).to(dtype)  # small: sums of products fit bfloat16's eight bits

    def both(name: str, arguments: tuple[Any, ...]) -> Case:
        return name, lambda: getattr(backend, name)(*arguments), lambda: getattr(reference, name)(*arguments)

    yield both("take", (scores, pattern))
    yield both("transpose", (pattern, N_LATENTS))
    yield both("decode", (pattern, values, rows, bias))
    yield both("gather_dot", (pattern, x, rows))
    yield both("accumulate", (columns, values, x))
    yield both("sum_by_latent", (columns, values))
    yield both("squared_error", (x, x.roll(1, 0)))
    # Kernels compute in float32, where float16 has no room for Adam's ε.
    yield "adam", lambda: _adam(backend, rows), lambda: tuple(t.to(dtype) for t in _adam(reference, rows.float()))

    if dtype == torch.float32:  # whole sums of so many terms fit no narrower format
        few, wide_x, wide_bias = whole(N_FEW, WIDE_D, seed=6), whole(N_ROWS, WIDE_D, seed=7), whole(WIDE_D, seed=8)
        of_few = reference.select_topk(scores[:, :N_FEW], K)
        few_values = values[: len(of_few.indices)]
        yield both("decode", (of_few, few_values, few, wide_bias))
        yield both("gather_dot", (of_few, wide_x, few))
        yield both("accumulate", (reference.transpose(of_few, N_FEW), few_values, wide_x))
        yield both("squared_error", (wide_x, wide_x.roll(1, 0)))
        yield "adam", lambda: _adam(backend, few), lambda: _adam(reference, few)

    wide, b_enc = whole(N_WIDE, D_IN, seed=3), whole(N_WIDE, seed=4, span=1)
    pre = x.float() @ wide.float().T + b_enc.float()
    threshold = whole(N_WIDE, seed=5) + 12
    yield from _selections(backend, pre, threshold.float())
    for select, option in (("select_topk", K), ("select_batch_topk", K * N_ROWS), ("select_above", threshold)):
        yield _encoding(backend, select, option, (x, wide, b_enc))
    # The product alone depends on d, and all encoders share it: sums of so many terms in float32 are exact.
    yield _encoding(backend, "select_topk", K, (whole(N_ROWS, WIDE_D, seed=9), whole(N_WIDE, WIDE_D, seed=10), b_enc))


def _encoding(backend: ModuleType, select: str, option: Any, inputs: tuple[Tensor, Tensor, Tensor]) -> Case:
    """An encoder on rows x [N, D], encoder rows [F, D] and a bias [F]."""
    x, rows, b_enc = inputs

    def definition() -> Any:
        pre = x.float() @ rows.float().T + b_enc.float()
        selected = getattr(reference, select)(pre, option.float() if isinstance(option, Tensor) else option)
        selection, *cut = selected if select == "select_batch_topk" else (selected,)
        return selection, reference.take(pre, selection).to(x.dtype), *cut

    name = select.replace("select", "encode")
    return name, lambda: getattr(backend, name)(x, rows.T, b_enc, option), definition


def _selections(backend: ModuleType, scores: Tensor, threshold: Tensor) -> Iterator[Case]:
    options = {"select_topk": K, "select_batch_topk": K * N_ROWS, "select_above": threshold}
    for name, option in options.items():
        computed, expected = (partial(getattr(module, name), scores, option) for module in (backend, reference))
        yield name, computed, expected


def _adam(backend: ModuleType, rows: Tensor) -> tuple[Tensor, ...]:
    """A parameter and its moments after two steps, with unit rows and without."""
    results, n = list[Tensor](), len(rows) // 2
    for unit_rows in (True, False):
        parameter = normalize(rows[:n].float() + 0.5, dim=1).to(rows.dtype)
        first, second = torch.zeros_like(parameter), torch.zeros_like(parameter)
        for step in (1, 2):
            options = AdamStep(step=step, learning_rate=0.01, beta1=0.5, beta2=0.999, epsilon=1e-8, unit_rows=unit_rows)
            gradient = rows[n * (step - 1) : n * step].contiguous()
            backend.adam(parameter, gradient, first, second, options=options)
        results += [parameter, first, second]
    return tuple(results)


def _equal(computed: Any, expected: Any, *, exact: bool) -> bool:
    if isinstance(expected, tuple):
        return len(computed) == len(expected) and all(
            _equal(a, b, exact=exact) for a, b in zip(computed, expected, strict=True)
        )
    if not isinstance(expected, Tensor):
        return bool(computed == expected)
    if computed.shape != expected.shape or computed.dtype != expected.dtype:
        return False
    if exact:
        return torch.equal(computed, expected)
    tolerance = 1e-5 if expected.dtype == torch.float32 else 2e-2
    return torch.allclose(computed.float(), expected.float(), rtol=tolerance, atol=tolerance)
