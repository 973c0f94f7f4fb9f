"""One point that chooses the backend of every kernel: compiled for CPU tensors, the PyTorch definition elsewhere.

Inputs are made contiguous here, so callers may pass views. float32 and float64 run compiled on the CPU; anything
else (other devices, other number formats) runs the reference.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

import torch
from torch import Tensor

from monosemy.kernels import reference
from monosemy.kernels.reference import Columns, Pattern

T = TypeVar("T")

DENSE_ABOVE = 0.10
"""Density from which a dense product beats the sparse kernels (measured on two AVX-512 cores: docs/performance.md)."""


@functools.cache
def _compiled() -> ModuleType:
    from monosemy.kernels import cpu

    return cpu


def _backend(tensor: Tensor) -> ModuleType:
    if tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64):
        return _compiled()
    return reference


def _run(name: str, deciding: Tensor, *arguments: object, **options: object) -> object:
    kernel: Callable[..., object] = getattr(_backend(deciding), name)
    with torch.no_grad():
        return kernel(*(a.detach().contiguous() if isinstance(a, Tensor) else a for a in arguments), **options)


def select_topk(scores: Tensor, k: int) -> Pattern:
    return _run("select_topk", scores, scores, min(k, scores.shape[1]))  # type: ignore[return-value]


def select_batch_topk(scores: Tensor, n_keep: int) -> tuple[Pattern, float]:
    return _run("select_batch_topk", scores, scores, min(n_keep, scores.numel()))  # type: ignore[return-value]


def select_above(scores: Tensor, threshold: Tensor) -> Pattern:
    return _run("select_above", scores, scores, threshold)  # type: ignore[return-value]


def take(scores: Tensor, pattern: Pattern) -> Tensor:
    return _run("take", scores, scores, pattern)  # type: ignore[return-value]


def decode(pattern: Pattern, values: Tensor, W_dec: Tensor, b_dec: Tensor) -> Tensor:
    return _run("decode", values, pattern, values, W_dec, b_dec)  # type: ignore[return-value]


def gather_dot(pattern: Pattern, left: Tensor, right: Tensor) -> Tensor:
    return _run("gather_dot", left, pattern, left, right)  # type: ignore[return-value]


def transpose(pattern: Pattern, n_latents: int) -> Columns:
    backend = _compiled() if pattern.indices.device.type == "cpu" else reference
    return backend.transpose(pattern, n_latents)


def accumulate(columns: Columns, values: Tensor, inputs: Tensor) -> Tensor:
    return _run("accumulate", inputs, columns, values, inputs)  # type: ignore[return-value]


def sum_by_latent(columns: Columns, values: Tensor) -> Tensor:
    return _run("sum_by_latent", values, columns, values)  # type: ignore[return-value]


def adam(parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor, **options: float | bool) -> None:
    """In place; a [D, F] tensor stored column by column is stepped through its [F, D] transpose."""
    tensors = [parameter, gradient, first, second]
    if parameter.ndim == 2 and not parameter.is_contiguous():
        tensors = [t.T for t in tensors]
    if not tensors[1].is_contiguous():
        tensors[1] = tensors[1].contiguous()
    with torch.no_grad():
        _backend(parameter).adam(*(t.detach() for t in tensors), **options)
